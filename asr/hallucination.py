"""Hallucinated segments: how they are detected, and the silence around them that is skipped.

Works on words with times. openai-whisper's rules; times in seconds, positions in mel frames of 10 ms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .model.features import FRAMES_PER_SECOND, N_FRAMES
from .transcript import Segment, Word, last_word_end
from .windows import Window

PUNCTUATION = "\"'“¿([{-\"'.。,，!！?？:：”)]}、"

_UNLIKELY = 0.15  # probability
_SHORT, _LONG = 0.133, 2.0  # seconds
_SHORT_WEIGHT = 15.0  # a second of shortness
_N_WORDS = 8  # words of a segment that are looked at
_ANOMALOUS = 3.0
_EDGE = 2.0  # seconds: so near to the window's edge there is nothing else


def anomaly_score(word: Word) -> float:
    """How odd a word is: 1 if improbable, and more the further its length is from a word's."""
    duration = word.end - word.start
    score = 1.0 if word.probability < _UNLIKELY else 0.0
    if duration < _SHORT:
        score += (_SHORT - duration) * _SHORT_WEIGHT
    if duration > _LONG:
        score += duration - _LONG
    return score


def is_anomaly(segment: Segment | None) -> bool:
    """Whether the first words of a segment are odd, altogether or every one."""
    if segment is None or not segment.words:
        return False
    words = [word for word in segment.words if word.word not in PUNCTUATION][:_N_WORDS]
    score = sum(map(anomaly_score, words))
    return score >= _ANOMALOUS or score + 0.01 >= len(words)


@dataclass(frozen=True)
class Guarded:
    """segments: those believed.   seek: where the next window begins.   skipped: the window began with silence and is
    decoded again without it; nothing of it counts."""

    segments: list[Segment]
    seek: int
    skipped: bool = False


def skip_silence(
    segments: list[Segment],
    window: Window,
    seek: int,
    *,
    threshold: float,
    ended: bool,
    last_speech: float,
    content_frames: int,
) -> Guarded:
    """What is left of a window's segments when silences longer than threshold (s) around odd ones are skipped.

    seek: where the next window would begin.   ended: nobody speaks after the last segment.   last_speech: end of the
    last word before this window.   content_frames: of the whole recording.
    """
    window_end = (window.seek + N_FRAMES) / FRAMES_PER_SECOND
    end = last_word_end(segments)
    if not ended and end is not None and end > window.start:
        goes_on = window_end - end > threshold
        seek = round(end * FRAMES_PER_SECOND) if goes_on else window.seek + window.size

    first = _next_with_words(segments)
    if first is not None and is_anomaly(first):
        gap = first.start - window.start
        if gap > threshold:
            return Guarded([], window.seek + round(gap * FRAMES_PER_SECOND), skipped=True)

    before = last_speech
    for i, segment in enumerate(segments):
        if not segment.words:
            continue
        if is_anomaly(segment):
            following = _next_with_words(segments[i + 1 :])
            after = window.start + window.duration
            if following is not None and following.words:
                after = following.words[0].start
            silent_before = (
                segment.start - before > threshold
                or segment.start < threshold
                or segment.start - window.start < _EDGE
            )
            silent_after = (
                after - segment.end > threshold or is_anomaly(following) or window_end - segment.end < _EDGE
            )
            if silent_before and silent_after:
                seek = round(max(window.start + 1, segment.start) * FRAMES_PER_SECOND)
                if content_frames / FRAMES_PER_SECOND - segment.end < threshold:
                    seek = content_frames
                return Guarded(segments[:i], seek)
        before = segment.end
    return Guarded(segments, seek)


def _next_with_words(segments: Sequence[Segment]) -> Segment | None:
    return next((segment for segment in segments if segment.words), None)
