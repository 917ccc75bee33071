"""`myna evaluate`: quality, bitrate and speed, measured side by side with what else there is."""

from __future__ import annotations

from pathlib import Path

import typer

from ..errors import UsageError
from .console import Console
from .options import parse_bitrate

app = typer.Typer(help="Measure quality, bitrate and speed.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Measure quality, bitrate and speed."""


@app.command("codec")
def codec(
    data: list[str] = typer.Argument(
        None, metavar="[DATA]...", help="Recordings, folders, patterns or .tar shards."
    ),
    data_option: list[str] = typer.Option(
        [], "--data", "-d", help="The same, as an option; may be repeated."
    ),
    model: list[str] = typer.Option(
        ["myna-24k"], "--model", "-m", help="A name or a checkpoint; may be repeated."
    ),
    bitrate: list[str] = typer.Option(
        [], "--bitrate", "-b", help="Of the models, in kbps.  [default: four steps]"
    ),
    opus: str = typer.Option("6,8,12,16", help="Bitrates of Opus in kbps, or `none`."),
    metric: list[str] = typer.Option(
        [], help="pesq, stoi, si_sdr, mel, stft, dnsmos, similarity, wer, or all."
    ),
    out: Path = typer.Option(
        None, "--out", "-o", help="A folder for report.md, report.json and the pictures."
    ),
    limit: int = typer.Option(None, help="At most this many clips, spread evenly."),
    source: str = typer.Option(None, help="Only clips of this source (shards)."),
    split: str = typer.Option(None, help="Only clips of this split (shards)."),
    max_seconds: float = typer.Option(30.0, help="Cut longer clips."),
    device: str = typer.Option("cpu", help="cpu, cuda, cuda:1, ..."),
    markdown: bool = typer.Option(False, "--markdown", help="Print the table as Markdown."),
    json: bool = typer.Option(False, "--json", help="Print the report as JSON."),
    force: bool = typer.Option(False, "--force", "-f", help="Overwrite the files of an earlier report."),
    quiet: bool = typer.Option(False, "--quiet", "-q", help="No progress, no table."),
) -> None:
    """Compare codecs with Opus on the same recordings."""
    from ..evaluation.codec_report import EvaluationOptions, evaluate_codec

    data = [*(data or []), *data_option]
    if not data:
        raise UsageError("nothing to evaluate on: give recordings, a folder, a pattern or .tar shards")
    if markdown and json:
        raise UsageError("--markdown and --json cannot both go to standard output; --out DIR writes both")
    options = EvaluationOptions(
        bitrates=_rates(bitrate) or None,
        opus=() if opus == "none" else _rates(opus.split(",")),
        metrics=tuple(metric) or None,
        limit=limit,
        source=source,
        split=split,
        max_seconds=max_seconds,
        device=device,
    )
    console = Console(quiet=quiet, json=json)
    with console.progress("evaluating") as progress:
        report = evaluate_codec(model, data, options, out, force, progress)
    if json:
        print(report.to_json(), end="")
    elif markdown:
        print(report.to_markdown(), end="")
    elif not quiet:
        print(report.to_table(), end="")


def _rates(texts: list[str]) -> tuple[float, ...]:
    """kbps as people write them to bits a second."""
    return tuple(rate for rate in map(parse_bitrate, texts) if rate is not None)
