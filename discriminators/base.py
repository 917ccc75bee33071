"""What every discriminator has in common: the result, the reading of a waveform as a spectrogram, the
ensemble.

Shapes: B batch, C audio channels, N samples, T frames, F frequency bins.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm


@dataclass(frozen=True)
class Judgement:
    """What one sub-discriminator says about a batch of waveforms.

    logits: (B, 1, ...) one number for each place of its receptive field, high for real.
    features: the activations of its layers, first to last, each (B, channels, ...), for feature matching.
    """

    logits: Tensor
    features: tuple[Tensor, ...]

    def split(self, batch: int) -> tuple[Judgement, Judgement]:
        """Undo a concatenation of two batches: the first `batch` rows, and the others."""
        return (
            Judgement(self.logits[:batch], tuple(f[:batch] for f in self.features)),
            Judgement(self.logits[batch:], tuple(f[batch:] for f in self.features)),
        )


class Discriminator(nn.Module):
    """A set of sub-discriminators (scales, periods, resolutions) over the same waveform."""

    def forward(self, wav: Tensor) -> list[Judgement]:
        """wav (B, C, N) to one judgement for each sub-discriminator."""
        raise NotImplementedError


class Ensemble(Discriminator):
    """Several discriminators as one: their judgements in a row."""

    def __init__(self, *members: Discriminator):
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, wav: Tensor) -> list[Judgement]:
        return [judgement for member in self.members for judgement in member(wav)]


def norm_conv2d(in_channels: int, out_channels: int, kernel: tuple[int, int], **kwargs) -> nn.Module:
    """A weight-normalised 2-d convolution that keeps its input's size at stride 1."""
    dilation = kwargs.get("dilation", (1, 1))
    padding = ((kernel[0] - 1) // 2 * dilation[0], (kernel[1] - 1) // 2 * dilation[1])
    return weight_norm(nn.Conv2d(in_channels, out_channels, kernel, padding=padding, **kwargs))


class ComplexSpectrogram(nn.Module):
    """The STFT with real and imaginary parts as channels, always in float32 (a bf16 FFT does not exist).

    normalized: divide by sqrt(n_fft), so that the level does not depend on the window (EnCodec).
    """

    window: Tensor

    def __init__(self, n_fft: int, hop_length: int, normalized: bool):
        super().__init__()
        self.n_fft, self.hop_length, self.normalized = n_fft, hop_length, normalized
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def forward(self, wav: Tensor) -> Tensor:
        """wav (B, C, N), N > n_fft / 2, to (B, 2 C, T, F): first all real parts, then all imaginary ones."""
        batch, channels, n = wav.shape
        with torch.autocast(wav.device.type, enabled=False):
            spectrum = torch.stft(
                wav.float().reshape(batch * channels, n),
                self.n_fft,
                self.hop_length,
                window=self.window,
                normalized=self.normalized,
                return_complex=True,
            )
        spectrum = spectrum.reshape(batch, channels, *spectrum.shape[1:]).transpose(2, 3)
        return torch.cat([spectrum.real, spectrum.imag], dim=1)
