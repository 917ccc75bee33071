"""What is asked of diarization. Nothing heavy is imported: `--help` reads this file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...errors import UsageError
from ..options import option

SPEAKERS = "Who speaks"  # heading of the help text
LONGEST_NAME = 100  # characters


@dataclass(frozen=True)
class DiarizeOptions:
    """speakers: how many people speak, where that is known.   min_speakers, max_speakers: bounds, where it is not."""

    speakers: int | None = option(
        None,
        "So many people speak, if they can be told apart.  [default: it is heard]",
        SPEAKERS,
    )
    min_speakers: int | None = option(None, "At least so many, if they can be told apart.", SPEAKERS)
    max_speakers: int | None = option(None, "At most so many.", SPEAKERS)

    @property
    def bounds(self) -> tuple[int, int | None]:
        """Fewest and most."""
        if self.speakers is not None:
            return self.speakers, self.speakers
        return self.min_speakers or 1, self.max_speakers

    def check(self) -> None:
        """Raises UsageError."""
        for name in ("speakers", "min_speakers", "max_speakers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} is {value}; give at least 1, or leave it out")
        if self.speakers is not None and (self.min_speakers or self.max_speakers):
            raise UsageError("speakers says how many there are; leave min_speakers and max_speakers out")
        fewest, most = self.bounds
        if most is not None and fewest > most:
            raise UsageError(f"min_speakers {fewest} is more than max_speakers {most}; exchange them")


def check_names(names: Sequence[str]) -> None:
    """Raises UsageError for a name that cannot be shown, or that is there twice."""
    for name in names:
        if not name.strip() or not name.isprintable() or len(name) > LONGEST_NAME:
            raise UsageError(
                f"{name[:LONGEST_NAME]!r} is no name of a speaker; give 1 to {LONGEST_NAME} characters in one line"
            )
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"two known speakers are named {twice}; give each a name of its own")
