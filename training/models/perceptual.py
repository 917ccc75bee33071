"""Losses that follow how speech is heard, with gradients: how much of it is understood, how loud an error is.

    intelligibility   1 - STOI (Taal et al. 2011, "An algorithm for intelligibility prediction of time-frequency
                      weighted noisy speech", section II): correlation of the envelopes of 15 third-octave bands
    loudness          the disturbance of PESQ (ITU-T P.862), frame by frame: differences of loudness in Bark bands,
                      those that are added weighed more (after Martin-Donas et al. 2018, "A deep learning loss
                      function based on the perceptual evaluation of the speech quality")

Neither is the measure itself: the first does not cut silence out, the second does not align and equalise, so that both
look at one transform a step and have a gradient nearly everywhere.

Shapes: B batch, N samples, T frames, F frequency bins, K bands.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

_STOI_WINDOW, _STOI_SEGMENT = 0.0256, 30  # seconds; frames, half a window apart
_LOWEST_BAND, _OCTAVE_BANDS = 150.0, 15  # Hz, the centre of the first
_CLIP = 1 + 10 ** (15 / 20)  # a band counts as at most so much louder than it was: -15 dB of distortion
_RANGE = 1e-4  # frames 40 dB below the loudest are silent
_PESQ_WINDOW, _BARK_BANDS, _BARK_TOP = 0.032, 49, 8000.0
_LEVEL, _ZWICKER, _SONES = 1e7, 0.23, 0.1866  # power of speech (70 dB), exponent and scale of loudness
_DEAD = 0.25  # share of the lesser loudness below which a difference is not heard
_SYMMETRIC, _ASYMMETRIC = 0.1, 0.0309  # weights of P.862.2's mapping


class Intelligibility(nn.Module):
    """1 - STOI of a prediction, a scalar between 0 and 2."""

    bands: Tensor
    window: Tensor

    def __init__(self, sample_rate: int):
        super().__init__()
        size = round(_STOI_WINDOW * sample_rate)
        self.size, self.n_fft = size, 1 << (2 * size - 1).bit_length()
        frequency = torch.arange(self.n_fft // 2 + 1) * sample_rate / self.n_fft
        centre = _LOWEST_BAND * 2 ** (torch.arange(_OCTAVE_BANDS) / 3)
        low, high = (centre * 2 ** (side / 6) for side in (-1, 1))
        self.register_buffer(
            "bands", ((frequency >= low[:, None]) & (frequency < high[:, None])).float(), persistent=False
        )  # (K, F)
        self.register_buffer("window", torch.hann_window(size), persistent=False)

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """prediction, target (B, 1, N) -> the mean over segments, bands and examples; 0 where all is shorter than a
        segment."""
        x, y = self._envelopes(target), self._envelopes(prediction)  # (B, K, T)
        if x.shape[-1] < _STOI_SEGMENT:
            return prediction.sum() * 0
        power = x.square().sum(1)
        heard = (power > _RANGE * power.amax(dim=(0, 1))).float()  # (B, T)
        x, y, heard = (z.unfold(-1, _STOI_SEGMENT, 1) for z in (x, y, heard))  # (B, K, S, 30)
        # What is silent is not cut out, as STOI does, but counts for nothing in its segment.
        heard = heard[:, None]
        count = heard.sum(-1, keepdim=True)
        enough = (count >= _STOI_SEGMENT / 2).float()[..., 0]
        x, y = x * heard, y * heard
        gain = x.norm(dim=-1, keepdim=True) / (y.square().sum(-1, keepdim=True) + 1e-9).sqrt()
        y = torch.minimum(y * gain, x * _CLIP)
        count = count.clamp(min=1)
        x = (x - x.sum(-1, keepdim=True) / count) * heard
        y = (y - y.sum(-1, keepdim=True) / count) * heard
        level = (x.square().sum(-1) + 1e-9).sqrt() * (y.square().sum(-1) + 1e-9).sqrt()
        alike = (x * y).sum(-1) / level  # (B, K, S)
        enough = enough.expand_as(alike)
        return ((1 - alike) * enough).sum() / enough.sum().clamp(min=1)

    def _envelopes(self, wav: Tensor) -> Tensor:
        s = torch.stft(
            wav[:, 0].float(),
            self.n_fft,
            self.size // 2,
            self.size,
            self.window,
            center=False,
            return_complex=True,
        )
        power = s.real.square() + s.imag.square()
        return (self.bands @ power + 1e-9).sqrt()


class Loudness(nn.Module):
    """How much of PESQ's 4.5 an error takes, frame by frame, a scalar from 0."""

    bands: Tensor
    width: Tensor
    threshold: Tensor
    window: Tensor
    speech: Tensor

    def __init__(self, sample_rate: int):
        super().__init__()
        self.n_fft = round(_PESQ_WINDOW * sample_rate)
        frequency = torch.arange(self.n_fft // 2 + 1) * sample_rate / self.n_fft
        bark = 6 * (frequency / 600).asinh()
        top = 6 * math.asinh(min(_BARK_TOP, sample_rate / 2) / 600)
        place = (bark / top * _BARK_BANDS).long()
        bands = torch.zeros(_BARK_BANDS, len(frequency))
        inside = (place < _BARK_BANDS) & (frequency >= 100)  # wideband telephones begin there
        bands[place[inside], torch.arange(len(frequency))[inside]] = 1
        bands = bands[bands.sum(1) > 0]
        kilohertz = (bands @ frequency) / bands.sum(1) / 1000
        # Terhardt's threshold of hearing, dB
        quiet = 3.64 * kilohertz**-0.8 - 6.5 * (-0.6 * (kilohertz - 3.3) ** 2).exp() + 1e-3 * kilohertz**4
        self.register_buffer("bands", bands, persistent=False)
        self.register_buffer("width", torch.full((len(bands), 1), top / _BARK_BANDS), persistent=False)
        self.register_buffer("threshold", 10 ** (quiet / 10)[:, None], persistent=False)
        self.register_buffer("window", torch.hann_window(self.n_fft), persistent=False)
        self.register_buffer("speech", ((frequency > 350) & (frequency < 3250)).float(), persistent=False)

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """prediction, target (B, 1, N) -> the mean over frames and examples."""
        x, y = self._power(target), self._power(prediction)  # (B, F, T)
        level = (self.speech @ x).mean(-1)[:, None, None].clamp(min=1e-6)
        x, y = (self.bands @ (z * (_LEVEL / level)) for z in (x, y))  # (B, K, T)
        a, b = self._loudness(x), self._loudness(y)
        difference = ((b - a).abs() - _DEAD * torch.minimum(a, b)).clamp(min=0)
        added = ((y + 50) / (x + 50)).pow(1.2).detach()
        added = torch.where(added < 3, 0.0, added.clamp(max=12.0))
        # Loud frames hide more.
        hidden = ((x.sum(1) + 1e5) / 1e7).pow(0.04)
        whole = self.width.sum()
        square = (difference * self.width).square().sum(1)
        symmetric = (square + 1e-9).sqrt() * whole.sqrt() / hidden
        asymmetric = (difference * self.width * added).sum(1) / hidden
        frames = _SYMMETRIC * symmetric.clamp(max=45) + _ASYMMETRIC * asymmetric.clamp(max=45)
        return frames.mean()

    def _power(self, wav: Tensor) -> Tensor:
        s = torch.stft(
            wav[:, 0].float(), self.n_fft, self.n_fft // 2, window=self.window, return_complex=True
        )
        return s.real.square() + s.imag.square()

    def _loudness(self, power: Tensor) -> Tensor:
        quiet = self.threshold
        loud = _SONES * (quiet / 0.5) ** _ZWICKER * ((0.5 + 0.5 * power / quiet) ** _ZWICKER - 1)
        return loud.clamp(min=0)
