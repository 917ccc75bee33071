"""`myna train`: any recipe, on one device or under torchrun, resuming where it was."""

from __future__ import annotations

import json
import os
from typing import Annotated

import typer


def train(
    recipe: Annotated[
        str, typer.Argument(help="A recipe file, or the name of one that ships, such as myna-24k-tiny.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Change the recipe: max_steps=1000 data.batch_size=8"),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print how the run ended as JSON.")] = False,
) -> None:
    """Train a model by a recipe; the same command continues a run that was stopped.

    Under torchrun it trains on several devices. Ctrl-C stops after the step and saves.
    """
    # oneDNN keeps a kernel for every shape of a product, and batches of sentences have thousands: without a bound the
    # process grows by gigabytes an hour.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "600")
    from ..training.train import train as train_by  # torch takes seconds to import

    summary = train_by(recipe, overrides or (), quiet=quiet or as_json)
    if as_json:
        described = {
            "steps": summary.steps,
            "minutes": round(summary.minutes, 3),
            "interrupted": summary.interrupted,
            "best": summary.best,
            "output": str(summary.output),
        }
        typer.echo(json.dumps(described))
    elif not quiet and not summary.interrupted:
        typer.echo(
            f"trained {summary.steps} steps in {summary.minutes:.1f} min; weights in {summary.output}",
            err=True,
        )
