"""`myna decompress`: `.myna`, `.ecdc` and `.dac` back to a recording."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import typer

from ..data.files import atomic_output, check_output, input_errors
from ..errors import UsageError
from .batch import run_jobs
from .console import Console, data_to_stdout
from .options import COMPRESSED, PIPE, Job, check_precision, check_seconds, jobs_in, language_model

if TYPE_CHECKING:
    from ..codec import Codec
    from ..codec.encodec_lm import EncodecLM
    from ..codec.formats import CompressedFile
    from ..data.audio import AudioWriter


@dataclass(frozen=True)
class DecompressOptions:
    """The options of the command.

    model: name or checkpoint, None for what the file says.   start, duration: seconds.   float32: WAV only.
    lm_model: file of EnCodec's language model, None for the downloaded one.   precision: of the decoder's products, see
    `kernels.precision`.   voice: name or file of one that has learned the codec, None for the codec as it is.
    """

    model: str | None = None
    start: float = 0.0
    duration: float | None = None
    float32: bool = False
    lm_model: str | None = None
    force: bool = False
    device: str = "cpu"
    precision: str = "auto"
    voice: str | None = None


@dataclass(frozen=True)
class DecompressReport:
    """What one file became. clipped: samples clamped to full scale. damage: what was lost, a line each."""

    input: str
    output: str
    model: str
    sample_rate: int
    channels: int
    n_samples: int
    seconds: float
    clipped: int
    damage: tuple[str, ...]
    elapsed: float
    precision: str  # of the decoder's products


class Decompressor:
    """Decompresses one file after another; models stay loaded."""

    def __init__(self, options: DecompressOptions, console: Console):
        self.options, self.console = options, console
        self._codecs: dict[tuple[str | None, str], tuple[Codec, str]] = {}  # and the precision of its decoder
        self._precision = "float32"
        self._language_models: dict[str, EncodecLM] = {}

    def job(self, job: Job) -> tuple[DecompressReport, str]:
        """Decompress a file to a file; the facts, and a line about them."""
        report = self.to_file(str(job.source), job.target)
        return report, describe(report)

    def to_file(self, source: str, target: Path) -> DecompressReport:
        from ..data.audio import check_writable_format

        check_writable_format(target.suffix, self.options.float32)
        check_output(target, self.options.force)
        with input_errors(source):
            opened = sys.stdin.buffer if source == PIPE else open(source, "rb")  # noqa: SIM115 (closed below)
        try:
            compressed, codec = self._open(opened)
            with atomic_output(target, self.options.force) as file:
                return self._decode(compressed, codec, source, str(target), file, target.suffix)
        finally:
            if source != PIPE:
                opened.close()

    def to_pipe(self, source: str) -> DecompressReport:
        """WAV to standard output, each block as soon as it is decoded."""
        with input_errors(source):
            opened = sys.stdin.buffer if source == PIPE else open(source, "rb")  # noqa: SIM115 (closed below)
        try:
            compressed, codec = self._open(opened)
            with data_to_stdout():
                return self._decode(compressed, codec, source, PIPE, sys.stdout.buffer, ".wav", live=True)
        finally:
            if source != PIPE:
                opened.close()

    def _open(self, opened: BinaryIO) -> tuple[CompressedFile, Codec]:
        from ..codec.formats import open_compressed
        from ..codec.precision import set_precision
        from ..codec.registry import codec_for
        from ..tts.voices.codec_decoder import codec_of_voice, kept_voice

        options = self.options
        compressed = open_compressed(opened, self._language_model)
        info = compressed.info
        key = (info.model, f"{info.weights_hash} {info.n_codebooks} {info.codebook_size} {info.sample_rate}")
        if key not in self._codecs:
            codec = codec_for(info, options.model, options.device, self.console.note)
            if options.voice is not None:
                codec = codec_of_voice(codec, kept_voice(options.voice))
            self._codecs[key] = codec, set_precision(codec, options.precision).decoder
        codec, self._precision = self._codecs[key]
        return compressed, codec

    def _language_model(self, codec: str) -> EncodecLM:
        if codec not in self._language_models:
            self._language_models[codec] = language_model(codec, self.options.lm_model)
        return self._language_models[codec]

    def _decode(
        self,
        compressed: CompressedFile,
        codec: Codec,
        source: str,
        target: str,
        file: BinaryIO,
        suffix: str,
        live: bool = False,
    ) -> DecompressReport:
        from ..codec import pipeline
        from ..data.audio import open_writer
        from ..marks.tags import synthetic_tags

        options, info = self.options, compressed.info

        def writer(n_samples: int | None) -> AudioWriter:
            return open_writer(
                file,
                info.original_sample_rate,
                info.channels,
                suffix=suffix,
                n_frames=n_samples,
                float32=options.float32,
                tags=synthetic_tags() if info.synthetic else None,
            )

        with self.console.progress(f"decompressing {Path(source).name}") as progress:
            made = pipeline.decompress(
                compressed,
                writer,
                codec,
                options.start,
                options.duration,
                progress,
                file.flush if live else None,
            )
        for damage in made.damage:
            self.console.note(f"{_name(source)} is damaged: {damage}")
        if made.clipped and not options.float32:
            self.console.note(
                f"{_name(target)}: {made.clipped} samples beyond full scale were clamped; --float keeps them"
            )
        return DecompressReport(
            input=source,
            output=target,
            model=codec.name,
            sample_rate=made.sample_rate,
            channels=made.channels,
            n_samples=made.n_samples,
            seconds=made.seconds,
            clipped=made.clipped,
            damage=made.damage,
            elapsed=made.elapsed,
            precision=self._precision,
        )


def _name(path: str) -> str:
    return "the stream" if path == PIPE else path


def describe(report: DecompressReport) -> str:
    """One line for people."""
    line = f"{report.output}: {report.seconds:.2f} s, {report.sample_rate} Hz, {report.channels} channel(s)"
    return f"{line}, {report.seconds / report.elapsed:.0f}x real time" if report.elapsed else line


def command(
    source: str = typer.Argument(
        ..., metavar="IN", help="A .myna, .ecdc or .dac file, a folder of them, or -"
    ),
    output: str | None = typer.Argument(
        None,
        metavar="[OUT]",
        help="A .wav or .flac.  Default: the input's name with _decompressed.wav; - for stdout",
    ),
    model: str | None = typer.Option(
        None, help="A name of `myna models list`, or a checkpoint.  [default: as the file says]"
    ),
    voice: str | None = typer.Option(
        None,
        help="The person who speaks: a voice that has learned the codec by `myna voices adapt NAME ... --codec`.",
    ),
    lm_model: str | None = typer.Option(
        None,
        help="The .th or checkpoint of EnCodec's language model, for .ecdc.  [default: the downloaded one]",
    ),
    start: float = typer.Option(0.0, help="Begin at this second."),
    duration: float | None = typer.Option(None, help="Give at most this many seconds."),
    suffix: str = typer.Option("wav", "--format", help="wav or flac, where no output is named."),
    float32: bool = typer.Option(False, "--float", help="Write 32-bit float instead of 16-bit."),
    precision: str = typer.Option(
        "auto", help="auto, float32, bf16 (within -50 dB of it), int8 (rough): of the decoder, on a CPU."
    ),
    force: bool = typer.Option(False, "--force", "-f", help="Overwrite the output."),
    json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
    quiet: bool = typer.Option(False, "--quiet", "-q", help="No progress, no result line."),
    device: str = typer.Option("cpu", help="cpu, cuda, cuda:1, ..."),
) -> None:
    """Decompress a file to WAV or FLAC, at its original rate, channels and length.

    Damaged parts are concealed and reported. With - the sound plays while it arrives:
    myna decompress - < speech.myna | aplay
    """
    from ..data.audio import check_writable_format

    output = output or (PIPE if source == PIPE else None)
    console = Console(quiet, json, audio_out=output == PIPE)
    check_precision(precision, device)
    check_seconds("--start", start)
    check_seconds("--duration", duration)
    suffix = "." + suffix.lower().lstrip(".")
    check_writable_format(suffix, float32)
    worker = Decompressor(
        DecompressOptions(model, start, duration, float32, lm_model, force, device, precision, voice), console
    )
    if output == PIPE:
        if suffix != ".wav":
            raise UsageError("standard output takes WAV only; name a file for FLAC")
        report = worker.to_pipe(source)
        console.result(report, describe(report))
    elif Path(source).is_dir():
        folder = Path(output) if output else None
        pattern = "{}" + suffix if folder else "{}_decompressed" + suffix
        run_jobs(jobs_in(Path(source), folder, COMPRESSED, pattern), worker.job, console)
    else:
        path = Path(source)
        report = worker.to_file(
            source, Path(output) if output else path.with_name(f"{path.stem}_decompressed{suffix}")
        )
        console.result(report, describe(report))
