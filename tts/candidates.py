"""The choice between candidates of a sentence.

Shapes: n samples of one channel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .rerank.ranking import Verdict


@dataclass(frozen=True)
class Tried:
    """One try at a sentence. seconds: of its sound.   scores, total, missing: as `rerank.ranking.Verdict`.   chosen: it
    is heard."""

    seconds: float
    scores: Mapping[str, float] = field(default_factory=dict)
    total: float = 0.0
    missing: int = 0
    chosen: bool = False

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "scores": dict(self.scores)}


class Candidates:
    """The tries at one sentence, one after another, and which of them is best: of those with all words, or else of all,
    that with the highest total; the first of equals.

    judge: of all samples (n,) of a try; None for a single one that is heard while it is made, and not judged.
    """

    def __init__(self, judge: Callable[[np.ndarray], Verdict] | None = None):
        self._judge = judge
        self._parts: list[np.ndarray] = []
        self._best: list[np.ndarray] = []
        self.verdicts: list[Verdict] = []
        self._lengths: list[int] = []
        self.chosen = 0  # the index of the try that is the best so far

    def push(self, wav: np.ndarray, ends: bool) -> np.ndarray | None:
        """A part of a try (n,), and whether it `ends` with it -> what is to be heard of it at once; None where tries
        are judged first."""
        if self._judge is None:
            return wav
        self._parts.append(wav)
        if ends:
            self._add(self._judge(np.concatenate(self._parts)))
        return None

    def _add(self, verdict: Verdict) -> None:
        self.verdicts.append(verdict)
        self._lengths.append(sum(map(len, self._parts)))
        if len(self.verdicts) == 1 or _rank(verdict) > _rank(self.verdicts[self.chosen]):
            self._best, self.chosen = self._parts, len(self.verdicts) - 1
        self._parts = []

    @property
    def best(self) -> Sequence[np.ndarray]:
        """The best try in the parts (n,) that it came in, so that what follows adds in the same order as if it had been
        heard at once; none where none was judged."""
        return self._best

    @property
    def failed(self) -> bool:
        """Whether even the best lacks words."""
        return bool(self.verdicts) and self.verdicts[self.chosen].failed

    def tried(self, sample_rate: int) -> tuple[Tried, ...]:
        """All that were judged."""
        return tuple(
            Tried(length / sample_rate, verdict.scores, verdict.total, verdict.missing, i == self.chosen)
            for i, (length, verdict) in enumerate(zip(self._lengths, self.verdicts, strict=True))
        )


def _rank(verdict: Verdict) -> tuple[bool, float]:
    return not verdict.failed, verdict.total
