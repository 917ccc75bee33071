"""The finishing stages of every sentence:

    decoder -> level -> ends -> tempo -> pause -> watermark

Shapes: n samples of one channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from .level import Leveller, LevelState
from .pauses import Trimmer
from .tempo import Tempo


class Stage(Protocol):
    """A stream of samples to a stream of samples; the cuts between chunks do not change what comes out."""

    def push(self, x: np.ndarray, /) -> np.ndarray: ...

    def flush(self) -> np.ndarray:
        """What is still owed; the stream is over."""
        ...


class Finish:
    """The stages of one sentence.

    level: what is known of the voice's loudness.   speed: of the speech.   watermark: as many samples come out in all
    as went in.
    """

    def __init__(self, sample_rate: int, level: LevelState, speed: float, watermark: Stage):
        self.sample_rate, self.speed = sample_rate, speed
        self._leveller = Leveller(sample_rate, level)
        self._trimmer = Trimmer(sample_rate)
        self._stages: Sequence[Stage] = self._trimmer, Tempo(sample_rate, speed)
        self._watermark = watermark

    @property
    def level(self) -> LevelState:
        """What the next sentence begins with."""
        return self._leveller.state

    @property
    def cut_seconds(self) -> float:
        """Silence before the speech that was left out, as long as it would have been heard."""
        return self._trimmer.n_cut / self.speed / self.sample_rate

    def push(self, x: np.ndarray) -> np.ndarray:
        """The samples that are certain after these, too."""
        x = self._leveller.push(x)
        for stage in self._stages:
            x = stage.push(x)
        return self._watermark.push(x)

    def flush(self, pause: float) -> np.ndarray:
        """What is still owed, and after it `pause` seconds of silence (at speed 1)."""
        x = np.zeros(0, np.float32)
        for stage in self._stages:
            x = np.concatenate([stage.push(x), stage.flush()])
        silence = np.zeros(round(pause / self.speed * self.sample_rate), np.float32)
        return np.concatenate([self._watermark.push(np.concatenate([x, silence])), self._watermark.flush()])
