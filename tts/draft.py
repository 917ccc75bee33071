"""The unfinished output of a long text, kept beside its target until the text is complete.

Two hidden files: the samples (16-bit, raw), and a state of a few hundred bytes, replaced as a whole after every
sentence. Whatever ends the program, Ctrl-C or the power, the next run finds the last whole sentence; samples
beyond it are cut off.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..data.files import atomic_output, output_errors
from ..data.wav import to_int16
from ..errors import UsageError
from .finish.level import LevelState

_BLOCK = 1 << 20  # bytes


@dataclass(frozen=True)
class DraftState:
    """key: stands for everything that shapes the audio. n_sentences, n_samples: complete so far. level: after them."""

    key: str
    n_sentences: int = 0
    n_samples: int = 0
    level: LevelState | None = None


class Draft:
    """The draft of `output`, continued if there is one of the same key. Close it, or use `with`.

    restart: begun anew, whatever there is.   aside: the new path of the state of one that cannot be read, its samples
    beside it; this one is then begun anew. Raises UsageError when another process writes it, or when there is one of
    another key, whose sentences would be lost; OutputError when it cannot be written.
    """

    def __init__(self, output: str | Path, key: str, restart: bool = False):
        output = Path(output).resolve()
        self.audio = output.with_name(f".{output.name[:180]}.draft.pcm")
        self.note = output.with_name(f".{output.name[:180]}.draft.json")
        self.aside: Path | None = None
        self._file = self._open(output)
        try:
            found = None if restart else self._read()
            if found is None and not restart and self.note.exists():
                self._put_aside()
                self._file = self._open(output)
            if found is not None and found.key != key:
                n = found.n_sentences
                raise UsageError(
                    f"{output.name} was begun with another text, voice, seed or option, and {n} "
                    f"sentence{'s are' if n > 1 else ' is'} kept; give those again to go on, --restart to drop "
                    "them, or another output (-o)"
                )
            self.resumed = found is not None
            self.state = found or DraftState(key)
            with output_errors(output):
                self._file.truncate(2 * self.state.n_samples)
        except BaseException:
            self._file.close()
            raise
        self._n_samples = self.state.n_samples

    def append(self, samples: np.ndarray) -> None:
        """Add (n,) samples of the sentence that is being said."""
        with output_errors(self.audio):
            self._file.write(to_int16(samples).tobytes())
        self._n_samples += len(samples)

    def commit(self, n_sentences: int, level: LevelState | None) -> None:
        """So many sentences are complete: from here a later run goes on."""
        with output_errors(self.audio):
            self._file.flush()
            os.fsync(self._file.fileno())  # the state must not promise samples that a power cut can take
        self.state = DraftState(self.state.key, n_sentences, self._n_samples, level)
        with atomic_output(self.note, force=True) as file:
            file.write(json.dumps(asdict(self.state)).encode())

    def blocks(self) -> Iterator[np.ndarray]:
        """All samples of the complete sentences, in blocks (1, n) float32."""
        with output_errors(self.audio):
            self._file.flush()
        with open(self.audio, "rb") as file:
            left = 2 * self.state.n_samples
            while data := file.read(min(_BLOCK, left)):
                left -= len(data)
                yield np.frombuffer(data, "<i2").astype(np.float32)[None] / 32768

    def remove(self) -> None:
        """The output is complete: nothing of the draft stays."""
        for path in (self.note, self.audio):  # in this order: samples without a state are begun anew
            with contextlib.suppress(OSError):
                path.unlink()

    def close(self) -> None:
        """Nothing to keep before the first sentence is complete: then no files stay behind."""
        if not self._file.closed:
            if not self.state.n_sentences:
                self.remove()
            self._file.close()

    def __enter__(self) -> Draft:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _open(self, output: Path) -> BinaryIO:
        """The samples, to be read and added to, locked."""
        with output_errors(output):
            file = open(self.audio, "ab+")  # noqa: SIM115 (closed by `close`)
        try:
            _lock(file, output)
        except BaseException:
            file.close()
            raise
        return file

    def _put_aside(self) -> None:
        """Hours of speech may be in samples whose state is damaged: nothing of them is overwritten."""
        self._file.close()
        for n in itertools.count(1):
            audio, note = (path.with_name(f"{path.name}.unreadable-{n}") for path in (self.audio, self.note))
            if not audio.exists() and not note.exists():
                break
        with output_errors(self.note):
            if self.audio.stat().st_size:  # not merely made when it was looked for
                self.audio.rename(audio)
            self.note.rename(note)
        self.aside = note

    def _read(self) -> DraftState | None:
        """The state of an earlier run that said something, if its samples are there."""
        try:
            found = json.loads(self.note.read_text("utf-8"))
            level = LevelState(**found["level"]) if found["level"] is not None else None
            state = DraftState(found["key"], int(found["n_sentences"]), int(found["n_samples"]), level)
        except (OSError, ValueError, TypeError, KeyError):
            return None
        whole = state.n_samples >= 0 and os.fstat(self._file.fileno()).st_size >= 2 * state.n_samples
        return state if whole and state.n_sentences > 0 else None


def _lock(file: BinaryIO, output: Path) -> None:
    """Held until the file is closed or the process ends, in whichever way."""
    try:
        import fcntl
    except ImportError:  # not a system that has it
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UsageError(
            f"another myna is making {output}; wait for it, or choose another output (-o)"
        ) from None
    except OSError:
        return  # a file system without locks
