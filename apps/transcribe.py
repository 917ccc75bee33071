"""`myna transcribe`: recordings to text, subtitles and tables; what is said right now, while it is said."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..asr.diarization.options import SPEAKERS, DiarizeOptions, check_names
from ..asr.options import DECODING, SILENCE, TranscribeOptions, option, optional_number
from ..asr.writers import FORMATS, SubtitleOptions
from ..errors import UsageError
from .console import Console
from .option_fields import parsed, with_options
from .transcribe_files import FileTranscriber, Outputs, find_recordings

if TYPE_CHECKING:
    from ..asr.transcriber import Transcriber, WhoSpeaks

ALL, _PROGRAM = "all", "Program"


def parse_formats(text: str | None, output_dir: str | None) -> tuple[str, ...]:
    """ "srt", "txt,srt" or "all"; by default all of them into a folder, text to standard output. Raises UsageError."""
    wanted = (text or (ALL if output_dir else "txt")).lower().split(",")
    kinds = tuple(dict.fromkeys(kind for name in wanted for kind in (FORMATS if name == ALL else (name,))))
    if unknown := [kind for kind in kinds if kind not in FORMATS]:
        raise UsageError(f"--format {text}: no format {unknown[0]!r}; choose {', '.join((*FORMATS, ALL))}")
    if len(kinds) > 1 and not output_dir:
        raise UsageError(f"--format {text} makes several files; give their folder with --output-dir")
    return kinds


def temperatures(temperature: float, increment: float | None) -> tuple[float, ...]:
    """What is tried one after the other, up to 1. Raises UsageError."""
    if not (math.isfinite(temperature) and temperature >= 0):
        raise UsageError(f"--temperature {temperature:g}: expected 0 or more")
    if increment is None:
        return (temperature,)
    if not increment > 0:
        raise UsageError(f"--temperature-increment-on-fallback {increment:g}: expected more than 0, or none")
    n_steps = math.floor((1 + 1e-6 - temperature) / increment)
    return (temperature, *(temperature + step * increment for step in range(1, n_steps + 1)))


@dataclass(frozen=True)
class CommandOptions:
    """What is asked of the command rather than of the model."""

    model: str | None = option(
        None,
        "A Whisper by name (tiny.en, small, turbo, ...), or its file or folder.  [default: the best here]",
        names=("--model", "-m"),
    )
    output_dir: str | None = option(
        None,
        "Where the files go.  [default: the text to standard output]",
        names=("--output-dir", "-o"),
    )
    format: str | None = option(
        None, "txt, srt, vtt, tsv, json, several with commas, all.  [default: txt; files: all]"
    )
    batched: bool = option(
        False, "Find speech first and decode many stretches of it at once: fast on long files."
    )
    batch_size: int = option(8, "Stretches, or short recordings, decoded at once.")
    live: bool = option(
        False, "What is said now: raw mono samples, or WAV, from standard input; else the microphone."
    )
    live_rate: int = option(16_000, "Samples a second of what --live reads raw.")
    live_format: str = option("s16le", "Of them: s16le (16-bit) or f32le (32-bit float).")
    vad: bool = option(False, "Only where a detector finds speech.", SILENCE)
    precision: str = option("auto", "auto, float32, bf16 or int8 (CPU).", _PROGRAM)
    int8: bool = option(False, "--precision int8.", _PROGRAM)
    float32: bool = option(False, "--precision float32.", _PROGRAM)
    threads: int | None = option(None, "Of the CPU.  [default: all]", _PROGRAM)
    device: str = option("cpu", "cpu, cuda, cuda:1, ...", _PROGRAM)
    verbose: bool = option(False, "Segments with times, as they come.", _PROGRAM)
    force: bool = option(False, "Overwrite outputs.", _PROGRAM, names=("--force", "-f"))
    json: bool = option(False, "Print the result as JSON.", _PROGRAM)
    quiet: bool = option(False, "No progress, no result line.", _PROGRAM, names=("--quiet", "-q"))

    def check(self) -> None:
        """Raises UsageError."""
        if self.json and self.format and not self.output_dir:
            raise UsageError(
                f"--json prints the whole result; leave --format {self.format} out, or give --output-dir"
            )
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"at least one thread is needed, got --threads {self.threads}")
        if self.batch_size < 1:
            raise UsageError(f"--batch-size {self.batch_size}: expected 1 or more")

    def chosen_precision(self) -> str:
        """Raises UsageError for several."""
        wanted = {"int8": self.int8, "float32": self.float32}
        precisions = {name for name, given in wanted.items() if given} | ({self.precision} - {"auto"})
        if len(precisions) > 1:
            raise UsageError(f"{' and '.join(sorted(precisions))} exclude each other; choose one precision")
        return next(iter(precisions), "auto")


@dataclass(frozen=True)
class _Increment:
    """With `temperature` it makes the temperatures of `TranscribeOptions`."""

    temperature_increment_on_fallback: float | None = option(
        0.2,
        "Added when a text looks wrong.",
        DECODING,
        type=str,
        cli_default="0.2",
        metavar="FLOAT|none",
        parse=optional_number,
    )


@dataclass(frozen=True)
class _Diarize:
    """Before those of `DiarizeOptions`."""

    diarize: bool = option(False, "Who says it: A, B, C, ... in order of appearance.", SPEAKERS)
    known_speaker: tuple[str, ...] = option(
        (),
        "Somebody's name, and 2 to 10 s of them alone; several times for several.",
        SPEAKERS,
        type=list[str],
        cli_default=[],
        metavar="NAME=FILE",
    )


_FILES = inspect.Parameter(
    "files",
    inspect.Parameter.KEYWORD_ONLY,
    default=typer.Argument(
        None, metavar="FILES...", help="Recordings, folders of them, or - for standard input."
    ),
    annotation=list[str],
)


@with_options(
    (CommandOptions, None),
    (TranscribeOptions, "format"),
    (_Increment, "temperature"),
    (SubtitleOptions, "word_timestamps"),
    (_Diarize, "max_words_per_line"),
    (DiarizeOptions, "diarize"),
    arguments=[_FILES],
)
def command(
    asked: dict[str, Any],
    decoding: dict[str, Any],
    increment: dict[str, Any],
    layout: dict[str, Any],
    diarize: dict[str, Any],
    speakers: dict[str, Any],
    files: list[str] | None,
) -> None:
    """Write down what is said in recordings (WAV, FLAC, MP3, OGG, Opus), with Whisper.

    myna transcribe talk.wav --model small.en

    myna transcribe talks/ --output-dir texts/ --format srt --word-timestamps --max-line-width 42 --max-line-count 2

    myna transcribe meeting.wav --diarize --known-speaker Ada=ada.wav

    Without --output-dir the text goes to standard output. Options are openai-whisper's, with the same defaults.
    """
    given = CommandOptions(**asked)
    kinds = parse_formats(given.format, given.output_dir)
    subtitles = SubtitleOptions(**layout)
    if subtitles.needs_words and not decoding["word_timestamps"]:
        raise UsageError("--highlight-words and the --max-... options lay out words; add --word-timestamps")
    if subtitles.max_line_count and not subtitles.max_line_width:
        raise UsageError("--max-line-count counts lines of a --max-line-width; give that as well")
    if subtitles.max_words_per_line and subtitles.max_line_width:
        raise UsageError("--max-words-per-line and --max-line-width exclude each other; give one of them")
    given.check()
    who = _who_speaks(diarize["diarize"], DiarizeOptions(**speakers), diarize["known_speaker"] or [])
    precision = given.chosen_precision()
    console = Console(given.quiet, given.json)

    def options() -> TranscribeOptions:
        """Heavy to check, so only after what was refused so far."""
        return _options(decoding, increment, given.live)

    def load() -> Transcriber:
        return _load(given.model, given.device, precision, given.threads, options(), console)

    if given.live:
        from .transcribe_live import transcribe_live

        if who is not None:
            raise UsageError("--live does not tell who speaks; leave --diarize out, or record first")
        if given.output_dir or given.format:
            raise UsageError(
                "--live prints while it listens; leave --output-dir and --format out, and redirect it"
            )
        transcribe_live(files or [], load, options(), console, given.live_rate, given.live_format)
        return
    if not files:
        raise UsageError(
            "give recordings, a folder of them, or - for standard input; or --live for the microphone"
        )
    recordings = find_recordings(files, to_files=given.output_dir is not None)
    several = len(files) > 1 or Path(files[0]).is_dir()
    if several and not given.output_dir and kinds != ("txt",):
        raise UsageError(
            f"--format {given.format} of several recordings needs a folder; give it with --output-dir"
        )
    outputs = Outputs(Path(given.output_dir) if given.output_dir else None, kinds, subtitles, given.force)
    work = FileTranscriber(
        load,
        options(),
        outputs,
        console,
        given.batched,
        given.batch_size,
        given.vad,
        given.verbose,
        None if who is None else who(),
    )
    if several:
        work.many(recordings)
    else:
        work.one(recordings[0])


def _who_speaks(
    wanted: bool, options: DiarizeOptions, references: list[str]
) -> Callable[[], WhoSpeaks] | None:
    """What reads the references and then tells who speaks; None where nobody asks. Raises UsageError."""
    if not wanted:
        if options != DiarizeOptions() or references:
            raise UsageError(
                "--speakers, --min-speakers, --max-speakers and --known-speaker say who speaks; add --diarize"
            )
        return None
    options.check()
    pairs = [reference.partition("=")[::2] for reference in references]
    for reference, (name, file) in zip(references, pairs, strict=True):
        if not name or not file:
            raise UsageError(f"--known-speaker {reference}: expected NAME=FILE, such as Ada=ada.wav")
    check_names([name for name, _ in pairs])

    def load() -> WhoSpeaks:
        from ..asr.diarization.known import know
        from ..asr.diarization.turns import find_turns
        from ..asr.transcriber import load_samples

        known = [know(name, load_samples(file)) for name, file in pairs]
        return functools.partial(find_turns, options=options, known=known)

    return load


def _options(decoding: dict[str, Any], increment: dict[str, Any], live: bool) -> TranscribeOptions:
    """Raises UsageError."""
    from ..asr.model.languages import find_language

    step = parsed(_Increment, increment)["temperature_increment_on_fallback"]
    tried = temperatures(decoding["temperature"], step)
    chosen = {"beam_size": 1 if live else 5, **parsed(TranscribeOptions, decoding), "temperature": tried}
    if "language" in chosen:
        chosen["language"] = find_language(chosen["language"])
    options = TranscribeOptions(**chosen)
    options.check()
    return options


def _load(
    model: str | None,
    device: str,
    precision: str,
    threads: int | None,
    options: TranscribeOptions,
    console: Console,
) -> Transcriber:
    import torch

    from ..asr.transcriber import Transcriber, default_model

    if threads is not None:
        torch.set_num_threads(threads)
    if model is None:
        model = default_model(options.language, options.task, options.languages)
        if not console.quiet:
            console.note(f"transcribing with {model}; --model chooses another")
    transcriber = Transcriber(model, device, precision)
    transcriber.options(options)  # refuses what the model cannot do, before any recording is read
    return transcriber
