"""The process that decodes what strangers send: with bounds on its memory and on its time of the processor, and nothing
of the server's within reach.

    python -m myna.apps.serve.audio.decode_worker MEGABYTES SECONDS

Standard input: of each job a line of JSON {"size": bytes, "rate": Hz or null, "raw": Hz or null, "seconds": at most}
and then the file's bytes; raw: they are samples of 16 bits at this rate. Standard output: a line {"n": samples, "rate":
Hz} and the samples as float32, or {"error": a sentence}. It ends with its standard input, and by SIGPROF over a job
that takes more SECONDS of the processor.
"""

from __future__ import annotations

import io
import json
import signal
import sys
from typing import Any, BinaryIO

import numpy as np


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
            samples, rate = decoded(data, job)
            answer = {"n": len(samples), "rate": rate}
        except MemoryError:
            samples, answer = np.zeros(0, np.float32), {"error": "the recording takes too much memory"}
        except Exception as error:
            samples, answer = np.zeros(0, np.float32), {"error": " ".join(str(error).split())}
        limit_processor(0)
        del data
        sink.write(json.dumps(answer).encode() + b"\n")
        sink.write(samples.tobytes())
        sink.flush()


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


def decoded(data: bytes, job: dict[str, Any]) -> tuple[np.ndarray, int]:
    """Samples (N,) float32 and their rate. Raises InputError for what is no audio, or longer than allowed."""
    from ....data.audio import AudioReader
    from ....data.resample import Resampler
    from ....errors import InputError

    if job["raw"]:
        data = _as_wav(data, job["raw"])
    file = io.BytesIO(data)
    with AudioReader(_named(file)) as reader:
        rate = reader.info.sample_rate
        wanted = job["rate"] or rate
        too_long = InputError(f"the recording is longer than {job['seconds']:g} s; send it in parts")
        # Before anything is unpacked: a file of 100 kB may hold an hour of silence, whose decoding would keep everybody
        # else's recordings waiting. An Ogg file says it by the position on its last page; of an MP3 it may be an
        # estimate by the first frames, several times too long.
        stated = reader.info.n_frames
        if stated is not None and reader.info.format != "MP3" and stated > job["seconds"] * rate:
            raise too_long
        resampler = Resampler(rate, wanted, 1)
        parts, n = [], 0
        for block in reader.blocks(seconds=1.0):
            n += block.shape[1]
            if n > job["seconds"] * rate:
                raise too_long
            parts.append(resampler.push(block.mean(axis=0, keepdims=True))[0])
        parts.append(resampler.flush()[0])
    return np.concatenate(parts).astype(np.float32, copy=False), wanted


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
