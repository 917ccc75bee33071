"""The report of `myna evaluate codec`: tables and JSON."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

from ..measures.codebooks import CodebookUse
from ..measures.metrics import METRICS

NARROWEST = 160  # columns of a table for the terminal


@dataclass(frozen=True)
class Speed:
    """Seconds of audio handled in a second. pack, unpack: entropy coding and the file around it."""

    encode: float
    decode: float
    pack: float
    unpack: float


@dataclass(frozen=True)
class Row:
    """One system at one bitrate, over all clips.

    system: name of the model, "opus" or "uncompressed".   n_codebooks: None for those two.
    nominal: bits a second asked for (a codec's codes before entropy coding).   bitrate: of the real files.
    payload: bits a second without the file's headers, where known.   scores: means by name of the metric.
    """

    system: str
    n_codebooks: int | None
    nominal: float
    bitrate: float
    payload: float | None
    scores: dict[str, float]
    speed: Speed | None = None


@dataclass(frozen=True)
class Report:
    """data: where the clips came from.   seconds: of audio, in `n_clips`.   sample_rate: of the comparison.
    threads, device: of the models.   use: of the codebooks, by model.   notes: what was left out and why.
    """

    data: tuple[str, ...]
    n_clips: int
    seconds: float
    sample_rate: int
    threads: int
    device: str
    rows: tuple[Row, ...]
    use: dict[str, CodebookUse]
    notes: tuple[str, ...] = ()

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the measures, in the order of `METRICS`."""
        return tuple(name for name in METRICS if any(name in row.scores for row in self.rows))

    def to_json(self) -> str:
        """One document; what could not be judged is null."""
        return json.dumps(finite(asdict(self)), indent=2, ensure_ascii=False) + "\n"

    def to_markdown(self) -> str:
        """The tables of a README."""
        lines = [markdown_line(self._header()), markdown_line(["---"] + ["---:"] * (len(self._header()) - 1))]
        lines += [markdown_line(self._cells(row)) for row in self.rows]
        lines += ["", self.summary()]
        for name, use in self.use.items():
            lines += ["", f"Codebooks of {name} ({use.n_frames} frames):", "", *_use_table(use)]
        lines += ["", *(f"- {note}" for note in self.notes)] if self.notes else []
        return "\n".join(lines) + "\n"

    def summary(self) -> str:
        """What the table was measured on."""
        threads = f"{self.threads} thread" + ("s" if self.threads > 1 else "")
        return (
            f"{self.n_clips} clips, {self.seconds:.0f} s, from {', '.join(self.data)}; compared at "
            f"{self.sample_rate / 1000:g} kHz; models on {self.device}, {threads}."
        )

    def to_table(self, width: int | None = None) -> str:
        """For a terminal, of this many columns or as many as it has."""
        from rich import box
        from rich.console import Console
        from rich.table import Table

        table = Table(box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
        body = [self._cells(row) for row in self.rows]
        for i, title in enumerate(self._header()):
            parts = [*title.split(), *(cells[i] for cells in body)]  # titles may wrap between words
            table.add_column(title, justify="right" if i else "left", min_width=max(map(len, parts)))
        for cells in body:
            table.add_row(*cells)
        # On a narrow terminal lines that wrap are still readable, cells that are cut are not.
        console = Console(width=width)
        if width is None:
            console.width = max(console.width, NARROWEST)
        with console.capture() as captured:
            console.print(table)
            console.print(self.summary(), markup=False, highlight=False)
            for name, use in self.use.items():
                shares = " ".join(f"{100 * u:.0f}%" for u in use.used)
                perplexities = " ".join(f"{p:.0f}" for p in use.perplexity)
                console.print(
                    f"codebooks of {name}: used {shares}; perplexity {perplexities}", highlight=False
                )
            for note in self.notes:
                console.print(f"note: {note}", markup=False, highlight=False)
        return captured.get()

    def _header(self) -> list[str]:
        titles = [f"{METRICS[m].title} {'↑' if METRICS[m].higher_is_better else '↓'}" for m in self.metrics]
        speeds = ["encode x", "decode x", "pack x", "unpack x"] if self._timed() else []
        return ["codec", "codebooks", "kbps nominal", "kbps in the file", *titles, *speeds]

    def _cells(self, row: Row) -> list[str]:
        cells = [
            row.system,
            "" if row.n_codebooks is None else str(row.n_codebooks),
            f"{row.nominal / 1000:.2f}",
            f"{row.bitrate / 1000:.2f}",
        ]
        cells += [_number(row.scores.get(m, math.nan), METRICS[m].decimals) for m in self.metrics]
        if self._timed():
            speed = row.speed
            times = (speed.encode, speed.decode, speed.pack, speed.unpack) if speed else ()
            cells += [f"{t:.1f}" if t < 100 else f"{t:.0f}" for t in times] or [""] * 4
        return cells

    def _timed(self) -> bool:
        return any(row.speed for row in self.rows)


def _use_table(use: CodebookUse) -> list[str]:
    books = [str(k + 1) for k in range(len(use.used))]
    return [
        markdown_line(["codebook", *books]),
        markdown_line(["---"] + ["---:"] * len(books)),
        markdown_line(["used", *(f"{100 * u:.0f} %" for u in use.used)]),
        markdown_line(["perplexity", *(f"{p:.0f}" for p in use.perplexity)]),
    ]


def markdown_line(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _number(value: float, decimals: int) -> str:
    return "n/a" if math.isnan(value) else f"{value:.{decimals}f}"


def finite(tree: Any) -> Any:
    """JSON knows neither nan nor infinity."""
    if isinstance(tree, dict):
        return {key: finite(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree
