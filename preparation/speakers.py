"""Who speaks in recordings that do not say: speaker vectors (GE2E) in groups over the whole corpus.

    pieces --embed--> voices --the two groups most alike become one, as long as they are alike--> speakers

No chance is involved: the same pieces give the same groups. A voice is told from few seconds, and people sound alike:
of 25 speakers of speechocean762 with six sentences each, 27 are found, and 91 % of the pieces are in a group that is
mostly their speaker's.

Shapes: N pieces, G groups, E = 256.
"""

from __future__ import annotations

import base64

import numpy as np
import torch

from ..pretrained.ge2e import LEVEL, RATE, load_ge2e

SHORTEST = 2 * RATE  # samples that the network is given, at least
BLOCK = 2048  # voices compared with each other at once


@torch.inference_mode()
def embed(wav16: np.ndarray) -> str | None:
    """wav16 (N,) at 16 kHz to its voice, base64 of (256,) float32: the mean over windows of 1.6 s; None for silence."""
    if not wav16.any():
        return None
    level = np.sqrt(np.mean(np.square(wav16, dtype=np.float64)))
    speech = (wav16 * (LEVEL / level)).astype(np.float32)
    if len(speech) < SHORTEST:
        speech = np.resize(speech, SHORTEST)  # said again, until it fills a window
    voice = load_ge2e().windows(torch.from_numpy(speech)).mean(dim=0).numpy()
    voice = voice / max(float(np.linalg.norm(voice)), 1e-9)
    return base64.b64encode(voice.astype("<f4").tobytes()).decode("ascii")


def voice_of(embedding: str) -> np.ndarray:
    """What `embed` wrote, (256,) float32."""
    return np.frombuffer(base64.b64decode(embedding), "<f4")


def cluster(voices: np.ndarray, threshold: float) -> np.ndarray:
    """voices (N, E) of length one to the group of each (N,), numbered from 0 in order of appearance.

    Groups are joined, the two most alike first, while the mean cosine between their voices is at least `threshold`
    (average linkage). More than `BLOCK` voices are grouped block by block, then the groups of the blocks.
    """
    groups = [
        _Groups(voices[i : i + BLOCK].astype(np.float64), np.ones(len(voices[i : i + BLOCK])), threshold)
        for i in range(0, len(voices), BLOCK)
    ]
    labels = np.concatenate([np.zeros(0, int), *_shifted([g.labels for g in groups])])
    while len(groups) > 1:  # by fours: what is alike is mostly joined before all meet
        fours = [groups[i : i + 4] for i in range(0, len(groups), 4)]
        groups = [
            _Groups(
                np.concatenate([g.sums for g in four]), np.concatenate([g.counts for g in four]), threshold
            )
            for four in fours
        ]
        labels = np.concatenate(_shifted([g.labels for g in groups]))[labels]
    numbers: dict[int, int] = {}
    return np.array([numbers.setdefault(int(label), len(numbers)) for label in labels], int)


class _Groups:
    """What (n, E) sums of so many voices (counts) are joined to: sums (G, E), counts (G,), and the group of each of
    the n."""

    def __init__(self, sums: np.ndarray, counts: np.ndarray, threshold: float):
        n = len(sums)
        sums, counts = sums.copy(), counts.copy()
        label = np.arange(n)
        alike = _mean_cosines(sums, counts, sums, counts)
        np.fill_diagonal(alike, -2)
        nearest = alike.argmax(axis=1)
        height = alike[np.arange(n), nearest]
        while n > 1 and height[int(height.argmax())] >= threshold:
            one = int(height.argmax())
            one, other = sorted((one, int(nearest[one])))
            sums[one] += sums[other]
            counts[one] += counts[other]
            label[label == other] = one
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
        kept = np.unique(label)
        self.sums, self.counts = sums[kept], counts[kept]
        self.labels = np.searchsorted(kept, label)


def _mean_cosines(a: np.ndarray, n_a: np.ndarray, b: np.ndarray, n_b: np.ndarray) -> np.ndarray:
    """Sums (A, E), (B, E) of so many voices -> (A, B), rounded so that the last bits, which another machine's library
    may add up in another order, decide nothing."""
    return np.round((a @ b.T) / np.outer(n_a, n_b), 9)


def _shifted(labels: list[np.ndarray]) -> list[np.ndarray]:
    """Labels from 0 in each block to labels that no two blocks share."""
    made, first = [], 0
    for block in labels:
        made.append(block + first)
        first += int(block.max()) + 1 if len(block) else 0
    return made
