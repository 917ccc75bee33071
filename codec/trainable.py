"""The contract of codecs that can be trained: a pass with gradients, and codebooks that start from data.

Shapes: B batch, C audio channels, N samples, K codebooks, D latent channels, T frames.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .base import Codec
from .quantizer import QuantizedResult, ResidualVQ


@dataclass(frozen=True)
class TrainingResult:
    """wav (B, C, N) reconstructed, and what the quantizer reports, None where no example was quantised."""

    wav: Tensor
    quantizer: QuantizedResult | None


class TrainableCodec(Codec):
    """A codec around a residual quantizer that `myna train` can train. `config` rebuilds it; what is not in `decoder`
    makes the codes."""

    config: Any
    quantizer: ResidualVQ
    decoder: nn.Module

    @abstractmethod
    def synthesize(self, latents: Tensor, n_samples: int) -> Tensor:
        """Latents, quantised or not, (B, D, T) -> wav (B, C, n_samples), with gradients."""

    def forward(
        self, wav: Tensor, n_codebooks: Tensor | None = None, unquantized: Tensor | None = None
    ) -> TrainingResult:
        """One training pass on wav (B, C, N). n_codebooks (B,): how many each example uses. unquantized (B,): examples
        whose latents pass as they are; True for all while the codec warms up."""
        latents = self.latents(wav)
        result = None
        z = latents
        if unquantized is None or not bool(unquantized.all()):
            result = self.quantizer(latents, n_codebooks)
            z = result.quantized
            if unquantized is not None:
                z = torch.where(unquantized.to(z.device)[:, None, None], latents, z)
        return TrainingResult(self.synthesize(z, wav.shape[-1]), result)

    @torch.no_grad()
    def init_from_data(self, wav: Tensor) -> None:
        """Start from wav (B, C, N), a few hundred seconds of it: here, the codebooks from its latents."""
        self.quantizer.init_from(self.latents(wav).float())

    def rows(self) -> Tensor:
        return self.quantizer.rows()
