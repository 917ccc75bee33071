"""The choice between candidates of a sentence.

Shapes: n samples of one channel.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


class Candidates:
    """The tries at one sentence, one after another; the one that scores best is kept, the first of equals. A single
    one is heard while it is made.

    score: of all samples (n,) of a try, the higher the better.
    """

    def __init__(self, n: int, score: Callable[[np.ndarray], float]):
        self._left, self._score, self._alone = n, score, n == 1
        self._parts: list[np.ndarray] = []
        self._best: tuple[float, np.ndarray] | None = None
        self._tried = self.chosen = 0  # chosen: the index of the try that is the best so far

    def push(self, wav: np.ndarray, ends: bool) -> np.ndarray | None:
        """A part of a try (n,), and whether it `ends` with it -> what is to be heard; None while that is not known."""
        if self._alone:
            return wav
        self._parts.append(wav)
        if not ends:
            return None
        whole, self._parts = np.concatenate(self._parts), []
        score = self._score(whole)
        if self._best is None or score > self._best[0]:
            self._best, self.chosen = (score, whole), self._tried
        self._tried += 1
        self._left -= 1
        return None if self._left else self._best[1]
