"""Samples that wait on the disk: of an hour only what is looked at is in memory.

Shapes: N samples of one channel.
"""

from __future__ import annotations

import contextlib
import threading
from tempfile import SpooledTemporaryFile
from typing import BinaryIO, cast

import numpy as np

_IN_MEMORY = 1 << 20  # bytes: 16 s at 16 kHz
_SIZE = np.dtype(np.float32).itemsize


class StoredSamples:
    """float32 samples, first appended block by block, then read as slices. Long ones lie in a temporary file that has
    no name (`TMPDIR` says where) and is gone when it is closed. Safe to use from several threads: whoever reads after
    that gets a ValueError.

    >>> with StoredSamples(16_000) as samples:
    ...     samples.append(data)
    ...     samples[: 30 * 16_000]  # (480000,), a copy
    """

    def __init__(self, sample_rate: int):
        self.sample_rate, self._n = sample_rate, 0
        self._lock = threading.Lock()
        self._file = cast(BinaryIO, SpooledTemporaryFile(_IN_MEMORY))  # noqa: SIM115

    def append(self, data: bytes) -> None:
        """Samples as bytes. Raises OSError where the disk is full."""
        with self._lock:
            self._file.write(data)
            self._file.flush()  # not at its end, when nobody waits for an error
            self._n += len(data) // _SIZE

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, at: slice) -> np.ndarray:
        """Samples in a row (n,), a copy of their own."""
        start, stop, step = at.indices(self._n)
        if step != 1:
            raise ValueError("stored samples are read in a row")
        with self._lock:
            self._file.seek(start * _SIZE)
            return np.frombuffer(bytearray(self._file.read(max(0, stop - start) * _SIZE)), np.float32)

    def close(self) -> None:
        # What a full disk has not taken, it does not take now either.
        with self._lock, contextlib.suppress(OSError):
            self._file.close()

    def __enter__(self) -> StoredSamples:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
