"""Where on a path the steps are taken: from u, even from 0 (noise) to 1 (data), to the time t."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol


class Grid(Protocol):
    """Rises from 0, or from `start`, to 1."""

    def __call__(self, u: float) -> float: ...


@dataclass(frozen=True)
class Uniform:
    """Even steps.   start: the first time; above 0 for models that cannot say anything about pure noise."""

    start: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.start < 1:
            raise ValueError(f"start {self.start} is no time before the data; give 0 or more, below 1")

    def __call__(self, u: float) -> float:
        return self.start + (1 - self.start) * u


@dataclass(frozen=True)
class Sway:
    """More steps near the noise for a negative `strength`, near the data for a positive one (F5-TTS, Chen et al.
    2024, eq. 7). -1 is the cosine grid of CosyVoice."""

    strength: float = -1.0

    def __post_init__(self) -> None:
        if not -1 <= self.strength <= 2 / (math.pi - 2):
            raise ValueError(f"sway {self.strength} would run backwards; give -1 to {2 / (math.pi - 2):.2f}")

    def __call__(self, u: float) -> float:
        return u + self.strength * (math.cos(math.pi / 2 * u) - 1 + u)


@dataclass(frozen=True)
class Times:
    """Given times, from noise to data, as a distilled model may have been trained on: one more than steps,
    on a discrete path as many, its data's own end being understood."""

    times: tuple[float, ...]

    def __post_init__(self) -> None:
        rises = all(a < b for a, b in zip(self.times, self.times[1:], strict=False))
        if len(self.times) < 2 or not rises or self.times[0] < 0 or self.times[-1] != 1:
            raise ValueError(f"times {self.times} must rise from 0 or more to 1")

    def __call__(self, u: float) -> float:
        place = u * (len(self.times) - 1)
        if abs(place - round(place)) > 1e-9:
            raise ValueError(
                f"{len(self.times)} times do not fit these steps; give as many as the path has levels"
            )
        return self.times[round(place)]
