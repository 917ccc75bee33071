"""The folder of a report: refused before any work where its files are in the way, written when all is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from ..data.files import atomic_output, check_output, output_errors
from ..errors import UsageError
from .table import Report

R = TypeVar("R", bound=Report)

NO_PICTURES = "the pictures are left out: they need matplotlib (pip install 'myna[evaluate]')"


def check_folder(out: Path, names: Sequence[str], force: bool) -> None:
    """Raises UsageError for a place where the files of a report cannot be or already are."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; give a folder for the report")
    for name in names:
        check_output(out / name, force)


def write_report(
    report: R, pictures: Mapping[str, Callable[[R], bytes]], out: Path, force: bool = False
) -> R:
    """A report as report.json and report.md, with pictures by their names where matplotlib is installed; returned with
    a note where it is not. Raises OutputError, or UsageError for a file that came to be there meanwhile."""
    contents: dict[str, bytes] = {}
    try:
        for name, draw in pictures.items():
            contents[name] = draw(report)
    except ImportError:
        report = report.with_notes(NO_PICTURES)
    contents |= {"report.json": report.to_json().encode(), "report.md": report.to_markdown().encode()}
    with output_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        with atomic_output(out / name, force) as file:
            file.write(content)
    return report
