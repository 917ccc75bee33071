"""Whisper's input: a log-mel spectrogram of 16 kHz speech, 100 frames a second (Radford et al. 2022, section 2.2).

The values are openai-whisper's: a periodic Hann window of 25 ms every 10 ms, power, Slaney's mels up to 8 kHz, log10
clipped to 8 below the loudest value of the whole recording, then (x + 4) / 4. The spectra are made block by block, so
that an hour needs no more memory than its mel. Shapes: N samples, M mels, T frames.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...layers.mel import mel_filterbank

SAMPLE_RATE = 16_000
HOP_LENGTH = 160
N_FFT = 400
CHUNK_SECONDS = 30
N_SAMPLES = CHUNK_SECONDS * SAMPLE_RATE
N_FRAMES = N_SAMPLES // HOP_LENGTH  # of the window that the model sees
FRAMES_PER_SECOND = SAMPLE_RATE // HOP_LENGTH

_BLOCK = 3000  # frames whose spectra are in memory at a time: 30 s, 10 MB


def log_mel(audio: Tensor | np.ndarray, n_mels: int = 80, padding: int = 0) -> Tensor:
    """audio (N,) in [-1, 1] at 16 kHz, followed by `padding` zeros -> (M, (N + padding) // 160), float32.

    n_mels: 80, or 128 for large-v3 and turbo. One frame at least needs N + padding >= 160.
    """
    wav = torch.as_tensor(audio, dtype=torch.float32)
    n_samples = wav.numel() + padding
    n_frames = n_samples // HOP_LENGTH
    mels = wav.new_empty(n_mels, n_frames)
    filters, window = mel_filters(n_mels).to(wav.device), torch.hann_window(N_FFT, device=wav.device)
    for start in range(0, n_frames, _BLOCK):
        n = min(_BLOCK, n_frames - start)
        part = _span(wav, n_samples, start * HOP_LENGTH - N_FFT // 2, (n - 1) * HOP_LENGTH + N_FFT)
        spectrum = torch.stft(part, N_FFT, HOP_LENGTH, window=window, center=False, return_complex=True)
        mels[:, start : start + n] = filters @ spectrum.abs().square()
    if n_frames:
        mels.clamp_(min=1e-10).log10_()
        mels.clamp_(min=float(mels.max()) - 8.0).add_(4.0).div_(4.0)
    return mels


def pad_or_trim(mel: Tensor, length: int = N_FRAMES) -> Tensor:
    """(..., T) -> (..., length): cut, or filled up with zeros (in mel space, as openai-whisper's transcribe does)."""
    return F.pad(mel[..., :length], (0, max(0, length - mel.shape[-1])))


@lru_cache(maxsize=4)
def mel_filters(n_mels: int) -> Tensor:
    """(M, 201): Whisper's bank."""
    return mel_filterbank(SAMPLE_RATE, N_FFT, n_mels)


def _span(wav: Tensor, n_samples: int, start: int, length: int) -> Tensor:
    """Samples start ... start + length of the recording with its zeros, mirrored at both ends."""
    stop = start + length
    if start >= 0 and stop <= wav.numel():
        return wav[start:stop]
    at = torch.arange(start, stop, device=wav.device)
    if n_samples == 1:
        at = torch.zeros_like(at)
    else:  # a triangle wave: mirrored as often as a very short recording needs
        period = 2 * (n_samples - 1)
        at = at % period
        at = torch.where(at >= n_samples, period - at, at)
    inside = at < wav.numel()
    return torch.where(inside, wav[at.clamp(max=max(wav.numel() - 1, 0))], 0.0) if wav.numel() else at * 0.0
