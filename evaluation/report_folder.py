"""The folder of a report: refused before any work where its files are in the way, written when all is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..data.files import atomic_output, check_output, output_errors
from ..errors import UsageError

NO_PICTURES = "the pictures are left out: they need matplotlib (pip install 'myna[evaluate]')"


def check_folder(out: Path, names: Sequence[str], force: bool) -> None:
    """Raises UsageError for a place where the files of a report cannot be or already are."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; give a folder for the report")
    for name in names:
        check_output(out / name, force)


def write_folder(out: Path, contents: Mapping[str, bytes], force: bool) -> None:
    """Files by their names. Raises OutputError, or UsageError for one that came to be there meanwhile."""
    with output_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        with atomic_output(out / name, force) as file:
            file.write(content)
