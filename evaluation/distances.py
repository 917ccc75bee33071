"""Signal distances between a reference and its reconstruction; nothing but torch and torchaudio is needed.

Shapes: N samples. Both waveforms are (N,) float32 at one sample rate; the longer is cut to the shorter.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torchaudio
from torch import Tensor

# DAC's multi-scale mel (arXiv 2306.06546, section 3.5): window and number of mel bands, hop a quarter of the window.
MEL_SCALES = ((32, 5), (64, 10), (128, 20), (256, 40), (512, 80), (1024, 160), (2048, 320))
STFT_WINDOWS = (2048, 512)
FLOOR = 1e-5  # magnitudes below are silence


def si_sdr(reference: np.ndarray, estimate: np.ndarray) -> float:
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al. 2019, eq. 4), means removed; higher is better.

    Identical waveforms give 100 dB, silence on either side nan.
    """
    x, y = _pair(reference, estimate)
    x, y = x.double() - x.double().mean(), y.double() - y.double().mean()
    energy = (x * x).sum()
    if energy == 0 or not y.any():
        return float("nan")
    target = (x * y).sum() / energy * x
    noise = ((y - target) ** 2).sum()
    return min(100.0, float(10 * torch.log10((target * target).sum() / noise.clamp(min=1e-20))))


def mel_distance(reference: np.ndarray, estimate: np.ndarray, sample_rate: int) -> float:
    """Multi-scale mel distance as DAC defines it; lower is better.

    The mean absolute difference of log10 mel magnitudes (Slaney bands from 0 to Nyquist), summed over seven windows.
    """
    x, y = _pair(reference, estimate)
    total = 0.0
    for window, n_mels in MEL_SCALES:
        bands = _mel_bands(window // 2 + 1, n_mels, sample_rate)
        a, b = ((_magnitude(z, window).T @ bands).clamp(min=FLOOR).log10() for z in (x, y))
        total += float((a - b).abs().mean())
    return total


def stft_distance(reference: np.ndarray, estimate: np.ndarray) -> float:
    """Multi-scale STFT distance as DAC defines it; lower is better.

    The mean absolute differences of magnitudes and of log10 power, summed over windows of 2048 and 512 samples.
    """
    x, y = _pair(reference, estimate)
    total = 0.0
    for window in STFT_WINDOWS:
        a, b = _magnitude(x, window), _magnitude(y, window)
        total += float((a - b).abs().mean())
        total += float((2 * a.clamp(min=FLOOR).log10() - 2 * b.clamp(min=FLOOR).log10()).abs().mean())
    return total


def _pair(reference: np.ndarray, estimate: np.ndarray) -> tuple[Tensor, Tensor]:
    n = min(len(reference), len(estimate))
    return torch.from_numpy(np.asarray(reference[:n], np.float32)), torch.from_numpy(
        np.asarray(estimate[:n], np.float32)
    )


def _magnitude(x: Tensor, window: int) -> Tensor:
    """(N,) to (window / 2 + 1, frames): centred frames, reflected at the ends (zeros where too short for that)."""
    mode = "reflect" if len(x) > window // 2 else "constant"
    spectrum = torch.stft(
        x, window, window // 4, window=torch.hann_window(window), pad_mode=mode, return_complex=True
    )
    return spectrum.abs()


@lru_cache(maxsize=32)
def _mel_bands(n_freqs: int, n_mels: int, sample_rate: int) -> Tensor:
    """(n_freqs, n_mels). Narrow bands of short windows hold no bin at all: they count as equal, as in DAC."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torchaudio warns of those empty bands
        return torchaudio.functional.melscale_fbanks(
            n_freqs, 0.0, sample_rate / 2, n_mels, sample_rate, norm="slaney", mel_scale="slaney"
        )
