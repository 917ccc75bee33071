"""The header of a `.myna` file.

    magic (8) | version u8 | length u16 | fields | CRC-32C u32          little-endian throughout

Every field is checked against bounds before anything is allocated from it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from fractions import Fraction

import google_crc32c

from ...errors import CorruptStreamError, UsageError
from .entropy import CONTEXT, NAMES

MAGIC = b"\x89MYNA\r\n\x1a"  # a first byte that is not text, and line ends that a text transfer would damage
VERSION = 1
UNKNOWN = (1 << 64) - 1  # n_samples of a pipe that has not ended

_PREFIX = struct.Struct("<8sBH")
_FIELDS = struct.Struct("<BB8s8sIIBIBIBQIHI")
_SCALED, _SYNTHETIC = 1, 2  # flags
_MAX_LENGTH = 512
_MAX_NAME = 64
_MAX_PACKET_CODES = 1 << 22  # streams * codebooks * frames of a packet: what a reader may have to hold


@dataclass(frozen=True)
class Header:
    """What a `.myna` file says before its first packet; fields as in FileInfo.

    packet_hop: samples at the codec's rate from the beginning of one packet to that of the next; 0 stands for
        packet_frames * frame_size (less where segments overlap: EnCodec 48 kHz).
    coder_id: entropy.PACKED or entropy.CONTEXT.   model_hash: of the context model, 16 hex digits or "".
    """

    model: str
    weights_hash: str
    sample_rate: int
    frame_size: int
    n_codebooks: int
    codebook_size: int
    streams: int
    original_sample_rate: int
    channels: int
    n_samples: int | None = None
    skip: int = 0
    packet_frames: int = 50
    packet_hop: int = 0
    scaled: bool = False
    coder_id: int = 0
    model_hash: str = ""
    synthetic: bool = False

    @property
    def hop(self) -> Fraction:
        """Samples at the original rate from the beginning of one packet to that of the next."""
        hop = self.packet_hop or self.packet_frames * self.frame_size
        return Fraction(hop * self.original_sample_rate, self.sample_rate)

    def length(self, frames: int, stated: int | None) -> int:
        """Samples at the original rate, after `skip`, of a file with so many frames that states its length
        (or does not): never more than the frames can stand for."""
        packets = -(-frames // self.packet_frames)
        if not packets:
            return 0
        last = frames - (packets - 1) * self.packet_frames
        step = Fraction(self.frame_size * self.original_sample_rate, self.sample_rate)
        there = max(0, int((packets - 1) * self.hop + last * step) - self.skip)
        # One sample at the codec's rate is several at a higher one, and a resampler may have rounded it away.
        rounding = -(-self.original_sample_rate // self.sample_rate)
        return there if stated is None else min(stated, there + rounding)

    def problem(self) -> str | None:
        """What is out of bounds, None when all is well."""
        bounds = {
            "sample_rate": (1, 1_000_000),
            "frame_size": (1, 1 << 16),
            "n_codebooks": (1, 64),
            "codebook_size": (2, 1 << 16),
            "streams": (1, 64),
            "original_sample_rate": (1, 1_000_000),
            "channels": (1, 64),
            "skip": (0, (1 << 32) - 1),
            "packet_frames": (1, 4096),
            "packet_hop": (0, self.packet_frames * self.frame_size),
        }
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            if not low <= value <= high:
                return f"{name} {value} is outside {low} to {high}"
        if self.n_samples is not None and not 0 <= self.n_samples < 1 << 48:
            return f"n_samples {self.n_samples} is outside 0 to 2^48"
        if self.streams * self.n_codebooks * self.packet_frames > _MAX_PACKET_CODES:
            return f"a packet of more than {_MAX_PACKET_CODES} codes"
        if self.coder_id not in NAMES:
            return f"entropy coder {self.coder_id} is not known"
        if len(self.model.encode()) > _MAX_NAME or not self.model.isprintable():
            return "the model's name is too long or not printable"
        return None

    def pack(self) -> bytes:
        """The header's bytes. Raises UsageError when a field is out of bounds."""
        problem = self.problem()
        if problem:
            raise UsageError(f"this cannot be written as .myna: {problem}")
        name = self.model.encode()
        fields = _FIELDS.pack(
            _SCALED * self.scaled | _SYNTHETIC * self.synthetic,
            self.coder_id,
            _hash_bytes(self.weights_hash),
            _hash_bytes(self.model_hash),
            self.sample_rate,
            self.frame_size,
            self.n_codebooks,
            self.codebook_size,
            self.streams,
            self.original_sample_rate,
            self.channels,
            UNKNOWN if self.n_samples is None else self.n_samples,
            self.skip,
            self.packet_frames,
            self.packet_hop,
        )
        body = fields + bytes([len(name)]) + name
        data = _PREFIX.pack(MAGIC, VERSION, len(body)) + body
        return data + struct.pack("<I", google_crc32c.value(data))


def unpack_header(data: bytes) -> tuple[Header, int] | None:
    """The header at the beginning of `data` and its length in bytes; None when more bytes are needed.

    Raises CorruptStreamError as soon as it is certain that this is no header.
    """
    if not MAGIC.startswith(data[: len(MAGIC)]):
        raise CorruptStreamError(
            "not a .myna file: it does not begin with the .myna signature; give one that myna wrote"
        )
    if len(data) < _PREFIX.size:
        return None
    _, version, length = _PREFIX.unpack_from(data)
    if version != VERSION:
        raise CorruptStreamError(
            f".myna version {version} where this program reads version {VERSION}: "
            "the file is damaged, or a newer myna wrote it; get it again, or update myna"
        )
    end = _PREFIX.size + length
    if not _FIELDS.size < length <= _MAX_LENGTH:
        raise CorruptStreamError(
            f"the .myna header is damaged: its length of {length} bytes cannot be; get the file again"
        )
    if len(data) < end + 4:
        return None
    if struct.unpack_from("<I", data, end)[0] != google_crc32c.value(bytes(data[:end])):
        raise CorruptStreamError(
            "the .myna header is damaged: its checksum does not match; get the file again"
        )
    flags, coder_id, weights_hash, model_hash, *numbers = _FIELDS.unpack_from(data, _PREFIX.size)
    name = bytes(data[_PREFIX.size + _FIELDS.size : end])
    try:
        model = name[1 : 1 + name[0]].decode()
    except UnicodeDecodeError:
        model = "\0"  # not printable: refused below
    rate, frame_size, n_codebooks, codebook_size, streams = numbers[:5]
    original_rate, channels, n_samples, skip, packet_frames, packet_hop = numbers[5:]
    header = Header(
        model=model,
        weights_hash=_hash_text(weights_hash),
        sample_rate=rate,
        frame_size=frame_size,
        n_codebooks=n_codebooks,
        codebook_size=codebook_size,
        streams=streams,
        original_sample_rate=original_rate,
        channels=channels,
        n_samples=None if n_samples == UNKNOWN else n_samples,
        skip=skip,
        packet_frames=packet_frames,
        packet_hop=packet_hop,
        scaled=bool(flags & _SCALED),
        synthetic=bool(flags & _SYNTHETIC),
        coder_id=coder_id,
        model_hash=_hash_text(model_hash),
    )
    problem = header.problem()
    if problem or flags & ~(_SCALED | _SYNTHETIC) or (coder_id == CONTEXT and not header.model_hash):
        raise CorruptStreamError(
            f"the .myna header cannot be right: {problem or 'unknown flags'}; get the file again"
        )
    return header, end + 4


def _hash_bytes(text: str) -> bytes:
    """Eight bytes of 16 hex digits; zeros for "" (no hash)."""
    try:
        return bytes.fromhex(text[:16]).ljust(8, b"\0")
    except ValueError as error:
        raise UsageError(f"a weights hash is hexadecimal, got {text!r}") from error


def _hash_text(data: bytes) -> str:
    return "" if data == bytes(8) else data.hex()
