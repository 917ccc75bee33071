"""The `.myna` file: written packet by packet, read while it arrives, sought in, cut.

Shapes: S streams, K codebooks, T frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from ...errors import CorruptStreamError, InputError, MissingModelError, UsageError
from ..base import Codec
from .base import CompressedFile, Damage, FileInfo, Packet
from .conceal import Concealer
from .context_model import ContextModel
from .entropy import NAMES, PACKED, ContextCoder, EntropyCoder, PackedCoder
from .header import Header
from .packets import End, Event, Gap, PacketParser, PacketWriter, RawPacket, read_end

_CHUNK = 1 << 16
_WEIGHTS = Path(__file__).resolve().parents[2] / "weights"


def header_for(
    codec: Codec,
    original_sample_rate: int,
    channels: int,
    n_codebooks: int | None = None,
    n_samples: int | None = None,
    streams: int | None = None,
    packet_frames: int | None = None,
    weights_hash: str = "",
) -> Header:
    """The header of a file with this codec's codes.

    n_codebooks: None for all.   n_samples: at the original rate, None when not known yet.
    streams: rows of codes, None for as many as the codec needs for `channels` (all in one row when the codec
    has as many channels itself, else one row a channel).
    packet_frames: None for the codec's.   weights_hash: from `codec.checkpoint.weights_hash`, without which neither a
    reader can tell other weights nor the writer use the entropy model that ships for these.
    """
    if streams is None:
        streams = 1 if codec.channels == channels else channels
    return Header(
        model=codec.name,
        weights_hash=weights_hash[:16],
        sample_rate=codec.sample_rate,
        frame_size=codec.frame_size,
        n_codebooks=codec.n_codebooks if n_codebooks is None else n_codebooks,
        codebook_size=codec.codebook_size,
        streams=streams,
        original_sample_rate=original_sample_rate,
        channels=channels,
        n_samples=n_samples,
        packet_frames=codec.packet_frames if packet_frames is None else packet_frames,
    )


def find_context_model(
    model: str, folder: Path = _WEIGHTS, model_hash: str | None = None
) -> ContextModel | None:
    """The entropy model that ships for a codec, or is in training beside it, None where there is none.

    model_hash: 16 hex digits; then an earlier one with this hash where it is kept, so that its files stay readable
    (NAME.entropy-HASH.safetensors), else the one that files are written with.
    """
    if not model or "/" in model:
        return None
    name = f"{model}.entropy"
    paths = [folder / f"{name}.safetensors", folder / "next" / f"{name}.safetensors"]
    if model_hash:
        paths.insert(0, folder / f"{name}-{model_hash}.safetensors")
    for path in paths:
        if path.is_file():
            return _load_context_model(path, path.stat().st_mtime_ns)
    return None


@lru_cache(maxsize=3)
def _load_context_model(path: Path, _changed: int) -> ContextModel:
    return ContextModel.load(path)


class MynaWriter:
    """Codes to a `.myna` file or pipe; each packet leaves as soon as it is full.

    coder: None takes the context model that ships for the codec where it was trained on these very weights,
    and plain packing elsewhere.   Raises UsageError when the header is out of bounds.
    """

    def __init__(self, file: BinaryIO, header: Header, coder: EntropyCoder | None = None):
        self.coder = coder or _coder_for_writing(header)
        self.header = replace(header, coder_id=self.coder.coder_id, model_hash=self.coder.model_hash)
        self._packets = PacketWriter(file, self.header)
        self._waiting = np.zeros((header.streams, header.n_codebooks, 0), dtype=np.int64)
        self._sequence = 0

    @property
    def bytes_written(self) -> int:
        return self._packets.position

    def push(self, codes: Tensor, scale: Tensor | None = None) -> None:
        """Append codes (S, K, T), any T.

        scale: (S,), for a header that says `scaled`: then `codes` are the frames of one whole segment, of
        `packet_frames` frames except the last.   Raises UsageError when the shape or a code does not fit.
        """
        header, array = self.header, codes.detach().cpu().numpy()
        if array.ndim != 3 or array.shape[:2] != (header.streams, header.n_codebooks):
            raise UsageError(
                f"codes of shape {tuple(array.shape)} where the file holds ({header.streams}, "
                f"{header.n_codebooks}, frames)"
            )
        if array.size and not 0 <= array.min() <= array.max() < header.codebook_size:
            raise UsageError(
                f"codes from {array.min()} to {array.max()} where 0 to {header.codebook_size - 1} fit"
            )
        if header.scaled != (scale is not None) or (header.scaled and array.shape[-1] > header.packet_frames):
            raise UsageError("a file with loudness per segment takes one segment at a time, with its scale")
        self._waiting = np.concatenate([self._waiting, array], axis=-1)
        if scale is not None:
            return self._emit(self._waiting.shape[-1], scale.detach().cpu().numpy().reshape(-1))
        while self._waiting.shape[-1] >= header.packet_frames:
            self._emit(header.packet_frames)

    def close(self, n_samples: int | None = None) -> None:
        """Write what waits, and the end. n_samples: exact length at the original rate (else as in the
        header).
        """
        if self._waiting.shape[-1]:
            self._emit(self._waiting.shape[-1])
        self._packets.close(self.header.n_samples if n_samples is None else n_samples)

    def _emit(self, frames: int, scale: np.ndarray | None = None) -> None:
        now, self._waiting = self._waiting[..., :frames], self._waiting[..., frames:]
        self._packets.write(RawPacket(self._sequence, frames, self.coder.encode(now), scale))
        self._sequence += 1


class MynaFile(CompressedFile):
    """A `.myna` file open for reading; see CompressedFile.

    file: any readable file; `prefix` holds bytes already read from it.   coder: for tests and other codecs'
    entropy models; None finds the one that the header names.
    Raises CorruptStreamError when the header is damaged, MissingModelError when its entropy model is not
    here.
    """

    def __init__(self, file: BinaryIO, prefix: bytes = b"", coder: EntropyCoder | None = None):
        self._file, self._given_coder = file, coder
        self.damage: list[Damage] = []
        self.bytes_read = 0
        self._begin = file.tell() - len(prefix) if _seekable(file) else None
        self._raw = _RawReader(file, prefix)
        self.header = self._raw.read_header()
        self.info = _info(self.header)
        self.end = self._read_end()
        self._started = False
        if self.end and self.end.n_samples is not None:
            self.info = replace(self.info, n_samples=self.end.n_samples)

    def packets(self, start: float = 0.0) -> Iterator[Packet]:
        return self._packets(self._seek(start), self._coder())

    def size(self) -> int | None:
        if self._begin is None:
            return self.bytes_read if self._raw.exhausted else None
        here = self._file.tell()
        size = self._file.seek(0, 2) - self._begin
        self._file.seek(here)
        return size

    def _packets(self, first: int, coder: EntropyCoder) -> Iterator[Packet]:
        header = self.header
        concealer = Concealer(header.streams, header.n_codebooks)
        frames = first * header.packet_frames
        for event in self._raw.events():
            self.bytes_read = self._raw.bytes_read
            if isinstance(event, RawPacket):
                if event.sequence < first:
                    continue
                packet = self._decoded(event, coder)
                if packet is None:
                    yield from self._concealed(concealer, event.sequence, event.frames)
                else:
                    concealer.good(packet.codes)
                    yield packet
                frames = event.sequence * header.packet_frames + event.frames
            elif isinstance(event, Gap):
                before = max(0, min(event.frames, (first - event.sequence) * header.packet_frames))
                self.damage.append(Damage(event.sequence, event.reason, event.frames - before))
                yield from self._concealed(concealer, max(event.sequence, first), event.frames - before)
                frames = max(frames, event.sequence * header.packet_frames + event.frames)
            elif isinstance(event, Damage):
                self.damage.append(event)
            elif isinstance(event, End):
                self.end = event
        self.bytes_read = self._raw.bytes_read
        self._settle_length(frames)

    def _decoded(self, raw: RawPacket, coder: EntropyCoder) -> Packet | None:
        try:
            codes = coder.decode(raw.blocks, self.header.streams, raw.frames)
        except CorruptStreamError as error:
            self.damage.append(Damage(raw.sequence, str(error), raw.frames))
            return None
        scale = None if raw.scale is None else torch.from_numpy(raw.scale)
        return Packet(torch.from_numpy(codes), raw.sequence * self.header.packet_frames, scale)

    def _concealed(self, concealer: Concealer, sequence: int, frames: int) -> Iterator[Packet]:
        """Stand-ins, one packet at a time: a gap of any length takes the memory of one packet."""
        size, start = self.header.packet_frames, sequence * self.header.packet_frames
        for done in range(0, frames, size):
            codes, gain = concealer.conceal(min(size, frames - done))
            scale = torch.zeros(self.header.streams) if self.header.scaled else None
            yield Packet(codes, start + done, scale, lost=True, gain=gain)

    def _settle_length(self, frames: int) -> None:
        """At the end of the stream: the length that the end packet states, or what is there when it is
        missing.
        """
        stated = self.end.n_samples if self.end else self.header.n_samples
        self.info = replace(self.info, n_samples=self.header.length(frames, stated))

    def _coder(self) -> EntropyCoder:
        return self._given_coder or _coder_for_reading(self.header)

    def _read_end(self) -> End | None:
        if self._begin is None:
            return None
        here = self._file.tell()
        end = read_end(self._file, self._begin)
        self._file.seek(here)
        return end

    def _seek(self, start: float) -> int:
        """Make the reader stand at or before the packet that holds `start`; return that packet's number."""
        sample = self.header.skip + int(start * self.header.original_sample_rate)
        first = int(sample / self.header.hop) if start > 0 else 0
        if not self._started and first == 0:
            self._started = True
            return 0
        if self._begin is None:
            if self._started:
                raise UsageError("a pipe can be read only once; store it in a file to seek in it")
            self._started = True
            return first  # the packets before it are read and passed over
        self._started = True
        self.damage.clear()
        entry = first // self.end.stride if self.end else 0
        if self.end and entry < len(self.end.offsets) and entry > 0:
            self._file.seek(self._begin + self.end.offsets[entry])
            self._raw = _RawReader(self._file, b"", PacketParser(self.header, entry * self.end.stride))
        else:
            self._file.seek(self._begin)
            self._raw = _RawReader(self._file, b"")
            self._raw.read_header()
        return first


class _RawReader:
    """Events out of a file, read in whatever pieces it gives."""

    def __init__(self, file: BinaryIO, prefix: bytes, parser: PacketParser | None = None):
        self.file, self.parser = file, parser or PacketParser()
        self.bytes_read, self.exhausted = len(prefix), False
        self._events: list[Event] = self.parser.feed(prefix)

    def read_header(self) -> Header:
        while self.parser.header is None:
            self._more()
        self._events = [event for event in self._events if not isinstance(event, Header)]
        return self.parser.header

    def events(self) -> Iterator[Event]:
        while True:
            while self._events:
                yield self._events.pop(0)
            if self.exhausted:
                return
            self._more()

    def _more(self) -> None:
        data = read_some(self.file)
        self.bytes_read += len(data)
        self.exhausted = not data
        self._events += self.parser.feed(data) if data else self.parser.close()


def read_some(file: BinaryIO, size: int = _CHUNK) -> bytes:
    """The bytes that are there, at least one unless the file has ended: does not wait for `size` of them.

    Raises InputError when the system cannot read.
    """
    try:
        return getattr(file, "read1", file.read)(size) or b""
    except OSError as error:
        raise InputError(f"cannot read the compressed file: {error.strerror or error}") from error


def _seekable(file: BinaryIO) -> bool:
    return bool(getattr(file, "seekable", lambda: False)())


def cut(
    source: BinaryIO,
    destination: BinaryIO,
    n_codebooks: int | None = None,
    start: float = 0.0,
    end: float | None = None,
) -> list[Damage]:
    """Copy a `.myna` file with fewer codebooks (a lower bitrate), a stretch of its time, or both.

    Nothing is decoded or encoded: the blocks of the kept codebooks are copied as they are.
    start, end: seconds; None for the end of the file. The packet before `start` is kept, too, so that the
    decoder is warm; the header's `skip` says what to drop.
    Returns what was damaged in the source; the damage stays as a gap in the copy.
    Raises UsageError when the file has fewer codebooks or the times are not in order.
    """
    raw = _RawReader(source, b"")
    header = raw.read_header()
    kept = header.n_codebooks if n_codebooks is None else n_codebooks
    if not 1 <= kept <= header.n_codebooks:
        raise UsageError(f"{kept} codebooks were asked for, but the file holds {header.n_codebooks}")
    if start < 0 or (end is not None and end <= start):
        raise UsageError(f"the times {start:g} s to {end:g} s are not in order")
    rate = header.original_sample_rate
    from_sample = round(start * rate)
    to_sample = None if end is None else round(end * rate)
    first = max(0, int((from_sample + header.skip) / header.hop) - 1) if from_sample else 0
    last = None if to_sample is None else int((to_sample + header.skip) / header.hop)
    skip = header.skip + from_sample - round(first * header.hop)
    length = _cut_length(header.n_samples, from_sample, to_sample)
    writer = PacketWriter(destination, replace(header, n_codebooks=kept, skip=skip, n_samples=length))
    damage: list[Damage] = []
    ended: End | None = None
    for event in raw.events():
        if isinstance(event, RawPacket):
            if event.sequence >= first and (last is None or event.sequence <= last):
                writer.write(replace(event, sequence=event.sequence - first, blocks=event.blocks[:kept]))
        elif isinstance(event, Gap):
            damage.append(Damage(event.sequence, event.reason, event.frames))
        elif isinstance(event, Damage):
            damage.append(event)
        elif isinstance(event, End):
            ended = event
    total = ended.n_samples if ended else None
    length = _cut_length(total, from_sample, to_sample)
    writer.close(writer.header.length(writer.frames, length))
    return damage


def _cut_length(total: int | None, from_sample: int, to_sample: int | None) -> int | None:
    """Samples between the two, within a file of `total`; None when that is not known."""
    if total is None:
        return None
    return max(0, (total if to_sample is None else min(total, to_sample)) - from_sample)


def _coder_for_writing(header: Header) -> EntropyCoder:
    model = find_context_model(header.model)
    fits = model is not None and (
        model.codec_hash == header.weights_hash
        and model.config.codebook_size == header.codebook_size
        and model.config.n_codebooks >= header.n_codebooks
    )
    return ContextCoder(model) if model is not None and fits else PackedCoder(header.codebook_size)


def _coder_for_reading(header: Header) -> EntropyCoder:
    if header.coder_id == PACKED:
        return PackedCoder(header.codebook_size)
    model = find_context_model(header.model, model_hash=header.model_hash)
    if model is None or model.hash != header.model_hash:
        have = "none is installed" if model is None else f"{model.hash} is installed"
        raise MissingModelError(
            f"the file needs the entropy model {header.model_hash} of {header.model}, but {have}; "
            "install the version of myna that wrote it"
        )
    if model.config.codebook_size != header.codebook_size or model.config.n_codebooks < header.n_codebooks:
        raise CorruptStreamError(
            "the header's codebooks do not fit the entropy model that it names; get the file again"
        )
    return ContextCoder(model)


def _info(header: Header) -> FileInfo:
    return FileInfo(
        format="myna",
        model=header.model or None,
        weights_hash=header.weights_hash,
        sample_rate=header.sample_rate,
        frame_size=header.frame_size,
        n_codebooks=header.n_codebooks,
        codebook_size=header.codebook_size,
        streams=header.streams,
        original_sample_rate=header.original_sample_rate,
        channels=header.channels,
        n_samples=header.n_samples,
        skip=header.skip,
        packet_frames=header.packet_frames,
        scaled=header.scaled,
        synthetic=header.synthetic,
        entropy_coder=NAMES[header.coder_id],
    )
