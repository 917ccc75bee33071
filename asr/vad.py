"""Spans of speech in a recording, from the probabilities of Silero's detector.

A span begins where the probability reaches `threshold` and ends where it falls below `neg_threshold` and stays low
for `min_silence`. What is longer than `max_length` is cut at its longest silence, never in the middle of a word while
there is a silence at all.

Shapes: N samples at 16 kHz, F frames of 32 ms.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from ..data.audio import Samples
from ..errors import UsageError
from ..pretrained.silero import FRAME, RATE, VoiceActivity

FRAME_SECONDS = FRAME / RATE
_BLOCK = 30 * RATE  # samples looked at in one go
_MAX_GAIN = 300.0  # 50 dB
_CUT_SILENCE = 0.098  # seconds: a silence at which a span that is too long may be cut


@dataclass(frozen=True)
class VadOptions:
    """threshold, neg_threshold: probabilities from which speech begins, below which it ends (None: threshold - 0.15).
    min_speech: seconds; a shorter span is a click.   min_silence: seconds; a shorter silence does not end a span.
    pad: seconds of silence kept on either side, at most half of the silence between two spans.
    max_length: seconds of a span, its pads included.
    """

    threshold: float = 0.5
    neg_threshold: float | None = None
    min_speech: float = 0.1
    min_silence: float = 0.5
    pad: float = 0.4
    max_length: float = float("inf")

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise UsageError(
                f"the threshold of voice activity is {self.threshold:g}; expected a probability between 0 and 1"
            )
        if self.neg_threshold is not None and not 0 < self.neg_threshold <= self.threshold:
            raise UsageError(
                f"the probability at which speech ends is {self.neg_threshold:g}; expected above 0, and at most "
                f"the threshold {self.threshold:g}"
            )
        for name in ("min_speech", "min_silence", "pad"):
            seconds = getattr(self, name)
            if not 0 <= seconds < float("inf"):
                raise UsageError(f"{name} of voice activity is {seconds:g} s; expected 0 or more")
        if not self.max_length >= max(1.0, 4 * self.pad):
            raise UsageError(
                f"max_length of voice activity is {self.max_length:g} s; expected a second or more, and four pads"
            )

    @property
    def low(self) -> float:
        """Below it, a frame is silence."""
        return max(self.threshold - 0.15, 0.01) if self.neg_threshold is None else self.neg_threshold


@dataclass(frozen=True)
class Span:
    """A stretch of a recording, in seconds."""

    start: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.start


def speech_spans(audio: Samples, options: VadOptions | None = None) -> list[Span]:
    """audio (N,) at 16 kHz -> where somebody speaks, in order, not overlapping. Quiet recordings are levelled.

    An hour takes about 10 s and some megabytes. Raises MissingModelError where silero-vad is not installed.
    """
    return find_spans(speech_probabilities(audio), len(audio) / RATE, options or VadOptions())


def speech_probabilities(audio: Samples) -> np.ndarray:
    """audio (N,) at 16 kHz -> (F,), at the level that the detector knows, in constant extra memory."""
    detector, gain = VoiceActivity(), level_gain(audio)
    made = [detector.push(at_level(audio[i : i + _BLOCK], gain)) for i in range(0, len(audio), _BLOCK)]
    return np.concatenate([*made, detector.flush()])


def level_gain(audio: Samples) -> float:
    """The factor that lifts a quiet recording to where speech usually is; 1 for one that is loud enough.

    The detector was trained on ordinary levels: it hears nothing at all at a peak of -60 dB.
    """
    n = RATE // 10
    peaks = [float(np.abs(audio[i : i + n]).max()) for i in range(0, len(audio), n)]
    # Not the very loudest: one click must not leave a quiet speaker unheard.
    level = float(np.quantile(peaks, 0.98)) if peaks else 0.0
    return float(np.clip(0.3 / max(level, 1e-9), 1.0, _MAX_GAIN))


def at_level(samples: np.ndarray, gain: float) -> np.ndarray:
    """The samples times the gain, within -1 to 1."""
    return np.clip(np.asarray(samples, np.float32) * np.float32(gain), -1, 1)


def find_spans(probabilities: np.ndarray, seconds: float, options: VadOptions) -> list[Span]:
    """(F,) probabilities of a recording of that many seconds -> its spans."""
    found: list[Span] = []
    runs = _speaking(probabilities, options)  # of frames
    for group in _grouped(runs, options.min_silence / FRAME_SECONDS):
        for first, last in _cut(group, probabilities, options):
            if (last - first) * FRAME_SECONDS >= options.min_speech:
                found.append(Span(first * FRAME_SECONDS, min(last * FRAME_SECONDS, seconds)))
    return padded(found, seconds, options.pad)


def _speaking(probabilities: np.ndarray, options: VadOptions) -> list[tuple[int, int]]:
    """Runs of frames, first and one past the last, that begin at the threshold and end below the lower one."""
    runs: list[tuple[int, int]] = []
    begin: int | None = None
    for i, p in enumerate(probabilities.tolist()):
        if begin is None and p >= options.threshold:
            begin = i
        elif begin is not None and p < options.low:
            runs.append((begin, i))
            begin = None
    if begin is not None:
        runs.append((begin, len(probabilities)))
    return runs


def _grouped(runs: list[tuple[int, int]], min_silence: float) -> list[list[tuple[int, int]]]:
    """Runs with less than `min_silence` frames between them belong together."""
    groups: list[list[tuple[int, int]]] = []
    for run in runs:
        if groups and run[0] - groups[-1][-1][1] < max(min_silence, 1e-9):
            groups[-1].append(run)
        else:
            groups.append([run])
    return groups


def _cut(
    runs: list[tuple[int, int]], probabilities: np.ndarray, options: VadOptions
) -> list[tuple[int, int]]:
    """One group as spans of frames no longer than allowed."""
    first, last = runs[0][0], runs[-1][1]
    longest = (options.max_length - 2 * options.pad) / FRAME_SECONDS
    if last - first <= longest:
        return [(first, last)]
    longest = int(longest)
    silences = [(a[1], b[0]) for a, b in itertools.pairwise(runs)]
    spans: list[tuple[int, int]] = []
    while last - first > longest:
        within = [
            s
            for s in silences
            if first < s[0] <= first + longest and (s[1] - s[0]) * FRAME_SECONDS >= _CUT_SILENCE
        ]
        if within:
            end, again = max(within, key=lambda silence: silence[1] - silence[0])
        else:  # nobody takes a breath: where it is most like one, in the second half
            half = first + longest // 2
            end = again = half + 1 + int(np.argmin(probabilities[half + 1 : first + longest]))
        spans.append((first, end))
        first = again
    return [*spans, (first, last)]


def padded(spans: list[Span], seconds: float, pad: float) -> list[Span]:
    """Each span with its pads; where two would meet, they share the silence."""
    made = []
    for i, span in enumerate(spans):
        before = (span.start - spans[i - 1].end) / 2 if i else span.start
        after = (spans[i + 1].start - span.end) / 2 if i + 1 < len(spans) else seconds - span.end
        made.append(Span(max(0.0, span.start - min(pad, before)), min(seconds, span.end + min(pad, after))))
    return made
