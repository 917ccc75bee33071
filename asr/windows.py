"""What a window's tokens say about segments, and where the next window begins (openai-whisper's transcribe).

Times are seconds of the recording, positions are mel frames of 10 ms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .decoding.decode import DecodingResult
from .model.features import FRAMES_PER_SECOND
from .model.tokenizer import SECONDS_PER_TIMESTAMP, Tokenizer
from .transcript import Segment

if TYPE_CHECKING:
    from collections.abc import Sequence

FRAMES_PER_TIMESTAMP = round(SECONDS_PER_TIMESTAMP * FRAMES_PER_SECOND)


@dataclass(frozen=True)
class Window:
    """A stretch of the recording that was decoded: where it begins, and how many frames of it are the recording's."""

    seek: int
    size: int

    @property
    def start(self) -> float:
        return self.seek / FRAMES_PER_SECOND

    @property
    def duration(self) -> float:
        return self.size / FRAMES_PER_SECOND


@dataclass(frozen=True)
class WindowSegments:
    """segments: their ids are not set yet.   seek: where the next window begins.   ended: the last segment ends with a
    timestamp that starts no other: nobody speaks after it."""

    segments: list[Segment]
    seek: int
    ended: bool


def cut_into_segments(window: Window, result: DecodingResult, tokenizer: Tokenizer) -> WindowSegments:
    """The segments between pairs of timestamps. Text after the last pair is left to the next window, which begins
    there; a window without a pair is one segment."""
    tokens = result.tokens
    begin = tokenizer.timestamp_begin
    is_time = [token >= begin for token in tokens]
    ended = is_time[-2:] == [False, True]
    cuts = [i for i in range(1, len(tokens)) if is_time[i - 1] and is_time[i]]
    if not cuts:
        times = [token - begin for token in tokens if token >= begin]
        # A first timestamp alone says nothing about the end.
        length = times[-1] * SECONDS_PER_TIMESTAMP if times and times[-1] > 0 else window.duration
        whole = _segment(window, result, tokenizer, tokens, window.start, window.start + length)
        return WindowSegments([whole], window.seek + window.size, ended)
    if ended:
        cuts.append(len(tokens))
    segments = []
    for first, last in zip([0, *cuts], cuts, strict=False):
        part = tokens[first:last]
        start, end = (window.start + (token - begin) * SECONDS_PER_TIMESTAMP for token in (part[0], part[-1]))
        segments.append(_segment(window, result, tokenizer, part, start, end))
    if ended:
        return WindowSegments(segments, window.seek + window.size, True)
    return WindowSegments(
        segments, window.seek + (tokens[cuts[-1] - 1] - begin) * FRAMES_PER_TIMESTAMP, False
    )


def _segment(
    window: Window,
    result: DecodingResult,
    tokenizer: Tokenizer,
    tokens: Sequence[int],
    start: float,
    end: float,
) -> Segment:
    return Segment(
        id=0,
        seek=window.seek,
        start=start,
        end=end,
        text=tokenizer.decode([token for token in tokens if token < tokenizer.eot]),
        tokens=tuple(tokens),
        temperature=result.temperature,
        avg_logprob=result.avg_logprob,
        compression_ratio=result.compression_ratio,
        no_speech_prob=result.no_speech_prob,
    )
