"""Audio in and out, in blocks, in constant memory.

In: WAV, FLAC, MP3, OGG, Opus and what else libsndfile knows, 8 to 192 kHz, 1 to 8 channels, from a file or
from standard input. Out: WAV (16-bit or float), FLAC and MP3. Samples are (C, N) float32, nominally in [-1, 1].
"""

from __future__ import annotations

import contextlib
import io
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import numpy as np

from ..errors import InputError, UsageError
from .files import atomic_output, input_errors
from .resample import Resampler
from .wav import UnsupportedWavError, WavReader, WavWriter, to_int16

if TYPE_CHECKING:
    import soundfile

MIN_RATE, MAX_RATE, MAX_CHANNELS = 4_000, 384_000, 8
MAX_LEVEL = 100.0  # 40 dB over full scale: beyond, the samples are not audio on the scale [-1, 1]
SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aiff", ".aif", ".au", ".caf", ".w64", ".rf64")
WRITABLE = (".wav", ".flac", ".mp3")
LOSSY = ("MP3", "OGG")  # formats whose stated length is an estimate


@dataclass(frozen=True)
class AudioInfo:
    """What the header says. n_frames: samples a channel, None if the header does not know (a pipe).
    tags: metadata, text by name, as `open_writer` takes them; of WAV those that come before the samples."""

    sample_rate: int
    channels: int
    n_frames: int | None
    format: str
    subtype: str
    tags: Mapping[str, str] = field(default_factory=dict)


class Samples(Protocol):
    """Samples (N,) of one channel that need not be in memory: an array, or what reads them from a file. Slices are
    arrays (n,) float32."""

    def __len__(self) -> int: ...

    def __getitem__(self, at: slice, /) -> np.ndarray: ...


@dataclass(frozen=True)
class Audio:
    """A recording in memory: samples (C, N) float32 and their rate in Hz."""

    samples: np.ndarray
    sample_rate: int


class AudioReader:
    """A recording read block by block.

    source: a path, "-" for standard input, or an open binary file, which need not seek: WAV is read as it
        arrives, other formats from a temporary copy.
    Raises InputError, one line, for anything that is not audio, is damaged, or holds NaN or infinity.

    >>> with AudioReader("speech.flac") as reader:
    ...     for block in reader.blocks(seconds=5):  # (C, n)
    ...         use(block, reader.info.sample_rate)
    """

    def __init__(self, source: str | Path | BinaryIO):
        self.name, file, path = _open(source)
        self._cleanup = contextlib.ExitStack()
        self._wav: WavReader | None = None
        self._sound: soundfile.SoundFile | None = None
        try:
            if path is not None:
                self._cleanup.callback(file.close)
            with input_errors(self.name):
                self.info = self._read_header(file, path)
            self._check_info()
        except BaseException:
            self.close()
            raise

    def blocks(self, seconds: float = 5.0) -> Iterator[np.ndarray]:
        """The samples in order, in blocks (C, n) of at most `seconds`, shorter while a pipe is slower."""
        size = max(1, int(seconds * self.info.sample_rate))
        n_read = 0
        while True:
            with input_errors(self.name):
                block = self._wav.read(size) if self._wav else self._read_sound(size)
            n = block.shape[1]
            if n == 0:
                break
            bad = ~np.isfinite(block)
            if bad.any():
                at = (n_read + int(bad.any(axis=0).argmax())) / self.info.sample_rate
                raise InputError(
                    f"{self.name} holds NaN or infinity at {at:.3f} s; repair or export it again"
                )
            if np.abs(block).max() > MAX_LEVEL:
                raise InputError(
                    f"{self.name} has samples up to {np.abs(block).max():.3g}; "
                    "float audio lies within -1 to 1, scale it"
                )
            n_read += n
            yield block
        if n_read == 0:
            raise InputError(f"{self.name} holds no samples; expected a recording of at least one")
        promised = self.info.n_frames
        if self._sound and promised and n_read < promised and self.info.format not in LOSSY:
            raise InputError(
                f"{self.name} is truncated: the header promises {promised} samples, {n_read} are there"
            )

    def close(self) -> None:
        self._cleanup.close()

    def __enter__(self) -> AudioReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _read_header(self, file: BinaryIO, path: Path | None) -> AudioInfo:
        stream = _Replay(file)
        if not stream.read(1):
            raise InputError(f"{self.name} is empty")
        stream.rewind()
        head = stream.read(12)
        stream.rewind()
        if head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE":
            try:
                self._wav = WavReader(stream, self.name)  # pyright: ignore[reportArgumentType]
                stream.forget()
                wav = self._wav
                return AudioInfo(wav.sample_rate, wav.channels, wav.n_frames, "WAV", wav.subtype, wav.tags)
            except UnsupportedWavError:
                stream.rewind()
        if path is None:
            path = self._spool(stream)
        import soundfile

        try:
            sound = self._sound = soundfile.SoundFile(str(path))
        except (soundfile.SoundFileError, TypeError) as error:  # TypeError: a name that ends in .raw
            raise InputError(
                f"{self.name} is not audio that can be read; expected WAV, FLAC, MP3, OGG or Opus"
            ) from error
        self._cleanup.callback(sound.close)
        # Otherwise it seeks after every read to where it is, and an MP3 loses what a frame keeps in those before it.
        sound.seekable = lambda: False
        n_frames = sound.frames if 0 <= sound.frames < 1 << 48 else None
        tags = sound.copy_metadata()
        return AudioInfo(sound.samplerate, sound.channels, n_frames, sound.format, sound.subtype, tags)

    def _spool(self, stream: _Replay) -> Path:
        """A copy that can seek, for formats whose readers must."""
        folder = Path(self._cleanup.enter_context(tempfile.TemporaryDirectory(prefix="myna-")))
        copy = folder / "input"
        with open(copy, "wb") as out:
            shutil.copyfileobj(stream, out, 1 << 16)  # pyright: ignore[reportArgumentType]
        return copy

    def _check_info(self) -> None:
        if not MIN_RATE <= self.info.sample_rate <= MAX_RATE:
            raise InputError(
                f"{self.name} has a rate of {self.info.sample_rate} Hz; expected {MIN_RATE} to {MAX_RATE}"
            )
        if not 1 <= self.info.channels <= MAX_CHANNELS:
            raise InputError(
                f"{self.name} has {self.info.channels} channels; expected 1 to {MAX_CHANNELS}: mix it down"
            )

    def _read_sound(self, size: int) -> np.ndarray:
        import soundfile

        assert self._sound is not None
        try:
            return np.ascontiguousarray(self._sound.read(size, dtype="float32", always_2d=True).T)
        except soundfile.SoundFileError as error:
            raise InputError(
                f"{self.name} is damaged: {str(error).rstrip('.').lower()}; export it again"
            ) from error


class AudioWriter(Protocol):
    """What `open_writer` gives: blocks (C, n) in, then `close`, which leaves the file itself open."""

    def write(self, block: np.ndarray) -> None: ...

    def close(self) -> None: ...


def open_writer(
    file: BinaryIO,
    sample_rate: int,
    channels: int,
    *,
    suffix: str = ".wav",
    n_frames: int | None = None,
    float32: bool = False,
    tags: Mapping[str, str] | None = None,
) -> AudioWriter:
    """Write WAV, FLAC or MP3, by `suffix`, into an open file; WAV also into a pipe.

    n_frames: the length where it is known, for the header of a pipe. float32: WAV only; otherwise 16-bit.
    tags: metadata, text by name: title, artist, comment, software, copyright, date.
    Raises UsageError for another suffix or an impossible combination.
    """
    check_writable_format(suffix, float32, WRITABLE)
    if suffix.lower() == ".wav":
        return WavWriter(file, sample_rate, channels, n_frames, float32, tags)
    return SoundWriter(file, sample_rate, channels, suffix.lower(), tags)


def check_writable_format(
    suffix: str, float32: bool = False, allowed: tuple[str, ...] = (".wav", ".flac")
) -> None:
    """Raises UsageError unless `suffix` is one of those `allowed`."""
    if suffix.lower() not in allowed:
        names = f"{', '.join(allowed[:-1])} or {allowed[-1]}"
        raise UsageError(f"cannot write {suffix or 'a file without a suffix'}; name the output {names}")
    if suffix.lower() != ".wav" and float32:
        kind = suffix[1:].upper()
        raise UsageError(f"{kind} holds integers only; leave --float out, or name the output .wav")


class SoundWriter:
    """16-bit FLAC, or MP3 (at libsndfile's default quality), through libsndfile, into a file that can seek.

    Raises UsageError for a rate or a number of channels that the format does not have.
    """

    def __init__(
        self,
        file: BinaryIO,
        sample_rate: int,
        channels: int,
        suffix: str = ".flac",
        tags: Mapping[str, str] | None = None,
    ):
        import soundfile

        kind, subtype = {".flac": ("FLAC", "PCM_16"), ".mp3": ("MP3", "MPEG_LAYER_III")}[suffix]
        self._guard = _Guard(file)
        try:
            with self._guard:
                self._sound = soundfile.SoundFile(
                    self._guard,  # pyright: ignore[reportArgumentType]
                    "w",
                    samplerate=sample_rate,
                    channels=channels,
                    format=kind,
                    subtype=subtype,
                )
                for name, text in (tags or {}).items():
                    setattr(self._sound, name, text)
        except (soundfile.SoundFileError, ValueError) as error:
            raise UsageError(
                f"{kind} cannot hold {channels} channel(s) at {sample_rate} Hz; name the output .wav"
            ) from error

    def write(self, block: np.ndarray) -> None:
        with self._guard:
            self._sound.write(np.ascontiguousarray(to_int16(block).T))

    def close(self) -> None:
        with self._guard:
            self._sound.close()
        self._guard.file.flush()


def read_audio(
    source: str | Path | BinaryIO,
    sample_rate: int | None = None,
    mono: bool = False,
    most: int | None = None,
) -> Audio:
    """A whole recording, resampled to `sample_rate` Hz if given, its channels averaged if `mono`.

    most: at most so many samples (a channel) of its beginning; what is behind them is not even read.
    Raises InputError as AudioReader does.
    """
    with AudioReader(source) as reader:
        rate = reader.info.sample_rate
        channels = 1 if mono else reader.info.channels
        resampler = Resampler(rate, sample_rate or rate, channels)
        blocks, n = [], 0
        for block in reader.blocks():
            blocks.append(resampler.push(block.mean(axis=0, keepdims=True) if mono else block))
            n += blocks[-1].shape[1]
            if most is not None and n >= most:
                return Audio(np.concatenate(blocks, axis=1)[:, :most], resampler.rate_out)
    blocks.append(resampler.flush())
    return Audio(np.concatenate(blocks, axis=1)[:, :most], resampler.rate_out)


def write_audio(
    path: str | Path,
    samples: np.ndarray,
    sample_rate: int,
    force: bool = False,
    float32: bool = False,
    tags: Mapping[str, str] | None = None,
) -> None:
    """Write (C, N) or (N,) samples as WAV, FLAC or MP3, by the suffix of `path`. tags: as in `open_writer`.

    Raises UsageError if the file exists without `force` or the suffix is another, OutputError if it cannot be
    written.
    """
    samples = np.atleast_2d(np.asarray(samples))
    suffix = Path(path).suffix
    check_writable_format(suffix, float32, WRITABLE)
    with atomic_output(path, force) as file:
        writer = open_writer(
            file,
            sample_rate,
            len(samples),
            suffix=suffix,
            n_frames=samples.shape[1],
            float32=float32,
            tags=tags,
        )
        writer.write(samples)
        writer.close()


def _open(source: str | Path | BinaryIO) -> tuple[str, BinaryIO, Path | None]:
    """The name for messages, the open file, and the path if there is one to open again."""
    if isinstance(source, (str, Path)) and str(source) != "-":
        with input_errors(source):
            file = open(source, "rb")  # noqa: SIM115 (closed by the reader)
        path = Path(source)
        return str(source), file, path if path.is_file() else None
    if isinstance(source, (str, Path)):
        return "standard input", sys.stdin.buffer, None
    return str(getattr(source, "name", "the input")), source, None


class _Replay:
    """A stream that can be rewound to where it began, as long as nobody said `forget`."""

    def __init__(self, file: BinaryIO):
        self._file, self._seen, self._ahead = file, io.BytesIO(), b""
        self._recording = True

    def read(self, n: int = -1) -> bytes:
        if n < 0:
            n = sys.maxsize
        data = self._ahead[:n]
        self._ahead = self._ahead[len(data) :]
        while len(data) < n:
            more = self._file.read(min(n - len(data), 1 << 20))
            if not more:
                break
            data += more
        return self._note(data)

    def read1(self, n: int) -> bytes:
        """What is there, at least one byte unless the stream is over."""
        if self._ahead:
            return self.read(min(n, len(self._ahead)))
        read_some = getattr(self._file, "read1", self._file.read)
        return self._note(read_some(n))

    def rewind(self) -> None:
        self._ahead = self._seen.getvalue() + self._ahead
        self._seen = io.BytesIO()

    def forget(self) -> None:
        """Stop recording: memory stays constant from here on."""
        self._recording, self._seen = False, io.BytesIO()

    def _note(self, data: bytes) -> bytes:
        if self._recording:
            self._seen.write(data)
        return data


class _Guard:
    """A file between libsndfile and the disk, which keeps the exception that C cannot carry.

    libsndfile calls `write` from C; an exception there would be printed as a traceback and lost. It is kept
    and raised by the `with` block around the call.
    """

    def __init__(self, file: BinaryIO):
        self.file, self._error = file, None
        self.tell, self.read = file.tell, file.read

    def write(self, data: bytes) -> int:
        if self._error is not None:
            return 0
        try:
            return self.file.write(data)
        except OSError as error:
            self._error = error
            return 0

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return self.file.seek(offset, whence)
        except OSError as error:
            self._error = self._error or error
            return -1

    def __enter__(self) -> _Guard:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> None:
        if self._error is not None and not isinstance(error, KeyboardInterrupt):
            raise self._error
