"""`myna transcribe`: recordings to text, subtitles and tables; what is said right now, while it is said."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..asr.writers import FORMATS, SubtitleOptions
from ..errors import UsageError
from .console import Console
from .transcribe_files import FileTranscriber, Outputs, find_recordings

if TYPE_CHECKING:
    from ..asr.transcribe import TranscribeOptions
    from ..asr.transcriber import Transcriber

ALL = "all"
_WORDS, _DECODING, _PROMPTS = "Words and subtitles", "Decoding", "Prompts"
_LONG, _PROGRAM = "Silence and long recordings", "Program"


def parse_formats(text: str | None, output_dir: str | None) -> tuple[str, ...]:
    """ "srt", "txt,srt" or "all"; by default all of them into a folder, text to standard output. Raises UsageError."""
    wanted = (text or (ALL if output_dir else "txt")).lower().split(",")
    kinds = tuple(dict.fromkeys(kind for name in wanted for kind in (FORMATS if name == ALL else (name,))))
    if unknown := [kind for kind in kinds if kind not in FORMATS]:
        raise UsageError(f"--format {text}: no format {unknown[0]!r}; choose {', '.join((*FORMATS, ALL))}")
    if len(kinds) > 1 and not output_dir:
        raise UsageError(f"--format {text} makes several files; give their folder with --output-dir")
    return kinds


def parse_optional(name: str, text: str | None) -> float | None:
    """A number, or None for "none": a threshold that is not to be looked at. Raises UsageError."""
    if text is None or text.lower() == "none":
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"--{name} {text} is not a number; give one, or none")
    return number


def parse_tokens(text: str) -> tuple[int, ...]:
    """ "-1,50256" to token ids; "" to none. Raises UsageError."""
    try:
        return tuple(int(token) for token in text.split(",") if token.strip())
    except ValueError:
        raise UsageError(
            f"--suppress-tokens {text}: expected token ids and commas, such as -1,50256"
        ) from None


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


def command(
    files: list[str] = typer.Argument(
        None, metavar="FILES...", help="Recordings, folders of them, or - for standard input."
    ),
    model: str = typer.Option(
        None,
        "--model",
        "-m",
        help="A Whisper by name (tiny.en, small, turbo, ...), or its file or folder.  [default: the best here]",
    ),
    output_dir: str = typer.Option(
        None, "--output-dir", "-o", help="Where the files go.  [default: the text to standard output]"
    ),
    format: str = typer.Option(
        None,
        "--format",
        help="txt, srt, vtt, tsv, json, several with commas, all.  [default: txt; files: all]",
    ),
    language: str = typer.Option(None, "--language", "-l", help="de, German, ...  [default: it is heard]"),
    task: str = typer.Option("transcribe", help="transcribe, or translate: into English."),
    batched: bool = typer.Option(
        False,
        "--batched",
        help="Find speech first and decode many stretches of it at once: fast on long files.",
    ),
    batch_size: int = typer.Option(8, help="Stretches, or short recordings, decoded at once."),
    live: bool = typer.Option(
        False,
        "--live",
        help="What is said now: raw mono samples, or WAV, from standard input; else the microphone.",
    ),
    live_rate: int = typer.Option(16_000, help="Samples a second of what --live reads raw."),
    live_format: str = typer.Option("s16le", help="Of them: s16le (16-bit) or f32le (32-bit float)."),
    # ---- words and subtitles
    word_timestamps: bool = typer.Option(
        False, "--word-timestamps", "-w", help="When each word is said.", rich_help_panel=_WORDS
    ),
    highlight_words: bool = typer.Option(
        False, "--highlight-words", help="Subtitles underline the word.", rich_help_panel=_WORDS
    ),
    max_line_width: int = typer.Option(None, help="Characters in a line.", rich_help_panel=_WORDS),
    max_line_count: int = typer.Option(
        None, help="Lines in a subtitle; needs --max-line-width.", rich_help_panel=_WORDS
    ),
    max_words_per_line: int = typer.Option(None, help="Words in a subtitle.", rich_help_panel=_WORDS),
    prepend_punctuations: str = typer.Option(
        None, help="Marks that belong to the next word.", rich_help_panel=_WORDS
    ),
    append_punctuations: str = typer.Option(
        None, help="Marks that belong to the word before.", rich_help_panel=_WORDS
    ),
    # ---- decoding
    temperature: float = typer.Option(0.0, help="0: the most probable text.", rich_help_panel=_DECODING),
    temperature_increment_on_fallback: str = typer.Option(
        "0.2", metavar="FLOAT|none", help="Added when a text looks wrong.", rich_help_panel=_DECODING
    ),
    beam_size: int = typer.Option(
        None,
        help="Beams at temperature 0; 1 is greedy and fastest.  [default: 5; --live: 1]",
        rich_help_panel=_DECODING,
    ),
    best_of: int = typer.Option(5, help="Texts to choose from above 0.", rich_help_panel=_DECODING),
    patience: float = typer.Option(None, help="Of beam search.  [default: 1]", rich_help_panel=_DECODING),
    length_penalty: float = typer.Option(
        None, help="Of beam search, 0 to 1.  [default: mean by length]", rich_help_panel=_DECODING
    ),
    suppress_tokens: str = typer.Option(
        "-1", help="Token ids never said; -1: signs that are not spoken.", rich_help_panel=_DECODING
    ),
    compression_ratio_threshold: str = typer.Option(
        "2.4", metavar="FLOAT|none", help="A text that repeats more looks wrong.", rich_help_panel=_DECODING
    ),
    logprob_threshold: str = typer.Option(
        "-1.0", metavar="FLOAT|none", help="A text less probable looks wrong.", rich_help_panel=_DECODING
    ),
    no_speech_threshold: str = typer.Option(
        "0.6",
        metavar="FLOAT|none",
        help="From here an improbable text is silence.",
        rich_help_panel=_DECODING,
    ),
    # ---- prompts
    initial_prompt: str = typer.Option(
        None, help="A text as if said before: names, style.", rich_help_panel=_PROMPTS
    ),
    carry_initial_prompt: bool = typer.Option(
        False, "--carry-initial-prompt", help="Before every window.", rich_help_panel=_PROMPTS
    ),
    prefix: str = typer.Option(None, help="The text the recording begins with.", rich_help_panel=_PROMPTS),
    hotwords: str = typer.Option(None, help="Words to listen for, all along.", rich_help_panel=_PROMPTS),
    condition_on_previous_text: bool = typer.Option(
        True, help="Each window knows the text of the last.", rich_help_panel=_PROMPTS
    ),
    # ---- silence and long recordings
    clip_timestamps: str = typer.Option(
        "0", help="Only start,end,start,end,... in seconds.", rich_help_panel=_LONG
    ),
    hallucination_silence_threshold: float = typer.Option(
        None,
        help="With word times: skip silence of so many seconds around unlikely text.",
        rich_help_panel=_LONG,
    ),
    vad: bool = typer.Option(
        False, "--vad", help="Only where a detector finds speech.", rich_help_panel=_LONG
    ),
    # ---- program
    precision: str = typer.Option(
        "auto", help="auto, float32, bf16 or int8 (CPU).", rich_help_panel=_PROGRAM
    ),
    int8: bool = typer.Option(False, "--int8", help="--precision int8.", rich_help_panel=_PROGRAM),
    float32: bool = typer.Option(False, "--float32", help="--precision float32.", rich_help_panel=_PROGRAM),
    threads: int = typer.Option(None, help="Of the CPU.  [default: all]", rich_help_panel=_PROGRAM),
    device: str = typer.Option("cpu", help="cpu, cuda, cuda:1, ...", rich_help_panel=_PROGRAM),
    verbose: bool = typer.Option(
        False, "--verbose", help="Segments with times, as they come.", rich_help_panel=_PROGRAM
    ),
    force: bool = typer.Option(False, "--force", "-f", help="Overwrite outputs.", rich_help_panel=_PROGRAM),
    json: bool = typer.Option(False, "--json", help="Print the result as JSON.", rich_help_panel=_PROGRAM),
    quiet: bool = typer.Option(
        False, "--quiet", "-q", help="No progress, no result line.", rich_help_panel=_PROGRAM
    ),
) -> None:
    """Write down what is said in recordings (WAV, FLAC, MP3, OGG, Opus), with Whisper.

    myna transcribe talk.wav --model small.en

    myna transcribe talks/ --output-dir texts/ --format srt --word-timestamps --max-line-width 42 --max-line-count 2

    Without --output-dir the text goes to standard output. Options are openai-whisper's, with the same defaults.
    """
    kinds = parse_formats(format, output_dir)
    subtitles = SubtitleOptions(max_line_width, max_line_count, max_words_per_line, highlight_words)
    if subtitles.needs_words and not word_timestamps:
        raise UsageError("--highlight-words and the --max-... options lay out words; add --word-timestamps")
    if max_line_count and not max_line_width:
        raise UsageError("--max-line-count counts lines of a --max-line-width; give that as well")
    if max_words_per_line and max_line_width:
        raise UsageError("--max-words-per-line and --max-line-width exclude each other; give one of them")
    if json and format and not output_dir:
        raise UsageError(f"--json prints the whole result; leave --format {format} out, or give --output-dir")
    if threads is not None and threads < 1:
        raise UsageError(f"at least one thread is needed, got --threads {threads}")
    if batch_size < 1:
        raise UsageError(f"--batch-size {batch_size}: expected 1 or more")
    wanted = {"int8": int8, "float32": float32}
    precisions = {name for name, given in wanted.items() if given} | ({precision} - {"auto"})
    if len(precisions) > 1:
        raise UsageError(f"{' and '.join(sorted(precisions))} exclude each other; choose one precision")
    console = Console(quiet, json)

    def options() -> TranscribeOptions:
        """Heavy to import, so only after what was refused so far."""
        return _options(
            language=language,
            task=task,
            temperature=temperatures(
                temperature,
                parse_optional("temperature-increment-on-fallback", temperature_increment_on_fallback),
            ),
            beam_size=beam_size if beam_size is not None else 1 if live else 5,
            best_of=best_of,
            patience=patience,
            length_penalty=length_penalty,
            suppress_tokens=parse_tokens(suppress_tokens),
            compression_ratio_threshold=parse_optional(
                "compression-ratio-threshold", compression_ratio_threshold
            ),
            logprob_threshold=parse_optional("logprob-threshold", logprob_threshold),
            no_speech_threshold=parse_optional("no-speech-threshold", no_speech_threshold),
            initial_prompt=initial_prompt,
            carry_initial_prompt=carry_initial_prompt,
            prefix=prefix,
            hotwords=hotwords,
            condition_on_previous_text=condition_on_previous_text,
            word_timestamps=word_timestamps,
            clip_timestamps=clip_timestamps,
            hallucination_silence_threshold=hallucination_silence_threshold,
            **_given(prepend_punctuations=prepend_punctuations, append_punctuations=append_punctuations),
        )

    def load() -> Transcriber:
        return _load(model, device, next(iter(precisions), "auto"), threads, options(), console)

    if live:
        from .transcribe_live import transcribe_live

        if output_dir or format:
            raise UsageError(
                "--live prints while it listens; leave --output-dir and --format out, and redirect it"
            )
        transcribe_live(files or [], load, options(), console, live_rate, live_format)
        return
    if not files:
        raise UsageError(
            "give recordings, a folder of them, or - for standard input; or --live for the microphone"
        )
    recordings = find_recordings(files, to_files=output_dir is not None)
    several = len(files) > 1 or Path(files[0]).is_dir()
    if several and not output_dir and kinds != ("txt",):
        raise UsageError(f"--format {format} of several recordings needs a folder; give it with --output-dir")
    outputs = Outputs(Path(output_dir) if output_dir else None, kinds, subtitles, force)
    work = FileTranscriber(load, options(), outputs, console, batched, batch_size, vad, verbose)
    if several:
        work.many(recordings)
    else:
        work.one(recordings[0])


def _options(**given: Any) -> TranscribeOptions:
    from ..asr.model.languages import find_language
    from ..asr.transcribe import TranscribeOptions

    if given["language"] is not None:
        given["language"] = find_language(given["language"])
    options = TranscribeOptions(**given)
    options.check()
    return options


def _given(**options: Any) -> dict[str, Any]:
    """Those that are not left to their defaults."""
    return {name: value for name, value in options.items() if value is not None}


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
        model = default_model(options.language, options.task)
        if not console.quiet:
            console.note(f"transcribing with {model}; --model chooses another")
    transcriber = Transcriber(model, device, precision)
    transcriber.options(options)  # refuses what the model cannot do, before any recording is read
    return transcriber
