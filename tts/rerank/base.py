"""The contract of the scorers, which judge a try at a sentence.

    samples, what should be said, the voice -> Scorer.score -> a number, the higher the better

A new scorer is a file in this folder and a weight in `ranking.RankingOptions`. TorToise ranks its candidates by one
score, CLVP's (Betker 2023, section 4.2); others by a round trip through a recogniser.

Shapes: n samples of one channel, T frames or tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from ..lm.batch import Prompt
from ..text.phones import Phones


@dataclass(frozen=True)
class Attempt:
    """One try at a sentence.

    samples (n,) float32 at `sample_rate`.   phones, text: what should be said; text as it is written, "" where it is
    not known.   prompt: the voice, None for no voice in particular.   codes (N, T): what the AR drew, None where that
    is not known.
    """

    samples: np.ndarray
    sample_rate: int
    phones: Phones
    text: str = ""
    prompt: Prompt | None = None
    codes: Tensor | None = None


class Scorer(Protocol):
    """Safe to use from several threads.   name: by which it is weighed and reported."""

    name: str

    def score(self, attempt: Attempt) -> float | None:
        """The higher the better, comparable between tries at one sentence; None for what cannot be judged."""
        ...
