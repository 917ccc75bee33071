"""Small integers as bytes: fixed-width bit packing and variable-length integers.

Both formats that pack codes (`.myna` without a context model, `.ecdc` without its language model) put the
first value into the lowest bits of the first byte.
"""

from __future__ import annotations

import numpy as np


def pack_bits(values: np.ndarray, width: int) -> bytes:
    """values (n,) integers in [0, 2^width) at `width` bits each, lowest bit first, the last byte
    zero-padded.
    """
    values = np.ascontiguousarray(values, dtype="<u4").reshape(-1)
    bits = np.unpackbits(values.view(np.uint8).reshape(-1, 4), axis=1, count=width, bitorder="little")
    return np.packbits(bits, bitorder="little").tobytes()


def unpack_bits(data: bytes, width: int, count: int) -> np.ndarray:
    """The first `count` values of `width` bits, (count,) int64. Raises ValueError when `data` is too
    short.
    """
    n_bytes = packed_size(count, width)
    if len(data) < n_bytes:
        raise ValueError(f"{count} values of {width} bits need {n_bytes} bytes, got {len(data)}")
    raw = np.frombuffer(data, dtype=np.uint8, count=n_bytes)
    bits = np.unpackbits(raw, count=count * width, bitorder="little").reshape(count, width)
    padded = np.zeros((count, 32), dtype=np.uint8)
    padded[:, :width] = bits
    return np.packbits(padded, axis=1, bitorder="little").view("<u4").reshape(count).astype(np.int64)


def packed_size(count: int, width: int) -> int:
    """Bytes that `count` values of `width` bits take."""
    return -(-count * width // 8)


def put_varint(value: int) -> bytes:
    """LEB128: seven bits a byte, lowest first, the top bit says that more follows."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def get_varint(data: bytes | bytearray | memoryview, position: int, max_bytes: int = 9) -> tuple[int, int]:
    """The value at `position` and the position after it.

    Raises IndexError when the bytes end inside it, ValueError when it is longer than `max_bytes`.
    """
    value = 0
    for i in range(max_bytes):
        byte = data[position + i]
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return value, position + i + 1
    raise ValueError(f"an integer longer than {max_bytes} bytes")
