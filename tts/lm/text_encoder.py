"""Phones to vectors: embeddings of symbol, stress and length, and a bidirectional transformer over them.

Shapes: B batch, P phones, W width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...layers.transformer import Transformer, TransformerConfig
from ..text.phones import N_SYMBOLS


@dataclass(frozen=True)
class TextEncoderConfig:
    """Dimensions. n_symbols: of `tts.text.phones`, 0 (padding) and 1 (unknown) included."""

    n_symbols: int = N_SYMBOLS
    width: int = 320
    depth: int = 3
    n_heads: int = 4
    n_kv_heads: int = 2
    hidden: int = 640
    dropout: float = 0.0


class TextEncoder(nn.Module):
    """What each phone means where it stands."""

    def __init__(self, config: TextEncoderConfig):
        super().__init__()
        self.config = config
        self.symbol = nn.Embedding(config.n_symbols, config.width)
        self.stress = nn.Embedding(3, config.width)
        self.long = nn.Embedding(2, config.width)
        for table in (self.symbol, self.stress, self.long):
            nn.init.normal_(table.weight, 0, 0.5)
        self.transformer = Transformer(
            TransformerConfig(
                width=config.width,
                depth=config.depth,
                n_heads=config.n_heads,
                n_kv_heads=config.n_kv_heads,
                hidden=config.hidden,
                dropout=config.dropout,
            )
        )

    def forward(self, phones: Tensor, n_phones: Tensor, n_prompt: Tensor | None = None) -> Tensor:
        """phones (B, 3, P), n_phones (B,) how many are not padding -> (B, P, W).

        n_prompt: (B,) the first so many see only each other, so that what they become does not depend on what
        follows; None: all see all.
        A symbol that this model has never heard of (a newer list) counts as unknown.
        """
        symbol = torch.where(phones[:, 0] < self.config.n_symbols, phones[:, 0], 1)
        x = self.symbol(symbol) + self.stress(phones[:, 1]) + self.long(phones[:, 2])
        # Padding sees all and is seen by none.
        place = torch.arange(x.shape[1], device=x.device)
        blocks = 2 * (place >= n_phones[:, None]).long()
        if n_prompt is not None:
            blocks = blocks.clamp(min=(place >= n_prompt[:, None]).long())
        return self.transformer(x.transpose(1, 2), blocks).transpose(1, 2)
