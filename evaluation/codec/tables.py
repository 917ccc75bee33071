"""The report of `myna evaluate codec`: tables and JSON."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..measures.codebooks import CodebookUse
from ..measures.metrics import METRICS
from ..table import Report, Table


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
class CodecReport(Report):
    """data: where the clips came from.   seconds: of audio, in `n_clips`.   sample_rate: of the comparison.
    threads, device: of the models.   use: of the codebooks, by model.
    """

    data: tuple[str, ...]
    n_clips: int
    seconds: float
    sample_rate: int
    threads: int
    device: str
    rows: tuple[Row, ...]
    use: dict[str, CodebookUse]

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the measures, in the order of `METRICS`."""
        return tuple(name for name in METRICS if any(name in row.scores for row in self.rows))

    def tables(self) -> list[Table]:
        return [
            Table(self._header(), [self._cells(row) for row in self.rows]),
            *(_use_table(name, use) for name, use in self.use.items()),
        ]

    def summary(self) -> str:
        """What the table was measured on."""
        threads = f"{self.threads} thread" + ("s" if self.threads > 1 else "")
        return (
            f"{self.n_clips} clips, {self.seconds:.0f} s, from {', '.join(self.data)}; compared at "
            f"{self.sample_rate / 1000:g} kHz; models on {self.device}, {threads}."
        )

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


def _use_table(name: str, use: CodebookUse) -> Table:
    return Table(
        ["codebook", *(str(k + 1) for k in range(len(use.used)))],
        [
            ["used", *(f"{100 * u:.0f} %" for u in use.used)],
            ["perplexity", *(f"{p:.0f}" for p in use.perplexity)],
        ],
        title=f"Codebooks of {name} ({use.n_frames} frames)",
    )


def _number(value: float, decimals: int) -> str:
    return "n/a" if math.isnan(value) else f"{value:.{decimals}f}"
