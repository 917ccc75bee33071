"""What a run says while it trains: TensorBoard, a JSON line for each report, a progress bar with the time
left."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor

from ...data.files import output_errors


class RunLog:
    """Scalars go to TensorBoard and to metrics.jsonl, audio to TensorBoard, the state of affairs to the
    terminal.

    Only the main process has one that speaks (`enabled`); the others' are silent. quiet: no progress bar.
    total: steps of the whole run, or None if only time limits it.
    """

    def __init__(
        self, folder: Path, total: int | None, start: int = 0, quiet: bool = False, enabled: bool = True
    ):
        self.console = Console(stderr=True, quiet=quiet or not enabled)
        self._enabled, self._start, self._begun = enabled, start, time.monotonic()
        self._total = total
        self._writer: Any = None
        self._metrics: Any = None
        if not enabled:
            return
        with output_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        _forget_after(folder / "metrics.jsonl", start)
        self._metrics = open(folder / "metrics.jsonl", "a", encoding="utf-8")  # noqa: SIM115 (closed in close())
        try:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=start)
        except ImportError:
            self.say("tensorboard is not installed: scalars go to metrics.jsonl only")
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            TextColumn("{task.fields[losses]}"),
            console=self.console,
            disable=quiet or not self.console.is_terminal,
        )
        self._task = self._bar.add_task("training", total=total, completed=start, left="", losses="")
        self._bar.start()

    def say(self, text: str) -> None:
        """One line on the terminal (standard error)."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def scalars(self, step: int, kind: str, values: dict[str, float]) -> None:
        """Record `values` of `kind` ("train", "held-out"), by name."""
        if not self._enabled:
            return
        self._metrics.write(json.dumps({"step": step, "kind": kind, **values}) + "\n")
        self._metrics.flush()
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(f"{kind}/{name}", value, step)

    def audio(self, step: int, name: str, wav: Tensor, sample_rate: int) -> None:
        """wav (1, N)."""
        if self._writer is not None:
            self._writer.add_audio(name, wav.clamp(-1, 1).cpu(), step, sample_rate)

    def progress(self, step: int, minutes_left: float | None, losses: dict[str, float]) -> None:
        """The bar after `step` steps. The time left is by the steps, or `minutes_left` if that is less."""
        if not self._enabled or self._bar.disable:
            return
        left = minutes_left
        if self._total is not None and step > self._start:
            by_steps = (time.monotonic() - self._begun) / 60 / (step - self._start) * (self._total - step)
            left = by_steps if left is None else min(left, by_steps)
        text = (
            ""
            if left is None
            else f"{int(left // 60)} h {int(left % 60):02d} min left"
            if left >= 60
            else f"{left:.1f} min left"
        )
        shown = "  ".join(f"{name} {value:.3g}" for name, value in list(losses.items())[:6])
        self._bar.update(self._task, completed=step, left=text, losses=shown)

    def close(self) -> None:
        if not self._enabled:
            return
        self._bar.stop()
        self._metrics.close()
        if self._writer is not None:
            self._writer.close()


def _forget_after(path: Path, step: int) -> None:
    """Drop the records of steps that a resumed run is about to take again."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue  # a line that was being written when the run was killed
    path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
