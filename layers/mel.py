"""Log-mel spectrograms for networks that listen.

Shapes: B batch, N samples, T frames, F frequency bins, M mel bands.
"""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
import torchaudio
from torch import Tensor, nn


def mel_filterbank(sample_rate: int, n_fft: int, n_mels: int) -> Tensor:
    """(M, F) triangles on Slaney's mel scale, each of unit area, as librosa's default."""
    with warnings.catch_warnings():  # at small windows some triangles fall between two bins and stay empty
        warnings.simplefilter("ignore")
        bank = torchaudio.functional.melscale_fbanks(
            n_fft // 2 + 1, 0.0, sample_rate / 2, n_mels, sample_rate, norm="slaney", mel_scale="slaney"
        )
    return bank.T.contiguous()


class LogMel(nn.Module):
    """Decimal logarithms of mel magnitudes, moved and scaled to about the range of -1 to 1 for speech. What is quieter
    than `floor` is equal."""

    window: Tensor
    bank: Tensor

    def __init__(self, sample_rate: int, n_fft: int, hop: int, bands: int, floor: float = 1e-3):
        super().__init__()
        self.n_fft, self.hop, self.floor = n_fft, hop, floor
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        self.register_buffer("bank", mel_filterbank(sample_rate, n_fft, bands), persistent=False)

    def forward(self, wav: Tensor, n_frames: int | None = None) -> Tensor:
        """(B, N) -> (B, M, T), T = N // hop, or n_frames, for which samples are cut or filled up with silence."""
        n = wav.shape[-1] // self.hop if n_frames is None else n_frames
        if n == 0:
            return wav.new_zeros(len(wav), len(self.bank), 0)
        with torch.autocast(wav.device.type, enabled=False):
            margin = self.n_fft // 2
            padded = F.pad(wav.float(), (margin, margin + n * self.hop - wav.shape[-1]))
            spectrum = torch.stft(
                padded, self.n_fft, self.hop, window=self.window.float(), center=False, return_complex=True
            )
            mel = self.bank.float() @ spectrum[..., :n].abs()
            return (mel.clamp(min=self.floor) / self.floor).log10() / 1.5 - 1


class MelFrames(nn.Module):
    """Natural logarithms of mel magnitudes, as HiFi-GAN (Kong et al. 2020) and most vocoders read them.

    Frame t looks at the samples around hop t, and nothing is reflected at the ends: the frames of a recording are
    those of its stream. Bands end at half the sample rate; what is quieter than `floor` is equal.
    """

    window: Tensor
    bank: Tensor

    def __init__(
        self, sample_rate: int = 24_000, n_fft: int = 1024, hop: int = 240, bands: int = 80, floor: float = 1e-5
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
        with torch.autocast(wav.device.type, enabled=False):
            padded = F.pad(wav.float()[:, : n * hop], (before, self.n_fft - hop - before))
            spectrum = torch.stft(
                padded, self.n_fft, hop, window=self.window.float(), center=False, return_complex=True
            )
            return (self.bank.float() @ spectrum.abs()).clamp(min=self.floor).log()
