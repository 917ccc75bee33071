"""What all reports are made of: tables, for Markdown and for a terminal, and one way to write them down."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

NARROWEST = 160  # columns of a terminal
_R = TypeVar("_R", bound="Report")


@dataclass(frozen=True)
class Column:
    """fields: of a row.   pattern: of these fields, in their order.   scale: what they are multiplied by."""

    title: str
    fields: tuple[str, ...]
    pattern: str
    scale: float = 1.0

    def cell(self, row: Any) -> str:
        """Empty where a field was not measured, n/a where that was not possible."""
        values = [getattr(row, field) for field in self.fields]
        if any(value is None for value in values):
            return ""
        if any(math.isnan(value) for value in values):
            return "n/a"
        return self.pattern.format(*(self.scale * value for value in values))


@dataclass(frozen=True)
class Table:
    """header, body: cells.   n_left: so many columns are texts, those after them numbers.   title: above it."""

    header: Sequence[str]
    body: Sequence[Sequence[str]]
    n_left: int = 1
    title: str = ""

    def markdown(self) -> str:
        marks = ["---"] * self.n_left + ["---:"] * (len(self.header) - self.n_left)
        lines = "\n".join(map(_markdown_line, [self.header, marks, *self.body]))
        return f"{self.title}:\n\n{lines}" if self.title else lines

    def rich(self) -> Any:
        from rich import box
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
        for i, title in enumerate(self.header):
            if i < self.n_left:
                # Texts make room for the names before them.
                table.add_column(title, justify="left", overflow="fold", no_wrap=i < min(self.n_left, 2))
            else:
                parts = [*title.split(), *(cells[i] for cells in self.body)]  # titles may wrap between words
                table.add_column(title, justify="right", min_width=max(map(len, parts)))
        for cells in self.body:
            table.add_row(*map(Text, cells))
        return table


@dataclass(frozen=True)
class Report:
    """The first of `tables` and `summary` say the most; further tables, and the notes, follow.

    notes: what was left out and why.
    """

    notes: tuple[str, ...] = dataclasses.field(default=(), kw_only=True)

    def tables(self) -> list[Table]:
        raise NotImplementedError

    def summary(self) -> str:
        """What was measured, and how."""
        raise NotImplementedError

    def with_notes(self: _R, *notes: str) -> _R:
        return dataclasses.replace(self, notes=(*self.notes, *notes))

    def to_json(self) -> str:
        """One document; what is not known is null."""
        document = asdict(self)
        document["notes"] = document.pop("notes")  # the last
        return json.dumps(_finite(document), indent=2, ensure_ascii=False) + "\n"

    def to_markdown(self) -> str:
        """For a README or a model card."""
        first, *more = self.tables()
        parts = [first.markdown(), self.summary(), *(table.markdown() for table in more)]
        parts += ["\n".join(f"- {note}" for note in self.notes)] if self.notes else []
        return "\n\n".join(parts) + "\n"

    def to_table(self, width: int | None = None) -> str:
        """For a terminal, of this many columns or as many as it has."""
        from rich.console import Console

        console = Console(width=width)
        if width is None:
            # On a narrow terminal lines that wrap are still readable, cells that are cut are not.
            console.width = max(console.width, NARROWEST)

        def line(text: str) -> None:
            console.print(text, markup=False, highlight=False)

        first, *more = self.tables()
        with console.capture() as captured:
            console.print(first.rich())
            line(self.summary())
            for table in more:
                line(f"\n{table.title}")
                console.print(table.rich())
            for note in self.notes:
                line(f"note: {note}")
        return captured.get()


def _markdown_line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _finite(tree: Any) -> Any:
    """JSON knows neither nan nor infinity."""
    if isinstance(tree, dict):
        return {key: _finite(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree
