"""The past of a batch of candidates: the prompt once for all of them, and what each has said.

Shapes: B candidates, H heads, D channels a head, P positions of the prompt, S of a candidate.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_GROWTH = 64  # positions that the candidates' part grows by


class CandidateCache:
    """Keys and values of `depth` layers.

    First the prompt is pushed, as one row; `branch` then opens a part of each candidate's own. With sixteen candidates
    of a long text the prompt would otherwise be kept, and read at every step, sixteen times. A single candidate goes on
    in the prompt's own part, which is fewer products.
    """

    def __init__(self, depth: int):
        self.depth = depth
        self.shared: list[tuple[Tensor, Tensor]] = []  # a layer: (1, H, P, D) twice
        self.own: list[tuple[Tensor, Tensor]] = []  # a layer: (B, H, S, D) twice, S at least `length`
        self.length = 0  # positions in the candidates' part
        self.n_candidates = 0

    def branch(self, n_candidates: int) -> None:
        """What follows is said by so many."""
        if len(self.shared) != self.depth:
            raise ValueError("the prompt comes first; run it through the model before branching")
        self.n_candidates, self.own, self.length = n_candidates, [], 0
        if n_candidates == 1:
            self.length = self.shared[0][0].shape[2]
            for k, v in self.shared:
                room = self._room(k, self.length + 1)
                room[:, :, : self.length] = k
                values = self._room(v, self.length + 1)
                values[:, :, : self.length] = v
                self.own.append((room, values))
            self.shared = [(k[:, :, :0], v[:, :, :0]) for k, v in self.shared]

    def keep(self, rows: Tensor) -> None:
        """Go on with some candidates only: rows (B',) indices."""
        self.own = [(k[rows], v[rows]) for k, v in self.own]
        self.n_candidates = len(rows)

    def write(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append (B, H, T, D) of a layer; returns the candidates' own so far, (B, H, S, D) views."""
        end = self.length + k.shape[2]
        if layer == len(self.own):
            self.own.append((self._room(k, end), self._room(v, end)))
        keys, values = self.own[layer]
        if end > keys.shape[2]:
            more = self._room(k, end - keys.shape[2])
            keys, values = torch.cat([keys, more], dim=2), torch.cat([values, more], dim=2)
            self.own[layer] = keys, values
        keys[:, :, self.length : end] = k
        values[:, :, self.length : end] = v
        return keys[:, :, :end], values[:, :, :end]

    def advance(self, n: int) -> None:
        """All layers have written n positions."""
        if self.n_candidates:
            self.length += n

    @property
    def n_bytes(self) -> int:
        """Memory of all keys and values."""
        return sum(t.numel() * t.element_size() for pair in (*self.shared, *self.own) for t in pair)

    @staticmethod
    def _room(like: Tensor, n: int) -> Tensor:
        b, h, _, d = like.shape
        return like.new_zeros(b, h, -(-n // _GROWTH) * _GROWTH, d)


def attend(q: Tensor, k: Tensor, v: Tensor, cache: CandidateCache | None, layer: int) -> Tensor:
    """Causal attention of new positions, q, k, v (B, H, T, D), to the past and to themselves -> (B, H, T, D)."""
    if cache is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    if not cache.n_candidates:
        if len(cache.shared) > layer:
            raise ValueError("the prompt is pushed once, whole")
        cache.shared.append((k, v))
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    keys, values = cache.shared[layer]
    own_keys, own_values = cache.write(layer, k, v)
    b, h, t, d = q.shape
    p, s = keys.shape[2], own_keys.shape[2]
    if not p and t == 1:
        return F.scaled_dot_product_attention(q, own_keys, own_values)
    q = q * d**-0.5
    # Candidates are rows of one product with the prompt's keys.
    rows = q.transpose(0, 1).reshape(h, b * t, d)
    to_prompt = (rows @ keys[0].transpose(1, 2)).view(h, b, t, p).transpose(0, 1)
    to_own = q @ own_keys.transpose(2, 3)
    if t > 1:
        later = torch.ones(t, s, dtype=torch.bool, device=q.device).triu(s - t + 1)
        to_own = to_own.masked_fill(later, float("-inf"))
    weights = torch.cat([to_prompt, to_own], dim=-1).softmax(-1)
    of_prompt, of_own = weights.split([p, s], dim=-1)
    y = of_prompt.transpose(0, 1).reshape(h, b * t, p) @ values[0]
    return y.view(h, b, t, d).transpose(0, 1) + of_own @ own_values
