"""Codebook usage and perplexity of a residual quantizer.

Shapes: B batch, K codebooks, T frames, V codebook size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class CodebookUse:
    """For each codebook, first to last.

    used: share of the entries that occurred at least once.
    perplexity: exp of the entropy of their frequencies, the number of equally likely entries that would carry
        as much: at most the number of frames counted, and V.
    n_frames: counted.
    """

    used: tuple[float, ...]
    perplexity: tuple[float, ...]
    n_frames: int


class CodebookCounter:
    """Counts codes as they pass."""

    def __init__(self, n_codebooks: int, codebook_size: int):
        self.counts = torch.zeros(n_codebooks, codebook_size, dtype=torch.long)

    def add(self, codes: Tensor) -> None:
        """codes (B, K, T), K at most `n_codebooks`."""
        for k in range(codes.shape[1]):
            self.counts[k] += torch.bincount(codes[:, k].reshape(-1).cpu(), minlength=self.counts.shape[1])

    def result(self) -> CodebookUse:
        """What was counted; codebooks that never passed have no use and a perplexity of 1."""
        p = self.counts.double() / self.counts.sum(-1, keepdim=True).clamp(min=1)
        entropy = -torch.special.xlogy(p, p).sum(-1)
        used = (self.counts > 0).double().mean(-1)
        n_frames = int(self.counts.sum(-1).max())
        return CodebookUse(tuple(used.tolist()), tuple(entropy.exp().tolist()), n_frames)


def codebook_use(codes: Tensor, codebook_size: int) -> CodebookUse:
    """How well codes (B, K, T) fill their codebooks."""
    counter = CodebookCounter(codes.shape[1], codebook_size)
    counter.add(codes)
    return counter.result()
