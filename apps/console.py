"""Output of every command: results to standard output, everything else to standard error."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any

import typer

from ..data.files import output_errors

PIPE_CLOSED = 141  # 128 + SIGPIPE, as shells count
Progress = Callable[[float, float | None], None]  # seconds of audio done, seconds in all if known
Transfer = Callable[[int, int | None], None]  # bytes done, bytes in all if known


@dataclass(frozen=True)
class Console:
    """quiet, json: as the options of the same names. audio_out: standard output carries the data itself."""

    quiet: bool = False
    json: bool = False
    audio_out: bool = False

    def result(self, facts: Any, line: str) -> None:
        """The outcome of the command: one JSON document, or a line for people."""
        stream = sys.stderr if self.audio_out else sys.stdout
        if self.json:
            content = asdict(facts) if is_dataclass(facts) and not isinstance(facts, type) else facts
            print(json.dumps(content, ensure_ascii=False), file=stream)
        elif not self.quiet:
            print(line, file=stream)

    def note(self, line: str) -> None:
        """Something the user should know although all went well; said even when quiet."""
        print(f"myna: {line}", file=sys.stderr)

    def progress(self, what: str) -> contextlib.AbstractContextManager[Progress | None]:
        """A bar over seconds of audio on a terminal; None where nobody watches."""
        return self._bar(what, clock)

    def transfer(self, what: str) -> contextlib.AbstractContextManager[Transfer | None]:
        """A bar over bytes."""
        return self._bar(what, lambda n_bytes: size(int(n_bytes)))

    def count(self, what: str) -> contextlib.AbstractContextManager[Transfer | None]:
        """A bar over things that are counted."""
        return self._bar(what, lambda n: f"{n:.0f}")

    @contextlib.contextmanager
    def _bar(self, what: str, show: Callable[[float], str]) -> Iterator[Progress | None]:
        if self.quiet or self.json or not sys.stderr.isatty():
            yield None
            return
        from rich.console import Console as Terminal
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[amount]}"),
            TimeRemainingColumn(),
        )
        with Bar(*columns, console=Terminal(stderr=True), transient=True) as bar:
            task = bar.add_task(what, total=None, amount="")

            def update(done: float, total: float | None) -> None:
                amount = f"{show(done)} / {show(total)}" if total else show(done)
                bar.update(task, completed=done, total=total, amount=amount)

            yield update


def shows_warnings() -> bool:
    """Whether the user asks for what libraries warn of, by Python's -W, by PYTHONWARNINGS or by MYNA_DEBUG."""
    return bool(sys.warnoptions or os.environ.get("MYNA_DEBUG"))


@contextlib.contextmanager
def own_lines_only() -> Iterator[None]:
    """Keeps warnings of libraries off the terminal, unless the user asks for them.

    A filter is not enough: libraries set filters of their own when they are imported, so nothing is shown either.
    """
    if shows_warnings():
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.showwarning = lambda *args, **kwargs: None
        yield


def clock(seconds: float) -> str:
    """65.2 -> "1:05"."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def size(n_bytes: int) -> str:
    """12345 -> "12.3 kB"."""
    if n_bytes < 1000:
        return f"{n_bytes} B"
    return f"{n_bytes / 1000:.1f} kB" if n_bytes < 1_000_000 else f"{n_bytes / 1_000_000:.1f} MB"


def complain(line: str) -> None:
    """One line on standard error, whatever the message holds."""
    with contextlib.suppress(OSError, ValueError):
        print("myna: error: " + " ".join(str(line).split()), file=sys.stderr)


@contextlib.contextmanager
def data_to_stdout() -> Iterator[None]:
    """Around writing data to standard output: whoever read it and has gone ends the command without a
    word."""
    try:
        with output_errors("standard output"):
            yield
            sys.stdout.buffer.flush()
    except BrokenPipeError:
        silence_stdout()
        raise typer.Exit(PIPE_CLOSED) from None


def silence_stdout() -> None:
    """Keep the interpreter from complaining at exit about an output that nobody reads any more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
