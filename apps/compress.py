"""`myna compress`: a recording, or a folder of them, to a few kilobits a second."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import typer

from ..data.files import atomic_output, check_output, input_errors
from ..errors import InputError, UsageError
from .batch import run_jobs
from .console import Console, Progress, data_to_stdout, size
from .options import (
    COMPRESSED,
    PIPE,
    Job,
    check_precision,
    jobs_in,
    language_model,
    parse_bitrate,
    parse_size,
)

if TYPE_CHECKING:
    from ..codec import Codec
    from ..codec.pipeline import Compressed
    from ..data.audio import AudioReader


LONGEST_PACKET = 30.0  # seconds: a reader holds a packet in memory


@dataclass(frozen=True)
class CompressOptions:
    """The options of the command.

    model: name or checkpoint.   bitrate: bits a second, at most.   target_size: bytes, at most.
    lm: entropy-code `.ecdc` with EnCodec's language model, the file `lm_model` if it is given.
    packet: seconds of a packet of `.myna`; None: a pipe's is a second, so that it plays soon, a file's five.
    precision: of the encoder's products, see `kernels.precision`.
    """

    model: str
    bitrate: float | None = None
    target_size: int | None = None
    lm: bool = False
    lm_model: str | None = None
    force: bool = False
    device: str = "cpu"
    packet: float | None = None
    precision: str = "auto"


@dataclass(frozen=True)
class CompressReport:
    """What one file became; bitrate in bits a second of the bytes written, elapsed in seconds."""

    input: str
    output: str
    model: str
    sample_rate: int
    channels: int
    n_samples: int
    seconds: float
    n_codebooks: int
    bytes: int
    bitrate: float
    elapsed: float
    precision: str | None  # of the encoder's products; None where nothing was encoded


class Compressor:
    """Compresses one file after another; the model is loaded when the first needs it."""

    def __init__(self, options: CompressOptions, console: Console):
        self.options, self.console = options, console
        self._codec: Codec | None = None
        self._precision = "float32"

    @property
    def codec(self) -> Codec:
        if self._codec is None:
            from ..codec.precision import set_precision
            from ..codec.registry import load_codec

            self._codec = load_codec(self.options.model, self.options.device)
            self._precision = set_precision(self._codec, self.options.precision).encoder
            if self._precision != "float32":
                self.console.note(f"in {self._precision} some codes differ from those of float32")
        return self._codec

    def job(self, job: Job) -> tuple[CompressReport, str]:
        """Compress a file to a file; the facts, and a line about them."""
        report = self.to_file(str(job.source), job.target)
        return report, describe(report)

    def to_file(self, source: str, target: Path) -> CompressReport:
        check_kind(target.suffix, self.options)
        check_output(target, self.options.force)
        with atomic_output(target, self.options.force) as file:
            return self.to_open_file(source, str(target), file, target.suffix.lower())

    def to_open_file(self, source: str, target: str, file: BinaryIO, kind: str) -> CompressReport:
        if Path(source).suffix.lower() == ".myna":
            if kind != ".myna":
                raise UsageError(
                    f"{source} is compressed already; it can become a smaller .myna, not a {kind}"
                )
            return self._cut(source, target, file)
        from ..data.audio import AudioReader

        with self.console.progress(f"compressing {Path(source).name}") as progress:
            if kind != ".myna":
                return self._interchange(source, target, file, kind, progress)
            with AudioReader(source) as reader:
                return self._encode(reader, source, target, file, progress)

    def _encode(
        self, reader: AudioReader, source: str, target: str, file: BinaryIO, progress: Progress | None
    ) -> CompressReport:
        from ..codec import pipeline

        options, codec = self.options, self.codec
        k = codec.codebooks_for(options.bitrate)
        packet = options.packet
        if packet is None and target != PIPE:
            packet = pipeline.FILE_PACKET_SECONDS
        synthetic = pipeline.says_synthetic(None if source == PIPE else source, reader)
        if options.target_size is None:
            made = pipeline.compress(reader, file, codec, k, progress, packet, synthetic)
        else:
            counted = Counted(file)
            with tempfile.TemporaryFile() as whole:
                made = pipeline.compress(reader, whole, codec, k, progress, packet, synthetic)
                k = pipeline.shrink(whole, counted, options.target_size).n_codebooks  # pyright: ignore
            made = replace(made, n_bytes=counted.n_bytes, n_codebooks=k)
        return _report(source, target, codec, made, self._precision)

    def _interchange(
        self, source: str, target: str, file: BinaryIO, kind: str, progress: Progress | None
    ) -> CompressReport:
        """A file for EnCodec's or DAC's own program."""
        from ..codec.interchange import compress_to_dac, compress_to_ecdc
        from ..data.audio import AudioReader

        codec = self.codec
        k = codec.codebooks_for(self.options.bitrate)
        with contextlib.ExitStack() as stack:
            path = source
            if source == PIPE:  # to be read twice
                copy = stack.enter_context(tempfile.NamedTemporaryFile(prefix="myna-"))
                shutil.copyfileobj(sys.stdin.buffer, copy)
                copy.flush()
                path = copy.name

            def reader() -> AudioReader:
                return AudioReader(path)

            if kind == ".ecdc":
                lm = language_model(codec.name, self.options.lm_model) if self.options.lm else None
                made = compress_to_ecdc(reader, file, codec, k, lm, progress)
            else:
                made = compress_to_dac(reader, file, codec, k, progress)
        return _report(source, target, codec, made, self._precision)

    def _cut(self, source: str, target: str, file: BinaryIO) -> CompressReport:
        """A lower bitrate out of a `.myna` file, without decoding it."""
        from ..codec import pipeline
        from ..codec.formats import cut, open_compressed

        options, began = self.options, time.perf_counter()
        if options.bitrate is None and options.target_size is None:
            raise UsageError(
                f"{source} is compressed already; give --bitrate or --target-size to make it smaller"
            )
        with input_errors(source):
            opened = open(source, "rb")  # noqa: SIM115 (closed by the next line)
        with opened:
            info = open_compressed(opened).info
            if info.format != "myna":
                raise InputError(f"{source} is not a .myna file; only those can be made smaller")
            k = info.n_codebooks
            if options.bitrate is not None:
                per_codebook = (info.codebook_size - 1).bit_length() * float(info.frame_rate or 1)
                k = min(k, int(options.bitrate / per_codebook * (1 + 1e-9)))
                if k == 0:
                    raise UsageError(f"the lowest bitrate of {source} is {per_codebook / 1000:g} kbps")
            opened.seek(0)
            counted = Counted(file)
            if options.target_size is None:
                damage = cut(opened, counted, k)  # pyright: ignore[reportArgumentType]
            else:
                shrunk = pipeline.shrink(opened, counted, options.target_size, k)  # pyright: ignore
                k, damage = shrunk.n_codebooks, shrunk.damage
            for part in damage:
                self.console.note(f"{source} is damaged: {part}")
        seconds = info.duration or 0.0
        return CompressReport(
            input=source,
            output=target,
            model=info.model or "",
            sample_rate=info.original_sample_rate,
            channels=info.channels,
            n_samples=info.n_samples or 0,
            seconds=seconds,
            n_codebooks=k,
            bytes=counted.n_bytes,
            bitrate=8 * counted.n_bytes / seconds if seconds else 0.0,
            elapsed=time.perf_counter() - began,
            precision=None,
        )


def _report(source: str, target: str, codec: Codec, made: Compressed, precision: str) -> CompressReport:
    return CompressReport(
        input=source,
        output=target,
        model=codec.name,
        sample_rate=made.sample_rate,
        channels=made.channels,
        n_samples=made.n_samples,
        seconds=made.seconds,
        n_codebooks=made.n_codebooks,
        bytes=made.n_bytes,
        bitrate=made.bitrate,
        elapsed=made.elapsed,
        precision=precision,
    )


class Counted:
    """An output that counts its bytes: a pipe cannot tell where it is."""

    def __init__(self, file: BinaryIO):
        self.file, self.n_bytes = file, 0

    def write(self, data: bytes) -> int:
        self.n_bytes += len(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def check_kind(suffix: str, options: CompressOptions) -> None:
    """Refuse what a format cannot do. Raises UsageError."""
    kind = suffix.lower()
    if kind not in COMPRESSED:
        raise UsageError(
            f"cannot write {suffix or 'a name without a suffix'}; name the output .myna, .ecdc or .dac"
        )
    if kind != ".myna" and options.target_size is not None:
        raise UsageError(f"--target-size works with .myna, not with {kind}; use --bitrate")
    if kind != ".myna" and options.packet is not None:
        raise UsageError(f"--packet works with .myna, not with {kind}")
    if options.packet is not None and not 0.1 <= options.packet <= LONGEST_PACKET:
        raise UsageError(f"--packet {options.packet:g} is outside 0.1 to {LONGEST_PACKET:g} seconds")
    if kind != ".ecdc" and options.lm:
        raise UsageError(
            "--lm belongs to .ecdc; name the output .ecdc, or leave --lm out (.myna has its own)"
        )


def describe(report: CompressReport) -> str:
    """One line for people."""
    line = (
        f"{report.output}: {report.seconds:.2f} s in {size(report.bytes)}, {report.bitrate / 1000:.2f} kbps "
        f"({report.n_codebooks} codebooks of {report.model})"
    )
    return f"{line}, {report.seconds / report.elapsed:.0f}x real time" if report.elapsed else line


def command(
    source: str = typer.Argument(..., metavar="IN", help="A recording, a folder of them, a .myna file, or -"),
    output: str | None = typer.Argument(
        None, metavar="[OUT]", help="Default: the input's name with .myna; - for stdout"
    ),
    model: str = typer.Option(
        None, help="A name of `myna models list`, or a checkpoint.  [default: by format]"
    ),
    bitrate: str | None = typer.Option(
        None, help="At most this many kbps before entropy coding (a channel)."
    ),
    target_size: str | None = typer.Option(None, help="At most this many bytes: 20000, 20k, 1.5M."),
    lm: bool = typer.Option(False, "--lm", help="Entropy-code .ecdc with EnCodec's language model (slow)."),
    lm_model: str | None = typer.Option(
        None, help="The language model's .th or checkpoint; implies --lm.  [default: the downloaded one]"
    ),
    packet: float | None = typer.Option(
        None,
        help="Seconds of a packet of .myna: what damage costs; longer, smaller.  [default: 5, to a pipe 1]",
    ),
    precision: str = typer.Option(
        "auto", help="auto (float32), or bf16, int8 (CPU): faster where the processor has them, other codes."
    ),
    force: bool = typer.Option(False, "--force", "-f", help="Overwrite the output."),
    json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
    quiet: bool = typer.Option(False, "--quiet", "-q", help="No progress, no result line."),
    device: str = typer.Option("cpu", help="cpu, cuda, cuda:1, ..."),
) -> None:
    """Compress a recording (WAV, FLAC, MP3, OGG, Opus) or a folder of them.

    The format follows the output's suffix: .myna, .ecdc (EnCodec), .dac (DAC). A .myna input is
    cut to a lower --bitrate or --target-size without encoding again.
    """
    output = output or (PIPE if source == PIPE else None)
    console = Console(quiet, json, audio_out=output == PIPE)
    check_precision(precision, device)
    kind = Path(output).suffix.lower() if output and output != PIPE else ".myna"
    defaults = {".ecdc": "encodec-24k", ".dac": "dac-44k"}
    options = CompressOptions(
        model or defaults.get(kind, "myna-24k-v2"),
        parse_bitrate(bitrate),
        parse_size(target_size),
        lm or lm_model is not None,
        lm_model,
        force,
        device,
        packet,
        precision,
    )
    compressor = Compressor(options, console)
    if output == PIPE:
        check_kind(".myna", options)
        with data_to_stdout():
            report = compressor.to_open_file(source, PIPE, sys.stdout.buffer, ".myna")
        console.result(report, describe(report))
    elif Path(source).is_dir():
        from ..data.audio import SUFFIXES

        inputs = (*SUFFIXES, ".myna") if options.bitrate or options.target_size else SUFFIXES
        folder = Path(output) if output else None
        run_jobs(jobs_in(Path(source), folder, inputs, "{}.myna", console.note), compressor.job, console)
    else:
        target = Path(output) if output else Path(source).with_suffix(".myna")
        if source != PIPE and target == Path(source):
            raise UsageError(f"{source} is a .myna file; give the name of the smaller one as well")
        report = compressor.to_file(source, target)
        console.result(report, describe(report))
