"""Codes in and out of the speech models by way of the codec's own codebook vectors.

A codec's codebook already says which codes sound alike; starting from it, a model need not learn that from the
data. A code's features are its codebook vector, normalised, and a few learned channels that start at zero; an
embedding is a linear map of the features, and a prediction compares a linear map of the hidden state with
the features of all codes (the output is tied to the input through them).

Shapes: B batch, K codebooks, V codebook_size, d channels of the codebook vectors, e learned channels, W width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def normalize_rows(rows: Tensor) -> Tensor:
    """Codebook vectors (..., V, d) with mean zero and root mean square one over each codebook."""
    rows = rows - rows.mean(dim=-2, keepdim=True)
    return rows / rows.square().mean(dim=(-2, -1), keepdim=True).sqrt().clamp(min=1e-8)


class CodeEmbedding(nn.Module):
    """Embeddings of the codes of one codebook. rows: (V, d), the codec's vectors (any, if a checkpoint follows)."""

    rows: Tensor

    def __init__(self, rows: Tensor, width: int, extra: int = 32, scale: float = 0.5):
        super().__init__()
        v, d = rows.shape
        self.register_buffer("rows", normalize_rows(rows.float()))
        self.extra = nn.Parameter(torch.zeros(v, extra))
        self.proj = nn.Parameter(torch.randn(d + extra, width) * scale * d**-0.5)

    def table(self) -> Tensor:
        """All embeddings, (V, W)."""
        return torch.cat([self.rows, self.extra], dim=-1) @ self.proj

    def forward(self, codes: Tensor) -> Tensor:
        """codes of any shape -> (..., W)."""
        return F.embedding(codes, self.table())


class CodeSumEmbedding(nn.Module):
    """The sum over codebooks of their embeddings. rows: (K, V, d).

    It starts as a projection of the sum of the codec's vectors, which is the latent that the codec decodes.
    """

    rows: Tensor

    def __init__(self, rows: Tensor, width: int, extra: int = 32, scale: float = 0.5):
        super().__init__()
        k, v, d = rows.shape
        rows = rows.float()
        self.register_buffer("rows", normalize_rows(rows))
        self.extra = nn.Parameter(torch.zeros(k, v, extra))
        size = rows.var(dim=(1, 2), unbiased=False).sqrt()
        gain = torch.where(size > 0, size / size[0].clamp(min=1e-8), torch.ones_like(size))
        shared = torch.randn(d + extra, width) * scale * d**-0.5
        self.proj = nn.Parameter(shared * gain[:, None, None])

    def table(self) -> Tensor:
        """All embeddings, (K, V, W)."""
        return torch.bmm(torch.cat([self.rows, self.extra], dim=-1), self.proj)

    def forward(self, codes: Tensor, n_known: Tensor | int | None = None) -> Tensor:
        """codes (B, k, T), the first k <= K codebooks -> (B, T, W).

        n_known: how many of the k count, for each example (B,), or one number; None: all.
        """
        return self.sum(self.table(), codes, n_known)

    @staticmethod
    def sum(table: Tensor, codes: Tensor, n_known: Tensor | int | None = None) -> Tensor:
        """The same from a table (K, V, W)."""
        b, k, t = codes.shape
        which = torch.arange(k, device=codes.device)[:, None]
        index = codes + which * table.shape[1]
        weights = None
        if n_known is not None:
            known = torch.as_tensor(n_known, device=codes.device).expand(b)
            weights = (which < known[:, None, None]).to(table.dtype).expand(b, k, t)
            weights = weights.transpose(1, 2).reshape(-1, k)
        index = index.transpose(1, 2).reshape(-1, k)
        y = F.embedding_bag(index, table[:k].flatten(0, 1), mode="sum", per_sample_weights=weights)
        return y.view(b, t, table.shape[2])

    def few(self, codes: Tensor) -> Tensor:
        """The same for codes of so few frames, B T well below V, that the whole table would be the greater work."""
        k = codes.shape[1]
        which = torch.arange(k, device=codes.device)[:, None]
        features = torch.cat([self.rows[which, codes], self.extra[which, codes]], dim=-1)  # (B, k, T, d + e)
        return features.transpose(1, 2).flatten(2) @ self.proj[:k].flatten(0, 1)


class CodeHead(nn.Module):
    """Logits of the codes of one codebook. rows: (V, d).

    The bias starts where a Gaussian around the predicted vector would have it, -|e_v|^2 / 2, scaled by 1/d so
    that at first all codes are about equally likely.
    """

    rows: Tensor

    def __init__(self, rows: Tensor, width: int, extra: int = 32):
        super().__init__()
        v, d = rows.shape
        self.register_buffer("rows", normalize_rows(rows.float()))
        self.extra = nn.Parameter(torch.zeros(v, extra))
        self.out = nn.Linear(width, d + extra, bias=False)
        nn.init.normal_(self.out.weight, 0, 0.1 * width**-0.5)
        self.bias = nn.Parameter(-0.5 * self.rows.square().sum(dim=-1) / d)

    def matrix(self) -> Tensor:
        """The whole head as one matrix (V, W), to be followed by `bias`: for inference."""
        return torch.cat([self.rows, self.extra], dim=-1) @ self.out.weight

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden (..., W) -> logits (..., V)."""
        return F.linear(self.out(hidden), torch.cat([self.rows, self.extra], dim=-1), self.bias)


def nearest_rows(rows: Tensor, n: int = 8) -> Tensor:
    """The n other codes nearest to each: (V, d) -> (V, n), nearest first."""
    distance = torch.cdist(rows.float()[None], rows.float()[None])[0].fill_diagonal_(float("inf"))
    return distance.topk(min(n, len(rows) - 1), largest=False).indices


def corrupt(codes: Tensor, neighbours: Tensor, share: float) -> Tensor:
    """codes of any shape with a share of them replaced by one of their `neighbours` (V, n), so that a model meets in
    training the kind of mistake that it will make in use."""
    drawn = torch.randint(neighbours.shape[1], codes.shape, device=codes.device)
    wrong = torch.rand(codes.shape, device=codes.device) < share
    return torch.where(wrong, neighbours[codes, drawn], codes)
