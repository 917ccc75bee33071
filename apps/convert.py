"""`myna convert`: speech of one person in the voice of another."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import typer

from ..data.files import atomic_output, check_output
from ..errors import UsageError
from .console import Console, Progress, data_to_stdout
from .options import PIPE
from .voices import ask_consent

if TYPE_CHECKING:
    import numpy as np

    from ..tts.convert import Converter
    from ..tts.voices.voice import Voice


@dataclass(frozen=True)
class ConvertReport:
    """What was converted. seconds: of audio.   first_audio: seconds until the first of it was there, models loaded.
    real_time_factor: seconds of work for a second of audio."""

    input: str
    output: str
    voice: str
    seconds: float
    sample_rate: int
    n_samples: int
    seed: int
    first_audio: float | None
    elapsed: float
    real_time_factor: float | None


@dataclass
class Conversion:
    """One recording on its way to a file or a pipe."""

    converter: Converter
    source: str
    voice: Voice
    seed: int
    console: Console
    n_samples: int = 0
    first_audio: float | None = None

    def __post_init__(self) -> None:
        self._began = time.perf_counter()

    def to_file(self, target: Path, force: bool) -> ConvertReport:
        with atomic_output(target, force) as file:
            self._write(file, target.suffix, f"converting {Path(self.source).name}")
        return self._report(str(target))

    def to_pipe(self) -> ConvertReport:
        """WAV to standard output, each chunk as soon as it is there."""
        with data_to_stdout():
            self._write(sys.stdout.buffer, ".wav", "converting", sys.stdout.buffer.flush)
        return self._report(PIPE)

    def _write(self, file: BinaryIO, suffix: str, what: str, flush: Callable[[], None] | None = None) -> None:
        from ..data.audio import open_writer
        from ..marks.tags import synthetic_tags

        writer = None
        with self.console.progress(what) as progress:
            for chunk in self._chunks(progress):
                # Not before there is sound: what cannot be converted leaves no header in a pipe.
                writer = writer or open_writer(
                    file,
                    self.converter.sample_rate,
                    1,
                    suffix=suffix,
                    tags=synthetic_tags(self.voice.name),
                )
                writer.write(chunk[None])
                if flush:
                    flush()
        if writer:
            writer.close()

    def _chunks(self, progress: Progress | None) -> Iterator[np.ndarray]:
        from ..tts.convert import blocks_of

        rate = self.converter.sample_rate
        for chunk in self.converter.stream(blocks_of(self.source), self.voice, self.seed):
            if self.first_audio is None:
                self.first_audio = time.perf_counter() - self._began
            self.n_samples += len(chunk)
            if progress:
                progress(self.n_samples / rate, None)
            yield chunk

    def _report(self, output: str) -> ConvertReport:
        elapsed, rate = time.perf_counter() - self._began, self.converter.sample_rate
        return ConvertReport(
            input=self.source,
            output=output,
            voice=self.voice.name,
            seconds=self.n_samples / rate,
            sample_rate=rate,
            n_samples=self.n_samples,
            seed=self.seed,
            first_audio=self.first_audio,
            elapsed=elapsed,
            real_time_factor=elapsed * rate / self.n_samples if self.n_samples else None,
        )


def describe(report: ConvertReport) -> str:
    """One line for people."""
    name = "standard output" if report.output == PIPE else report.output
    line = f"{name}: {report.seconds:.2f} s in the voice {report.voice}, seed {report.seed}"
    return (
        line if report.real_time_factor is None else f"{line}; real-time factor {report.real_time_factor:.2f}"
    )


def command(
    source: str = typer.Argument(..., metavar="IN", help="A recording of one person speaking, or -"),
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
        help="A .wav, .flac or .mp3; - for WAV to stdout.  [default: the input's name with _converted.wav]",
    ),
    consent: str | None = typer.Option(
        None, help="For a voice from a recording: a statement that its speaker agrees to being cloned."
    ),
    seed: int = typer.Option(0, help="The same seed gives the same audio."),
    force: bool = typer.Option(False, "--force", "-f", help="Overwrite the output."),
    json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
    quiet: bool = typer.Option(False, "--quiet", "-q", help="No progress, no result line."),
    device: str = typer.Option("cpu", help="cpu, cuda, cuda:1, ..."),
) -> None:
    """Say in another voice what somebody says in a recording.

    myna convert talk.wav --voice me.wav --consent "I am the speaker and agree" -o mine.wav

    It streams: arecord -f S16_LE -r 24000 -t wav - | myna convert - --voice nova | aplay
    Everything converted carries an inaudible watermark and a tag that says it is synthetic. Clone only voices whose
    owners agree.
    """
    from ..data.audio import WRITABLE, check_writable_format
    from ..tts.voices.library import shipped_voices
    from ..tts.voices.voice import SUFFIX, check_recording

    if not 0 <= seed < 1 << 63:
        raise UsageError(f"seed {seed} is out of range; give a whole number from 0 to 2^63 - 1")
    check_recording(source)
    target = output or (PIPE if source == PIPE else f"{Path(source).with_suffix('')}_converted.wav")
    if voice == PIPE and source == PIPE:
        raise UsageError("standard input is one recording, not two; give the voice as a file or by its name")
    if target != PIPE:
        check_writable_format(Path(target).suffix, allowed=WRITABLE)
        check_output(target, force)
    console = Console(quiet, json, audio_out=target == PIPE)
    if voice and Path(voice).is_file() and Path(voice).suffix != SUFFIX:
        consent = ask_consent(voice, consent)
    from ..tts.convert import Converter
    from ..tts.remarks import remarks

    converter = Converter(device=device)
    known = converter.voice(next(iter(shipped_voices())) if voice is None else voice, consent=consent)
    for line in remarks(known):
        console.note(f"{known.name}: {line}")
    conversion = Conversion(converter, source, known, seed, console)
    report = conversion.to_pipe() if target == PIPE else conversion.to_file(Path(target), force)
    console.result(report, describe(report))
