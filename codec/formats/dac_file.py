"""DAC's `.dac` files (descript-audio-codec 1.0.0): `np.save` of a dictionary.

    {"codes": uint16 (channels, K, T), "metadata": {input_db, original_length, sample_rate, chunk_length,
    channels, padding, dac_version}}

There is no model's name, no entropy coding and no checksum, and NumPy stores the dictionary as a pickle,
which could run anything: it is read here by a machine that cannot (safe_pickle.py).

Shapes: S audio channels (coded one by one), K codebooks, T frames.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from ...errors import CorruptStreamError, InputError, UsageError
from .base import CompressedFile, Damage, FileInfo, Packet
from .container import read_some
from .safe_pickle import PickleError, load_array, plain

MAGIC = b"\x93NUMPY"
VERSION = "1.0.0"
_HEADER = "{'descr': '|O', 'fortran_order': False, 'shape': (), }"
_MAX_BYTES = 1 << 28  # 256 MB: 17 hours of the 44.1 kHz model
_PIECE = 128  # frames handed out at a time where the whole file is one pass
_CODEBOOK_SIZE = 1024
_MAX_LOUDNESS = 200.0  # LUFS either way: silence is written as -70, full scale is about 0


@dataclass(frozen=True)
class DacModel:
    """What tells the published models apart in a file that does not name its own."""

    name: str
    sample_rate: int
    n_codebooks: int
    rates: tuple[int, ...]  # of the decoder's blocks

    @property
    def hop_length(self) -> int:
        return math.prod(self.rates)

    def valid_length(self, frames: int) -> int:
        """Samples that the decoder makes of so many frames when no convolution pads."""
        length = frames - 6  # first convolution, kernel 7
        for rate in self.rates:
            length = (length + 1) * rate - 6 * (1 + 3 + 9)  # transposed, kernel 2 * rate; three dilated, 7
        return length - 6  # last convolution, kernel 7


MODELS = (
    DacModel("dac-44k", 44_100, 9, (8, 8, 4, 2)),
    DacModel("dac-44k-16kbps", 44_100, 18, (8, 8, 4, 2)),
    DacModel("dac-24k", 24_000, 32, (8, 5, 4, 2)),
    DacModel("dac-16k", 16_000, 12, (8, 5, 4, 2)),
)


@dataclass(frozen=True)
class DacContent:
    """Everything in a `.dac` file.

    codes: (S, K, T).   input_db: loudness before it was normalised, dB LUFS.   original_length: samples at
    `sample_rate`, the original rate.   chunk_length: frames coded at a time.   channels: of the original, S a
    recording.   padding: False where convolutions did not pad and each chunk stands alone.
    """

    codes: Tensor
    input_db: float
    original_length: int
    sample_rate: int
    chunk_length: int
    channels: int
    padding: bool = True


def write_dac(file: BinaryIO, content: DacContent) -> None:
    """Write a file that the original `dac decode` reads, with any NumPy from 1.17 on."""
    codes = content.codes.cpu().numpy()
    if codes.ndim != 3 or codes.size == 0 or codes.min() < 0 or codes.max() >= _CODEBOOK_SIZE:
        raise UsageError(
            f".dac holds codes (channels, codebooks, frames) below 1024, got shape {codes.shape}"
        )
    metadata = {
        "input_db": np.array([content.input_db], dtype=np.float32),
        "original_length": int(content.original_length),
        "sample_rate": int(content.sample_rate),
        "chunk_length": int(content.chunk_length),
        "channels": int(content.channels),
        "padding": bool(content.padding),
        "dac_version": VERSION,
    }
    box = np.empty((), dtype=object)
    box[()] = {"codes": np.ascontiguousarray(codes, dtype=np.uint16), "metadata": metadata}
    header = _HEADER.ljust(-(-(len(_HEADER) + 11) // 64) * 64 - 11) + "\n"
    file.write(MAGIC + b"\x01\x00" + struct.pack("<H", len(header)) + header.encode())
    file.write(_oldest_names(pickle.dumps(box, protocol=3)))


def _oldest_names(data: bytes) -> bytes:
    """The pickle with NumPy 2's module names put back to NumPy 1's, which both versions know."""
    parts, done = [], 0
    for opcode, argument, position in pickletools.genops(io.BytesIO(data)):
        if opcode.name == "GLOBAL" and str(argument).startswith("numpy._core.") and position is not None:
            parts += [data[done:position], b"cnumpy.core."]
            done = position + len(b"cnumpy._core.")
    return b"".join([*parts, data[done:]])


def read_dac(data: bytes) -> DacContent:
    """The content of a `.dac` file's bytes; runs nothing. Raises CorruptStreamError."""
    if not data.startswith(MAGIC) or len(data) < 12:
        raise CorruptStreamError(
            "not a .dac file: it does not begin like a NumPy file; give one that myna or dac wrote"
        )
    size, form = (2, "<H") if data[6] == 1 else (4, "<I")
    (length,) = struct.unpack_from(form, data, 8)
    begin = 8 + size
    header = data[begin : begin + length].decode("latin-1")
    if data[6] not in (1, 2, 3) or length > 1024 or "".join(header.split()) != "".join(_HEADER.split()):
        raise CorruptStreamError(
            "not a .dac file: its NumPy header is damaged or of some other array; get the file again"
        )
    try:
        content = load_array(data[begin + length :])
    except PickleError as error:
        raise CorruptStreamError(f"the .dac file cannot be used: {error}; get the file again") from error
    return _checked(content)


def _checked(content: Any) -> DacContent:
    if not isinstance(content, dict) or not isinstance(content.get("metadata"), dict):
        raise CorruptStreamError("the .dac file is damaged: it holds no codes with metadata; get it again")
    codes, metadata = plain(content.get("codes")), content["metadata"]
    if (
        not isinstance(codes, np.ndarray)
        or codes.dtype.kind not in "iu"
        or codes.ndim != 3
        or codes.size == 0
    ):
        raise CorruptStreamError(
            "the .dac file is damaged: its codes are no (channels, codebooks, frames) array; get it again"
        )
    if not 0 <= int(codes.min()) <= int(codes.max()) < _CODEBOOK_SIZE:
        raise CorruptStreamError(
            "the .dac file is damaged: a code beyond the codebook of 1024 entries; get it again"
        )
    if metadata.get("dac_version") != VERSION:
        raise CorruptStreamError(
            f"the .dac file is damaged, or not of version {VERSION}, the only one known; get it again"
        )
    rows, n_codebooks, frames = codes.shape
    padding = metadata.get("padding")
    if not isinstance(padding, bool | np.bool_) or rows > 64 or n_codebooks > 64:
        raise CorruptStreamError(
            "the .dac file is damaged: its padding, channels or codebooks cannot be; get it again"
        )
    original_length = _whole(metadata, "original_length", 1, 1 << 40)
    sample_rate = _whole(metadata, "sample_rate", 1, 1_000_000)
    chunk_length = _whole(metadata, "chunk_length", 1, frames)
    channels = _whole(metadata, "channels", 1, rows)
    loudness = plain(metadata.get("input_db"))
    try:
        input_db = float(np.asarray(loudness, dtype=np.float64).reshape(-1)[0])
    except (TypeError, ValueError, IndexError):
        input_db = math.nan
    if not abs(input_db) <= _MAX_LOUDNESS or rows % channels or (frames % chunk_length and not padding):
        raise CorruptStreamError(
            "the .dac file is damaged: its loudness, channels or chunks cannot be; get it again"
        )
    return DacContent(
        codes=torch.from_numpy(codes.astype(np.int64)),
        input_db=input_db,
        original_length=original_length,
        sample_rate=sample_rate,
        chunk_length=chunk_length,
        channels=channels,
        padding=bool(padding),
    )


def _whole(metadata: dict[str, Any], key: str, low: int, high: int) -> int:
    value = plain(metadata.get(key))
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not low <= value <= high:
        raise CorruptStreamError(f"the .dac file is damaged: its {key} cannot be; get it again")
    return int(value)


def guess_model(content: DacContent) -> str | None:
    """The published model whose frames fit the file's length, None when none or more than one does."""
    n_codebooks, frames = content.codes.shape[1:]
    fitting = []
    for model in MODELS:
        length = -(-content.original_length * model.sample_rate // content.sample_rate)
        if content.padding:
            # Resampling may round either way, and the encoder's strides too.
            fits = abs(frames - Fraction(length, model.hop_length)) <= 1
        else:
            hop = model.valid_length(content.chunk_length)
            fits = hop > 0 and -(-length // hop) == frames // content.chunk_length
        if fits and n_codebooks <= model.n_codebooks:
            fitting.append(model)
    # The two models of 44.1 kHz differ in codebooks only: full use tells.
    exact = [model for model in fitting if model.n_codebooks == n_codebooks]
    chosen = exact if len(exact) == 1 else fitting
    return chosen[0].name if len(chosen) == 1 else None


class DacFile(CompressedFile):
    """A `.dac` file open for reading; see CompressedFile. Read whole, up to 256 MB.

    info.model is a guess from the lengths, None when more than one model fits (then the user must say).
    Packets are the file's chunks where `info.separate_chunks`, and pieces of its one pass elsewhere.
    """

    def __init__(self, file: BinaryIO, prefix: bytes = b""):
        data = bytearray(prefix)
        while piece := read_some(file):
            data += piece
            if len(data) > _MAX_BYTES:
                raise InputError(
                    f"the .dac file is over {_MAX_BYTES >> 20} MB, more than is read at a time; split it"
                )
        self.bytes_read = len(data)
        self.damage: list[Damage] = []
        self.content = content = read_dac(bytes(data))
        model = next((m for m in MODELS if m.name == guess_model(content)), None)
        self.info = FileInfo(
            format="dac",
            model=model.name if model else None,
            weights_hash="",
            sample_rate=model.sample_rate if model else 0,
            frame_size=model.hop_length if model else 0,
            n_codebooks=content.codes.shape[1],
            codebook_size=_CODEBOOK_SIZE,
            streams=content.codes.shape[0],
            original_sample_rate=content.sample_rate,
            channels=content.channels,
            n_samples=content.original_length,
            packet_frames=_PIECE if content.padding else content.chunk_length,
            entropy_coder="none",
            input_db=content.input_db,
            separate_chunks=not content.padding,
        )

    def size(self) -> int | None:
        return self.bytes_read

    def packets(self, start: float = 0.0) -> Iterator[Packet]:
        codes, step = self.content.codes, self.info.packet_frames
        duration = self.info.duration or 0.0
        n_packets = -(-codes.shape[-1] // step)
        first = int(start / duration * n_packets) if duration else 0
        for i in range(min(first, n_packets), n_packets):
            yield Packet(codes[..., i * step : (i + 1) * step], i * step)
