"""The inaudible watermark of synthetic speech, and its detector.

Two marks in one slowly changing filter: Perth's comb, which its own detector finds (`pretrained.perth`), and a pattern
in the levels of broad bands, which outlives our codec at 4 kbps (`spread_spectrum`).

    samples -> 80 filters of 512 taps, one every 30 ms, each blending into the next -> as many samples

The filters have minimum phase, so nothing is delayed and nothing looks ahead: chunks of any length go in and come
out as long as they went in, and the cuts leave no trace.

Shapes: N samples of one channel, C chips, F frequencies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ..data.resample import Resampler
from ..errors import UsageError
from ..layers.source_filter import minimum_phase
from ..pretrained import perth
from . import spread_spectrum

TAPS_SECONDS = 512 / 24_000
COMB_SHARE = 0.85  # of Perth's comb, in dB: its detector is at 0.9 in 89 % of 2 s (95 % with all of it)
_KNEE = 0.95  # of full scale: louder samples are bent to stay within it
_N_FFT = 8192
_MIN_RATE, _MAX_RATE = 16_000, 48_000
WINDOW_SECONDS = 4.0  # of what the detectors are asked about at a time
# With the three limits below, one of 5,000 cuts of 2 s without the mark passes, and 198 of 200 with it
# (benchmarks/watermark.py).
MIN_CONFIDENCE = 0.9  # of Perth, in at least a tenth of the windows
MIN_PROMINENCE = 5.3  # of the band pattern, in the recording as a whole
# Of two seconds the comb alone is no proof: of 500 such clips without the mark one had a confidence of 0.9.
SHORT_SECONDS = 4.0
MIN_PROMINENCE_BESIDE = 3.3


class WatermarkStream:
    """Marks one voice's speech, chunk by chunk.

    position: samples of the output that came before, where it is continued: the pattern goes on without a break.
    Raises MissingModelError, one line, where the table of Perth's comb is not installed: nothing is ever returned
    unmarked.

    >>> stream = WatermarkStream(24_000)
    >>> marked = np.concatenate([*(stream.push(chunk) for chunk in chunks), stream.flush()])
    """

    def __init__(self, sample_rate: int = 24_000, position: int = 0):
        self.sample_rate, self.position = sample_rate, position
        self._chip = round(spread_spectrum.CHIP_SECONDS * sample_rate)
        responses = filters(sample_rate)
        self._n_fft = 256 * -(-(self._chip + responses.shape[1] - 1) // 256)  # what a chip and its past need
        self._filters = torch.fft.rfft(responses, self._n_fft)
        # Second half of a chip: over into the next.
        phase = torch.linspace(-1, 1, self._chip + 1)[:-1].clamp(min=0)
        self._blend = 0.5 - 0.5 * torch.cos(torch.pi * phase)
        self._past = torch.zeros(responses.shape[1] - 1)

    @torch.inference_mode()
    def push(self, samples: np.ndarray) -> np.ndarray:
        """(n,) float, any n, to (n,) marked, within full scale. Raises UsageError for samples that are not finite."""
        x = torch.from_numpy(np.ascontiguousarray(samples, np.float32))
        if not bool(torch.isfinite(x).all()):
            raise UsageError("speech with NaN or infinity cannot be watermarked, so it is not given out")
        if not len(x):
            return np.zeros(0, np.float32)
        x = torch.cat([self._past, x])
        out, n_past = [], len(self._past)
        start = n_past
        while start < len(x):
            chip, offset = divmod(self.position, self._chip)
            end = min(len(x), start + self._chip - offset)
            pair = self._filters[[chip % spread_spectrum.CHIPS, (chip + 1) % spread_spectrum.CHIPS]]
            heard = torch.fft.rfft(x[start - n_past : end], self._n_fft)
            both = torch.fft.irfft(heard * pair, self._n_fft)[:, n_past : n_past + end - start]
            blend = self._blend[offset : offset + end - start]
            out.append(both[0] + blend * (both[1] - both[0]))
            self.position += end - start
            start = end
        self._past = x[len(x) - n_past :].clone()
        return _within_full_scale(torch.cat(out)).numpy()

    def flush(self) -> np.ndarray:
        """Nothing: no sample is ever held back."""
        return np.zeros(0, np.float32)


def _within_full_scale(marked: Tensor) -> Tensor:
    """Peaks that the filters have raised, bent below full scale sample by sample."""
    size = marked.abs()
    if float(size.max()) <= _KNEE:
        return marked
    room = 1 - _KNEE
    return torch.where(
        size > _KNEE, marked.sign() * (_KNEE + room * torch.tanh((size - _KNEE) / room)), marked
    )


def watermark(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """Mark (N,) samples at once. Raises as `WatermarkStream`."""
    return WatermarkStream(sample_rate).push(samples)


def can_mark(sample_rate: int) -> bool:
    """Whether sound of that rate leaves room for the mark."""
    return _MIN_RATE <= sample_rate <= _MAX_RATE


@lru_cache(maxsize=4)
def filters(sample_rate: int) -> Tensor:
    """The impulse responses (C, taps). Raises UsageError for a rate that leaves no room for the mark."""
    if not can_mark(sample_rate):
        raise UsageError(
            f"speech at {sample_rate} Hz cannot be watermarked; expected {_MIN_RATE} to {_MAX_RATE} Hz"
        )
    frequencies = torch.arange(_N_FFT // 2 + 1) * sample_rate / _N_FFT
    comb = np.interp(
        frequencies.numpy(), np.arange(perth.BINS + 1) * perth.BIN_HZ, [*perth.comb(), 0.0], right=0.0
    )
    decibels = COMB_SHARE * torch.from_numpy(comb).float() + spread_spectrum.gains_db(frequencies)
    responses = minimum_phase(decibels.double() * (math.log(10) / 20))
    return torch.fft.irfft(responses).float()[:, : round(TAPS_SECONDS * sample_rate)]


@dataclass(frozen=True)
class Detection:
    """found: whether this is speech of ours.   confidence: Perth's, 0 to 1, that a tenth of the windows reach.
    prominence: of the band pattern, in standard deviations.   seconds: of sound that were looked at."""

    found: bool
    confidence: float
    prominence: float
    seconds: float


class WatermarkDetector:
    """Listens to blocks (n,) at any rate in order, and to every sample once.

    >>> detector = WatermarkDetector(44_100)
    >>> for block in blocks:
    ...     detector.push(block)
    >>> detector.result().found
    """

    def __init__(self, sample_rate: int, quick: bool = False):
        """quick: look for the band pattern only, a twentieth of the work and without weights; found says the same but
        for few short recordings."""
        self.sample_rate, self._quick = sample_rate, quick
        self._resampler = Resampler(sample_rate, perth.RATE, 1)
        self._size = round(WINDOW_SECONDS * perth.RATE)
        self._waiting = np.zeros(0, np.float32)
        self._confidences: list[float] = []  # Perth's, of each window
        self._folded = torch.zeros(spread_spectrum.BANDS, spread_spectrum.PERIOD)
        self._n_in = 0  # samples so far, at the recording's rate
        self._at = 0  # where `_waiting` begins in the recording, at the detectors' rate
        self._n_heard = 0  # samples looked at, at the detectors' rate

    def push(self, samples: np.ndarray) -> None:
        """The next block (n,)."""
        self._n_in += len(samples)
        self._take(self._resampler.push(np.asarray(samples, np.float32)[None])[0])

    def skip(self, n: int) -> None:
        """Pass over n samples: a long recording need not be heard in full."""
        self._end_stretch()
        self._n_in += n
        self._at = round(self._n_in * perth.RATE / self.sample_rate)
        self._resampler = Resampler(self.sample_rate, perth.RATE, 1)

    def result(self) -> Detection:
        """The verdict on all there was; nothing can be pushed after it."""
        self._end_stretch()
        sure = sorted(self._confidences, reverse=True)
        confidence = sure[len(sure) // 10] if sure else 0.0
        prominence = spread_spectrum.prominence(self._folded)
        sure_of_comb = confidence >= MIN_CONFIDENCE
        if (
            self._n_heard < SHORT_SECONDS * perth.RATE
        ):  # a single window, which one clip in five hundred passes
            sure_of_comb &= prominence >= MIN_PROMINENCE_BESIDE
        found = sure_of_comb or prominence >= MIN_PROMINENCE
        return Detection(found, confidence, prominence, self._n_heard / perth.RATE)

    def _take(self, samples: np.ndarray) -> None:
        self._waiting = np.concatenate([self._waiting, samples])
        while len(self._waiting) >= 2 * self._size:  # so that the last window is never a short rest
            self._listen(self._size)

    def _end_stretch(self) -> None:
        self._take(self._resampler.flush()[0])
        if len(self._waiting) >= perth.RATE // 2:
            self._listen(len(self._waiting))
        self._waiting = np.zeros(0, np.float32)

    @torch.inference_mode()
    def _listen(self, n: int) -> None:
        window, self._waiting = self._waiting[:n], self._waiting[n:]
        if np.any(window):
            self._n_heard += n
            if not self._quick:
                self._confidences.append(perth.confidence(window))
            levels = spread_spectrum.band_levels(torch.from_numpy(np.ascontiguousarray(window)))
            self._folded += spread_spectrum.fold(levels, round(self._at / perth.RATE * 100))
        self._at += n


def detect_watermark(samples: np.ndarray, sample_rate: int) -> Detection:
    """Whether (N,) samples carry the mark."""
    detector = WatermarkDetector(sample_rate)
    detector.push(samples)
    return detector.result()
