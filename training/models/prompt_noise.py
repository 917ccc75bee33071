"""Prompts as people record them: noise and reverberation, added to a mel spectrogram.

    power of the prompt -> + its decaying echo -> + noise of a smooth spectrum -> logarithms

The target stays as it was recorded, so the decoder learns that a room and a fan are not part of a voice. The echo of a
room is an exponential tail of the power (Lebart, Boucher and Denbigh 2001), and noise adds its power to that of the
speech: both are sums of powers, so no samples are needed.

Shapes: B batch, M mel bands, T frames of 100 Hz.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

FRAMES_PER_SECOND = 100
SNR_DB = (5.0, 35.0)  # of the prompt's mean power over that of the noise
REVERBERATION = (0.15, 0.6)  # seconds until it is 60 dB weaker
DIRECT_DB = (0.0, 15.0)  # the power of what comes straight over that of the echo
TILT_DB = 8.0  # deviation of the noise's spectrum over the bands, smooth
FLICKER = 0.25  # deviation of each band of noise in each frame, natural logarithm of the magnitude
ECHO_SHARE = 0.5  # of the prompts; the others have noise alone
_TAIL = 60  # frames
_CURVES = 5


def disturbed(mel: Tensor, heard: Tensor) -> Tensor:
    """Log mel magnitudes mel (B, M, T) as if recorded in a room with noise; heard (B, T) bool: the frames that are the
    prompt, whose level the noise is relative to. Draws from torch's generator."""
    b, bands, t = mel.shape
    device = mel.device
    power = torch.exp(2 * mel.float()) * heard[:, None]
    count = heard.sum(1).clamp(min=1)[:, None, None]
    level = power.sum((1, 2), keepdim=True) / (count * bands)

    def between(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(b, 1, 1, device=device)

    seconds = between(*REVERBERATION)
    late = torch.arange(1, _TAIL + 1, device=device) / FRAMES_PER_SECOND
    tail = torch.exp(-13.8 * late / seconds)
    tail = tail / tail.sum(-1, keepdim=True) * 10 ** (-between(*DIRECT_DB) / 10)
    tail = tail * (torch.rand(b, 1, 1, device=device) < ECHO_SHARE)
    echo = F.conv1d(F.pad(power.transpose(0, 1), (_TAIL, -1)), tail.flip(-1), groups=b).transpose(0, 1)
    curve = torch.randn(b, 1, _CURVES, device=device) / torch.arange(1, _CURVES + 1, device=device)
    order = torch.arange(1, _CURVES + 1, device=device)[:, None]
    place = torch.pi * order * (torch.arange(bands, device=device) + 0.5) / bands
    shape = 10 ** (TILT_DB / 10 * (curve @ torch.cos(place)).transpose(1, 2))
    flicker = torch.exp(2 * FLICKER * torch.randn(b, bands, t, device=device))
    noise = level * 10 ** (-between(*SNR_DB) / 10) * shape / shape.mean(1, keepdim=True) * flicker
    return (power + echo + noise).clamp(min=1e-12).log() / 2
