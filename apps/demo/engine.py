"""What the page asks of speech synthesis, and nothing more: so that its tests run without models.

Shapes: N samples of mono audio at `sample_rate`.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class Speaking:
    """How to say a text.   preset: a key of `Engine.presets`.   seed: the same seed gives the same audio."""

    preset: str
    seed: int


@dataclass(frozen=True)
class VoiceFacts:
    """A voice of the library, as a visitor sees it.

    seconds: length of its prompt.   created: ISO date.   ours: it ships with the package and cannot be removed.
    problem: why it cannot be used, where it cannot.
    """

    name: str
    seconds: float
    source: str
    created: str
    consent: str
    ours: bool = False
    problem: str | None = None


@dataclass(frozen=True)
class MadeVoice:
    """voice: for the engine alone to look into.   notes: what the visitor should know of the recording."""

    voice: Any
    notes: tuple[str, ...] = ()


class Spoken(Protocol):
    """A stretch of speech: samples (N,) float32 in [-1, 1], N may be 0; the share of the text said by its end."""

    @property
    def samples(self) -> np.ndarray: ...

    @property
    def done(self) -> float: ...


class Engine(Protocol):
    """Voices and speech. A voice is opaque to the page: made, kept and handed back.

    Every method raises MynaError with one readable line. Methods are called from several threads at once.
    """

    sample_rate: int
    presets: Mapping[str, str]  # name -> what it is for; the first is the default

    def make_voice(self, recording: Path, name: str, consent: str, said: str | None) -> MadeVoice:
        """A voice from a recording of 1 to 30 s.   said: its transcript where it is known."""
        ...

    def prompt(self, voice: Any) -> np.ndarray:
        """The seconds (N,) of the recording that the voice kept, as the models hear them, watermarked."""
        ...

    def speak(self, text: str, voice: Any, speaking: Speaking) -> Generator[Spoken, None, None]:
        """The text in the voice, chunk by chunk while it is made; closing the generator stops the work."""
        ...

    def converts(self) -> bool:
        """Whether recordings can be converted here: the weights may not be installed."""
        ...

    def convert(self, recording: Path, voice: Any, seed: int) -> Generator[Spoken, None, None]:
        """A recording in the voice, as `speak`."""
        ...

    def write(self, path: Path, samples: np.ndarray, voice: Any) -> None:
        """Write speech (N,) as WAV, marked as synthetic."""
        ...

    def voices(self) -> list[VoiceFacts]:
        """What the library holds, the visitors' own first."""
        ...

    def load_voice(self, name: str) -> Any: ...

    def save_voice(self, voice: Any) -> None:
        """Put a voice into the library under its name. A name that is taken is refused."""
        ...

    def remove_voice(self, name: str) -> None: ...
