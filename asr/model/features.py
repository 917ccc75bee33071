"""Whisper's input: a log-mel spectrogram of 16 kHz speech, 100 frames a second (Radford et al. 2022, section 2.2).

The values are openai-whisper's: a periodic Hann window of 25 ms every 10 ms, power, Slaney's mels up to 8 kHz, log10
clipped to 8 below the loudest value of the whole recording, then (x + 4) / 4. The spectra are made block by block, so
that an hour needs no more memory than its mel, or a few windows of it (`LogMel`). Shapes: N samples, M mels, T frames.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...data.audio import Samples
from ...layers.mel import mel_filterbank

SAMPLE_RATE = 16_000
HOP_LENGTH = 160
N_FFT = 400
CHUNK_SECONDS = 30
N_SAMPLES = CHUNK_SECONDS * SAMPLE_RATE
N_FRAMES = N_SAMPLES // HOP_LENGTH  # of the window that the model sees
FRAMES_PER_SECOND = SAMPLE_RATE // HOP_LENGTH

_BLOCK = 3000  # frames whose spectra are in memory at a time: 30 s, 10 MB
_KEPT = 4  # blocks of a `LogMel` that are in memory, 1 MB each


def log_mel(audio: Tensor | np.ndarray, n_mels: int = 80, padding: int = 0) -> Tensor:
    """audio (N,) in [-1, 1] at 16 kHz, followed by `padding` zeros -> (M, (N + padding) // 160), float32.

    n_mels: 80, or 128 for large-v3 and turbo. One frame at least needs N + padding >= 160.
    """
    wav = torch.as_tensor(audio, dtype=torch.float32)
    n_frames = (wav.numel() + padding) // HOP_LENGTH
    mels = wav.new_empty(n_mels, n_frames)
    for start in range(0, n_frames, _BLOCK):
        n = min(_BLOCK, n_frames - start)
        mels[:, start : start + n] = _power(wav, n_mels, padding, start, n)
    if n_frames:
        mels.clamp_(min=1e-10).log10_()
        mels.clamp_(min=float(mels.max()) - 8.0).add_(4.0).div_(4.0)
    return mels


class LogMel:
    """`log_mel` of samples that are not in memory, and its windows made as they are needed, with the same values. The
    spectra are made twice: once for the loudest of them, 1.4 s of a core an hour."""

    def __init__(self, audio: Samples, n_mels: int = 80, padding: int = 0):
        self._audio, self._n_mels, self._padding = audio, n_mels, padding
        self.n_frames = (len(audio) + padding) // HOP_LENGTH
        self._recent: OrderedDict[int, Tensor] = OrderedDict()
        starts = range(0, self.n_frames, _BLOCK)
        self._loudest = max((float(self._block(start).max()) for start in starts), default=0.0)

    def window(self, start: int, stop: int) -> Tensor:
        """Frames from `start` to `stop`, (M, T), fewer at the end."""
        stop = min(stop, self.n_frames)
        made = [
            self._block(first)[:, max(start - first, 0) : stop - first]
            for first in range(start // _BLOCK * _BLOCK, stop, _BLOCK)
        ]
        mels = torch.cat(made, dim=1) if made else torch.zeros(self._n_mels, 0)
        return mels.clamp_(min=self._loudest - 8.0).add_(4.0).div_(4.0)

    def _block(self, start: int) -> Tensor:
        """The logarithms that begin at a multiple of `_BLOCK`: sums of other blocks would differ in their last bits."""
        if start not in self._recent:
            n = min(_BLOCK, self.n_frames - start)
            made = _power(self._audio, self._n_mels, self._padding, start, n).clamp_(min=1e-10).log10_()
            self._recent[start] = made
            while len(self._recent) > _KEPT:
                self._recent.popitem(last=False)
        self._recent.move_to_end(start)
        return self._recent[start]


def pad_or_trim(mel: Tensor, length: int = N_FRAMES) -> Tensor:
    """(..., T) -> (..., length): cut, or filled up with zeros (in mel space, as openai-whisper's transcribe does)."""
    return F.pad(mel[..., :length], (0, max(0, length - mel.shape[-1])))


@lru_cache(maxsize=4)
def mel_filters(n_mels: int) -> Tensor:
    """(M, 201): Whisper's bank."""
    return mel_filterbank(SAMPLE_RATE, N_FFT, n_mels)


def _power(audio: Samples | Tensor, n_mels: int, padding: int, start: int, n: int) -> Tensor:
    """Frames from `start` on, (M, n), before the logarithm."""
    n_samples = len(audio) + padding
    part = _span(audio, n_samples, start * HOP_LENGTH - N_FFT // 2, (n - 1) * HOP_LENGTH + N_FFT)
    window = torch.hann_window(N_FFT, device=part.device)
    spectrum = torch.stft(part, N_FFT, HOP_LENGTH, window=window, center=False, return_complex=True)
    return mel_filters(n_mels).to(part.device) @ spectrum.abs().square()


def _span(audio: Samples | Tensor, n_samples: int, start: int, length: int) -> Tensor:
    """Samples start ... start + length of the recording with its zeros, mirrored at both ends."""
    stop = start + length
    if start >= 0 and stop <= len(audio):
        return torch.as_tensor(audio[start:stop])
    at = torch.arange(start, stop)
    if n_samples == 1:
        at = torch.zeros_like(at)
    else:  # a triangle wave: mirrored as often as a very short recording needs
        period = 2 * (n_samples - 1)
        at = at % period
        at = torch.where(at >= n_samples, period - at, at)
    first, last = int(at.min()), int(at.max()) + 1
    near = torch.as_tensor(audio[first:last])  # (fewer where the zeros begin)
    at = at.to(near.device) - first
    if not len(near):
        return torch.zeros(length, device=near.device)
    return torch.where(at < len(near), near[at.clamp(max=len(near) - 1)], 0.0)
