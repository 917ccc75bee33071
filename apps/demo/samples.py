"""Voices and texts ready to click, so that the page does something before anyone has recorded anything."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SampleVoice:
    """A recording that ships.   label: what the button says.   said: its transcript."""

    path: Path
    label: str
    said: str


@dataclass(frozen=True)
class SampleText:
    label: str
    line: str


def sample_recordings() -> list[SampleVoice]:
    """The recordings of the package's voices."""
    from ...tts.voices.library import shipped_voices

    return [SampleVoice(voice.path, voice.name.title(), voice.text) for voice in shipped_voices().values()]


TEXTS = (
    SampleText(
        "Hello", "Hello! I have heard this voice for three seconds, and I can already say anything with it."
    ),
    SampleText(
        "Numbers", "The train to Edinburgh leaves at 9:45 from platform 3, and a single ticket costs £27.50."
    ),
    SampleText("Tongue twister", "She sells sea shells by the sea shore."),
    SampleText("Questions", "Wait, are you sure? No, no, no, no. Please, tell me it isn't true!"),
)
