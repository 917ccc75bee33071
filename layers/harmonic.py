"""Speech as a pitch, a voicing decision and two spectral envelopes: the input of a harmonic-plus-noise vocoder.

    network -> Sound -> pulses at the pitch and noise, each through its envelope (`layers.source_filter`) -> wav

Shapes: B batch, U hops, M bands of an envelope.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

PITCHES = 160  # classes of pitch, evenly spaced in its logarithm,
LOWEST, HIGHEST = 60.0, 550.0  # Hz: from the first to the last
_NEAR = 4  # classes on either side of the likeliest that the pitch is averaged over
_BROAD = 0.43  # of the bands: the width of the means that an envelope's peaks and valleys are measured from


@dataclass(frozen=True)
class Sound:
    """What is to be heard, hop by hop. pitch_logits (B, PITCHES, U), voicing (B, U) logits, harmonic and noise
    (B, M, U) natural logarithms of magnitudes."""

    pitch_logits: Tensor
    voicing: Tensor
    harmonic: Tensor
    noise: Tensor

    def pitch(self) -> Tensor:
        """(B, U) in Hz: the mean around the likeliest (Kim et al. 2018, "CREPE", eq. 2)."""
        chance = torch.softmax(self.pitch_logits, dim=1)
        best = chance.argmax(dim=1, keepdim=True)
        near = (torch.arange(PITCHES, device=chance.device)[:, None] - best).abs() <= _NEAR
        chance = chance * near
        place = (chance * torch.arange(PITCHES, device=chance.device)[:, None]).sum(1) / chance.sum(1)
        return LOWEST * (HIGHEST / LOWEST) ** (place / (PITCHES - 1))

    def sharpened(self, contrast: float) -> Sound:
        """The same with higher peaks and deeper valleys in the envelopes.

        What is learned is the mean of all that could be heard, which is flatter than any of it: the variance that is
        missing is put back (Toda and Tokuda 2007, "global variance", here by one factor for all).
        """
        return replace(
            self, harmonic=_sharpened(self.harmonic, contrast), noise=_sharpened(self.noise, contrast)
        )


def _sharpened(envelope: Tensor, contrast: float) -> Tensor:
    """(B, M, U) -> (B, M, U)."""
    half = int(_BROAD * envelope.shape[1]) // 2
    padded = F.pad(envelope.transpose(1, 2), (half, half), mode="reflect")
    broad = F.avg_pool1d(padded, 2 * half + 1, 1).transpose(1, 2)
    return broad + contrast * (envelope - broad)


def pitch_place(hz: Tensor) -> Tensor:
    """Where Hz lie among the PITCHES, as a real number."""
    return (hz / LOWEST).log() * ((PITCHES - 1) / math.log(HIGHEST / LOWEST))
