"""`myna evaluate`: codecs, cloned speech and recognisers, measured side by side with what else there is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ..errors import UsageError
from .console import Console
from .options import parse_bitrate

if TYPE_CHECKING:
    from ..evaluation.table import Report

app = typer.Typer(help="Measure quality, intelligibility, likeness and speed.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Measure quality, intelligibility, likeness and speed."""


@app.command("codec")
def codec(
    data: list[str] = typer.Argument(
        None, metavar="[DATA]...", help="Recordings, folders, patterns or .tar shards."
    ),
    data_option: list[str] = typer.Option(
        [], "--data", "-d", help="The same, as an option; may be repeated."
    ),
    model: list[str] = typer.Option(
        ["myna-24k-v2"], "--model", "-m", help="A name or a checkpoint; may be repeated."
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
    from ..evaluation.codec.report import EvaluationOptions, evaluate_codec

    data = _data(data, data_option)
    _one_output(markdown, json)
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
    _show(report, console, markdown)


@app.command("tts")
def tts(
    data: list[str] = typer.Argument(
        None, metavar="[VOICES]...", help="Held-out recordings: .tar shards, folders, files or patterns."
    ),
    voices: list[str] = typer.Option([], "--voices", "-v", help="The same, as an option; may be repeated."),
    texts: Path = typer.Option(
        None, "--texts", help="Say these, a line each, instead of the speakers' texts."
    ),
    limit: int = typer.Option(None, help="Texts a voice.  [default: 12; 4 with --quick]"),
    repeats: int = typer.Option(1, help="Times every text is said, with one seed after another."),
    max_voices: int = typer.Option(None, help="Voices of a source.  [default: all; 2 with --quick]"),
    source: str = typer.Option(None, help="Only recordings of this source (shards)."),
    split: str = typer.Option(None, help="Only recordings of this split (shards)."),
    quick: bool = typer.Option(
        False, "--quick", help="In about a minute: few voices and texts, words and likeness only."
    ),
    hard: bool = typer.Option(
        None, "--hard/--no-hard", help="Say the hard sentences too.  [default: unless --quick]"
    ),
    metric: list[str] = typer.Option(
        [], help="wer, similarity, judge, dnsmos.  [default: all; judge and dnsmos not with --quick]"
    ),
    prompt_text: str = typer.Option(
        "without", help="Are the models given the prompt's text: without, with, or both."
    ),
    codec: str = typer.Option("myna-24k", help="A name or a checkpoint."),
    ar: Path = typer.Option(None, help="A checkpoint in place of the AR that ships."),
    preset: str = typer.Option("standard", help="standard, fast or best."),
    decoder: str = typer.Option(None, help="What makes the sound: flow, or nar.  [default: flow]"),
    decoder_weights: Path = typer.Option(None, help="A checkpoint in place of the decoder's that ships."),
    adapted: str = typer.Option(
        None,
        help="A voice of `myna voices adapt`: on recordings of its speaker, with what it learned and without.",
    ),
    seed: int = typer.Option(0, help="Of the speech, and of the choice of prompts and texts."),
    candidates: int = typer.Option(None, help="Times a sentence is said, the best kept."),
    redraws: int = typer.Option(
        None, help="Times more that a sentence is said in which words are missing: sentences are then held."
    ),
    temperature: float = typer.Option(None, help="Of the sampled codes."),
    top_k: int = typer.Option(None, help="Sample among so many codes."),
    top_p: float = typer.Option(None, help="Sample among the likeliest of this probability."),
    cfg_text: float = typer.Option(None, help="Guidance by the text; 1 is none."),
    cfg_voice: float = typer.Option(None, help="Guidance by the voice; 1 is none."),
    out: Path = typer.Option(
        None, "--out", "-o", help="A folder for report.md, report.json and the pictures."
    ),
    audio: bool = typer.Option(False, "--audio", help="Keep what was said, in OUT/audio."),
    threads: int = typer.Option(None, help="Of the models."),
    device: str = typer.Option("cpu", help="cpu, cuda, cuda:1, ..."),
    markdown: bool = typer.Option(False, "--markdown", help="Print the tables as Markdown."),
    json: bool = typer.Option(False, "--json", help="Print the report as JSON, clip by clip."),
    force: bool = typer.Option(False, "--force", "-f", help="Overwrite the files of an earlier report."),
    quiet: bool = typer.Option(False, "--quiet", "-q", help="No progress, no table."),
) -> None:
    """Compare cloned speech with real recordings: words, voice, quality, speed."""
    data = _data(data, voices)
    _one_output(markdown, json)
    if threads is not None:
        if threads < 1:
            raise UsageError(f"at least one thread is needed, got --threads {threads}")
        import torch

        torch.set_num_threads(threads)
    from ..evaluation.tts.report import (
        QUICK_REMARK,
        QUICK_TEXTS,
        QUICK_VOICES,
        SpeechEvaluation,
        evaluate_tts,
    )
    from ..evaluation.tts.scores import MEASURES
    from ..tts.presets import SpeechOptions

    measures = tuple(metric) or (("wer", "similarity") if quick else MEASURES)
    options = SpeechEvaluation(
        texts=texts,
        limit=(QUICK_TEXTS if quick else 12) if limit is None else limit,
        repeats=repeats,
        max_speakers=QUICK_VOICES if quick and max_voices is None else max_voices,
        source=source,
        split=split,
        measures=measures,
        needed=tuple(metric),
        hard=not quick if hard is None else hard,
        prompt_text=prompt_text,
        codec=codec,
        ar=ar,
        decoder_weights=decoder_weights,
        adapted=adapted,
        device=device,
        audio=audio,
        remark=QUICK_REMARK if quick else None,
        speech=SpeechOptions(
            preset=preset,
            seed=seed,
            candidates=candidates,
            redraws=redraws,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            cfg_text=cfg_text,
            cfg_voice=cfg_voice,
            decoder=decoder,
        ),
    )
    console = Console(quiet=quiet, json=json)
    with console.count("evaluating") as progress:
        report = evaluate_tts(data, options, out, force, progress)
    _show(report, console, markdown)


@app.command("asr")
def asr(
    data: list[str] = typer.Argument(
        None,
        metavar="[DATA]...",
        help="Recordings with their texts: .tar shards, folders, files or patterns.",
    ),
    data_option: list[str] = typer.Option(
        [], "--data", "-d", help="The same, as an option; may be repeated."
    ),
    model: str = typer.Option(
        "tiny.en", "--model", "-m", help="A name or a path; all systems take these weights."
    ),
    system: list[str] = typer.Option(
        [],
        "--system",
        help="myna, myna-int8, openai-whisper, faster-whisper, faster-whisper-int8; may be repeated.  "
        "[default: all that are installed]",
    ),
    beam_size: list[int] = typer.Option([1, 5], help="Beams, 1 is greedy; may be repeated."),
    language: str = typer.Option("en", "--language", "-l", help="Of the recordings, by name or code."),
    fallback: bool = typer.Option(
        False, "--fallback", help="Higher temperatures where a result looks wrong, instead of 0 only."
    ),
    out: Path = typer.Option(
        None, "--out", "-o", help="A folder for report.md, report.json and the pictures."
    ),
    limit: int = typer.Option(None, help="At most this many clips, spread evenly."),
    source: str = typer.Option(None, help="Only clips of this source (shards)."),
    split: str = typer.Option(None, help="Only clips of this split (shards)."),
    worst: int = typer.Option(10, help="So many of the worst clips are listed."),
    seed: int = typer.Option(0, help="Of the temperatures above 0, and of the interval."),
    threads: int = typer.Option(None, help="Of every system.  [default: as many as torch takes]"),
    markdown: bool = typer.Option(False, "--markdown", help="Print the tables as Markdown."),
    json: bool = typer.Option(False, "--json", help="Print the report as JSON, clip by clip."),
    force: bool = typer.Option(False, "--force", "-f", help="Overwrite the files of an earlier report."),
    quiet: bool = typer.Option(False, "--quiet", "-q", help="No progress, no table."),
) -> None:
    """Compare recognisers on the same weights: word errors, speed, memory, agreement."""
    from ..evaluation.asr.report import RecognitionEvaluation, evaluate_asr

    data = _data(data, data_option)
    _one_output(markdown, json)
    options = RecognitionEvaluation(
        model=model,
        systems=tuple(system) or None,
        beam_sizes=tuple(beam_size),
        language=language,
        limit=limit,
        source=source,
        split=split,
        fallback=fallback,
        seed=seed,
        threads=threads,
        worst=worst,
    )
    console = Console(quiet=quiet, json=json)
    with console.count("evaluating") as progress:
        report = evaluate_asr(data, options, out, force, progress)
    _show(report, console, markdown)


def _data(data: list[str] | None, data_option: list[str]) -> list[str]:
    """What is evaluated on, wherever it was given. Raises UsageError for nothing."""
    if given := [*(data or []), *data_option]:
        return given
    raise UsageError("nothing to evaluate on: give recordings, a folder, a pattern or .tar shards")


def _one_output(markdown: bool, json: bool) -> None:
    """Raises UsageError for two."""
    if markdown and json:
        raise UsageError("--markdown and --json cannot both go to standard output; --out DIR writes both")


def _show(report: Report, console: Console, markdown: bool) -> None:
    if console.json:
        print(report.to_json(), end="")
    elif markdown:
        print(report.to_markdown(), end="")
    elif not console.quiet:
        print(report.to_table(), end="")


def _rates(texts: list[str]) -> tuple[float, ...]:
    """kbps as people write them to bits a second."""
    return tuple(rate for rate in map(parse_bitrate, texts) if rate is not None)
