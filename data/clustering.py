"""Vectors in groups: average linkage of cosines, of any number of vectors.

    vectors --the two groups most alike become one, as long as they are alike--> groups

No chance is involved: the same vectors give the same groups.

Shapes: N vectors, G groups, E dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BLOCK = 2048  # vectors compared with each other at once


@dataclass(frozen=True)
class Condensed:
    """sums (G, E) of the vectors of each group, their counts (G,), and the group of each vector (N,), numbered in order
    of appearance."""

    sums: np.ndarray
    counts: np.ndarray
    labels: np.ndarray


def cluster(vectors: np.ndarray, threshold: float) -> np.ndarray:
    """vectors (N, E) of length one to the group of each (N,), numbered from 0 in order of appearance.

    Groups are joined, the two most alike first, while the mean cosine between their vectors is at least `threshold`
    (average linkage). More than `BLOCK` vectors are grouped block by block, then the groups of the blocks.
    """
    return _in_blocks(vectors, threshold, 1).labels


def condense(vectors: np.ndarray) -> Condensed:
    """At most `BLOCK` groups of vectors (N, E) of length one, each of vectors that are as alike as there are: a
    quarter of those of every block while there are too many."""
    if len(vectors) <= BLOCK:
        return Condensed(vectors.astype(np.float64), np.ones(len(vectors)), np.arange(len(vectors)))
    return _in_blocks(vectors, -1.0, BLOCK // 4)


class Tree:
    """In which order (n, E) sums of so many vectors (counts) are joined, the two groups most alike first, while their
    mean cosine is at least `threshold` and there are more than `fewest`.

    joins: the rows whose groups become one, the first of which then stands for both.   heights: their mean cosines,
    which never rise.
    """

    def __init__(self, sums: np.ndarray, counts: np.ndarray, threshold: float = -1.0, fewest: int = 1):
        n = left = len(sums)
        sums, counts = sums.copy(), counts.copy()
        self.n = n
        self.joins: list[tuple[int, int]] = []
        self.heights: list[float] = []
        alike = _mean_cosines(sums, counts, sums, counts)
        np.fill_diagonal(alike, -2)
        nearest = alike.argmax(axis=1) if n else np.zeros(0, int)
        height = alike[np.arange(n), nearest]
        while left > fewest and height[int(height.argmax())] >= threshold:
            one = int(height.argmax())
            self.heights.append(float(height[one]))
            one, other = sorted((one, int(nearest[one])))
            self.joins.append((one, other))
            left -= 1
            sums[one] += sums[other]
            counts[one] += counts[other]
            gone = alike[other] == -2
            row = _mean_cosines(sums[one : one + 1], counts[one : one + 1], sums, counts)[0]
            row[gone | (alike[one] == -2)] = -2
            row[[one, other]] = -2
            alike[one, :] = alike[:, one] = row
            alike[other, :] = alike[:, other] = -2
            height[other] = -2
            stale = (nearest == one) | (nearest == other)
            stale[one] = True
            nearest[stale] = alike[stale].argmax(axis=1)
            height[stale] = alike[stale, nearest[stale]]
            better = row > height
            nearest[better], height[better] = one, row[better]
        self._sums, self._counts = sums, counts

    def labels(self, n_joins: int | None = None) -> np.ndarray:
        """The group of each row after so many joins (None: all), numbered from 0 in order of appearance."""
        label = np.arange(self.n)
        for one, other in self.joins[:n_joins]:
            label[label == other] = one
        return np.unique(label, return_inverse=True)[1]

    def condensed(self) -> Condensed:
        """The groups after all joins."""
        kept = np.setdiff1d(np.arange(self.n), [other for _, other in self.joins])
        return Condensed(self._sums[kept], self._counts[kept], self.labels())


def _in_blocks(vectors: np.ndarray, threshold: float, fewest: int) -> Condensed:
    """The groups of `Tree`, block by block, then of the groups of the blocks."""
    blocks = [vectors[i : i + BLOCK].astype(np.float64) for i in range(0, len(vectors), BLOCK)]
    groups = [Tree(block, np.ones(len(block)), threshold, fewest).condensed() for block in blocks]
    labels = np.concatenate([np.zeros(0, int), *_shifted([g.labels for g in groups])])
    while len(groups) > 1:  # by fours: what is alike is mostly joined before all meet
        joined = []
        for four in (groups[i : i + 4] for i in range(0, len(groups), 4)):
            sums = np.concatenate([g.sums for g in four])
            counts = np.concatenate([g.counts for g in four])
            joined.append(Tree(sums, counts, threshold, fewest).condensed())
        groups = joined
        labels = np.concatenate(_shifted([g.labels for g in groups]))[labels]
    if not groups:
        return Condensed(vectors.astype(np.float64), np.zeros(0), labels)
    return _in_order(groups[0], labels)


def _in_order(groups: Condensed, labels: np.ndarray) -> Condensed:
    """Groups numbered as their first vectors come."""
    _, first = np.unique(labels, return_index=True)
    order = np.argsort(first)
    number = np.empty(len(order), int)
    number[order] = np.arange(len(order))
    return Condensed(groups.sums[order], groups.counts[order], number[labels])


def _mean_cosines(a: np.ndarray, n_a: np.ndarray, b: np.ndarray, n_b: np.ndarray) -> np.ndarray:
    """Sums (A, E), (B, E) of so many vectors -> (A, B), rounded so that the last bits, which another machine's library
    may add up in another order, decide nothing."""
    return np.round((a @ b.T) / np.outer(n_a, n_b), 9)


def _shifted(labels: list[np.ndarray]) -> list[np.ndarray]:
    """Labels from 0 in each block to labels that no two blocks share."""
    made, first = [], 0
    for block in labels:
        made.append(block + first)
        first += int(block.max()) + 1 if len(block) else 0
    return made
