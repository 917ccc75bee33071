"""Recordings to evaluate on: audio files, folders of them, glob patterns, and WebDataset tar shards.

A shard holds KEY.<audio> and KEY.json; a file may have KEY.json or KEY.txt (its text) beside it.
"""

from __future__ import annotations

import glob
import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np

from ..data.audio import SUFFIXES, read_audio
from ..errors import InputError

AUDIO = frozenset(SUFFIXES)


@dataclass(frozen=True)
class Clip:
    """One recording: wav (N,) float32, mono (the mean of the channels), at `sample_rate` Hz."""

    key: str
    wav: np.ndarray
    sample_rate: int
    source: str | None = None
    speaker: str | None = None
    text: str | None = None

    @property
    def duration(self) -> float:
        """Seconds."""
        return len(self.wav) / self.sample_rate


@dataclass(frozen=True)
class _Entry:
    """Where a clip is: `member` inside a shard, or a file of its own."""

    key: str
    path: Path
    member: str | None
    meta: dict[str, object]

    @property
    def where(self) -> str:
        return str(self.path) if self.member is None else f"{self.path}:{self.member}"


class Clips(Sequence[Clip]):
    """Clips that are decoded whenever they are asked for, and not kept: as many as there are, in the memory of
    one. Raises InputError where a recording cannot be read."""

    def __init__(self, entries: Sequence[_Entry], sample_rate: int, max_seconds: float | None):
        self._entries, self._sample_rate, self._max_seconds = entries, sample_rate, max_seconds

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, index: int) -> Clip: ...

    @overload
    def __getitem__(self, index: slice) -> Clips: ...

    def __getitem__(self, index: int | slice) -> Clip | Clips:
        if isinstance(index, slice):
            return Clips(self._entries[index], self._sample_rate, self._max_seconds)
        return _decode(self._entries[index], self._sample_rate, self._max_seconds)


def load_clips(
    data: Sequence[str | Path],
    sample_rate: int,
    *,
    limit: int | None = None,
    source: str | None = None,
    split: str | None = None,
    max_seconds: float | None = None,
) -> list[Clip]:
    """All clips of `find_clips`, decoded."""
    found = find_clips(data, sample_rate, limit=limit, source=source, split=split, max_seconds=max_seconds)
    return list(found)


def find_clips(
    data: Sequence[str | Path],
    sample_rate: int,
    *,
    limit: int | None = None,
    source: str | None = None,
    split: str | None = None,
    max_seconds: float | None = None,
) -> Clips:
    """The clips of `data` at `sample_rate`, in order of their keys.

    limit: at most so many, evenly spaced over the order, so that the choice is the same every time and covers
    all speakers of a sorted corpus. source, split: keep only clips whose JSON says so. max_seconds: cut
    longer ones (their text is then dropped, since it says more than is heard).

    Raises InputError when nothing is found.
    """
    entries = sorted(
        (e for path in _expand(data) for e in _entries(path) if _matches(e, source, split)),
        key=lambda e: (e.key, str(e.path)),
    )
    if not entries:
        wanted = "".join(f", {k} {v!r}" for k, v in (("source", source), ("split", split)) if v)
        raise InputError(
            f"no recordings in {', '.join(map(str, data))}{wanted}; expected audio files "
            f"({', '.join(sorted(AUDIO))}) or WebDataset .tar shards"
        )
    if limit is not None and limit < len(entries):
        entries = [entries[i * len(entries) // limit] for i in range(limit)]
    return Clips(entries, sample_rate, max_seconds)


def _expand(data: Sequence[str | Path]) -> Iterator[Path]:
    for item in data:
        path = Path(item)
        if path.is_dir():
            yield from sorted(p for p in path.rglob("*") if p.suffix.lower() in AUDIO | {".tar"})
        elif path.exists():
            yield path
        elif found := sorted(glob.glob(str(item), recursive=True)):
            yield from map(Path, found)
        else:
            raise InputError(f"{item} does not exist; give audio files, a folder, a pattern or .tar shards")


def _entries(path: Path) -> Iterable[_Entry]:
    if path.suffix.lower() != ".tar":
        return [_Entry(path.stem, path, None, _sidecar(path))]
    audio: dict[str, str] = {}
    meta: dict[str, dict[str, object]] = {}
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, suffix = member.name.rpartition(".")
                if suffix == "json" and (file := tar.extractfile(member)):
                    meta[key] = json.load(file)
                elif f".{suffix}" in AUDIO:
                    audio[key] = member.name
    except (tarfile.TarError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} is not a readable WebDataset shard: {reason}") from error
    return [_Entry(key, path, name, meta.get(key, {})) for key, name in audio.items()]


def _sidecar(path: Path) -> dict[str, object]:
    try:
        if (beside := path.with_suffix(".json")).is_file():
            found = json.loads(beside.read_text("utf-8"))
            return found if isinstance(found, dict) else {}
        if (beside := path.with_suffix(".txt")).is_file():
            return {"text": beside.read_text("utf-8").strip()}
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {beside}: {error}") from error
    return {}


def _matches(entry: _Entry, source: str | None, split: str | None) -> bool:
    return all(
        want is None or entry.meta.get(k) == want for k, want in (("source", source), ("split", split))
    )


def _decode(entry: _Entry, sample_rate: int, max_seconds: float | None) -> Clip:
    most = None if max_seconds is None else int(max_seconds * sample_rate)
    wav = _read(entry, sample_rate, None if most is None else most + 1)
    if len(wav) == 0:
        raise InputError(f"{entry.where} holds no samples; leave it out")
    cut = most is not None and len(wav) > most
    wav = wav[:most]
    meta = {name: str(value) for name, value in entry.meta.items() if value is not None}
    text = None if cut else meta.get("text")
    return Clip(entry.key, wav, sample_rate, meta.get("source"), meta.get("speaker"), text)


def _read(entry: _Entry, sample_rate: int, most: int | None) -> np.ndarray:
    """(N,), mono, at most `most` samples."""
    if entry.member is None:
        return read_audio(entry.path, sample_rate, mono=True, most=most).samples[0]
    try:
        with tarfile.open(entry.path) as tar:
            member = tar.extractfile(entry.member)
            data = member.read() if member else b""
    except (tarfile.TarError, OSError) as error:
        raise InputError(f"cannot read {entry.where}: {error}") from error
    try:
        return read_audio(io.BytesIO(data), sample_rate, mono=True, most=most).samples[0]
    except InputError as error:
        raise InputError(f"{entry.where}: {error}") from error
