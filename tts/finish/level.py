"""Speech of one level from beginning to end, without looking ahead.

The level is the active speech level of ITU-T P.56, in its spirit: the mean power of what is spoken, pauses
left out, in dB relative to full scale. A sentence cannot be measured before it is heard, so the gain begins with
the level of the voice's prompt, which the model imitates, and follows slowly what has been said since.

Shapes: n samples of one channel.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

TARGET = -23.0  # dB: leaves 15 dB for the peaks of speech
_STEP = 0.02  # seconds over which power is measured
_GATE = 10 ** (-16 / 10)  # power below this share of the active speech is a pause
_FLOOR = 1e-7  # -70 dB: never speech
_MEMORY = 4.0  # seconds of speech that the level is averaged over
_PROMPT, _GUESS = 2.0, 0.3  # seconds of speech that the prompt's level counts for, and none
_MAX_GAIN = 10 ** (20 / 20)
_KNEE, _CEILING = 0.7, 0.95  # peaks beyond the knee are bent to stay below the ceiling


def active_level(samples: np.ndarray, sample_rate: int) -> float | None:
    """Active speech level of (n,) in dB; None where there is only silence.

    Two gates as in ITU-R BS.1770: an absolute one, then one relative to the mean of what passed it.
    """
    step = max(1, round(_STEP * sample_rate))
    whole = np.asarray(samples, np.float64)[: len(samples) // step * step].reshape(-1, step)
    power = np.square(whole).mean(axis=1) if len(whole) else np.zeros(0)
    power = power[power > _FLOOR]
    if not len(power):
        return None
    power = power[power > _GATE * power.mean()]
    return float(10 * np.log10(power.mean()))


@dataclass(frozen=True)
class LevelState:
    """What a leveller has learned. power: mean of active speech. seconds: of speech behind it. gain: the last."""

    power: float
    seconds: float
    gain: float

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


def start_state(level: float | None) -> LevelState:
    """Before the first word. level: of the prompt, in dB; None when there is none to go by."""
    power = 10 ** ((TARGET if level is None else level) / 10)
    return LevelState(power, _GUESS if level is None else _PROMPT, _gain(power))


class Leveller:
    """Feed chunks (n,) of any length, get as many samples back; the cuts do not change them."""

    def __init__(self, sample_rate: int, state: LevelState):
        self.step, self.sample_rate = max(1, round(_STEP * sample_rate)), sample_rate
        self._power, self._seconds = state.power, state.seconds
        self._from = self._to = state.gain  # gain at the beginning and at the end of the step
        self._n, self._energy = 0, 0.0  # samples of the step so far, and their energy

    @property
    def state(self) -> LevelState:
        return LevelState(self._power, self._seconds, self._to)

    def push(self, x: np.ndarray) -> np.ndarray:
        parts = []
        while len(x):
            part, x = np.split(x, [min(len(x), self.step - self._n)])
            ramp = (self._n + np.arange(1, len(part) + 1, dtype=np.float32)) / self.step
            parts.append(part * (self._from + (self._to - self._from) * ramp))
            self._n += len(part)
            self._energy += float(np.square(part, dtype=np.float64).sum())
            if self._n == self.step:
                self._learn(self._energy / self.step)
        return _limited(np.concatenate(parts).astype(np.float32)) if parts else x.astype(np.float32)

    def _learn(self, power: float) -> None:
        if power > max(_FLOOR, _GATE * self._power):
            self._power = (self._power * self._seconds + power * _STEP) / (self._seconds + _STEP)
            self._seconds = min(self._seconds + _STEP, _MEMORY)
        self._from, self._to = self._to, _gain(self._power)
        self._n, self._energy = 0, 0.0


def _gain(power: float) -> float:
    return float(min(_MAX_GAIN, max(1 / _MAX_GAIN, (10 ** (TARGET / 10) / power) ** 0.5)))


def _limited(x: np.ndarray) -> np.ndarray:
    """Peaks bent smoothly below the ceiling: sample by sample, so that it needs no look-ahead."""
    size = np.abs(x)
    if not len(x) or size.max() <= _KNEE:
        return x
    room = _CEILING - _KNEE
    bent = _KNEE + room * np.tanh((size - _KNEE) / room)
    return np.where(size > _KNEE, np.sign(x) * bent, x).astype(np.float32)
