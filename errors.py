"""What can go wrong on the user's side: one line each, with a distinct exit code.

A message says what was given, what was expected and what to do. The command line prints it and exits with
`exit_code`; a library user catches `MynaError` or one of its kinds.
"""

import difflib
from collections.abc import Iterable


class MynaError(Exception):
    """Any error whose message is meant for the user."""

    exit_code = 1


class UsageError(MynaError):
    """Options that cannot be used together, an output that exists, an unknown name."""

    exit_code = 2


class InputError(MynaError):
    """An input file that cannot be read, or holds something that cannot be used."""

    exit_code = 3


class MissingModelError(MynaError):
    """Weights that are not on this machine, or do not match what the file needs."""

    exit_code = 4


class CorruptStreamError(MynaError):
    """A compressed file that is damaged, truncated, or not of the format it claims."""

    exit_code = 5


class OutputError(MynaError):
    """An output that cannot be written: no permission, no space."""

    exit_code = 6


def did_you_mean(given: str, names: Iterable[str], n: int = 1) -> str:
    """ "did you mean tiny.en? " for "tinny.en", to go before what there is to choose from; "" where no name is near.

    names: in lower case.   n: of them at most.
    """
    near = difflib.get_close_matches(given.lower(), list(names), n)
    return f"did you mean {' or '.join(near)}? " if near else ""
