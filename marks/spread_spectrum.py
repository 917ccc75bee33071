"""A spread-spectrum watermark that survives codecs: the level of eight bands moves by +-3.5 dB, up or down every 30 ms,
in a known pattern.

Perth's mark is finer than what a codec of 4 kbps keeps of a spectrum; levels of broad bands are what such a codec
keeps best. Bands below 1 kHz have the pattern, too, but are left alone since 2026-11-29: they had nine tenths of
what the mark costs in quality (docs/log.md). The pattern repeats every 2.4 s. The detector takes from the band levels
what speech itself does, by a filter over bands and time and by how much they move just there (whitening), folds them
to that period, and looks for the pattern at every offset with a matched filter (spread-spectrum watermarking as in
Kirovski and Malvar, 2003). What it gives is how far the best offset stands out of all others, in standard deviations.

Shapes: N samples, Q bands, C chips of 30 ms, T frames of 10 ms, P frames a period.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

RATE = 16_000  # Hz, of what the detector is given
BANDS, CHIPS = 12, 80
CHIP_SECONDS = 0.03
DEPTHS_DB = (0.0,) * 4 + (3.5,) * 8  # of each band
LOW_HZ, HIGH_HZ = 150.0, 6500.0
_HOP_SECONDS, _WINDOW_SECONDS = 0.01, 0.032
_FRAMES_PER_CHIP = 3
PERIOD = CHIPS * _FRAMES_PER_CHIP  # frames
_RANGE_DB = 55.0  # quieter than this below the loudest is not listened to
# How speech itself moves, clean and coded: its power by cosine over the bands (rows of the DCT) and, at these
# frequencies, by modulation; fitted to two hundred recordings as a product of the two.
_BY_COSINE = (28.8, 11.6, 6.07, 4.25, 3.4, 2.85, 2.53, 2.25, 2.14, 2.08, 1.9, 1.65)
_MODULATION_HZ = (0.0, 2.0, 4.0, 8.0, 12.0, 16.0, 24.0, 32.0, 50.0)
_BY_MODULATION = (94.6, 53.1, 24.6, 6.93, 3.07, 1.7, 0.71, 0.36, 0.18)
# What a codec with 50 frames a second lets through.
_KEPT_HZ = 31.0
_NEAR = (1, 3)  # bands and frames to each side that tell how much the levels move
_CALMEST = 0.1  # of how much they move in the middle: what moves less is not trusted more


@lru_cache(maxsize=1)
def pattern() -> Tensor:
    """(Q, C) of +1 and -1."""
    digest = hashlib.shake_128(b"myna watermark 1").digest(BANDS * CHIPS // 8)
    return torch.from_numpy(
        np.unpackbits(np.frombuffer(digest, np.uint8)).reshape(BANDS, CHIPS) * 2.0 - 1
    ).float()


def band_edges() -> np.ndarray:
    """(Q + 1,) Hz, even on the mel scale."""
    mel = np.linspace(np.log1p(LOW_HZ / 700), np.log1p(HIGH_HZ / 700), BANDS + 1)
    return 700 * np.expm1(mel)


def gains_db(frequencies: Tensor) -> Tensor:
    """What each chip adds at frequencies (F,) in Hz, even and rising: (C, F) dB, smooth from band to band. The mean
    power of a band stays."""
    edges = torch.from_numpy(band_edges()).float()
    band = torch.bucketize(frequencies, edges) - 1
    inside = (band >= 0) & (band < BANDS)
    depths = torch.tensor(DEPTHS_DB)
    louder = 10 * ((10 ** (depths / 10) + 10 ** (-depths / 10)) / 2).log10()  # a band that goes up and down
    steps = (_marked() - louder[:, None])[band.clamp(0, BANDS - 1)].T * inside
    width = max(1, round(25 / float(frequencies[1] - frequencies[0])))  # over 50 Hz
    kernel = torch.hann_window(2 * width + 3, periodic=False)[1:-1]
    kernel = kernel / kernel.sum()
    return F.conv1d(F.pad(steps[:, None], (width, width), mode="replicate"), kernel[None, None])[:, 0]


def band_levels(samples: Tensor) -> Tensor:
    """samples (N,) at 16 kHz -> (Q, T) dB, silence raised to a floor."""
    n = round(_WINDOW_SECONDS * RATE)
    hop = round(_HOP_SECONDS * RATE)
    window = torch.hann_window(n)
    stft = torch.stft(samples, n, hop, n, window, center=True, pad_mode="constant", return_complex=True)
    power = stft.abs().square()
    frequencies = torch.arange(power.shape[0]) * RATE / n
    band = torch.bucketize(frequencies, torch.from_numpy(band_edges()).float()) - 1
    levels = torch.stack([power[band == q].mean(0) for q in range(BANDS)])
    levels = 10 * (levels + 1e-9).log10()
    return levels.clamp(min=float(levels.max()) - _RANGE_DB)


def whiten(levels: Tensor) -> Tensor:
    """(Q, T) dB -> (Q, T): without what speech makes likely, and calm where it moves much."""
    n = levels.shape[1]
    levels = (levels - levels.mean(1, keepdim=True)) * torch.hann_window(n) ** 0.25
    size = n + -n % PERIOD
    spectrum = torch.fft.rfft(_cosines() @ levels, size) * _whitening(size)
    x = _cosines().T @ torch.fft.irfft(spectrum, size)[:, :n]
    bands, frames = _NEAR
    squares = F.pad(x.square()[None], (frames, frames, bands, bands), mode="replicate")
    near = F.avg_pool2d(squares, (2 * bands + 1, 2 * frames + 1), 1)[0]
    return x / (near + _CALMEST * near.median() + 1e-12).sqrt()


def fold(levels: Tensor, start: int = 0) -> Tensor:
    """(Q, T) dB -> (Q, P): whitened, all periods added up. start: the frame of the recording that `levels` begins
    with."""
    x = F.pad(whiten(levels), (start % PERIOD, -(levels.shape[1] + start) % PERIOD))
    return x.unflatten(1, (-1, PERIOD)).sum(1)


def prominence(folded: Tensor) -> float:
    """How far the pattern's best offset stands out of all others, in standard deviations."""
    spectrum = torch.fft.rfft(_cosines() @ folded)
    found = torch.fft.irfft((spectrum * _matched_filter()).sum(0), PERIOD)
    middle = found.median()
    spread = 1.4826 * (found - middle).abs().median()
    return float((found.max() - middle) / spread) if float(spread) > 0 else 0.0


@torch.inference_mode()
def detect(samples: np.ndarray) -> float:
    """The prominence of the mark in samples (N,) at 16 kHz; 0 for silence and less than half a second."""
    if len(samples) < RATE // 2 or not np.any(samples):
        return 0.0
    return prominence(fold(band_levels(torch.from_numpy(np.ascontiguousarray(samples, np.float32)))))


def _cosines() -> Tensor:
    """The orthonormal DCT over the bands, (Q, Q)."""
    k, n = torch.arange(BANDS)[:, None], torch.arange(BANDS)[None]
    matrix = torch.cos(torch.pi * k * (n + 0.5) / BANDS) * (2 / BANDS) ** 0.5
    matrix[0] /= 2**0.5
    return matrix


def _marked() -> Tensor:
    """(Q, C) dB: what is added to each band in each chip."""
    return pattern() * torch.tensor(DEPTHS_DB)[:, None]


@lru_cache(maxsize=8)
def _whitening(size: int) -> Tensor:
    """(Q, size / 2 + 1): what flattens the spectrum of `size` frames of speech, where codecs let it through."""
    modulation = np.arange(size // 2 + 1) / (size * _HOP_SECONDS)
    power = np.exp(np.interp(modulation, _MODULATION_HZ, np.log(_BY_MODULATION)))
    power = torch.from_numpy(np.outer(_BY_COSINE, power)).float()
    kept = torch.linspace(1.0, 0.5, BANDS)[:, None] * torch.from_numpy((modulation < _KEPT_HZ) * 1.0).float()
    return (kept / power).sqrt()


@lru_cache(maxsize=1)
def _matched_filter() -> Tensor:
    """(Q, P / 2 + 1): the conjugate spectrum of the pattern as `whiten` leaves it."""
    template = _marked().repeat_interleave(_FRAMES_PER_CHIP, 1)
    template = F.avg_pool1d(F.pad(template[:, None], (1, 1), mode="circular"), 3, 1)[:, 0]
    template = torch.fft.rfft(_cosines() @ (template - template.mean(1, keepdim=True)))
    return template.conj() * _whitening(PERIOD)
