"""How long an MPEG recording (layers I to III) is at least, by the headers of its frames alone.

An MP3 states no length, or one that is wrong by a factor, but each frame says in four bytes how long it is, in bytes
and in samples (ISO/IEC 11172-3, section 2.4.1.3, and 13818-3). Only what every decoder plays is counted: frames of one
kind, one right behind the other. At anything else (a tag in the middle, damage, free format) counting ends, since
decoders may end there, too. They may also end where a table in the first frame says so, before the rest of files that
were joined.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple, cast

_RATES = {
    3: (44_100, 48_000, 32_000),
    2: (22_050, 24_000, 16_000),
    0: (11_025, 12_000, 8_000),
}  # MPEG-1, 2, 2.5
_KBPS = {  # by MPEG-1 or later, and layer
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_START = 1 << 16  # bytes before the first one
_TRUSTED = 4  # frames in a row of which the first may be what the others are like
_UNHEARD = 6  # frames that a decoder may leave out: the one that holds a table, and what an encoder added


class _Frame(NamedTuple):
    """What a header says. kind: what does not change within a recording.   size: bytes."""

    kind: tuple[int, int, int]
    size: int
    n_samples: int

    @property
    def rate(self) -> int:
        return _RATES[self.kind[0]][self.kind[2]]


def seconds_at_least(data: bytes, enough: float) -> float:
    """Of a recording, or `enough` where it is longer than that; 0 where nothing can be told."""
    at = _first(data)
    if at is None:
        return 0.0
    frame = first = cast(_Frame, _frame(data, at))
    n = -_UNHEARD * first.n_samples
    while (
        n < enough * first.rate
        and frame is not None
        and frame.kind == first.kind
        and at + frame.size <= len(data)
    ):
        n += frame.n_samples
        at += frame.size
        frame = _frame(data, at)
    return min(enough, max(0.0, n / first.rate))


def _first(data: bytes) -> int | None:
    """Where the first frame begins."""
    at = 0
    while data[at : at + 3] == b"ID3":
        at = _after_tag(data, at)
    last = at + _START
    while (at := data.find(b"\xff", at, last)) >= 0:
        if (frame := _frame(data, at)) is not None and _run(data, at, _TRUSTED, frame.kind):
            return at
        at += 1
    return None


def _after_tag(data: bytes, at: int) -> int:
    """Behind an ID3v2 tag; its size has seven bits a byte."""
    size = 0
    for byte in data[at + 6 : at + 10]:
        size = size << 7 | byte & 0x7F
    has_footer = len(data) > at + 5 and data[at + 5] & 0x10
    return at + 10 + size + (10 if has_footer else 0)


def _run(data: bytes, at: int, n: int, kind: tuple[int, int, int]) -> bool:
    for _ in range(n):
        frame = _frame(data, at)
        if frame is None or frame.kind != kind:
            return False
        at += frame.size
    return True


def _frame(data: bytes, at: int) -> _Frame | None:
    """None where no frame begins."""
    if len(data) < at + 4 or data[at] != 0xFF or data[at + 1] < 0xE0:
        return None
    return _header(data[at + 1], data[at + 2])


@lru_cache(maxsize=4096)
def _header(second: int, third: int) -> _Frame | None:
    """By its second and third byte: 111vvllx bbbbrrpx."""
    version, layer = second >> 3 & 3, 4 - (second >> 1 & 3)
    index, rate, padding = third >> 4, third >> 2 & 3, third >> 1 & 1
    if version not in _RATES or layer == 4 or index in (0, 15) or rate == 3:
        return None
    kbps, hertz = _KBPS[version == 3, layer][index - 1], _RATES[version][rate]
    if layer == 1:
        size, n_samples = (12_000 * kbps // hertz + padding) * 4, 384
    else:
        n_samples = 576 if layer == 3 and version != 3 else 1152
        size = n_samples // 8 * 1000 * kbps // hertz + padding
    return _Frame((version, layer, rate), size, n_samples)
