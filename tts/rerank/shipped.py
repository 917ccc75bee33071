"""The scorers that can be had on this machine."""

from __future__ import annotations

from .base import Scorer
from .likeness import Likeness
from .recogniser import Recogniser


def shipped_scorers() -> tuple[Scorer, ...]:
    """Beside the aligner: by speaker vectors, and by Whisper where its weights are. Each is loaded when it is first
    asked."""
    found: list[Scorer] = [Likeness()]
    if Recogniser.is_installed():
        found.append(Recogniser())
    return tuple(found)
