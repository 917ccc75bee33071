"""What the entropy coder would charge for each entry of each codebook, around codes that have been chosen once.

Shapes: S streams, K codebooks, T frames, n = S * T of them, P past frames, V codebook size, D embedding, H hidden.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from .context_model import MAX_ACTIVATION, UNITS_PER_BIT, ContextModel


class ContextPrice:
    """Bits of every entry by the context model, in floating point; its context is what the first choice says, so that
    all frames of a packet can be searched at once.

    codes: (S, K, T), the first choice for a whole packet.   unit: what a bit costs.
    """

    def __init__(self, model: ContextModel, codes: Tensor, unit: float):
        self.model, self.unit = model, unit
        self._context = self._read(codes)

    def _read(self, codes: Tensor) -> Tensor:
        """The embeddings that each frame is seen with, (n, K * (P + 1) * D), as `ContextConfig.sources` orders them."""
        config, table = self.model.config, torch.from_numpy(self.model.embedding).to(codes.device)
        streams, n_codebooks, frames = codes.shape
        shape = (streams, frames, n_codebooks, config.past + 1, config.embedding)
        seen = table[:n_codebooks, config.codebook_size, None].expand(shape).clone()
        for k in range(n_codebooks):
            present = table[k][codes[:, k]]  # (S, T, D)
            seen[:, :, k, config.past] = present
            for d in range(1, min(config.past, frames - 1) + 1):
                seen[:, d:, k, d - 1] = present[:, :-d]
        return seen.flatten(0, 1).flatten(1)

    def of(self, start: int, n: int) -> Callable[[int], Tensor]:
        """As `quantizer.Price` has it."""
        return partial(self._price, self._context[start : start + n])

    def _price(self, context: Tensor, k: int) -> Tensor:
        """The costs of codebook k's entries, (n, V)."""
        config, head = self.model.config, self.model.heads[k]
        w1, b1, w2, b2 = (torch.from_numpy(a).to(context) for a in (head.w1, head.b1, head.w2, head.b2))
        hidden = torch.addmm(b1, context[:, : config.sources(k) * config.embedding], w1.t())
        hidden = hidden.mul_(2.0**-head.shift1).floor_().clamp_(0, MAX_ACTIVATION)
        nats = torch.addmm(b2, hidden, w2.t()).mul_(2.0**-head.shift2 / UNITS_PER_BIT * math.log(2))
        return torch.logsumexp(nats, dim=1, keepdim=True).sub(nats).mul_(self.unit / math.log(2))
