"""Packets of a `.myna` file, still entropy-coded: written one by one, found again in any bytes.

    data packet:  0xB5 0x9C | length | sequence | check | body | CRC-32C         (all frames of a packet)
                  0xB5 0x9D | length | sequence | frames | check | body | CRC-32C  (the last, shorter one)
    end packet:   0xB5 0xE3 | length | check | body | CRC-32C
    footer:       distance back to the end packet u32 | "MYNE"

Numbers are LEB128 varints unless a width is given; `check` is the low byte of the CRC-32C of what precedes
it, so that a damaged length does not make a reader wait for bytes that never come; the closing CRC covers
everything from the first byte. A data body is: the streams' scales (float32, only where the header says
`scaled`), the length of each codebook's block, the blocks. An end body is: packets, frames, samples + 1 (0:
not known), packets per index entry, entries, and the distances between them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO

import google_crc32c
import numpy as np

from ...errors import CorruptStreamError
from .base import Damage
from .bits import get_varint, put_varint
from .header import Header, unpack_header

SYNC = 0xB5
FULL, SHORT, END = 0x9C, 0x9D, 0xE3
FOOTER = struct.Struct("<I4s")
FOOTER_MAGIC = b"MYNE"

_SYNC_BYTE = bytes([SYNC])
_MAX_VARINT = 9
_MAX_ENTRIES = 4096  # index entries: beyond, every second one is dropped, so that memory stays bounded
_MAX_CODE_BYTES = 4  # no coder needs more for one code
_SLACK = 8  # bytes a block may need beyond its codes, and slack of the guess how much a gap can have held
_BELIEVED_GAP = 64  # packets that may be missing without a trace (cut out of the bytes)


@dataclass(frozen=True)
class RawPacket:
    """sequence: number of the packet.   blocks: bytes of each codebook.   scale: (S,) float32 or None."""

    sequence: int
    frames: int
    blocks: list[bytes]
    scale: np.ndarray | None = None


@dataclass(frozen=True)
class Gap:
    """`packets` packets from `sequence` on are missing: `frames` frames in all."""

    sequence: int
    packets: int
    frames: int
    reason: str


@dataclass(frozen=True)
class End:
    """The end packet. n_samples: None when the writer did not know it. offsets: of every `stride`th
    packet.
    """

    packets: int
    frames: int
    n_samples: int | None
    stride: int
    offsets: tuple[int, ...]


Event = Header | RawPacket | Gap | End | Damage


class PacketWriter:
    """Writes header, packets and index to any file, seekable or not; each packet is flushed as it is
    written.
    """

    def __init__(self, file: BinaryIO, header: Header):
        self.file, self.header = file, header
        self.packets = self.frames = self.position = 0
        self.stride, self.offsets = 8, []
        self._write(header.pack())

    def write(self, packet: RawPacket) -> None:
        """Append a packet; sequence numbers rise, and one that is skipped reads as a gap."""
        header = self.header
        if packet.sequence < self.packets:
            raise ValueError(f"packet {packet.sequence} after packet {self.packets - 1}")
        for sequence in range(self.packets, packet.sequence + 1):
            if sequence % self.stride == 0:
                self._index(sequence)
        scale = b"" if packet.scale is None else packet.scale.astype("<f4").tobytes()
        lengths = b"".join(put_varint(len(block)) for block in packet.blocks)
        body = scale + lengths + b"".join(packet.blocks)
        full = packet.frames == header.packet_frames
        head = bytes([SYNC, FULL if full else SHORT]) + put_varint(len(body)) + put_varint(packet.sequence)
        self._write(_sealed(head if full else head + put_varint(packet.frames), body))
        self.packets = packet.sequence + 1
        self.frames = packet.sequence * header.packet_frames + packet.frames

    def close(self, n_samples: int | None) -> None:
        """Write the end packet and the footer."""
        distances, last = b"", 0
        for offset in self.offsets:
            distances, last = distances + put_varint(offset - last), offset
        known = 0 if n_samples is None else n_samples + 1
        numbers = (self.packets, self.frames, known, self.stride, len(self.offsets))
        body = b"".join(put_varint(n) for n in numbers) + distances
        data = _sealed(bytes([SYNC, END]) + put_varint(len(body)), body)
        self._write(data + FOOTER.pack(len(data) + FOOTER.size, FOOTER_MAGIC))

    def _index(self, sequence: int) -> None:
        if len(self.offsets) == _MAX_ENTRIES:
            self.offsets, self.stride = self.offsets[::2], 2 * self.stride
            if sequence % self.stride:
                return
        self.offsets.append(self.position)

    def _write(self, data: bytes) -> None:
        self.file.write(data)
        self.file.flush()
        self.position += len(data)


def _sealed(head: bytes, body: bytes) -> bytes:
    data = head + bytes([google_crc32c.value(head) & 0xFF]) + body
    return data + struct.pack("<I", google_crc32c.value(data))


class PacketParser:
    """Bytes in, in chunks of any size; events out, as soon as their last byte is in.

    >>> for chunk in chunks:
    ...     for event in parser.feed(chunk): ...
    >>> for event in parser.close(): ...

    Damaged bytes are skipped up to the next whole packet and come out as Damage and Gap. Holds at most one
    packet and one chunk. Raises CorruptStreamError only while the header is read.
    """

    def __init__(self, header: Header | None = None, sequence: int = 0):
        """`header`, `sequence`: where bytes from the middle of a file are to be read (seeking)."""
        self.header, self.expected = header, sequence
        self.ended = self._last_seen = self._footer_seen = False
        self._buffer = bytearray()
        self._position = 0  # of the next unread byte in the buffer
        self._skipped = 0  # bytes since the last whole packet
        self._needed = 0  # bytes that must be there before it is worth looking again

    def feed(self, data: bytes) -> list[Event]:
        self._buffer += data
        if len(self._buffer) - self._position < self._needed:
            return []
        return self._parse(final=False)

    def close(self) -> list[Event]:
        """Nothing follows: what is left is judged as it is."""
        events = self._parse(final=True)
        if self.header is None:
            raise CorruptStreamError("the .myna file ends inside its header; get the file again")
        self._skipped += len(self._buffer) - self._position
        if self._skipped:
            where = "after the end" if self.ended else f"after packet {self.expected - 1}"
            events.append(Damage(self.expected, f"{self._skipped} bytes {where} are damaged or cut off"))
        if not self.ended:
            events.append(Damage(-1, "the file ends early, without its end packet"))
        self._buffer.clear()
        self._position = self._skipped = 0
        return events

    def _parse(self, final: bool) -> list[Event]:
        events: list[Event] = []
        if self.header is None:
            found = unpack_header(bytes(self._buffer[:1024]))
            if found is None:
                return events
            self.header, self._position = found
            events.append(self.header)
        while self._step(events, final):
            pass
        del self._buffer[: self._position]
        self._position = 0
        return events

    def _step(self, events: list[Event], final: bool) -> bool:
        """Handle what is at the position; False when more bytes are needed."""
        self._needed = 0
        if self.ended:
            return self._footer()
        start = self._buffer.find(_SYNC_BYTE, self._position)
        if start < 0:
            start = len(self._buffer)
        self._skipped += start - self._position
        self._position = start
        found = self._packet_at(start)
        if isinstance(found, int):  # so many bytes are needed
            if final and start < len(self._buffer):
                return self._skip()
            self._needed = found
            return False
        if found is None:
            return self._skip()
        event, end = found
        self._take(event, events)
        self._position = end
        self._skipped = 0
        return True

    def _skip(self) -> bool:
        self._position += 1
        self._skipped += 1
        return True

    def _packet_at(self, start: int) -> tuple[RawPacket | End, int] | int | None:
        """The packet that begins at `start` and where it ends; how many bytes it needs; or None: there is
        none.
        """
        assert self.header is not None
        data = self._buffer
        try:
            kind = data[start + 1]
            if kind not in (FULL, SHORT, END):
                return None
            length, at = get_varint(data, start + 2, _MAX_VARINT)
            sequence, frames = 0, self.header.packet_frames
            if kind != END:
                sequence, at = get_varint(data, at, _MAX_VARINT)
            if kind == SHORT:
                frames, at = get_varint(data, at, _MAX_VARINT)
            if data[at] != google_crc32c.value(bytes(data[start:at])) & 0xFF:
                return None
        except IndexError:
            return len(data) - start + 1
        except ValueError:
            return None
        if length > self._longest(kind) or not 0 < frames <= self.header.packet_frames:
            return None
        body, end = at + 1, at + 1 + length
        if len(data) < end + 4:
            return end + 4 - start
        if struct.unpack_from("<I", data, end)[0] != google_crc32c.value(bytes(data[start:end])):
            return None
        content = bytes(data[body:end])
        event = _end(content) if kind == END else self._data(sequence, frames, content)
        return None if event is None else (event, end + 4)

    def _longest(self, kind: int) -> int:
        assert self.header is not None
        if kind == END:
            return _MAX_VARINT * (_MAX_ENTRIES + 5)
        per_block = self.header.streams * self.header.packet_frames * _MAX_CODE_BYTES + _SLACK
        return 4 * self.header.streams + self.header.n_codebooks * (per_block + _MAX_VARINT)

    def _data(self, sequence: int, frames: int, body: bytes) -> RawPacket | None:
        """None when the body cannot be right although its checksum is: nothing that PacketWriter made."""
        assert self.header is not None
        at, scale = 0, None
        if self.header.scaled:
            at = 4 * self.header.streams
            if len(body) < at:
                return None
            scale = np.frombuffer(body, dtype="<f4", count=self.header.streams).astype(np.float32)
            if not np.isfinite(scale).all():
                return None
        try:
            lengths = []
            for _ in range(self.header.n_codebooks):
                length, at = get_varint(body, at, _MAX_VARINT)
                lengths.append(length)
        except (IndexError, ValueError):
            return None
        if at + sum(lengths) != len(body):
            return None
        blocks = []
        for length in lengths:
            blocks.append(body[at : at + length])
            at += length
        return RawPacket(sequence, frames, blocks, scale)

    def _take(self, event: RawPacket | End, events: list[Event]) -> None:
        assert self.header is not None
        frames = self.header.packet_frames
        if isinstance(event, End):
            self.ended = True
            missing = event.packets - self.expected
            lost_frames = event.frames - self.expected * frames
            if missing > 0 and 0 < lost_frames <= missing * frames:
                self._gap(missing, lost_frames, events)
            elif missing or self._skipped:
                self._complain(events, missing)
            events.append(event)
            return
        if event.sequence < self.expected or self._last_seen:
            what = "comes again or too late" if event.sequence < self.expected else "follows the last one"
            events.append(Damage(event.sequence, f"the packet {what} and is left out"))
            return
        missing = event.sequence - self.expected
        if missing:
            self._gap(missing, missing * frames, events)
        elif self._skipped:
            self._complain(events, 0)
        self.expected = event.sequence + 1
        # Where segments overlap, the last two of them may both be short.
        self._last_seen = event.frames < frames and not self.header.scaled
        events.append(event)

    def _gap(self, missing: int, lost_frames: int, events: list[Event]) -> None:
        """Report missing packets, unless so many cannot have been where so few bytes were."""
        assert self.header is not None
        smallest = 8 + self.header.n_codebooks
        believed = self._skipped // smallest + _BELIEVED_GAP
        reason = f"damaged ({self._skipped} bytes skipped)" if self._skipped else "missing"
        if missing > believed:
            lost_frames = believed * self.header.packet_frames
            reason += f"; a jump of {missing} packets is not believed and shortened to {believed}"
        events.append(Gap(self.expected, missing, lost_frames, reason))

    def _complain(self, events: list[Event], missing: int) -> None:
        if self._skipped:
            events.append(Damage(self.expected, f"{self._skipped} foreign bytes before the packet, skipped"))
        elif missing < 0:
            events.append(Damage(self.expected, "the end packet counts fewer packets than there are"))
        else:
            events.append(Damage(self.expected, "the end packet's counts of packets and frames do not agree"))

    def _footer(self) -> bool:
        """Step over the footer; whatever else follows the end is counted as skipped."""
        available = len(self._buffer) - self._position
        if not self._footer_seen:
            if available < FOOTER.size:
                return False
            if FOOTER.unpack_from(self._buffer, self._position)[1] == FOOTER_MAGIC:
                self._position += FOOTER.size
            self._footer_seen = True
        self._skipped += len(self._buffer) - self._position
        self._position = len(self._buffer)
        return False


def _end(body: bytes) -> End | None:
    try:
        at, numbers = 0, []
        for _ in range(5):
            number, at = get_varint(body, at, _MAX_VARINT)
            numbers.append(number)
        packets, frames, known, stride, entries = numbers
        if entries > _MAX_ENTRIES or stride < 1:
            return None
        offsets, offset = [], 0
        for _ in range(entries):
            distance, at = get_varint(body, at, _MAX_VARINT)
            offset += distance
            offsets.append(offset)
    except (IndexError, ValueError):
        return None
    return (
        End(packets, frames, known - 1 if known else None, stride, tuple(offsets))
        if at == len(body)
        else None
    )


def read_end(file: BinaryIO, begin: int) -> End | None:
    """The end packet of a seekable file that begins at `begin`; None when it is missing or damaged."""
    size = file.seek(0, 2)
    if size - begin < FOOTER.size:
        return None
    file.seek(size - FOOTER.size)
    distance, magic = FOOTER.unpack(file.read(FOOTER.size))
    if magic != FOOTER_MAGIC or not FOOTER.size < distance <= min(size - begin, 64 * _MAX_ENTRIES):
        return None
    file.seek(size - distance)
    data = file.read(distance - FOOTER.size)
    try:
        length, at = get_varint(data, 2, _MAX_VARINT)
    except (IndexError, ValueError):
        return None
    end = at + 1 + length
    if data[:2] != bytes([SYNC, END]) or len(data) != end + 4:
        return None
    if struct.unpack_from("<I", data, end)[0] != google_crc32c.value(data[:end]):
        return None
    return _end(data[at + 1 : end])
