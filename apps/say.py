"""`myna say`: a text in a cloned voice, to a file, to a pipe, to the loudspeaker."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import typer

from ..data.files import atomic_output, check_output, input_errors
from ..errors import InputError, MissingModelError, UsageError
from .console import Console, Progress, data_to_stdout
from .options import PIPE

if TYPE_CHECKING:
    import numpy as np

    from ..data.audio import AudioWriter
    from ..tts.draft import Draft
    from ..tts.presets import SpeechOptions
    from ..tts.speaker import Speaker
    from ..tts.synthesis import SpokenChunk
    from ..tts.text.lexicon import Lexicon
    from ..tts.text.long_text import Sentence
    from ..tts.voices.voice import Voice

_MAX_TEXT = 20_000_000  # bytes: ten long novels


@dataclass(frozen=True)
class SayReport:
    """What was said. seconds: of audio.   first_audio: seconds until the first of it was there, models loaded.
    real_time_factor: seconds of work for a second of audio.   resumed_at: sentences that an earlier run had said."""

    output: str | None
    voice: str
    sentences: int
    seconds: float
    sample_rate: int
    n_samples: int
    preset: str
    seed: int
    language: str
    first_audio: float | None
    elapsed: float
    real_time_factor: float | None
    resumed_at: int


@dataclass
class Speaking:
    """One text on its way from the models to wherever it goes."""

    speaker: Speaker
    voice: Voice
    sentences: list[Sentence]
    options: SpeechOptions
    lexicon: Lexicon | None
    console: Console
    first_audio: float | None = None
    n_samples: int = 0  # said by this run

    def __post_init__(self) -> None:
        self._began = time.perf_counter()

    def chunks(self, progress: Progress | None, draft: Draft | None = None) -> Iterator[SpokenChunk]:
        """The chunks of speech, progress shown; behind what a draft holds."""
        from ..tts.synthesis import SpokenChunk

        said, after = 0, None
        if draft is not None and draft.state.n_sentences:
            import numpy as np

            last = draft.state.n_sentences - 1
            said = draft.state.n_samples
            after = SpokenChunk(np.zeros(0, np.float32), last, True, 0.0, draft.state.level)
        rate = self.speaker.sample_rate
        stream = self.speaker.chunks(self.sentences, self.voice, self.options, self.lexicon, after, said)
        with contextlib.closing(stream):
            for chunk in stream:
                if self.first_audio is None and len(chunk.samples):
                    self.first_audio = time.perf_counter() - self._began
                self.n_samples += len(chunk.samples)
                if progress and chunk.done:
                    seconds = (said + self.n_samples) / rate
                    progress(seconds, seconds / chunk.done)
                yield chunk

    def report(self, output: str | None, n_samples: int, resumed_at: int = 0) -> SayReport:
        """After everything is said. n_samples: in the output, an earlier run's included."""
        elapsed = time.perf_counter() - self._began
        rate = self.speaker.sample_rate
        return SayReport(
            output=output,
            voice=self.voice.name,
            sentences=len(self.sentences),
            seconds=n_samples / rate,
            sample_rate=rate,
            n_samples=n_samples,
            preset=self.options.preset,
            seed=self.options.seed,
            language=self.options.language,
            first_audio=self.first_audio,
            elapsed=elapsed,
            real_time_factor=elapsed * rate / self.n_samples if self.n_samples else None,
            resumed_at=resumed_at,
        )

    # ---- where it goes

    def to_file(self, target: Path, force: bool, play: Callable[[np.ndarray], None] | None) -> SayReport:
        """A text that is said in one go: the file appears when all of it is there."""
        with atomic_output(target, force) as file:
            self._write(file, target.suffix, f"saying {target.name}", play)
        return self.report(str(target), self.n_samples)

    def to_pipe(self, play: Callable[[np.ndarray], None] | None) -> SayReport:
        """WAV to standard output, each chunk as soon as it is there."""
        with data_to_stdout():
            self._write(sys.stdout.buffer, ".wav", "saying", play, live=True)
        return self.report(PIPE, self.n_samples)

    def to_loudspeaker(self, play: Callable[[np.ndarray], None]) -> SayReport:
        with self.console.progress("saying") as progress:
            for chunk in self.chunks(progress):
                play(chunk.samples)
        return self.report(None, self.n_samples)

    def to_file_in_parts(self, target: Path, force: bool, restart: bool) -> SayReport:
        """A long text: a draft beside the target grows sentence by sentence, and survives the end of the program."""
        from ..tts.draft import Draft

        key = self.speaker.fingerprint(self.sentences, self.voice, self.options, repr(self.lexicon))
        with Draft(target, key, restart) as draft:
            resumed_at = draft.state.n_sentences
            if draft.aside:
                self.console.note(
                    f"the draft of {target} cannot be read; it is kept aside ({draft.aside.name}), "
                    "and the text begins anew"
                )
            if resumed_at:
                self.console.note(
                    f"going on with {target} after {resumed_at} of {len(self.sentences)} sentences "
                    "(--restart begins anew)"
                )
            try:
                with self.console.progress(f"saying {target.name}") as progress:
                    for chunk in self.chunks(progress, draft):
                        draft.append(chunk.samples)
                        if chunk.ends_sentence:
                            draft.commit(chunk.sentence + 1, chunk.level)
                with atomic_output(target, force) as file:
                    writer = self._writer(file, target.suffix, draft.state.n_samples)
                    for block in draft.blocks():
                        writer.write(block)
                    writer.close()
            except BaseException:
                if draft.state.n_sentences:
                    self.console.note(
                        f"{draft.state.n_sentences} of {len(self.sentences)} sentences are kept; "
                        "the same command goes on from there"
                    )
                raise
            n_samples = draft.state.n_samples
            draft.remove()
        return self.report(str(target), n_samples, resumed_at)

    def _write(
        self,
        file: BinaryIO,
        suffix: str,
        what: str,
        play: Callable[[np.ndarray], None] | None,
        live: bool = False,
    ) -> None:
        with self.console.progress(what) as progress:
            writer = None
            for chunk in self.chunks(progress):
                # Not before there is sound: a text that cannot be said leaves no header in a pipe.
                writer = writer or self._writer(file, suffix)
                writer.write(chunk.samples[None])
                if live:
                    file.flush()
                if play:
                    play(chunk.samples)
            if writer:
                writer.close()

    def _writer(self, file: BinaryIO, suffix: str, n_samples: int | None = None) -> AudioWriter:
        from ..data.audio import open_writer
        from ..tts.finish.tags import synthetic_tags

        tags = synthetic_tags(self.voice.name)
        return open_writer(file, self.speaker.sample_rate, 1, suffix=suffix, n_frames=n_samples, tags=tags)


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
    preset: str = typer.Option("standard", help="fast, standard, or best (four tries a sentence)."),
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
        help="What makes the sound: vocoder, or nar (hoarser; VALL-E as published).  [default: vocoder]",
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
    from ..tts.presets import SpeechOptions

    if stream and output not in (None, PIPE):
        raise UsageError(f"--stream writes to standard output; leave -o {output} out, or --stream")
    target = PIPE if stream else output
    if target is None and not play:
        target = str(Path(text_file).with_suffix(".wav")) if text_file and text_file != PIPE else "speech.wav"
    options = SpeechOptions(  # refused before anything is loaded
        preset=preset,
        seed=seed,
        language=language,
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
    speaking = _speaking(said, voice, voice_text, consent, options, lexicon, device, console)
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
    console: Console,
) -> Speaking:
    """Everything loaded that it takes; what is wrong with the text is said before the models are looked for."""
    from ..tts.speaker import Speaker
    from ..tts.text.lexicon import Lexicon
    from ..tts.text.long_text import split_text
    from ..tts.text.phonemes import language_note
    from ..tts.voices.library import shipped_voices
    from ..tts.voices.voice import SUFFIX
    from .voices import ask_consent

    if note := language_note(options.language):
        console.note(note)
    words = Lexicon.load(lexicon) if lexicon else None
    sentences = split_text(text, options.language)
    if voice and Path(voice).is_file() and Path(voice).suffix != SUFFIX:
        consent = ask_consent(voice, consent)
    speaker = Speaker(device=device)
    voice = next(iter(shipped_voices())) if voice is None else voice
    known = speaker.voice(voice, voice_text, consent, options.language, options.decoder)
    if voice_text and known.text != " ".join(voice_text.split()):
        console.note(f"--voice-text belongs to a recording; the voice {known.name} is used as it was made")
    for line in known.notes:
        console.note(f"{known.name}: {line}")
    return Speaking(speaker, known, sentences, options, words, console)
