"""The mel filter bank of the whole house, and log-mel spectrograms for networks that listen.

Shapes: B batch, N samples, T frames, F frequency bins, M mel bands.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

MelScale = Literal["slaney", "htk"]


def mel_filterbank(
    sample_rate: int,
    n_fft: int,
    n_mels: int,
    *,
    f_min: float = 0.0,
    f_max: float | None = None,
    scale: MelScale = "slaney",
    norm: Literal["slaney"] | None = "slaney",
) -> Tensor:
    """(M, F) triangles that turn a spectrum of n_fft // 2 + 1 bins into mel bands; float32.

    f_min, f_max: Hz, the edges of the lowest and of the highest band; without f_max half the sample rate.
    scale: "slaney" is linear up to 1 kHz and logarithmic above (Slaney 1998, Auditory Toolbox), "htk" is
    2595 log10(1 + f / 700) (Young et al., The HTK Book).
    norm: "slaney" gives each triangle unit area in Hz, None a peak of 1. The defaults are librosa's.
    A triangle that falls between two bins is empty.
    """
    # In float64: torchaudio computes in float32, which moves a log-mel by up to 2e-5.
    f_max = sample_rate / 2 if f_max is None else f_max
    if not 0 <= f_min < f_max <= sample_rate / 2:
        raise ValueError(f"f_min {f_min:g} and f_max {f_max:g} are not within 0 and {sample_rate / 2:g} Hz")
    edges = _mel_to_hertz(
        np.linspace(_hertz_to_mel(f_min, scale), _hertz_to_mel(f_max, scale), n_mels + 2), scale
    )
    ramps = edges[:, None] - np.linspace(0.0, sample_rate / 2, n_fft // 2 + 1)
    width = np.diff(edges)[:, None]
    bank = np.maximum(0.0, np.minimum(-ramps[:-2] / width[:-1], ramps[2:] / width[1:]))
    if norm == "slaney":
        bank = bank * 2.0 / (edges[2:] - edges[:-2])[:, None]
    return torch.from_numpy(bank).float()


def mel_centres(sample_rate: int, n_mels: int) -> Tensor:
    """(M,) Hz of the peaks of `mel_filterbank`'s triangles on Slaney's scale, over the whole band."""
    edges = np.linspace(0.0, _hertz_to_mel(sample_rate / 2, "slaney"), n_mels + 2)
    return torch.from_numpy(_mel_to_hertz(edges, "slaney")[1:-1]).float()


# Slaney's scale: linear up to 1 kHz, at 200 / 3 Hz a mel, and logarithmic above, 27 mels for a factor of 6.4.
_LINEAR, _KNEE, _LOG = 200.0 / 3, 15.0, math.log(6.4) / 27


def _hertz_to_mel(hertz: float, scale: MelScale) -> float:
    if scale == "htk":
        return 2595.0 * math.log10(1.0 + hertz / 700.0)
    mel = hertz / _LINEAR
    return mel if mel < _KNEE else _KNEE + math.log(hertz / (_KNEE * _LINEAR)) / _LOG


def _mel_to_hertz(mel: np.ndarray, scale: MelScale) -> np.ndarray:
    if scale == "htk":
        return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
    return np.where(mel < _KNEE, mel * _LINEAR, _KNEE * _LINEAR * np.exp(_LOG * (mel - _KNEE)))


class MelFrames(nn.Module):
    """Natural logarithms of mel magnitudes, as HiFi-GAN (Kong et al. 2020) and most vocoders read them.

    Frame t looks at the samples around hop t, and nothing is reflected at the ends: the frames of a recording are
    those of its stream. Bands end at half the sample rate; what is quieter than `floor` is equal.
    """

    window: Tensor
    bank: Tensor

    def __init__(
        self,
        sample_rate: int = 24_000,
        n_fft: int = 1024,
        hop: int = 240,
        bands: int = 80,
        floor: float = 1e-5,
    ):
        super().__init__()
        self.n_fft, self.hop, self.bands, self.floor = n_fft, hop, bands, floor
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        self.register_buffer("bank", mel_filterbank(sample_rate, n_fft, bands), persistent=False)

    def forward(self, wav: Tensor, hop: int | None = None) -> Tensor:
        """wav (B, N) -> (B, M, T), T = N // hop. hop: another than the model's, to change the tempo."""
        hop = self.hop if hop is None else hop
        n = wav.shape[-1] // hop
        if n == 0:
            return wav.new_zeros(len(wav), self.bands, 0)
        before = (self.n_fft - hop) // 2
        return self.of_padded(F.pad(wav.float()[:, : n * hop], (before, self.n_fft - hop - before)), hop)

    def of_padded(self, wav: Tensor, hop: int) -> Tensor:
        """wav (B, N) whose first frame begins with its first sample -> (B, M, T)."""
        with torch.autocast(wav.device.type, enabled=False):
            spectrum = torch.stft(
                wav.float(), self.n_fft, hop, window=self.window.float(), center=False, return_complex=True
            )
            return (self.bank.float() @ spectrum.abs()).clamp(min=self.floor).log()


class MelStream:
    """`MelFrames` of one recording as it comes; the frames are those of all of it at once.

    >>> stream = MelStream(mel)
    >>> frames = [stream.push(wav) for wav in wavs] + [stream.flush()]
    """

    def __init__(self, mel: MelFrames):
        self._mel = mel
        self._before = (mel.n_fft - mel.hop) // 2
        like = mel.window
        # What the next frame looks at, as far as it is known in whole hops; and what is left of a hop.
        self._held, self._part = like.new_zeros(self._before), like.new_zeros(0)

    def push(self, wav: Tensor) -> Tensor:
        """Samples (n,), any n -> the frames (M, t) that are certain."""
        self._part = torch.cat([self._part, wav.to(self._part)])
        whole = len(self._part) // self._mel.hop * self._mel.hop
        self._held = torch.cat([self._held, self._part[:whole]])
        self._part = self._part[whole:]
        return self._frames()

    def flush(self) -> Tensor:
        """The frames (M, t) still owed; of a last hop that is not whole there is none."""
        after = self._mel.n_fft - self._mel.hop - self._before
        self._held = F.pad(self._held, (0, after))
        return self._frames()

    def _frames(self) -> Tensor:
        n_fft, hop = self._mel.n_fft, self._mel.hop
        n = (len(self._held) - n_fft) // hop + 1 if len(self._held) >= n_fft else 0
        if n == 0:
            return self._held.new_zeros(self._mel.bands, 0)
        mel = self._mel.of_padded(self._held[None, : (n - 1) * hop + n_fft], hop)[0]
        self._held = self._held[n * hop :]
        return mel
