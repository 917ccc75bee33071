"""WebDataset tar shards: KEY.flac (or .opus) and KEY.json, of a bounded size, the same bytes for the same samples."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

from ..data.files import atomic_output

BLOCK = tarfile.BLOCKSIZE
_END = 2 * BLOCK  # two blocks of zeros end a tar


class ShardWriter:
    """Samples in order into PREFIX-000000.tar, PREFIX-000001.tar, ... in `folder`.

    A shard that is there already was written by a run that was killed: it is whole and has the same bytes, and is
    passed over.
    """

    def __init__(self, folder: Path, prefix: str, max_bytes: int):
        self.folder, self.prefix, self.max_bytes = folder, prefix, max_bytes
        self.n_shards = 0
        self._filled = 0
        self._file: BinaryIO | None = None
        self._stack = ExitStack()

    def add(self, key: str, suffix: str, audio: bytes, facts: Mapping[str, Any]) -> str:
        """The name of the shard it went to."""
        data = json.dumps(facts, ensure_ascii=False).encode("utf-8", "backslashreplace")
        members = ((f"{key}.{suffix}", audio), (f"{key}.json", data))
        size = sum(BLOCK + -(-len(content) // BLOCK) * BLOCK for _, content in members)
        if self.n_shards == 0 or self._filled + size + _END > self.max_bytes:
            self._next()
        for name, content in members:
            if self._file is not None:
                self._file.write(_member(name, content))
        self._filled += size
        return self.name

    @property
    def name(self) -> str:
        return f"{self.prefix}-{self.n_shards - 1:06d}.tar"

    def close(self) -> None:
        if self._file is not None:
            self._file.write(bytes(_END))
            self._file = None
        self._stack.close()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if kind is None:
            self.close()
        else:
            self._stack.__exit__(kind, error, trace)

    def _next(self) -> None:
        self.close()
        self.n_shards += 1
        self._filled = 0
        path = self.folder / self.name
        if not path.exists():
            self._file = self._stack.enter_context(atomic_output(path))


def _member(name: str, content: bytes) -> bytes:
    """A header that tells nothing of who wrote it and when, the content, and its padding."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    file = io.BytesIO()
    file.write(info.tobuf(tarfile.USTAR_FORMAT))
    file.write(content)
    file.write(bytes(-len(content) % BLOCK))
    return file.getvalue()
