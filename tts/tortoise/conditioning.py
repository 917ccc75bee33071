"""What the networks hear of a voice: two mel spectrograms of every clip, at two rates.

    clip, 22.05 kHz -> 6 s of it -> 80 bands of power (HTK's scale), each over its own norm  -> autoregressive network
                    -> 24 kHz, its first 4.3 s -> 100 bands of magnitude (Slaney's scale)    -> diffusion

Shapes: N samples, M mel bands, F frames.
"""

from __future__ import annotations

import math
from functools import lru_cache
from importlib.resources import files

import torch
import torch.nn.functional as F
from torch import Tensor

from ...layers.mel import mel_filterbank

CLIP_RATE, RATE = 22_050, 24_000  # Hz: of clips, and of everything after
_AR_SAMPLES, _DIFFUSION_SAMPLES = 132_300, 102_400
_N_FFT, _HOP, _FLOOR = 1024, 256, 1e-5
MEL_MIN, MEL_MAX = -11.512925148010254, 2.3143386840820312  # between which the diffusion works, -1 to 1


def autoregressive_mel(clip: Tensor) -> Tensor:
    """A clip (N,) at 22.05 kHz -> (80, 517). Longer ones are cut to their middle (the published cut is at random, so
    that a voice was never twice the same), shorter ones filled up with silence."""
    gap = len(clip) - _AR_SAMPLES
    clip = clip[gap // 2 : gap // 2 + _AR_SAMPLES] if gap > 0 else F.pad(clip, (0, -gap))
    power = _spectrum(clip).square()
    bank = _bank(CLIP_RATE, 80, 8000.0, "htk")
    return (bank @ power).clamp(min=_FLOOR).log() / mel_norms()[:, None]


def diffusion_mel(clip: Tensor) -> Tensor:
    """A clip (N,) at 22.05 kHz -> (100, 401): of its beginning."""
    wav = resample(clip, CLIP_RATE, RATE)[:_DIFFUSION_SAMPLES]
    wav = F.pad(wav, (0, _DIFFUSION_SAMPLES - len(wav))).clamp(-1, 1)
    return (_bank(RATE, 100, 12_000.0, "slaney") @ _spectrum(wav)).clamp(min=_FLOOR).log()


def denormalise(mel: Tensor) -> Tensor:
    """From the diffusion's scale, -1 to 1, to natural logarithms, which the vocoder reads."""
    return (mel + 1) / 2 * (MEL_MAX - MEL_MIN) + MEL_MIN


def resample(wav: Tensor, rate_in: int, rate_out: int) -> Tensor:
    """(N,) by a Hann-windowed sinc of six zero crossings, 1 % below the limit: the one with which the networks were
    trained (torchaudio's default), which is coarser than `data.resample`."""
    common = math.gcd(rate_in, rate_out)
    old, new = rate_in // common, rate_out // common
    if old == new:
        return wav
    kernels, width = _kernels(old, new)
    padded = F.pad(wav[None, None], (width, width + old))
    out = F.conv1d(padded, kernels.to(wav), stride=old)[0].T.reshape(-1)
    return out[: -(-new * len(wav) // old)]


@lru_cache(maxsize=4)
def _kernels(old: int, new: int) -> tuple[Tensor, int]:
    """(new, 1, taps) filters, one for each phase, and how far they reach back."""
    crossings = 6
    cutoff = min(old, new) * 0.99
    width = math.ceil(crossings * old / cutoff)
    taps = torch.arange(-width, width + old, dtype=torch.float64) / old
    time = (taps - torch.arange(new, dtype=torch.float64)[:, None] / new) * cutoff
    time = time.clamp(-crossings, crossings)
    window = torch.cos(time * math.pi / crossings / 2).square()
    return (torch.sinc(time) * window * cutoff / old).float()[:, None], width


def _spectrum(wav: Tensor) -> Tensor:
    """Magnitudes (bins, F), frames centred, the ends mirrored. In float64: where a loud vowel leaves the high bands
    near the floor, the rounding of a transform in float32 moves their logarithms by 4e-4."""
    window = torch.hann_window(_N_FFT, dtype=torch.float64)
    wav = wav.double()
    return torch.stft(wav, _N_FFT, _HOP, window=window, pad_mode="reflect", return_complex=True).abs().float()


@lru_cache(maxsize=2)
def _bank(rate: int, n_mels: int, f_max: float, scale: str) -> Tensor:
    return mel_filterbank(rate, _N_FFT, n_mels, f_max=f_max, scale=scale)  # pyright: ignore[reportArgumentType]


@lru_cache(maxsize=1)
def mel_norms() -> Tensor:
    """(80,)"""
    lines = files(__name__.rpartition(".")[0]).joinpath("mel_norms.txt").read_text("utf-8").splitlines()
    return torch.tensor([float(line) for line in lines if line and not line.startswith("#")])
