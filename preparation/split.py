"""A recording to stretches of speech of 1 to 20 s, cut at silences (Silero's detector, asr/vad.py).

    blocks --resample--> corpus rate, 16 kHz --ten minutes at a time--> spans of speech --joined, cut--> cuts

Memory does not grow with the recording: what is cut is forgotten, what might still grow waits for the next ten
minutes. Cuts are whole samples at 16 kHz, and the samples nearest to those at the corpus's rate.

Shapes: n samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ..asr.vad import Span, VadOptions, speech_spans
from ..data.resample import Resampler
from .options import PrepareOptions
from .records import Cut

RATE = 16_000  # Hz, of the models
STRETCH = 600  # seconds looked at in one go
PAD = 0.15  # seconds of silence kept on either side
BREATH = 0.2  # seconds: a silence at which a cut may be


def cuts(
    blocks: Iterator[np.ndarray], sample_rate: int, rate: int, options: PrepareOptions, whole: bool = False
) -> Iterator[Cut]:
    """Blocks (n,) at `sample_rate` Hz to cuts at `rate` Hz, in order.

    whole: a recording that fits into one cut becomes one, pauses and all (its text is known as one).
    """
    buffer = _Buffer(sample_rate, rate)
    for block in blocks:
        buffer.push(block)
        while buffer.seconds >= STRETCH:
            spans = _spans(buffer.wav16[: STRETCH * RATE], options)
            # What ends near the end may go on there.
            safe = [span for span in spans if span.end <= STRETCH - options.max_pause - 2 * PAD]
            waiting = spans[len(safe) :]
            yield from buffer.cut(safe)
            buffer.forget(min(waiting[0].start if waiting else STRETCH, STRETCH - options.max_pause))
    buffer.flush()
    spans = _spans(buffer.wav16, options)
    if whole and buffer.base16 == 0 and spans and spans[-1].end - spans[0].start <= options.max_seconds:
        spans = [Span(spans[0].start, spans[-1].end)]
    yield from buffer.cut(spans)


def join(spans: Sequence[Span], options: PrepareOptions) -> list[Span]:
    """Breaths of speech to pieces: what pauses less than `max_pause` belongs together up to `max_seconds`, and what
    is longer is cut at the longest pause in the second half of what fits."""
    pieces: list[Span] = []
    for group in _groups(spans, options.max_pause):
        longest = options.max_seconds - 2 * PAD
        while group[-1].end - group[0].start > longest:
            fits = [i for i in range(1, len(group)) if group[i - 1].end - group[0].start <= longest] or [1]
            late = [i for i in fits if group[i - 1].end - group[0].start >= longest / 2] or fits[-1:]
            # A rest that is too short to be a piece is worth a shorter pause.
            good = [i for i in late if group[-1].end - group[i].start >= options.min_seconds] or late
            at = max(good, key=lambda i: (group[i].start - group[i - 1].end, i))
            pieces.append(Span(group[0].start, group[at - 1].end))
            group = group[at:]
        pieces.append(Span(group[0].start, group[-1].end))
    return pieces


def _spans(wav16: np.ndarray, options: PrepareOptions) -> list[Span]:
    """Pieces of a stretch, padded where there is silence to pad with."""
    if not wav16.any():
        return []
    # Spans of one breath, so that the joins are ours: a pad of nothing, cut where they exceed a piece.
    found = VadOptions(min_silence=BREATH, pad=0.0, max_length=max(1.0, options.max_seconds - 2 * PAD))
    pieces = join(speech_spans(wav16, found), options)
    seconds, padded = len(wav16) / RATE, []
    for i, piece in enumerate(pieces):
        before = (piece.start - pieces[i - 1].end) / 2 if i else piece.start
        after = (pieces[i + 1].start - piece.end) / 2 if i + 1 < len(pieces) else seconds - piece.end
        padded.append(Span(piece.start - min(PAD, before), piece.end + min(PAD, after)))
    return padded


def _groups(spans: Sequence[Span], max_pause: float) -> Iterator[list[Span]]:
    group: list[Span] = []
    for span in spans:
        if group and span.start - group[-1].end > max_pause:
            yield group
            group = []
        group.append(span)
    if group:
        yield group


class _Buffer:
    """The samples not yet forgotten, at both rates. base16: samples at 16 kHz forgotten before."""

    def __init__(self, sample_rate: int, rate: int):
        self.rate = rate
        self._resamplers = Resampler(sample_rate, RATE, 1), Resampler(sample_rate, rate, 1)
        self._blocks: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        self._n16 = 0
        self.base16 = 0

    @property
    def seconds(self) -> float:
        return self._n16 / RATE

    @property
    def wav16(self) -> np.ndarray:
        return self._joined(0)

    def push(self, block: np.ndarray) -> None:
        for resampler, kept in zip(self._resamplers, self._blocks, strict=True):
            kept.append(resampler.push(block[None])[0])
        self._n16 += len(self._blocks[0][-1])

    def flush(self) -> None:
        for resampler, kept in zip(self._resamplers, self._blocks, strict=True):
            kept.append(resampler.flush()[0])
        self._n16 += len(self._blocks[0][-1])

    def cut(self, spans: Sequence[Span]) -> Iterator[Cut]:
        wav16, wav = self._joined(0), self._joined(1)
        for span in spans:
            first, last = round(span.start * RATE), round(span.end * RATE)
            place = slice(self._at_rate(first), self._at_rate(last))
            start, end = ((self.base16 + n) / RATE for n in (first, last))
            yield Cut(start, end, wav[place].copy(), wav16[first:last].copy())

    def forget(self, seconds: float) -> None:
        n = round(seconds * RATE)
        for i, gone in ((0, n), (1, self._at_rate(n))):
            self._blocks[i][:] = [self._joined(i)[gone:].copy()]
        self.base16 += n
        self._n16 -= n

    def _at_rate(self, n16: int) -> int:
        """From samples of the buffer at 16 kHz to those at the corpus's rate, counted from the recording's start."""
        whole, base = (round((self.base16 + n) * self.rate / RATE) for n in (n16, 0))
        return whole - base

    def _joined(self, i: int) -> np.ndarray:
        if len(self._blocks[i]) != 1:
            self._blocks[i][:] = (
                [np.concatenate(self._blocks[i])] if self._blocks[i] else [np.zeros(0, np.float32)]
            )
        return self._blocks[i][0]
