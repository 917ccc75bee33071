"""Stretches of speech packed into windows of up to 30 s, the silence between them left out, and times mapped back.

    recording   |  ####   ##          ### ####                    #####   ##   |
    windows        [####   ##][### ####]  -> 1                    [#####   ##]  -> 2

A window ends in the longest silence of its last third, so that sentences stay whole. Times are seconds.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from .model.features import CHUNK_SECONDS, SAMPLE_RATE
from .vad import Span, VadOptions, find_spans, padded

_SHORTEST_CLIP = 0.02  # seconds: two mel frames
FULLNESS = 2 / 3  # of a window, from which on it may end


@dataclass(frozen=True)
class SpeechWindow:
    """pieces: of the recording, in order; joined, they are what the model hears.   speech: where in the recording
    somebody speaks in them."""

    pieces: tuple[Span, ...]
    speech: tuple[Span, ...]

    @property
    def start(self) -> float:
        """Of the recording."""
        return self.pieces[0].start

    @property
    def end(self) -> float:
        return self.pieces[-1].end

    @property
    def seconds(self) -> float:
        """Of what the model hears."""
        return sum(piece.seconds for piece in self.pieces)

    def samples(self, audio: np.ndarray) -> np.ndarray:
        """What the model hears of a recording (N,)."""
        cut = [audio[round(p.start * SAMPLE_RATE) : round(p.end * SAMPLE_RATE)] for p in self.pieces]
        return np.concatenate(cut) if len(cut) > 1 else cut[0]

    def to_recording(self, at: float, is_end: bool = False) -> float:
        """A time of the window as one of the recording. Where two pieces meet, an end belongs to the first of them."""
        for piece in self.pieces[:-1]:
            if at < piece.seconds or (is_end and at <= piece.seconds):
                return piece.start + at
            at -= piece.seconds
        return self.pieces[-1].start + at

    def after(self, at: float) -> SpeechWindow:
        """What follows a time of the window."""
        start = self.to_recording(at)
        pieces = [Span(max(p.start, start), p.end) for p in self.pieces if p.end > start]
        speech = [Span(max(s.start, start), s.end) for s in self.speech if s.end > start]
        return SpeechWindow(tuple(pieces), tuple(speech))

    def speech_after(self, at: float) -> float:
        """Seconds of speech after a time of the window."""
        start = self.to_recording(at, is_end=True)
        return sum(s.end - max(s.start, start) for s in self.speech if s.end > start)

    @property
    def joins(self) -> list[tuple[float, float]]:
        """Where two pieces meet: the time of the window, and the seconds of the recording left out there."""
        made, at = [], 0.0
        for piece, following in itertools.pairwise(self.pieces):
            at += piece.seconds
            made.append((at, following.start - piece.end))
        return made

    def speech_between(self, start: float, end: float) -> float:
        """Seconds of speech between two times of the recording."""
        return sum(max(0.0, min(s.end, end) - max(s.start, start)) for s in self.speech)


def pack(
    probabilities: np.ndarray,
    seconds: float,
    options: VadOptions,
    clips: Sequence[Span] | None = None,
) -> list[SpeechWindow]:
    """(F,) probabilities of speech of a recording of so many seconds -> its windows, none longer than 30 s.

    options: max_length is of a window's pieces.   clips: the parts of the recording that count; None: all of it.
    """
    speech = find_spans(probabilities, seconds, _without_pads(options))
    pieces = padded(speech, seconds, options.pad)
    if clips is None:
        return _packed(speech, pieces)
    windows: list[SpeechWindow] = []
    for clip in clips:
        if clip.seconds < _SHORTEST_CLIP:
            continue
        inside = [i for i, s in enumerate(speech) if s.end > clip.start and s.start < clip.end]
        windows += _packed(
            [_within(speech[i], clip) for i in inside], [_within(pieces[i], clip) for i in inside]
        )
    return windows


def _packed(speech: list[Span], pieces: list[Span]) -> list[SpeechWindow]:
    windows: list[SpeechWindow] = []
    first = 0
    while first < len(pieces):
        end, total, full = (
            first,
            0.0,
            [],
        )  # full: one past the last piece, where the window would be full enough
        while end < len(pieces) and (end == first or total + pieces[end].seconds <= CHUNK_SECONDS):
            total += pieces[end].seconds
            end += 1
            if total >= FULLNESS * CHUNK_SECONDS:
                full.append(end)
        if end < len(pieces) and full:
            end = max(full, key=lambda i: speech[i].start - speech[i - 1].end)
        windows.append(SpeechWindow(_joined(pieces[first:end]), tuple(speech[first:end])))
        first = end
    return windows


def _joined(pieces: list[Span]) -> tuple[Span, ...]:
    """Pieces that touch are one."""
    made = [pieces[0]]
    for piece in pieces[1:]:
        if piece.start <= made[-1].end:
            made[-1] = Span(made[-1].start, piece.end)
        else:
            made.append(piece)
    return tuple(made)


def _within(span: Span, clip: Span) -> Span:
    return Span(max(span.start, clip.start), min(span.end, clip.end))


def _without_pads(options: VadOptions) -> VadOptions:
    longest = min(options.max_length, CHUNK_SECONDS) - 2 * options.pad
    return replace(options, pad=0.0, max_length=longest)
