"""A recogniser with its time measured, in a process of its own, so that its memory can be measured too.

parent                         worker
{system, setup} \\n         ->
                           <-  {} \\n once it is loaded, or {error, message} \\n
{n} \\n, n float32 samples  ->
                           <-  {text, elapsed} \\n, or {error, message} \\n
end of file                ->
                           <-  {peak} \\n, bytes
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO, Protocol

import numpy as np

from ... import errors
from ...errors import MynaError
from .systems import SYSTEMS, Setup, System


@dataclass(frozen=True)
class TimedText:
    """elapsed: seconds of work."""

    text: str
    elapsed: float


class Worker(Protocol):
    def hear(self, wav: np.ndarray) -> TimedText:
        """Samples (N,) float32 at 16 kHz to a text."""
        ...

    def peak(self) -> float:
        """The most memory it took while it transcribed, in bytes; nan if that is not known. It hears no more."""
        ...

    def close(self) -> None: ...


class InProcess:
    """A recogniser in this process, whose memory is not told from that of all else here."""

    def __init__(self, system: System, setup: Setup):
        self._listen = system.load(setup)

    def hear(self, wav: np.ndarray) -> TimedText:
        start = time.perf_counter()
        text = self._listen(wav)
        return TimedText(text.strip(), time.perf_counter() - start)

    def peak(self) -> float:
        return math.nan

    def close(self) -> None:
        pass


class Isolated:
    """A recogniser in a process of its own, which ends with `close` and with this process.

    Raises what goes wrong there as if it were here, and MynaError when the process ends.
    """

    def __init__(self, system: System, setup: Setup):
        self._name = system.name
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `close`)
        threads = str(setup.threads)
        # It finds its packages where this process found them, and not in the folder it happens to be in.
        program = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import main; main()"
        self._process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            env={**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
        )
        assert self._process.stdin
        assert self._process.stdout
        self._to: BinaryIO = self._process.stdin  # pyright: ignore[reportAttributeAccessIssue]
        self._from: BinaryIO = self._process.stdout  # pyright: ignore[reportAttributeAccessIssue]
        try:
            self._ask({"system": system.name, "setup": asdict(setup)})
        except BaseException:
            self.close()
            raise

    def hear(self, wav: np.ndarray) -> TimedText:
        return TimedText(**self._ask({"n": len(wav)}, np.ascontiguousarray(wav, np.float32).tobytes()))

    def peak(self) -> float:
        with contextlib.suppress(OSError):
            self._to.close()
        peak = self._answer()["peak"]
        return math.nan if peak is None else float(peak)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for file in (self._to, self._from, self._complaints):
            with contextlib.suppress(OSError):
                file.close()

    def _ask(self, question: dict[str, Any], data: bytes = b"") -> dict[str, Any]:
        with contextlib.suppress(OSError):  # that it has gone, its answer says
            self._to.write(json.dumps(question).encode() + b"\n" + data)
            self._to.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self._from.readline()
        if not line:
            self._process.wait()
            self._complaints.seek(0)
            said = self._complaints.read().decode("utf-8", "replace").split("\n")
            reason = next((text.strip() for text in reversed(said) if text.strip()), "it said nothing")
            raise MynaError(
                f"{self._name} ended with code {self._process.returncode} ({reason}); "
                "leave it out by naming the other systems with --system, or give it more memory"
            )
        answer = json.loads(line)
        if "error" in answer:
            raise getattr(errors, answer["error"], MynaError)(answer["message"])
        return answer


def main() -> None:
    """The worker. Whatever a package prints goes to standard error."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    questions = sys.stdin.buffer

    def answer(content: dict[str, Any]) -> None:
        answers.write(json.dumps(content).encode() + b"\n")
        answers.flush()

    task = json.loads(questions.readline())
    try:
        recogniser = InProcess(SYSTEMS[task["system"]], Setup(**task["setup"]))
        _forget_peak()
        answer({})
        while line := questions.readline():
            n_bytes = 4 * json.loads(line)["n"]
            wav = np.frombuffer(
                questions.read(n_bytes), np.float32
            ).copy()  # models may write to what they get
            answer(asdict(recogniser.hear(wav)))
        peak = _peak_memory()
        answer({"peak": None if math.isnan(peak) else peak})
    except MynaError as error:
        answer({"error": type(error).__name__, "message": str(error)})
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        remedy = "leave it out by naming the other systems with --system"
        answer({"error": "MynaError", "message": f"{task['system']} failed: {reason}; {remedy}"})


def _forget_peak() -> None:
    """Linux can: what loading took is then not counted."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def _peak_memory() -> float:
    """Bytes that were in memory at once, at most."""
    with contextlib.suppress(OSError), open("/proc/self/status") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return 1024 * float(line.split()[1])
    try:
        import resource
    except ImportError:
        return math.nan
    unit = 1 if sys.platform == "darwin" else 1024
    return float(unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


if __name__ == "__main__":
    main()
