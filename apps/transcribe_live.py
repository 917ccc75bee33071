"""`myna transcribe --live`: samples from standard input or the microphone, words as they settle."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np

from ..errors import InputError, MissingModelError, UsageError
from .console import Console, data_to_stdout
from .options import PIPE

if TYPE_CHECKING:
    from ..asr.live import LiveUpdate
    from ..asr.transcribe import TranscribeOptions
    from ..asr.transcriber import Transcriber

RATE = 16_000  # of the model
_BLOCK = 0.25  # seconds
_WAITING = 240  # blocks that may wait for the model: a minute, then whoever sends has to wait
RAW_FORMATS = {"s16le": np.dtype("<i2"), "f32le": np.dtype("<f4")}  # by ffmpeg's names
_NOT_RAW = (b"fLaC", b"OggS", b"ID3\3", b"ID3\4")


class Buffer:
    """Blocks (n,) between a thread that receives them and the model: nothing is lost while the model is busy."""

    def __init__(self) -> None:
        self._queue: queue.Queue[np.ndarray | BaseException | None] = queue.Queue(_WAITING)
        self._over = False

    def put(self, block: np.ndarray | BaseException | None) -> None:
        """A block; None at the end, or what went wrong. Waits while the buffer is full."""
        self._queue.put(block)

    def offer(self, block: np.ndarray) -> None:
        """A block of someone who cannot wait: when the buffer is full it is lost."""
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(block)

    def __iter__(self) -> Iterator[np.ndarray]:
        """All that waits, as one block. Raises what was put."""
        while not self._over:
            yield self._take()

    def _take(self) -> np.ndarray:
        blocks: list[np.ndarray] = []
        while not self._over and (not blocks or not self._queue.empty()):
            block = self._queue.get()
            if isinstance(block, BaseException):
                raise block
            if block is None:
                self._over = True
            else:
                blocks.append(block)
        return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)


class Descriptor:
    """Standard input without Python's lock around it, which a thread that waits would hold at exit."""

    def __init__(self, number: int):
        self.name = "standard input"
        self._number, self._ahead = number, b""

    def peek(self, n: int) -> bytes:
        """The first n bytes, or all if there are fewer; they are read again."""
        while len(self._ahead) < n and (more := os.read(self._number, n - len(self._ahead))):
            self._ahead += more
        return self._ahead[:n]

    def read1(self, n: int) -> bytes:
        """What is there, at least one byte unless it is over."""
        if self._ahead:
            data, self._ahead = self._ahead[:n], self._ahead[n:]
            return data
        return os.read(self._number, n)

    def read(self, n: int) -> bytes:
        parts: list[bytes] = []
        while n > 0 and (part := self.read1(n)):
            parts.append(part)
            n -= len(part)
        return b"".join(parts)


def transcribe_live(
    files: list[str],
    load: Callable[[], Transcriber],
    options: TranscribeOptions,
    console: Console,
    rate: int = RATE,
    raw_format: str = "s16le",
) -> None:
    """Listen until the input ends, or Ctrl-C, and print words as they settle; with --json a line for every change.

    rate, raw_format: of raw samples, in Hz, a name of RAW_FORMATS. Raises UsageError, InputError, MissingModelError.
    """
    from ..asr.live import LiveTranscriber
    from ..data.audio import MAX_RATE, MIN_RATE

    if files not in ([], [PIPE]):
        raise UsageError(
            "--live listens to standard input (-) or to the microphone; leave the files out, or --live"
        )
    if not MIN_RATE <= rate <= MAX_RATE:
        raise UsageError(f"--live-rate {rate}: expected {MIN_RATE} to {MAX_RATE} samples a second")
    if raw_format not in RAW_FORMATS:
        raise UsageError(f"--live-format {raw_format}: expected {' or '.join(RAW_FORMATS)}")
    from_microphone = not files and sys.stdin.isatty()
    with microphone() if from_microphone else standard_input(rate, raw_format) as blocks:
        transcriber = load()
        live = LiveTranscriber(transcriber.model, transcriber.options(options))
        if not console.quiet:
            source = "the microphone; Ctrl-C ends it" if from_microphone else "standard input"
            console.note(f"listening to {source}; words appear about {live.delay:.0f} s after they are said")
        printer = _Printer(console)
        with contextlib.suppress(KeyboardInterrupt):
            for block in blocks:
                printer.show(live.push(block, catch_up=True))
        printer.show(live.flush())
        printer.close()


class _Printer:
    """Settled words to standard output: a line for a sentence, or JSON for every change."""

    def __init__(self, console: Console):
        self._json, self._tentative, self._in_line = console.json, "", False

    def show(self, update: LiveUpdate) -> None:
        if self._json:
            if update.words or update.tentative != self._tentative:
                content = {"stable": update.stable, **asdict(update)}
                self._write(json.dumps(content, ensure_ascii=False) + "\n")
            self._tentative = update.tentative
            return
        for word in update.words:
            text = word.word if self._in_line else word.word.lstrip()
            self._in_line = not text.endswith((".", "?", "!", "。", "？", "！"))
            self._write(text if self._in_line else f"{text}\n")

    def close(self) -> None:
        if self._in_line:
            self._write("\n")

    def _write(self, text: str) -> None:
        with data_to_stdout():
            sys.stdout.buffer.write(text.encode())


@contextlib.contextmanager
def standard_input(rate: int, raw_format: str = "s16le") -> Iterator[Buffer]:
    """Blocks of what is sent: WAV by its header, anything else as mono samples of `raw_format` at `rate` Hz."""
    buffer = Buffer()
    source = Descriptor(sys.stdin.fileno())

    def receive() -> None:
        try:
            for block in _blocks(source, rate, raw_format):
                buffer.put(block)
            buffer.put(None)
        except Exception as error:
            buffer.put(error)

    threading.Thread(target=receive, daemon=True).start()
    yield buffer


@contextlib.contextmanager
def microphone() -> Iterator[Buffer]:
    """Blocks of what is heard. Raises MissingModelError without the package sounddevice, UsageError without a
    microphone."""
    try:
        import sounddevice  # pyright: ignore[reportMissingImports]
    except (ImportError, OSError):  # OSError: the package without its library
        raise MissingModelError(
            "the microphone needs the package sounddevice (and PortAudio): pip install sounddevice; or pipe: "
            "arecord -f S16_LE -r 16000 | myna transcribe --live -"
        ) from None
    buffer = Buffer()

    def receive(block: np.ndarray, *_: Any) -> None:
        buffer.offer(block[:, 0].copy())

    try:
        stream = sounddevice.InputStream(
            RATE, int(_BLOCK * RATE), channels=1, dtype="float32", callback=receive
        )
    except sounddevice.PortAudioError as error:
        raise UsageError(
            f"there is no microphone to listen to ({error}); pipe samples: myna transcribe --live -"
        ) from None
    with stream:
        yield buffer


def _blocks(source: Descriptor, rate: int, raw_format: str) -> Iterator[np.ndarray]:
    """Blocks (n,) float32 at 16 kHz. Raises InputError."""
    from ..data.audio import AudioReader
    from ..data.resample import Resampler

    head = source.peek(4)
    if head in _NOT_RAW:
        raise InputError(
            "standard input is compressed audio; --live reads raw samples or WAV, such as of arecord"
        )
    if head == b"RIFF":
        with AudioReader(cast(BinaryIO, source)) as reader:
            resampler = Resampler(reader.info.sample_rate, RATE, 1)
            for block in reader.blocks(_BLOCK):
                yield resampler.push(block.mean(axis=0, keepdims=True))[0]
    else:
        resampler = Resampler(rate, RATE, 1)
        width = RAW_FORMATS[raw_format].itemsize
        rest = b""
        while data := source.read1(width * int(_BLOCK * rate)):
            data = rest + data
            whole = len(data) // width * width
            rest = data[whole:]
            yield resampler.push(_samples(data[:whole], raw_format)[None])[0]
    yield resampler.flush()[0]


def _samples(data: bytes, raw_format: str) -> np.ndarray:
    """(n,) float32 of the bytes of n samples. Raises InputError."""
    samples = np.frombuffer(data, RAW_FORMATS[raw_format])
    if samples.dtype.kind == "i":
        return samples.astype(np.float32) / 32768
    if not np.isfinite(samples).all():  # what 16-bit samples near silence look like as floats
        raise InputError(
            "standard input is not f32le audio: there is NaN or infinity in it; leave --live-format out if it is "
            "16-bit, or send WAV"
        )
    return samples
