"""Signal distances between a reference and its reconstruction; no package beyond those of Myna is needed.

Waveforms are (N,) float32 at one sample rate; the longer is cut to the shorter.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .spectral import SpectralLoss, SpectralLossOptions
from .spectral import si_sdr as si_sdr_of

# The windows of DAC's distances (arXiv 2306.06546, section 3.5): seven for mel, two for STFT.
SCALES = SpectralLossOptions(
    mel_windows=(32, 64, 128, 256, 512, 1024, 2048),
    mel_bands=(5, 10, 20, 40, 80, 160, 320),
    mel_floor=1e-5,
    stft_windows=(512, 2048),
    complex_windows=(),
)
SHORTEST = 2048  # samples: what the longest window needs; shorter clips are filled with silence


def si_sdr(reference: np.ndarray, estimate: np.ndarray) -> float:
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al. 2019, eq. 4); higher is better.

    nan for silence on either side; no more than 100 dB.
    """
    x, y = _pair(reference, estimate)
    if not x.any() or not y.any():
        return float("nan")
    return min(100.0, float(si_sdr_of(y.double(), x.double())))


def mel_distance(reference: np.ndarray, estimate: np.ndarray, sample_rate: int) -> float:
    """DAC's multi-scale mel distance: L1 of log10 mel magnitudes, summed over windows; lower is better."""
    return len(SCALES.mel_windows) * _distances(reference, estimate, sample_rate)["mel"]


def stft_distance(reference: np.ndarray, estimate: np.ndarray, sample_rate: int) -> float:
    """DAC's multi-scale STFT distance: L1 of magnitudes and of log10 power, summed; lower is better."""
    return len(SCALES.stft_windows) * _distances(reference, estimate, sample_rate)["stft"]


def _distances(reference: np.ndarray, estimate: np.ndarray, sample_rate: int) -> dict[str, float]:
    x, y = _pair(reference, estimate)
    x, y = (F.pad(z, (0, max(0, SHORTEST - z.shape[-1]))) for z in (x, y))
    with torch.inference_mode():
        return {name: float(loss) for name, loss in _spectral_loss(sample_rate)(y, x).items()}


@lru_cache(maxsize=4)
def _spectral_loss(sample_rate: int) -> SpectralLoss:
    return SpectralLoss(sample_rate, SCALES)


def _pair(reference: np.ndarray, estimate: np.ndarray) -> tuple[Tensor, Tensor]:
    """Both as (1, 1, N)."""
    n = min(len(reference), len(estimate))
    x, y = (torch.from_numpy(np.asarray(z[:n], np.float32)).view(1, 1, -1) for z in (reference, estimate))
    return x, y
