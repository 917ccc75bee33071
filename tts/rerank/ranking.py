"""The scores of a try, weighed: which of several is heard, and whether one has failed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from .base import Attempt, Scorer
from .words import Words

Scorers = Sequence[Scorer] | Callable[[], Sequence[Scorer]]  # a function is called when the first is needed


@dataclass(frozen=True)
class RankingOptions:
    """What a score counts, by the scorer's name; 0: it is not taken.

    Chosen by words and likeness of tries on vox-dev (docs/log.md): where there is a recogniser it decides, and what the
    others say of tries that it finds alike.
    """

    aligner: float = 0.02  # a nat of log-probability of a frame
    recogniser: float = 1.0  # a nat of log-probability of a token
    likeness: float = 0.1  # a cosine of 1
    clvp: float = 0.02  # a cosine of 1, where its weights are present; not set on dev yet, there being none
    # Nats a frame: a word whose sounds are less probable is missing. Words of two recordings of a clear reader have
    # -4.0 at least, what is cut out of them -4.3 to -6; a strong accent goes below (docs/log.md).
    missing_below: float = -4.5

    def weight(self, name: str) -> float:
        return float(getattr(self, name))


@dataclass(frozen=True)
class Verdict:
    """scores: of the scorers, by name.   total: weighed, the higher the better.   missing: words that the aligner does
    not find."""

    scores: Mapping[str, float] = field(default_factory=dict)
    total: float = 0.0
    missing: int = 0

    @property
    def failed(self) -> bool:
        return self.missing > 0


class Ranking:
    """Judges tries. words: finds those that are missing, None where there is no aligner.   scorers: the others."""

    def __init__(self, words: Words | None, scorers: Scorers = (), options: RankingOptions | None = None):
        self.options = options or RankingOptions()
        self.words, self._scorers = words, scorers

    @cached_property
    def scorers(self) -> tuple[Scorer, ...]:
        return tuple(self._scorers() if callable(self._scorers) else self._scorers)

    def judge(self, attempt: Attempt, words_alone: bool = False) -> Verdict:
        """words_alone: only whether the words are there, which is what a single try is asked."""
        scores: dict[str, float] = {}
        missing: tuple[int, ...] = ()
        if self.words is not None:
            scores[self.words.name], missing = self.words.read(attempt)
        for scorer in () if words_alone else self.scorers:
            if self.options.weight(scorer.name) and (score := scorer.score(attempt)) is not None:
                scores[scorer.name] = score
        total = sum(self.options.weight(name) * score for name, score in scores.items())
        return Verdict(scores, total, len(missing))
