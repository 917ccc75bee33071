"""RIFF WAVE in a stream: read from and written to pipes, where nothing can seek.

A file written to a pipe cannot know its length: the sizes in its header are then 0 or near 2^31 or 2^32, and
the samples run to the end of the stream. Files of known length above 4 GB are RF64 (EBU Tech 3306).

Blocks are (C, n) float32 in [-1, 1), full scale of integers is 2^(bits - 1).
"""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from typing import BinaryIO

import numpy as np

from ..errors import InputError

PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
UNKNOWN = 0xFFFFFFFF
_MAX_LIST = 1 << 16  # bytes of tags that are read; more are passed over
OPEN_ENDED = 0x7FFF0000  # sizes from here on are placeholders of writers that did not know

# Names of libsndfile's for the chunks of a RIFF INFO list.
INFO_TAGS = {
    "title": b"INAM",
    "artist": b"IART",
    "comment": b"ICMT",
    "software": b"ISFT",
    "copyright": b"ICOP",
    "date": b"ICRD",
}


class UnsupportedWavError(Exception):
    """A WAVE whose samples are compressed: for libsndfile to read."""


class WavReader:
    """The samples of a WAVE, taken from `file` as they arrive.

    file: needs only `read`; if it has `read1` (standard input), blocks carry what has arrived rather than
    wait. name: for messages.
    Raises InputError if the header is damaged, UnsupportedWavError for compressed samples.
    """

    def __init__(self, file: BinaryIO, name: str):
        self.name = name
        self._file = file
        self._read_some = getattr(file, "read1", file.read)
        riff, riff_size, kind = struct.unpack("<4sI4s", self._exactly(12))
        if riff not in (b"RIFF", b"RF64") or kind != b"WAVE":
            raise InputError(f"{name} is not a WAV file; give a recording")
        long_size, layout = None, None
        self.tags: dict[str, str] = {}  # of INFO lists before the samples
        while True:
            chunk, size = struct.unpack("<4sI", self._exactly(8))
            if chunk == b"data":
                break
            if chunk in (b"fmt ", b"ds64"):
                if not 16 <= size <= 65536:
                    raise InputError(
                        f"{name} has a damaged WAV header ({chunk.decode().strip()} of {size} bytes); export it again"
                    )
                body = self._exactly(size + size % 2)
                if chunk == b"fmt ":
                    layout = body
                else:
                    long_size = struct.unpack_from("<Q", body, 8)[0]
            elif chunk == b"LIST" and size <= _MAX_LIST:
                self.tags |= _info_tags(self._exactly(size + size % 2)[:size])
            else:
                self._skip(size + size % 2)
        if layout is None:
            raise InputError(
                f"{name} has a damaged WAV header (no format before the samples); export it again"
            )
        self._read_layout(layout)
        self._read_length(riff_size, size, long_size)
        self._rest = b""
        self._n_read = 0

    @property
    def n_frames(self) -> int | None:
        """Frames the header promises, None if it does not know."""
        return None if self._size is None or not self._size_is_certain else self._size // self._frame_bytes

    def read(self, max_frames: int) -> np.ndarray:
        """Up to `max_frames` frames, (C, n); n = 0 at the end.

        Raises InputError if the file ends before the length its header promises.
        """
        data = self._rest
        want = max_frames * self._frame_bytes
        if self._size is not None:
            want = min(want, self._size - self._n_read + len(data))
        while len(data) < self._frame_bytes and want:
            more = self._read_some(want - len(data))
            if not more:
                break
            self._n_read += len(more)
            data += more
        if len(data) < self._frame_bytes:
            self._check_complete()
            return np.zeros((self.channels, 0), np.float32)
        whole = len(data) - len(data) % self._frame_bytes
        self._rest = data[whole:]
        return self._samples(data[:whole])

    def _read_layout(self, layout: bytes) -> None:
        tag, self.channels, self.sample_rate, _, self._frame_bytes, bits = struct.unpack_from(
            "<HHIIHH", layout
        )
        if tag == EXTENSIBLE and len(layout) >= 26:
            tag = struct.unpack_from("<H", layout, 24)[0]
        if not self.channels or self._frame_bytes % self.channels:
            raise InputError(
                f"{self.name} has a damaged WAV header ({self.channels} channels); export it again"
            )
        self._width = self._frame_bytes // self.channels
        self._tag = tag
        if not ((tag == PCM and self._width in (1, 2, 3, 4)) or (tag == FLOAT and self._width in (4, 8))):
            raise UnsupportedWavError
        self.subtype = f"{bits}-bit float" if tag == FLOAT else f"{bits}-bit"

    def _read_length(self, riff_size: int, size: int, long_size: int | None) -> None:
        """Decide how many bytes of samples there are: `_size` at most (None: until the end)."""
        self._size_is_certain = True
        if size == UNKNOWN and long_size is not None:
            self._size = long_size
        elif (
            size == UNKNOWN
            or (size == 0 and riff_size <= 8 + 24 + 8)
            or (size == 0 and riff_size >= OPEN_ENDED)
        ):
            self._size = None
        else:  # a placeholder may also be true, in a file that large: an upper bound
            self._size, self._size_is_certain = size, size < OPEN_ENDED
        if self._size is not None:
            self._size -= self._size % self._frame_bytes

    def _check_complete(self) -> None:
        promised = self.n_frames
        there = self._n_read // self._frame_bytes
        if promised is not None and there < promised:
            raise InputError(
                f"{self.name} is truncated: the header promises {promised} samples, {there} are there; "
                "get the whole file"
            )

    def _samples(self, data: bytes) -> np.ndarray:
        if self._tag == FLOAT:
            flat = np.frombuffer(data, "<f4" if self._width == 4 else "<f8").astype(np.float32)
        elif self._width == 1:
            flat = (np.frombuffer(data, np.uint8).astype(np.float32) - 128) / 128
        elif self._width == 3:
            triples = np.zeros((len(data) // 3, 4), np.uint8)
            triples[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
            flat = triples.view("<i4")[:, 0].astype(np.float32) / 2**31
        else:
            flat = np.frombuffer(data, f"<i{self._width}").astype(np.float32) / 2 ** (8 * self._width - 1)
        return flat.reshape(-1, self.channels).T

    def _exactly(self, n: int) -> bytes:
        data = b""
        while len(data) < n:
            more = self._file.read(n - len(data))
            if not more:
                raise InputError(
                    f"{self.name} ends within its WAV header: empty or truncated; get the whole file"
                )
            data += more
        return data

    def _skip(self, n: int) -> None:
        while n:
            data = self._file.read(min(n, 1 << 16))
            if not data:
                raise InputError(f"{self.name} ends within its WAV header: truncated; get the whole file")
            n -= len(data)


class WavWriter:
    """Writes a WAVE as blocks come, 16-bit or 32-bit float.

    n_frames: the length if it is known; it makes the header right in a pipe. Otherwise the header says
        "unknown" and is corrected at the end where the file can seek.
    tags: text by name (those of INFO_TAGS), kept before the samples so that they travel through a pipe, too.
    """

    def __init__(
        self,
        file: BinaryIO,
        sample_rate: int,
        channels: int,
        n_frames: int | None = None,
        float32: bool = False,
        tags: Mapping[str, str] | None = None,
    ):
        self._tags = _info_chunk(tags or {})
        self._file, self.sample_rate, self.channels, self.float32 = file, sample_rate, channels, float32
        self._frame_bytes = channels * (4 if float32 else 2)
        self._n_frames, self._written = n_frames, 0
        self._seekable = file.seekable()
        self._file.write(self._header(n_frames))

    def write(self, block: np.ndarray) -> None:
        """Append (C, n) float; 16-bit output is clamped to full scale."""
        samples = block.T.astype("<f4") if self.float32 else to_int16(block).T
        self._file.write(np.ascontiguousarray(samples).tobytes())
        self._written += block.shape[1]

    def close(self) -> None:
        """Finish the header; the file stays open."""
        if self._seekable and self._written != self._n_frames:
            header = self._header(self._written)
            if len(header) == len(
                self._header(self._n_frames)
            ):  # else too long for plain RIFF: leave "unknown"
                self._file.seek(0)
                self._file.write(header)
                self._file.seek(0, io.SEEK_END)
        self._file.flush()

    def _header(self, n_frames: int | None) -> bytes:
        tag, bits = (FLOAT, 32) if self.float32 else (PCM, 16)
        byte_rate = self.sample_rate * self._frame_bytes
        layout = struct.pack(
            "<HHIIHH", tag, self.channels, self.sample_rate, byte_rate, self._frame_bytes, bits
        )
        layout = struct.pack("<4sI", b"fmt ", len(layout)) + layout + self._tags
        if n_frames is None:
            return (
                struct.pack("<4sI4s", b"RIFF", UNKNOWN, b"WAVE")
                + layout
                + struct.pack("<4sI", b"data", UNKNOWN)
            )
        size = n_frames * self._frame_bytes
        riff_size = 4 + len(layout) + 8 + size
        if riff_size < UNKNOWN:
            return (
                struct.pack("<4sI4s", b"RIFF", riff_size, b"WAVE")
                + layout
                + struct.pack("<4sI", b"data", size)
            )
        sizes = struct.pack("<4sIQQQI", b"ds64", 28, riff_size + 36, size, n_frames, 0)
        head = struct.pack("<4sI4s", b"RF64", UNKNOWN, b"WAVE")
        return head + sizes + layout + struct.pack("<4sI", b"data", UNKNOWN)


def _info_tags(body: bytes) -> dict[str, str]:
    """Text by name of a LIST chunk's body, {} where it is no INFO or damaged: tags are no reason to refuse sound."""
    found, names = {}, {code: name for name, code in INFO_TAGS.items()}
    at = 4
    while body[:4] == b"INFO" and at + 8 <= len(body):
        code, size = struct.unpack_from("<4sI", body, at)
        text = body[at + 8 : at + 8 + size]
        if len(text) < size:
            break
        if code in names:
            found[names[code]] = text.split(b"\0")[0].decode("utf-8", "replace")
        at += 8 + size + size % 2
    return found


def _info_chunk(tags: Mapping[str, str]) -> bytes:
    """A LIST chunk of kind INFO; nothing for no tags. Raises KeyError for a name that the format does not have."""
    body = b""
    for name, text in tags.items():
        data = text.encode() + b"\0"
        body += struct.pack("<4sI", INFO_TAGS[name], len(data)) + data + b"\0" * (len(data) % 2)
    return struct.pack("<4sI4s", b"LIST", 4 + len(body), b"INFO") + body if tags else b""


def to_int16(block: np.ndarray) -> np.ndarray:
    """Float samples to 16 bits: rounded, clamped to full scale."""
    return np.clip(np.rint(block * 32768.0), -32768, 32767).astype("<i2")
