"""What the user of a voice should know before it speaks."""

from __future__ import annotations

from .registry import unheard
from .voices.voice import Voice


def remarks(voice: Voice) -> tuple[str, ...]:
    """A line each: its notes, and what of its file is not used."""
    lines = [*voice.notes]
    if unused := unheard(voice.adapters):
        lines.append(
            f"its adapters of {' and '.join(unused)}, which no longer speak by default, are not used; run `myna voices "
            f"adapt {voice.name} RECORDINGS` again"
        )
    return tuple(lines)
