"""Whether the words are there, by the aligner's posterior of what should be said.

    samples -> log p(symbol | frame) -> the best path through the phones -> of each phone, of each word, of the whole

Shapes: P phones, n samples.
"""

from __future__ import annotations

from itertools import groupby

import torch
from torch import Tensor

from ...data.resample import resample
from ...errors import MynaError
from ..aligner import FLOOR, Aligner, is_pause
from ..text.phones import SYMBOLS, Phones
from .base import Attempt

_PAUSES = frozenset(i for i, symbol in enumerate(SYMBOLS) if is_pause(symbol))


class Words:
    """The aligner's score of the whole, and the words that it does not find."""

    name = "aligner"

    def __init__(self, aligner: Aligner, missing_below: float):
        """missing_below: mean log-probability of a word's sounds, below which it counts as missing."""
        self.aligner, self.missing_below = aligner, missing_below

    def score(self, attempt: Attempt) -> float:
        return self.read(attempt)[0]

    def read(self, attempt: Attempt) -> tuple[float, tuple[int, ...]]:
        """The score, and which words are missing, counted from 0 as `word_spans` has them."""
        rate = self.aligner.config.sample_rate
        samples = attempt.samples
        if attempt.sample_rate != rate:
            samples = resample(samples[None], attempt.sample_rate, rate)[0]
        spans = word_spans(attempt.phones)
        try:
            found = self.aligner.align([torch.from_numpy(samples)], [attempt.phones])[0]
        except (ValueError, RuntimeError, MynaError):  # fewer frames than phones
            return FLOOR, tuple(range(len(spans)))
        assert found.phone_scores is not None
        means = word_scores(found.phone_scores, spans)
        return found.score, tuple(i for i, mean in enumerate(means) if mean < self.missing_below)


def word_spans(phones: Phones) -> list[tuple[int, int]]:
    """First phone and the one after the last of every run of sounds without a pause."""
    symbols = enumerate(phones.tokens[0].tolist())
    runs = [list(run) for pause, run in groupby(symbols, lambda item: item[1] in _PAUSES) if not pause]
    return [(run[0][0], run[-1][0] + 1) for run in runs]


def word_scores(phone_scores: Tensor, spans: list[tuple[int, int]]) -> list[float]:
    """Mean log-probability of the sounds of each word, from that of each phone (P,)."""
    return [float(phone_scores[first:last].mean()) for first, last in spans]
