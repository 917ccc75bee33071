"""`myna say`: a text in a cloned voice, to a file, to a pipe, to the loudspeaker."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

import typer

from ..data.files import check_output, input_errors
from ..errors import InputError, MissingModelError, UsageError, did_you_mean
from .console import Console
from .options import PIPE, check_precision
from .speaking import SayReport, Speaking

if TYPE_CHECKING:
    import numpy as np

    from ..tts.presets import SpeechOptions
    from ..tts.tortoise.presets import TortoiseOptions

_MAX_TEXT = 20_000_000  # bytes: ten long novels


def read_text(path: str) -> str:
    """The text of a file, or of standard input for "-". Raises InputError for what is not text."""
    name = "standard input" if path == PIPE else path
    with input_errors(name):
        if path == PIPE:
            data = sys.stdin.buffer.read(_MAX_TEXT + 1)
        else:
            with open(path, "rb") as file:
                data = file.read(_MAX_TEXT + 1)
    if len(data) > _MAX_TEXT:
        raise InputError(f"{name} is longer than {_MAX_TEXT // 1_000_000} MB; cut it into parts")
    coding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = data.decode(coding)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{name} is not text in UTF-8 (byte {error.start} is 0x{data[error.start]:02x}); save it as UTF-8"
        ) from None
    if "\0" in text:
        raise InputError(f"{name} holds binary data, not text; give a plain text file")
    return text


@contextlib.contextmanager
def loudspeaker(sample_rate: int) -> Iterator[Callable[[np.ndarray], None]]:
    """A function that plays chunks (n,). Raises MissingModelError without the package sounddevice, UsageError without
    a loudspeaker."""
    try:
        import sounddevice  # pyright: ignore[reportMissingImports]
    except (ImportError, OSError):  # OSError: the package without its library
        raise MissingModelError(
            "--play needs the package sounddevice (and PortAudio): pip install sounddevice; or pipe: -o - | aplay"
        ) from None
    try:
        output = sounddevice.OutputStream(sample_rate, channels=1, dtype="float32")
    except sounddevice.PortAudioError as error:
        raise UsageError(f"there is no loudspeaker to play on ({error}); write a file with -o") from None
    with output:
        yield lambda chunk: output.write(chunk[:, None]) and None


def describe(report: SayReport) -> str:
    """One line for people."""
    name = (
        "played" if report.output is None else "standard output" if report.output == PIPE else report.output
    )
    line = f"{name}: {report.seconds:.2f} s in the voice {report.voice}, seed {report.seed}"
    if report.first_audio is None or report.real_time_factor is None:
        return line
    return f"{line}; first sound after {report.first_audio:.2f} s, real-time factor {report.real_time_factor:.2f}"


def command(
    text: str | None = typer.Argument(
        None, metavar="[TEXT]", help="What to say, after -- if it begins with a dash; - reads standard input."
    ),
    voice: str | None = typer.Option(
        None,
        "--voice",
        "-v",
        help="A recording of about 3 s, a saved voice's name, or a voice file.  [default: one of the package]",
    ),
    output: str | None = typer.Option(
        None,
        "--output",
        "-o",
        help="A .wav, .flac or .mp3; - for WAV to stdout.  [default: speech.wav, or the text file's name]",
    ),
    text_file: str | None = typer.Option(
        None, "--text-file", "-t", help="A text of any length; a run that was stopped goes on where it was."
    ),
    voice_text: str | None = typer.Option(None, help="What is said in the recording, if you know it."),
    consent: str | None = typer.Option(
        None, help="For a recording: a statement that its speaker agrees to being cloned."
    ),
    model: str = typer.Option("myna", help="myna, tortoise, or a folder of TorToise's files."),
    preset: str | None = typer.Option(
        None,
        help="fast, standard, or best (four tries a sentence); tortoise: ultra_fast, fast, standard, high_quality, "
        "streaming.  [default: standard; tortoise: fast]",
    ),
    candidates: int | None = typer.Option(
        None, help="Times every sentence is said, the best kept.  [default: by preset]"
    ),
    redraws: int | None = typer.Option(
        None,
        help="Times more that a sentence is said in which words are missing.  [default: by preset; 0 where it is "
        "heard while it is made]",
    ),
    keep_candidates: str | None = typer.Option(
        None, metavar="DIR", help="tortoise: the best three of every sentence, their scores in their names."
    ),
    seed: int = typer.Option(0, help="The same seed gives the same audio."),
    language: str = typer.Option("en-us", help="As espeak-ng names it; the shipped weights know English."),
    speed: float = typer.Option(1.0, help="0.25 to 4, at the same pitch."),
    temperature: float | None = typer.Option(None, help="Variety, 0 to 2.  [default: by preset]"),
    top_k: int | None = typer.Option(
        None, help="Choose among this many codes; 0: all.  [default: by preset]"
    ),
    top_p: float | None = typer.Option(
        None, help="Choose among codes of this probability.  [default: by preset]"
    ),
    cfg_text: float | None = typer.Option(
        None, help="Guidance towards the text, 1: none.  [default: by preset]"
    ),
    cfg_voice: float | None = typer.Option(
        None, help="Guidance towards the voice, 1: none.  [default: by preset]"
    ),
    decoder: str | None = typer.Option(
        None,
        help="What makes the sound: flow, or nar (VALL-E as published; its weights do not ship).  [default: flow]",
    ),
    steps: int | None = typer.Option(None, help="tortoise: of the diffusion.  [default: by preset]"),
    sampler: str = typer.Option("ddpm", help="tortoise: ddpm as published; ddim, dpm++2m for few steps."),
    precision: str = typer.Option(
        "auto",
        help="auto (what is fast on this CPU), float32, bf16, int8; tortoise: float32, half (auto), int8, bf16.",
    ),
    lexicon: str | None = typer.Option(None, help="A file of words and how to say them."),
    stream: bool = typer.Option(False, "--stream", help="WAV to standard output while it is made, as -o -."),
    play: bool = typer.Option(False, "--play", help="Play it while it is made."),
    restart: bool = typer.Option(False, "--restart", help="Begin a --text-file anew."),
    force: bool = typer.Option(False, "--force", "-f", help="Overwrite the output."),
    json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
    quiet: bool = typer.Option(False, "--quiet", "-q", help="No progress, no result line."),
    device: str = typer.Option("cpu", help="cpu, cuda, cuda:1, ..."),
) -> None:
    """Say a text in the voice of a recording.

    myna say "Hello there." --voice me.wav --consent "I am the speaker and agree" -o hello.wav

    Everything said carries an inaudible watermark and a tag that says it is synthetic. Clone only voices whose
    owners agree.
    """
    from ..data.audio import WRITABLE, check_writable_format
    from . import say_tortoise

    if stream and output not in (None, PIPE):
        raise UsageError(f"--stream writes to standard output; leave -o {output} out, or --stream")
    target = PIPE if stream else output
    if target is None and not play:
        target = str(Path(text_file).with_suffix(".wav")) if text_file and text_file != PIPE else "speech.wav"
    tortoise = say_tortoise.is_tortoise(model)
    if model != "myna" and not tortoise:
        near = did_you_mean(model, ("myna", say_tortoise.NAME))
        raise UsageError(
            f"no model named {model!r}: {near}choose myna, tortoise, or a folder of TorToise's files"
        )
    given = (
        {
            "voice-text": voice_text,
            "cfg-text": cfg_text,
            "cfg-voice": cfg_voice,
            "lexicon": lexicon,
            "language": language != "en-us" and language,
            "decoder": decoder,
            "redraws": redraws is not None and str(redraws),
        }
        if tortoise
        else {
            "keep-candidates": keep_candidates,
            "steps": steps,
            "sampler": sampler != "ddpm" and sampler,
        }
    )
    for name, value in given.items():
        if value:
            raise UsageError(
                f"--{name} belongs to the model {'myna' if tortoise else 'tortoise'}; leave it out"
            )
    if tortoise:
        precision = {"auto": "half", "bf16": "bfloat16"}.get(precision, precision)
    else:
        check_precision(precision, device)
    if tortoise:  # options are refused before anything is loaded
        from ..tts.tortoise.presets import TortoiseOptions

        usual = TortoiseOptions()
        options = TortoiseOptions(
            preset=preset or "fast",
            seed=seed,
            candidates=candidates,
            steps=steps,
            sampler=sampler,  # pyright: ignore[reportArgumentType]
            speed=speed,
            temperature=usual.temperature if temperature is None else temperature,
            top_k=usual.top_k if top_k is None else top_k,
            top_p=usual.top_p if top_p is None else top_p,
        )
    else:
        from ..tts.presets import SpeechOptions

        options = SpeechOptions(
            preset=preset or "standard",
            seed=seed,
            language=language,
            candidates=candidates,
            redraws=redraws,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            cfg_text=cfg_text,
            cfg_voice=cfg_voice,
            speed=speed,
            decoder=decoder,
        )
    if target is not None and target != PIPE:
        check_writable_format(Path(target).suffix, allowed=WRITABLE)
        check_output(target, force)
    if (text is None) == (text_file is None):
        raise UsageError('give what to say: myna say "Hello there.", or --text-file, one of the two')
    said = read_text(text_file or PIPE) if text_file or text == PIPE else str(text)
    console = Console(quiet, json, audio_out=target == PIPE)
    if restart and not text_file:
        raise UsageError("--restart belongs to --text-file: other texts always begin at their beginning")
    if tortoise:
        options = cast("TortoiseOptions", options)
        speaking = say_tortoise.speaking(
            said, model, voice, consent, options, keep_candidates, force, precision, device, console
        )
    else:
        options = cast("SpeechOptions", options)
        speaking = _speaking(said, voice, voice_text, consent, options, lexicon, device, precision, console)
    with contextlib.ExitStack() as stack:
        player = stack.enter_context(loudspeaker(speaking.speaker.sample_rate)) if play else None
        if target == PIPE:
            report = speaking.to_pipe(player)
        elif target is None:
            assert player is not None
            report = speaking.to_loudspeaker(player)
        elif text_file and not player and not _is_pipe(Path(target)):
            report = speaking.to_file_in_parts(Path(target), force, restart)
        else:
            report = speaking.to_file(Path(target), force, player)
    console.result(report, describe(report))


def _is_pipe(path: Path) -> bool:
    """Whether what is written there is gone, as in a named pipe or a device: nothing can be kept beside it."""
    return path.exists() and not path.is_file()


def _speaking(
    text: str,
    voice: str | None,
    voice_text: str | None,
    consent: str | None,
    options: SpeechOptions,
    lexicon: str | None,
    device: str,
    precision: str,
    console: Console,
) -> Speaking:
    """Everything loaded that it takes; what is wrong with the text is said before the models are looked for."""
    from ..tts.remarks import remarks
    from ..tts.speaker import Speaker
    from ..tts.text.lexicon import Lexicon
    from ..tts.text.long_text import split_text
    from ..tts.text.phonemes import language_note
    from ..tts.voices.library import shipped_voices
    from ..tts.voices.voice import SUFFIX
    from .consent import ask_consent

    if note := language_note(options.language):
        console.note(note)
    words = Lexicon.load(lexicon) if lexicon else None
    sentences = split_text(text, options.language)
    if voice and Path(voice).is_file() and Path(voice).suffix != SUFFIX:
        consent = ask_consent(voice, consent)
    speaker = Speaker(device=device, decoder=options.decoder, precision=precision)
    voice = next(iter(shipped_voices())) if voice is None else voice
    known = speaker.voice(voice, voice_text, consent, options.language, options.decoder)
    if voice_text and known.text != " ".join(voice_text.split()):
        console.note(f"--voice-text belongs to a recording; the voice {known.name} is used as it was made")
    for line in remarks(known):
        console.note(f"{known.name}: {line}")
    return Speaking(speaker, known, sentences, options, words, console)
