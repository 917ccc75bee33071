"""Voices and texts ready to click, so that the page does something before anyone has recorded anything."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "examples"


@dataclass(frozen=True)
class SampleVoice:
    """A recording that ships.   label: what the button says.   said: its transcript."""

    file: str
    label: str
    said: str

    @property
    def path(self) -> Path:
        return FOLDER / self.file


@dataclass(frozen=True)
class SampleText:
    label: str
    line: str


VOICES = (
    SampleVoice("nova.flac", "Nova", "Is Olivia coming to the party, or is Rosa still in Madrid?"),
    SampleVoice("liam.flac", "Liam", "What time does the museum in Dublin open on Saturday?"),
    SampleVoice("lily.flac", "Lily", "Don't forget to return the window and sell the camera."),
    SampleVoice("daniel.flac", "Daniel", "According to Lawson, the chosen route seemed to be the best."),
    SampleVoice(
        "linda.flac",
        "Linda, a real reader",
        "The position of the page on the paper should be considered if the book is to have a satisfactory look.",
    ),
)

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
