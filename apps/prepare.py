"""`myna prepare`: a folder of recordings to a training corpus."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..errors import UsageError
from .console import Console, clock

if TYPE_CHECKING:
    from ..preparation.engine import Engine
    from ..preparation.options import PrepareOptions
    from ..preparation.prepare import Prepared, Progress

NONE = "none"
_WORDS, _SOUND, _PEOPLE = "Words", "Sound", "Speakers and splits"
_OUTPUT, _WORK = "Output", "Work"


def command(
    folder: Path = typer.Argument(
        ..., metavar="DIR", help="Recordings, in any format; searched recursively."
    ),
    out: Path = typer.Argument(..., metavar="OUT", help="The folder of the corpus."),
    layout: str = typer.Option(
        "auto",
        help="plain, speakers (folders), librispeech, libritts, ljspeech, vctk, commonvoice, librilight, or auto.",
    ),
    source: str = typer.Option(
        None, help="The corpus's name, in keys, speakers and shards.  [default: that of DIR]"
    ),
    model: str = typer.Option(
        None,
        "--model",
        "-m",
        help="A Whisper by name or path, or `none`: no transcripts, no check.  [default: the best here]",
        rich_help_panel=_WORDS,
    ),
    language: str = typer.Option(
        None,
        help="Spoken in all of them.  [default: as the layout says, or as it sounds]",
        rich_help_panel=_WORDS,
    ),
    languages: str = typer.Option("", help="Keep only these, for example en,de.", rich_help_panel=_WORDS),
    max_cer: float = typer.Option(
        0.3, help="Drop a given text that is heard with more character errors.", rich_help_panel=_WORDS
    ),
    min_logprob: float = typer.Option(
        -1.0, help="Drop a transcript with a lower mean log-probability.", rich_help_panel=_WORDS
    ),
    phonemes: bool = typer.Option(True, help="Add espeak-ng's IPA.", rich_help_panel=_WORDS),
    min_seconds: float = typer.Option(1.0, help="Of a piece.", rich_help_panel=_SOUND),
    max_seconds: float = typer.Option(20.0, help="Of a piece, at most 30.", rich_help_panel=_SOUND),
    loudness: str = typer.Option(
        "-23", help="LUFS that every piece is brought to, or `none`.", rich_help_panel=_SOUND
    ),
    quality: bool = typer.Option(True, help="Score every piece with DNSMOS.", rich_help_panel=_SOUND),
    min_quality: float = typer.Option(None, help="Drop pieces below this DNSMOS.", rich_help_panel=_SOUND),
    duplicates: bool = typer.Option(
        True, "--drop-duplicates/--keep-duplicates", help="Of what is there twice.", rich_help_panel=_SOUND
    ),
    speakers: bool = typer.Option(
        True, help="Tell speakers apart that no layout names.", rich_help_panel=_PEOPLE
    ),
    speaker_threshold: float = typer.Option(
        None,
        help="Cosine above which two voices are one; lower finds fewer speakers.",
        rich_help_panel=_PEOPLE,
    ),
    dev: float = typer.Option(0.05, help="Share of the speech in the split dev.", rich_help_panel=_PEOPLE),
    test: float = typer.Option(0.05, help="And in the split test.", rich_help_panel=_PEOPLE),
    seed: int = typer.Option(0, help="Of the choice of held-out speakers.", rich_help_panel=_PEOPLE),
    sample_rate: int = typer.Option(24_000, help="Hz, at most.", rich_help_panel=_OUTPUT),
    format: str = typer.Option("flac", help="flac or opus.", rich_help_panel=_OUTPUT),
    bitrate: float = typer.Option(32.0, help="kbps, of Opus.", rich_help_panel=_OUTPUT),
    shard_mb: int = typer.Option(500, help="Megabytes a shard, at most.", rich_help_panel=_OUTPUT),
    workers: int = typer.Option(None, "--workers", "-j", help="[default: all cores]", rich_help_panel=_WORK),
    engine: str = typer.Option("local", help="local, or ray: a Ray cluster.", rich_help_panel=_WORK),
    ray_address: str = typer.Option(
        None,
        help="HOST:PORT of the cluster, or auto.  [default: $RAY_ADDRESS, else this machine]",
        rich_help_panel=_WORK,
    ),
    batch_size: int = typer.Option(
        8, help="Pieces that a worker transcribes together.", rich_help_panel=_WORK
    ),
    device: str = typer.Option("cpu", help="For Whisper: cpu, cuda, cuda:1, ...", rich_help_panel=_WORK),
    precision: str = typer.Option("auto", help="Of Whisper: float32, int8 or auto.", rich_help_panel=_WORK),
    force: bool = typer.Option(False, "--force", "-f", help="Replace a corpus that is there."),
    quiet: bool = typer.Option(False, "--quiet", "-q", help="Say only what went wrong."),
    json: bool = typer.Option(False, "--json", help="Print the facts as JSON."),
) -> None:
    """Make a training corpus of a folder of recordings.

    Split at silences, transcribed or checked against the texts beside them, measured, told apart by speaker, written as
    WebDataset shards with a manifest and a report. The same command goes on where a run was stopped.
    """
    from ..preparation.options import PrepareOptions

    if workers is not None and workers < 1:
        raise UsageError(f"--workers {workers}: expected at least 1")
    if model is None:
        from ..asr.transcriber import default_model

        model = default_model(language)
    chosen: dict[str, Any] = {} if speaker_threshold is None else {"speaker_threshold": speaker_threshold}
    options = PrepareOptions(
        layout=layout,
        source=source or _name_of(folder),
        model=None if model == NONE else model,
        device=device,
        precision=precision,
        language=language,
        languages=tuple(name.strip() for name in languages.split(",") if name.strip()),
        min_seconds=min_seconds,
        max_seconds=max_seconds,
        max_cer=max_cer,
        min_logprob=min_logprob,
        loudness=_level(loudness),
        quality=quality,
        min_quality=min_quality,
        speakers=speakers,
        phonemes=phonemes,
        duplicates=duplicates,
        sample_rate=sample_rate,
        format=format,
        bitrate=round(bitrate * 1000),
        dev=dev,
        test=test,
        seed=seed,
        shard_mb=shard_mb,
        batch_size=batch_size,
        **chosen,
    )
    console = Console(quiet=quiet, json=json)
    made = _prepare(folder, out, options, _engine(engine, ray_address, workers), force, console)
    for note in made.notes:
        console.note(note)
    facts = {**made.facts, "output": str(out), "timings": {k: round(v, 1) for k, v in made.timings.items()}}
    console.result(facts, _describe(made, out))


def _prepare(
    folder: Path, out: Path, options: PrepareOptions, engine: Engine, force: bool, console: Console
) -> Prepared:
    from ..preparation.prepare import prepare

    with bars(console) as progress:
        return prepare(folder, out, options, engine, force, progress)


@contextmanager
def bars(console: Console) -> Iterator[Progress]:
    """A bar for each thing that is done, one after the other."""
    from contextlib import ExitStack

    with ExitStack() as stack:
        shown: dict[str, Any] = {}

        def progress(what: str, done: int, total: int) -> None:
            if what not in shown:
                stack.close()
                shown.clear()
                shown[what] = stack.enter_context(console.transfer(what))
            if shown[what] is not None:
                shown[what](done, total)

        yield progress


def _engine(name: str, address: str | None, workers: int | None) -> Engine:
    if name == "ray":
        from ..preparation.ray_engine import RayEngine

        return RayEngine(address, workers)
    if name != "local":
        raise UsageError(f"--engine {name}: expected local or ray")
    if address is not None:
        raise UsageError("--ray-address is for --engine ray; give both, or neither")
    from ..preparation.engine import LocalEngine

    return LocalEngine(workers)


def _describe(made: Prepared, out: Path) -> str:
    facts = made.facts
    if made.finished_before:
        return f"{out} is finished: {facts['pieces']} pieces, {clock(facts['hours'] * 3600)}; nothing to do"
    dropped = ", ".join(f"{n} {reason}" for reason, n in facts["dropped"].items())
    return (
        f"{out}: {facts['pieces']} pieces, {clock(facts['hours'] * 3600)} of {clock(facts['hours_in'] * 3600)}, "
        f"{facts['speakers']} speakers{'; left out: ' + dropped if dropped else ''}; see {out / 'report.md'}"
    )


def _level(text: str) -> float | None:
    if text.lower() == NONE:
        return None
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"--loudness {text} is not a loudness; give LUFS such as -23, or none") from None


def _name_of(folder: Path) -> str:
    from ..preparation.options import tidy_name

    return tidy_name(folder.resolve().name) or "corpus"
