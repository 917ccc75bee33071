"""A voice is made only with its speaker's consent: how it is asked for."""

from __future__ import annotations

import sys

from ..errors import UsageError

STATEMENT = "The speaker of this recording is me, or has agreed that I clone this voice"


def ask_consent(recording: str, given: str | None) -> str:
    """The statement of `--consent`, or the answer of whoever sits at the terminal.

    Raises UsageError without one, and where nobody can be asked.
    """
    from ..tts.voices.voice import check_consent

    if given is not None or recording == "-" or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return check_consent(given)
    print(f"{STATEMENT}. Is that so? [yes/no] ", end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline().strip().lower()
    if answer not in ("y", "yes"):
        raise UsageError("without the speaker's consent no voice is made")
    return f"{STATEMENT} (answered yes on the terminal)"
