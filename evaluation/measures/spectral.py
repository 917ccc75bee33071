"""Reconstruction losses: multi-scale mel, magnitude and complex STFT, waveform.

One class computes them together, because they look at the same spectrograms: for each window the target's
STFT and the prediction's are computed once and every loss that uses that window reads them. On a CPU the
transforms cost a third of a training step, so a random part of the windows can be drawn at every step.

Shapes: B batch, C audio channels, N samples, T frames, F frequency bins, M mel bands.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...layers.mel import mel_filterbank


@dataclass(frozen=True)
class SpectralLossOptions:
    """Which windows (samples at the model's rate; the hop is a quarter of each) serve which loss."""

    mel_windows: tuple[int, ...] = (32, 64, 128, 256, 512, 1024, 2048)  # DAC, appendix
    mel_bands: tuple[int, ...] = (5, 10, 20, 40, 80, 160, 320)  # one number for each mel window
    stft_windows: tuple[int, ...] = (512, 2048)  # DAC's magnitude loss
    complex_windows: tuple[int, ...] = (256, 512, 1024, 2048)  # phase-aware
    complex_power: float = 1.0  # compress magnitudes to this power before comparing; 1: as they are
    complex_magnitude: float = 0.0  # weight of the same distance between (compressed) magnitudes alone
    mel_floor: float = 1e-5  # mel magnitudes below count as equal (DAC: 1e-5; 2e-3: -70 dB of full scale)
    windows_per_step: int | None = None  # draw so many of all the windows at each step; None: all of them

    def __post_init__(self):
        if len(self.mel_windows) != len(self.mel_bands):
            raise ValueError(
                f"mel_bands needs one number for each of the {len(self.mel_windows)} mel_windows, "
                f"got {len(self.mel_bands)}"
            )

    @property
    def windows(self) -> tuple[int, ...]:
        return tuple(sorted({*self.mel_windows, *self.stft_windows, *self.complex_windows}))


class SpectralLoss(nn.Module):
    """The losses "mel", "stft" and "complex" of a prediction against its target, in float32.

    mel: mean over the windows of L1 between log10 mel magnitudes, clamped at 1e-5 (Kumar et al. 2023, section
    3.5;
        DAC sums over the windows, we take the mean: multiply a published weight by seven).
    stft: mean over the windows of L1 of magnitudes plus L1 of log10 power, as DAC reports it.
    complex: mean over the windows of |S' - S| over |S|, each summed over an example: 1 for silence, and
        sensitive to phase, which log magnitudes are not.
    """

    def __init__(self, sample_rate: int, options: SpectralLossOptions | None = None):
        super().__init__()
        options = options or SpectralLossOptions()
        self.options = options
        for n_fft in options.windows:
            self.register_buffer(f"window_{n_fft}", torch.hann_window(n_fft), persistent=False)
        for n_fft, n_mels in zip(options.mel_windows, options.mel_bands, strict=True):
            self.register_buffer(f"mel_{n_fft}", mel_filterbank(sample_rate, n_fft, n_mels), persistent=False)

    def forward(
        self, prediction: Tensor, target: Tensor, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """prediction, target (B, C, N) to scalars by name; only names that have a window are there.

        `generator` draws the windows of this step where `windows_per_step` asks for fewer than all.
        """
        losses: dict[str, list[Tensor]] = {}
        with torch.autocast(prediction.device.type, enabled=False):
            prediction, target = prediction.float().flatten(0, 1), target.float().flatten(0, 1)
            for n_fft in self._draw(generator):
                with torch.no_grad():
                    truth = self._stft(target, n_fft)
                for name, loss in self._at(n_fft, self._stft(prediction, n_fft), truth):
                    losses.setdefault(name, []).append(loss)
        return {name: torch.stack(parts).mean() for name, parts in losses.items()}

    def _draw(self, generator: torch.Generator | None) -> tuple[int, ...]:
        windows, n = self.options.windows, self.options.windows_per_step
        if n is None or n >= len(windows):
            return windows
        order = torch.randperm(len(windows), generator=generator)
        return tuple(windows[i] for i in sorted(order[:n].tolist()))

    def _stft(self, wav: Tensor, n_fft: int) -> Tensor:
        window = self.get_buffer(f"window_{n_fft}")
        return torch.stft(wav, n_fft, n_fft // 4, window=window, return_complex=True)  # (B C, F, T)

    def _at(self, n_fft: int, pred: Tensor, truth: Tensor) -> list[tuple[str, Tensor]]:
        """The losses that look through one window."""
        options, losses = self.options, []
        if n_fft in options.complex_windows:
            losses.append(("complex", self._complex(pred, truth, n_fft)))
        if n_fft in options.mel_windows or n_fft in options.stft_windows:
            pred, truth = magnitude(pred), magnitude(truth)
        if n_fft in options.mel_windows:
            bands = self.get_buffer(f"mel_{n_fft}")
            floor = options.mel_floor
            losses.append(
                ("mel", F.l1_loss(log_magnitude(bands @ pred, floor), log_magnitude(bands @ truth, floor)))
            )
        if n_fft in options.stft_windows:
            log = 2 * F.l1_loss(log_magnitude(pred), log_magnitude(truth))
            losses.append(("stft", log + F.l1_loss(pred, truth)))
        return losses

    def _complex(self, pred: Tensor, truth: Tensor, n_fft: int) -> Tensor:
        power = self.options.complex_power
        if power != 1:  # the floor is that of the normalised STFT, whose level does not grow with the window
            pred, truth = compress(pred, power, 1e-7 * n_fft), compress(truth, power, 1e-7 * n_fft)
        level = magnitude(truth).sum(dim=(1, 2))
        # The floor keeps a nearly silent example from asking for an infinitely exact silence, and from
        # drowning the others' gradients.
        level = level.clamp(min=0.1 * level.mean() + 1e-6)
        error = magnitude(pred - truth).sum(dim=(1, 2))
        if self.options.complex_magnitude:
            distance = (magnitude(pred) - magnitude(truth)).abs().sum(dim=(1, 2))
            error = error + self.options.complex_magnitude * distance
        return (error / level).mean()


def magnitude(spectrum: Tensor) -> Tensor:
    """|S| with a gradient at zero."""
    return (spectrum.real.square() + spectrum.imag.square() + 1e-12).sqrt()


def log_magnitude(x: Tensor, floor: float = 1e-5) -> Tensor:
    return x.clamp(min=floor).log10()


def compress(spectrum: Tensor, power: float, floor: float) -> Tensor:
    """|S|^power with the phase of S: lets quiet parts count beside loud ones. floor: added to |S|^2, so that
    the slope at zero is finite."""
    return spectrum * (spectrum.real.square() + spectrum.imag.square() + floor).pow((power - 1) / 2)


def si_sdr(prediction: Tensor, target: Tensor, eps: float = 1e-8) -> Tensor:
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al. 2019), (B, C, N) to (B, C)."""
    target = target - target.mean(dim=-1, keepdim=True)
    prediction = prediction - prediction.mean(dim=-1, keepdim=True)
    scale = (prediction * target).sum(-1, keepdim=True) / (target.square().sum(-1, keepdim=True) + eps)
    wanted = scale * target
    noise = (prediction - wanted).square().sum(-1) + eps
    return 10 * torch.log10((wanted.square().sum(-1) + eps) / noise)


def band_limit(wav: Tensor, cutoff: Tensor, sample_rate: int) -> Tensor:
    """Remove what lies above `cutoff` (B,) Hz from wav (B, C, N).

    Sources of 16 kHz have nothing above 8 kHz. Comparing through the source's own band keeps them from
    teaching that real people have no high frequencies.
    """
    spectrum = torch.fft.rfft(wav.float())
    bins = torch.fft.rfftfreq(wav.shape[-1], 1 / sample_rate, device=wav.device)
    keep = bins <= cutoff.to(wav.device)[:, None, None]
    return torch.fft.irfft(spectrum * keep, n=wav.shape[-1])
