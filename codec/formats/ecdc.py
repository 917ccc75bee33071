"""EnCodec's `.ecdc` files (Défossez et al. 2022; the layout is that of the `encodec` package, version 0.1.1).

    "ECDC" | version u8 = 0 | length u32 | JSON {"m": model, "al": samples, "nc": codebooks, "lm": bool}
    for each segment: loudness float32 (48 kHz model only) | codes, frame by frame, codebook by codebook

Big-endian. The length counts samples at the model's rate; original rate and channels are not kept. Without
the language model a code takes 10 bits, lowest bit first; with it, an arithmetic coder over its
probabilities takes its place, and both ends must compute those probabilities to the last bit. There are no
checksums: damage shows only where it makes the file end too early, too late, or impossible.

Shapes: K codebooks, T frames, V codebook size.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ...errors import CorruptStreamError, MissingModelError, UsageError
from .base import CompressedFile, Damage, FileInfo, Packet
from .bits import pack_bits, packed_size, unpack_bits
from .container import read_some

MAGIC = b"ECDC"
_PREFIX = struct.Struct("!4sBI")
_SCALE = struct.Struct("!f")
_CODE_BITS = 10
_MAX_JSON = 4096
_MAX_SAMPLES = 1 << 48
_MAX_SCALE = float(1 << 32)  # far beyond the loudness of any recording, and floats still hold the audio
_PIECE = 76  # frames handed out at a time: whole bytes whatever the number of codebooks


@dataclass(frozen=True)
class EcdcModel:
    """What the format implies for each of its two models. segment, stride: samples, 0 where there is one
    segment.
    """

    name: str  # in our registry
    sample_rate: int
    channels: int
    n_codebooks: int
    segment: int = 0
    stride: int = 0
    frame_size: int = 320
    codebook_size: int = 1024

    def segments(self, n_samples: int) -> Iterator[int]:
        """Frames of each segment."""
        stride, segment = self.stride or max(n_samples, 1), self.segment or n_samples
        for offset in range(0, n_samples, stride):
            yield -(-min(segment, n_samples - offset) // self.frame_size)


MODELS = {
    "encodec_24khz": EcdcModel("encodec-24k", 24_000, 1, 32),
    "encodec_48khz": EcdcModel("encodec-48k", 48_000, 2, 16, segment=48_000, stride=47_520),
}
_NAMES = {model.name: name for name, model in MODELS.items()}

# previous (1, K, 1) = 1 + codes of the frame before, 0 where there is none, and the state that the last call
# gave (None at first) -> an object with `probabilities` (1, V, K, 1) and `state`: codec/encodec_lm.py
LanguageModel = Callable[[Tensor, Any], Any]


class EcdcWriter:
    """Codes to an `.ecdc` file.

    model: "encodec-24k" or "encodec-48k".   n_samples: at the model's rate; the format states it first.
    lm: the model's language model for arithmetic coding, None for plain packing.
    """

    def __init__(
        self, file: BinaryIO, model: str, n_samples: int, n_codebooks: int, lm: LanguageModel | None = None
    ):
        if model not in _NAMES:
            known = " or ".join(_NAMES)
            raise UsageError(f".ecdc holds codes of {known}, not of {model}; write .myna instead")
        self.file, self.lm, self.model = file, lm, MODELS[_NAMES[model]]
        if not 1 <= n_codebooks <= self.model.n_codebooks or n_samples < 1:
            raise UsageError(
                f".ecdc needs at least one sample and 1 to {self.model.n_codebooks} codebooks, "
                f"got {n_samples} and {n_codebooks}"
            )
        self.n_codebooks = n_codebooks
        self._segments = self.model.segments(n_samples)
        self._frames_left = 0  # of the current segment
        self._waiting = torch.zeros(n_codebooks, 0, dtype=torch.long)
        self._coder: _LMEncoder | None = None
        facts = {"m": _NAMES[model], "al": n_samples, "nc": n_codebooks, "lm": lm is not None}
        text = json.dumps(facts).encode()
        file.write(_PREFIX.pack(MAGIC, 0, len(text)) + text)

    def push(self, codes: Tensor, scale: Tensor | float | None = None) -> None:
        """Append codes (1, K, T): any T at 24 kHz, one whole segment and its `scale` at 48 kHz."""
        if codes.shape[:2] != (1, self.n_codebooks):
            raise UsageError(
                f"codes of shape {tuple(codes.shape)} where (1, {self.n_codebooks}, frames) is written"
            )
        if (scale is not None) != bool(self.model.segment):
            raise UsageError("each segment of the 48 kHz model, and none of the 24 kHz model, has a loudness")
        frames = codes[0].cpu()
        if self._frames_left == 0:
            self._frames_left = next(self._segments, 0)
            if scale is not None:
                self.file.write(_SCALE.pack(float(scale)))
            if self.lm is not None:
                self._coder = _LMEncoder(self.lm, self.n_codebooks)
        self._frames_left -= frames.shape[-1]
        if self._frames_left < 0 or (self.model.segment and self._frames_left):
            raise UsageError("the codes do not fit the number of samples that the file's header states")
        self.file.write(self._coded(frames, last=self._frames_left == 0))

    def close(self) -> None:
        """Check that every frame of the stated length came."""
        if self._frames_left or next(self._segments, None) is not None:
            raise UsageError("fewer codes were written than the file's header states")

    def _coded(self, frames: Tensor, last: bool) -> bytes:
        if self._coder is not None:
            return self._coder.encode(frames) + (self._coder.flush() if last else b"")
        frames = torch.cat([self._waiting, frames], dim=-1)
        ready = frames.shape[-1] if last else frames.shape[-1] // 4 * 4  # four frames are whole bytes
        self._waiting = frames[:, ready:]
        return pack_bits(frames[:, :ready].T.numpy(), _CODE_BITS)


class EcdcFile(CompressedFile):
    """An `.ecdc` file open for reading; see CompressedFile.

    load_lm: gives the language model for a registry name ("encodec-24k"); asked only when the file needs it.
    Packets are segments at 48 kHz, a second of frames at 24 kHz. Raises CorruptStreamError for a damaged
    header.
    """

    def __init__(
        self, file: BinaryIO, prefix: bytes = b"", load_lm: Callable[[str], LanguageModel] | None = None
    ):
        self._bytes = _ByteReader(file, prefix)
        self._load_lm = load_lm
        self.damage: list[Damage] = []
        self._file, self._read = file, False
        facts = self._header()
        self._model = MODELS[facts["m"]]
        self._lm_used = facts["lm"]
        self.info = FileInfo(
            format="ecdc",
            model=self._model.name,
            weights_hash="",
            sample_rate=self._model.sample_rate,
            frame_size=self._model.frame_size,
            n_codebooks=facts["nc"],
            codebook_size=self._model.codebook_size,
            streams=1,
            original_sample_rate=self._model.sample_rate,
            channels=self._model.channels,
            n_samples=facts["al"],
            packet_frames=self._model.segment // self._model.frame_size or _PIECE,
            scaled=bool(self._model.segment),
            entropy_coder="arithmetic" if self._lm_used else "packed",
        )

    @property
    def bytes_read(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._bytes.taken

    def size(self) -> int | None:
        if self._bytes.ended:
            return self._bytes.total
        if not getattr(self._file, "seekable", lambda: False)():
            return None
        here = self._file.tell()
        rest = self._file.seek(0, 2) - here
        self._file.seek(here)
        return self._bytes.total + rest

    def packets(self, start: float = 0.0) -> Iterator[Packet]:
        if self._read:
            raise UsageError("an .ecdc file is read once, from its beginning; open it again")
        self._read = True
        lm = None
        if self._lm_used:
            lm = self._load_lm(self._model.name) if self._load_lm else None
            if lm is None:
                raise MissingModelError(
                    f"the file was written with the language model of {self._model.name}, which is not here; "
                    "get it with `myna models download`, or write the file again without --lm"
                )
        first = int(start * self._model.sample_rate) // (
            self._model.stride or _PIECE * self._model.frame_size
        )
        return (packet for i, packet in enumerate(self._packets(lm)) if i >= first)

    def _header(self) -> dict[str, Any]:
        start = self._bytes.take(_PREFIX.size)
        if len(start) < _PREFIX.size or start[:4] != MAGIC:
            raise CorruptStreamError("not an .ecdc file, or cut off inside its header; get the file again")
        _, version, length = _PREFIX.unpack(start)
        if version != 0 or not 2 <= length <= _MAX_JSON:
            raise CorruptStreamError(
                "the .ecdc header is damaged: its version or its length cannot be; get the file again"
            )
        text = self._bytes.take(length)
        try:
            facts = json.loads(text.decode())
            stated = (facts["m"], facts["al"], facts["nc"], facts["lm"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise CorruptStreamError(
                "the .ecdc header is damaged: its facts cannot be read; get the file again"
            ) from error
        model, n_samples, n_codebooks, lm = stated
        typed = all(type(n) is int for n in (n_samples, n_codebooks)) and type(lm) is bool
        if not isinstance(model, str) or model not in MODELS:
            known = " and ".join(MODELS)
            raise CorruptStreamError(
                f"the .ecdc file is of an unknown model; known are {known}; get the file again"
            )
        most = MODELS[model].n_codebooks
        if not (typed and 0 <= n_samples < _MAX_SAMPLES and 1 <= n_codebooks <= most):
            raise CorruptStreamError(
                "the .ecdc header is damaged: its length or codebooks cannot be; get the file again"
            )
        return facts

    def _packets(self, lm: LanguageModel | None) -> Iterator[Packet]:
        start = 0
        for frames in self._model.segments(self.info.n_samples or 0):
            scale = None
            if self._model.segment:
                data = self._bytes.take(_SCALE.size)
                if len(data) < _SCALE.size:
                    self._truncated(start)
                    return
                value = _SCALE.unpack(data)[0]
                if not 0 <= value <= _MAX_SCALE:  # NaN neither
                    self.damage.append(Damage(start // frames, "its loudness cannot be and is taken as zero"))
                    value = 0.0
                scale = torch.tensor([value])
            for codes, wanted in self._segment(frames, lm):
                if codes.shape[-1]:
                    yield Packet(codes[None], start, scale)
                start += codes.shape[-1]
                if codes.shape[-1] < wanted:
                    self._truncated(start)
                    return
        rest = self._bytes.drain()
        if rest:
            self.damage.append(Damage(-1, f"{rest} bytes more than the header's length needs"))

    def _truncated(self, frames: int) -> None:
        self._bytes.drain()
        rate = self._model.sample_rate / self._model.frame_size
        self.damage.append(Damage(-1, f"the codes end, or stop making sense, after {frames / rate:.2f} s"))

    def _segment(self, frames: int, lm: LanguageModel | None) -> Iterator[tuple[Tensor, int]]:
        """Pieces of a segment, (K, t) each, and how many frames each should have."""
        K = self.info.n_codebooks
        decoder = None if lm is None else _LMDecoder(lm, K, self._bytes)
        piece = frames if self._model.segment else _PIECE
        for done in range(0, frames, piece):
            wanted = min(piece, frames - done)
            if decoder is not None:
                codes = decoder.decode(wanted)
            else:
                data = self._bytes.take(packed_size(wanted * K, _CODE_BITS))
                whole = min(wanted, 8 * len(data) // (_CODE_BITS * K))
                values = unpack_bits(data, _CODE_BITS, whole * K)
                codes = torch.from_numpy(values.reshape(whole, K).T.copy())
            yield codes, wanted


class _ByteReader:
    """Exactly as many bytes as asked for, fewer only at the end of the file; and one at a time."""

    def __init__(self, file: BinaryIO, prefix: bytes):
        self._file, self._buffer, self._at = file, prefix, 0
        self.total, self.taken, self.ended = len(prefix), 0, False

    def take(self, size: int) -> bytes:
        while len(self._buffer) - self._at < size and not self.ended:
            self._more()
        data = self._buffer[self._at : self._at + size]
        self._at += len(data)
        self.taken += len(data)
        return data

    def drain(self) -> int:
        """Read to the end of the file; how many bytes that was."""
        rest = 0
        while True:
            rest += len(self.take(len(self._buffer) - self._at))
            if self.ended:
                return rest
            self._more()

    def _more(self) -> None:
        data = read_some(self._file)
        self.ended = not data
        self.total += len(data)
        self._buffer = self._buffer[self._at :] + data
        self._at = 0


_RANGE_BITS = 24
_RANGE = 1 << _RANGE_BITS
_ROUNDOFF = 1e-8  # probabilities are cut down to multiples of this
_LEAST = 2  # ranges are at least this wide


def quantized_cdf(probabilities: Tensor) -> Tensor:
    """probabilities (V, K) to the upper ends of each symbol's range, (V, K) integers up to 2^24.

    In the tensor's own precision and this order of operations: another would round differently.
    """
    floored = (probabilities / _ROUNDOFF).floor() * _ROUNDOFF
    spread = (1 - _LEAST * probabilities.shape[0] / _RANGE) * _RANGE
    return ((spread * floored).floor().long() + _LEAST).cumsum(0)


def _interval(cdf: list[int], symbol: int, ratio: float) -> tuple[int, int]:
    """First and last number of the symbol's share, scaled; ratio = width / 2^24 in double precision."""
    below = cdf[symbol - 1] if symbol else 0
    return math.ceil(below * ratio), math.floor((cdf[symbol] - 1) * ratio)


class _Interval:
    """The current interval [low, high] of the arithmetic coder; its top bits leave when both ends share
    them.
    """

    def __init__(self):
        self.low = self.high = 0
        self.top = -1  # index of the highest bit still inside

    @property
    def width(self) -> int:
        return self.high - self.low + 1

    def widen(self) -> None:
        self.low, self.high, self.top = 2 * self.low, 2 * self.high + 1, self.top + 1

    def shared_bit(self) -> int | None:
        """Drop and return the top bit if both ends share it."""
        if self.top < 0:
            return None
        bit = self.low >> self.top
        if bit != self.high >> self.top:
            return None
        self.low -= bit << self.top
        self.high -= bit << self.top
        self.top -= 1
        return bit


class _LMContext:
    """The language model's side: distributions of the next frame given the ones before."""

    def __init__(self, lm: LanguageModel, n_codebooks: int):
        self.lm, self.state = lm, None
        self.previous = torch.zeros(1, n_codebooks, 1, dtype=torch.long)

    @torch.inference_mode()
    def next(self) -> list[list[int]]:
        """The quantised distribution of each codebook."""
        result = self.lm(self.previous, self.state)
        self.state = result.state
        return quantized_cdf(result.probabilities[0, :, :, 0]).T.tolist()

    def put(self, frame: list[int]) -> None:
        self.previous = 1 + torch.tensor(frame).view(1, -1, 1)


class _LMEncoder:
    def __init__(self, lm: LanguageModel, n_codebooks: int):
        self.context, self.interval = _LMContext(lm, n_codebooks), _Interval()
        self._bits: list[int] = []

    def encode(self, codes: Tensor) -> bytes:
        """codes (K, T) to the bytes that are certain."""
        for frame in codes.T.tolist():
            for cdf, symbol in zip(self.context.next(), frame, strict=True):
                self._push(cdf, symbol)
            self.context.put(frame)
        return self._whole_bytes()

    def flush(self) -> bytes:
        interval = self.interval
        self._bits += [interval.low >> i & 1 for i in range(interval.top, -1, -1)]
        return pack_bits(self._take(len(self._bits)), 1)

    def _push(self, cdf: list[int], symbol: int) -> None:
        interval = self.interval
        while interval.width < _RANGE:
            interval.widen()
        low, high = _interval(cdf, symbol, interval.width / _RANGE)
        interval.low, interval.high = interval.low + low, interval.low + high
        while (bit := interval.shared_bit()) is not None:
            self._bits.append(bit)

    def _whole_bytes(self) -> bytes:
        return pack_bits(self._take(len(self._bits) // 8 * 8), 1)

    def _take(self, n: int):
        bits, self._bits = self._bits[:n], self._bits[n:]
        return torch.tensor(bits, dtype=torch.long).numpy()


class _LMDecoder:
    def __init__(self, lm: LanguageModel, n_codebooks: int, source: _ByteReader):
        self.context, self.interval = _LMContext(lm, n_codebooks), _Interval()
        self.source, self.n_codebooks = source, n_codebooks
        self.current = 0
        self._byte = self._bits_left = 0

    def decode(self, frames: int) -> Tensor:
        """(K, t), t < frames where the bytes end or no symbol fits."""
        found: list[list[int]] = []
        for _ in range(frames):
            frame: list[int] = []
            for cdf in self.context.next():
                symbol = self._pull(cdf)
                if symbol is None:
                    break
                frame.append(symbol)
            if len(frame) < self.n_codebooks:
                break
            self.context.put(frame)
            found.append(frame)
        return torch.tensor(found, dtype=torch.long).reshape(-1, self.n_codebooks).T

    def _pull(self, cdf: list[int]) -> int | None:
        interval = self.interval
        while interval.width < _RANGE:
            bit = self._bit()
            if bit is None:
                return None
            interval.widen()
            self.current = 2 * self.current + bit
        ratio, offset = interval.width / _RANGE, self.current - interval.low
        first, last = 0, len(cdf) - 1
        while first <= last:
            middle = (first + last) // 2
            low, high = _interval(cdf, middle, ratio)
            if offset < low:
                last = middle - 1
            elif offset > high:
                first = middle + 1
            else:
                interval.low, interval.high = interval.low + low, interval.low + high
                while True:
                    top = interval.top
                    bit = interval.shared_bit()
                    if bit is None:
                        return middle
                    self.current -= bit << top
        return None  # between two ranges: the bytes are damaged

    def _bit(self) -> int | None:
        if self._bits_left == 0:
            data = self.source.take(1)
            if not data:
                return None
            self._byte, self._bits_left = data[0], 8
        bit = self._byte & 1
        self._byte >>= 1
        self._bits_left -= 1
        return bit
