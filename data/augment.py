"""Augmentation of single crops: speed, gain, polarity. Drawn from a generator that the caller seeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import soxr


@dataclass(frozen=True)
class AugmentOptions:
    """What may happen to a crop. The defaults change nothing."""

    # Uniform in dB; a crop that would clip is turned down (EnCodec: -10, 6).
    gain_db: tuple[float, float] = (0.0, 0.0)
    # Log-uniform; pitch and formants move along: 0.85, 1.18 makes new voices.
    speed: tuple[float, float] = (1.0, 1.0)
    speed_share: float = 0.0  # of the crops that are played at another speed
    flip_share: float = 0.0  # of the crops whose polarity is inverted

    def __post_init__(self):
        if not 0.25 <= self.speed[0] <= self.speed[1] <= 4:
            raise ValueError(f"speed must be a range [low, high] within 0.25 and 4, got {list(self.speed)}")
        if self.gain_db[0] > self.gain_db[1]:
            raise ValueError(f"gain_db must be a range [low, high], got {list(self.gain_db)}")


@dataclass(frozen=True)
class Augmented:
    """wav (N,) float32, and the factor by which all frequencies were multiplied."""

    wav: np.ndarray
    speed: float


def augment(
    read: Callable[[int], np.ndarray], n: int, options: AugmentOptions, rng: np.random.Generator
) -> Augmented:
    """A crop of exactly `n` samples. `read(m)` gives m samples of the recording at a place of its choice: at
    another speed more or fewer of them are needed."""
    speed = 1.0
    if rng.random() < options.speed_share:
        speed = float(np.exp(rng.uniform(np.log(options.speed[0]), np.log(options.speed[1]))))
    if speed == 1.0:
        wav = read(n)
    else:
        wav = change_speed(read(int(np.ceil(n * speed)) + 1), speed)[:n]
        wav = np.pad(wav, (0, n - len(wav)))
    gain = 10 ** (rng.uniform(*options.gain_db) / 20)
    wav = wav * np.float32(
        min(gain, 1 / max(float(np.abs(wav).max(initial=0.0)), 1e-9)) if gain > 1 else gain
    )
    if rng.random() < options.flip_share:
        wav = -wav
    return Augmented(wav, speed)


def change_speed(wav: np.ndarray, speed: float) -> np.ndarray:
    """Play (N,) `speed` times as fast, as a tape would: N / speed samples."""
    return soxr.resample(wav, speed, 1.0, quality="MQ").astype(np.float32)
