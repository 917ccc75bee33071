"""Uploads to samples, in processes of their own: a file that is made to break its decoder breaks only that.

Shapes: N samples of one channel.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from starlette.concurrency import run_in_threadpool

from ....data.audio import Audio
from ....errors import InputError
from ..deadlines import within
from .decode_worker import BLOCK
from .stored import StoredSamples

_ROOT = Path(__file__).resolve().parents[4]  # what `myna` is a folder of
_OUT_OF_TIME = getattr(signal, "SIGPROF", 0)  # what ends a process whose time of the processor is over
_BLOCK = 1 << 20  # bytes of a file that the server has in memory


@dataclass(frozen=True)
class DecodingLimits:
    """seconds: of a recording.   megabytes: of address space for a process.   processor: seconds of it for a recording.
    patience: seconds by the clock; long, since a process may wait for the processor that others keep busy. Where there
    are no timers of the processor (Windows) it is the only bound.
    """

    seconds: float = 3600.0
    megabytes: int = 1500
    processor: float = 60.0
    patience: float = 300.0


class Decoders:
    """A few worker processes, started when they are needed and replaced when they die.

    >>> audio = await decoders.decode(data, sample_rate=16_000)
    """

    def __init__(self, limits: DecodingLimits | None = None, n_workers: int = 2):
        self.limits = limits or DecodingLimits()
        self._free: asyncio.LifoQueue[_Worker] = asyncio.LifoQueue()
        self._workers = [_Worker(self.limits) for _ in range(n_workers)]
        for worker in self._workers:
            self._free.put_nowait(worker)

    async def start(self) -> None:
        """One process ready before the first upload comes."""
        await self._workers[-1].start()

    async def decode(
        self,
        data: bytes | BinaryIO,
        sample_rate: int | None = None,
        raw: int | None = None,
        seconds: float | None = None,
    ) -> Audio:
        """A file of any format that libsndfile reads, channels averaged, to (1, N) at `sample_rate` (its own: None).
        For short ones: all of it is in memory. The rest as `store`."""
        with await self.store(data, sample_rate, raw, seconds) as stored:
            return Audio(stored[:][None], stored.sample_rate)

    async def store(
        self,
        data: bytes | BinaryIO,
        sample_rate: int | None = None,
        raw: int | None = None,
        seconds: float | None = None,
    ) -> StoredSamples:
        """The same, on the disk; whoever asks closes it.

        data: all of them, or an open file, which is read from its beginning when a process is free, block by block.
        raw: the data are samples of 16 bits at this rate.   seconds: at most, below the general limit.
        Raises InputError, one sentence, and OSError where the disk is full.
        """
        file = io.BytesIO(data) if isinstance(data, bytes) else data
        file.seek(0, io.SEEK_END)
        size = file.tell()
        if not size:
            raise InputError("the recording is empty; send an audio file")
        most = self.limits.seconds if seconds is None else min(seconds, self.limits.seconds)
        job = {"size": size, "rate": sample_rate, "raw": raw, "seconds": most}
        worker = await self._free.get()
        try:
            try:
                return await worker.decode(job, file)
            except _DiedError:
                # Perhaps somebody else ended it: this upload is to blame only if it happens again.
                return await worker.decode(job, file)
        except _DiskError as error:
            raise error.reason from None
        except (_DiedError, _TooMuchError):
            raise InputError(
                "the recording cannot be decoded within the limits of memory and time; send a shorter or plainer one"
            ) from None
        finally:
            self._free.put_nowait(worker)

    async def close(self) -> None:
        for worker in self._workers:
            await worker.stop()

    @property
    def pids(self) -> list[int]:
        """Of the processes that run."""
        return [worker.process.pid for worker in self._workers if worker.process is not None]


class _DiedError(Exception):
    """The process ended over a job."""


class _TooMuchError(Exception):
    """The process had to be ended: the job took too long."""


class _DiskError(Exception):
    """The samples cannot be written."""

    def __init__(self, reason: OSError):
        super().__init__(reason)
        self.reason = reason


class _Worker:
    def __init__(self, limits: DecodingLimits):
        self.limits = limits
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> asyncio.subprocess.Process:
        if self.process is None or self.process.returncode is not None:
            paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
            # Nothing of the server's environment: its keys are in there.
            environment = {
                "PATH": os.environ.get("PATH", ""),
                "PYTHONPATH": os.pathsep.join(paths),
                "OMP_NUM_THREADS": "1",
                "OPENBLAS_NUM_THREADS": "1",
                "TMPDIR": os.environ.get("TMPDIR", ""),
                "SYSTEMROOT": os.environ.get("SYSTEMROOT", ""),  # without it Windows starts nothing
            }
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "myna.apps.serve.audio.decode_worker",
                str(self.limits.megabytes),
                str(self.limits.processor),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env={name: value for name, value in environment.items() if value},
            )
        return self.process

    async def decode(self, job: dict[str, Any], file: BinaryIO) -> StoredSamples:
        try:
            async with within(self.limits.patience):
                answer = await self._ask(job, file)
        except TimeoutError:
            await self.stop()
            raise _TooMuchError from None
        except (OSError, asyncio.IncompleteReadError, ValueError, LookupError, TypeError):  # or says anything
            code = await self.stop()
            raise (_TooMuchError if code == -_OUT_OF_TIME else _DiedError) from None
        except (asyncio.CancelledError, _DiskError):  # it is in the middle of a job that nobody wants
            await self.stop()
            raise
        if isinstance(answer, str):
            raise InputError(answer)
        return answer

    async def _ask(self, job: dict[str, Any], file: BinaryIO) -> StoredSamples | str:
        """The samples, or what is wrong with the recording."""
        process = await self.start()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(job).encode() + b"\n")
        file.seek(0)
        # In the threads of the framework, which read and write uploads only: those of asyncio may be at long work.
        while block := await run_in_threadpool(file.read, _BLOCK):
            process.stdin.write(block)
            await process.stdin.drain()
        answer = json.loads(await process.stdout.readline())
        if "error" in answer:
            return str(answer["error"])
        stored = StoredSamples(int(answer["rate"]))
        try:
            error = await self._store(process.stdout, stored, job)
        except BaseException:
            stored.close()
            raise
        if error is not None:
            stored.close()
            return error
        return stored

    async def _store(
        self, source: asyncio.StreamReader, stored: StoredSamples, job: dict[str, Any]
    ) -> str | None:
        """Block by block; what is wrong with the recording, if anything is. A process that has been broken may say
        anything: more than was asked for is not taken. Raises ValueError for that, _DiskError."""
        most = (job["seconds"] + 1) * stored.sample_rate
        while True:
            line = json.loads(await source.readline())
            if "error" in line:
                return str(line["error"])
            if not line["n"]:
                return None
            if not 0 < line["n"] <= BLOCK or len(stored) + line["n"] > most:
                raise ValueError("more samples than were asked for")
            data = await source.readexactly(4 * line["n"])
            try:
                await run_in_threadpool(stored.append, data)
            except OSError as error:
                raise _DiskError(error) from None

    async def stop(self) -> int | None:
        """Its exit code: of the end that it has come to by itself, if it has."""
        process, self.process = self.process, None
        if process is None:
            return None
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                _kill(process)
        return await process.wait()


def _kill(process: asyncio.subprocess.Process) -> None:
    """`process.kill` asks first whether it has ended, and takes its exit code from asyncio, which then warns."""
    if hasattr(signal, "SIGKILL"):
        os.kill(process.pid, signal.SIGKILL)
    else:  # Windows
        process.kill()
