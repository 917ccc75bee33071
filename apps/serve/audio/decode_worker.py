"""The process that decodes what strangers send: with bounds on its memory and on its time of the processor, and nothing
of the server's within reach.

    python -m myna.apps.serve.audio.decode_worker MEGABYTES SECONDS

Standard input: of each job a line of JSON {"size": bytes, "rate": Hz or null, "raw": Hz or null, "seconds": at most}
and then the file's bytes; raw: they are samples of 16 bits at this rate. Standard output: a line {"rate": Hz}, of each
block of samples a line {"n": samples} and these as float32, then {"n": 0}; instead of any of these lines {"error": a
sentence}, which is the last one. It ends with its standard input, and by SIGPROF over a job that takes more SECONDS of
the processor.
"""

from __future__ import annotations

import io
import json
import signal
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

if TYPE_CHECKING:
    from ....data.audio import AudioReader

BLOCK = 1 << 18  # samples that are handed over at once, a megabyte


def main() -> None:
    limit_memory(int(sys.argv[1]) << 20)
    seconds = float(sys.argv[2])
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    while line := source.readline():
        job = json.loads(line)
        data = source.read(job["size"])
        if len(data) < job["size"]:
            return
        limit_processor(seconds)
        try:
            rate, blocks = decoded(data, job)
            _write(sink, {"rate": rate})
            for block in blocks:
                _write(sink, {"n": len(block)}, block)
            _write(sink, {"n": 0})
        except MemoryError:
            _write(sink, {"error": "the recording takes too much memory"})
        except Exception as error:
            _write(sink, {"error": " ".join(str(error).split())})
        limit_processor(0)
        del data
        sink.flush()


def _write(sink: BinaryIO, line: dict[str, Any], samples: np.ndarray | None = None) -> None:
    sink.write(json.dumps(line).encode() + b"\n")
    if samples is not None:
        sink.write(samples.tobytes())


def limit_memory(n_bytes: int) -> None:
    """Beyond it, allocations fail. Nothing happens where the system has no such limit."""
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_AS, (n_bytes, n_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def limit_processor(seconds: float) -> None:
    """After so many of them the system ends the process, wherever it is; 0: never. Nothing happens where it cannot."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)


def decoded(data: bytes, job: dict[str, Any]) -> tuple[int, Iterator[np.ndarray]]:
    """The rate of the samples, and these (n,) float32, at most `BLOCK` at a time. Raises InputError for what is no
    audio, or longer than allowed; the blocks do so, too."""
    from ....data.audio import AudioReader
    from ....errors import InputError
    from .mpeg import seconds_at_least

    if job["raw"]:
        data = _as_wav(data, job["raw"])
    reader = AudioReader(_named(io.BytesIO(data)))
    rate = reader.info.sample_rate
    # Before anything is unpacked: a file of 100 kB may hold an hour of silence, whose decoding would keep everybody
    # else's recordings waiting. An Ogg file says it by the position on its last page; of an MP3 it may be an estimate
    # by the first frames, several times too long: there, frames are counted, too.
    is_too_long = (reader.info.n_frames or 0) > job["seconds"] * rate
    if is_too_long and reader.info.format == "MP3":
        is_too_long = seconds_at_least(data, job["seconds"] + 1) > job["seconds"]
    if is_too_long:
        reader.close()
        raise InputError(_too_long(job))
    return job["rate"] or rate, _blocks(reader, job)


def _blocks(reader: AudioReader, job: dict[str, Any]) -> Iterator[np.ndarray]:
    from ....data.resample import Resampler
    from ....errors import InputError

    with reader:
        rate = reader.info.sample_rate
        resampler = Resampler(rate, job["rate"] or rate, 1)
        parts: list[np.ndarray] = []
        n = 0
        for block in reader.blocks(seconds=1.0):
            n += block.shape[1]
            if n > job["seconds"] * rate:
                raise InputError(_too_long(job))
            parts.append(resampler.push(block.mean(axis=0, keepdims=True))[0])
            if sum(map(len, parts)) >= BLOCK:
                yield from _cut(parts)
                parts = []
        parts.append(resampler.flush()[0])
        yield from _cut(parts)


def _cut(parts: list[np.ndarray]) -> Iterator[np.ndarray]:
    samples = np.concatenate(parts).astype(np.float32, copy=False)
    for i in range(0, len(samples), BLOCK):
        yield samples[i : i + BLOCK]


def _too_long(job: dict[str, Any]) -> str:
    return f"the recording is longer than {job['seconds']:g} s; send it in parts"


def _named(file: io.BytesIO) -> BinaryIO:
    """For messages: what was sent has no name that they should repeat."""
    file.name = "the recording"  # pyright: ignore[reportAttributeAccessIssue]
    return file


def _as_wav(data: bytes, rate: int) -> bytes:
    from ....data.wav import WavWriter

    samples = np.frombuffer(data[: len(data) // 2 * 2], "<i2").astype(np.float32) / 32768
    file = io.BytesIO()
    WavWriter(file, rate, 1, n_frames=len(samples)).write(samples[None])
    return file.getvalue()


if __name__ == "__main__":
    main()
