"""Audio of a shard: FLAC or Opus, the same bytes for the same samples.

libsndfile draws an Ogg stream's serial number by chance; it is set to one that follows from the key, and the pages'
checksums with it (RFC 3533, section 6).
"""

from __future__ import annotations

import io
import zlib

import numpy as np

from .options import PrepareOptions

OPUS_RATES = (8000, 12_000, 16_000, 24_000, 48_000)
_HIGHEST, _LOWEST = 256_000, 6000  # bits a second for one channel: libsndfile's compression levels 0 and 1
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def file_rate(sample_rate: int, options: PrepareOptions) -> int:
    """Hz in the shard for a recording at `sample_rate`: not above its own, but where Opus has none such."""
    rate = min(sample_rate, options.sample_rate)
    if options.format == "opus":
        return next((r for r in OPUS_RATES if r >= rate), OPUS_RATES[-1])
    return rate


def encode(wav: np.ndarray, rate: int, key: str, options: PrepareOptions) -> bytes:
    """wav (N,) float32 at `rate` Hz, which is a `file_rate`, to the bytes of a file."""
    import soundfile

    file = io.BytesIO()
    if options.format == "flac":
        pcm = np.clip(np.round(wav * 32767), -32768, 32767).astype(np.int16)
        soundfile.write(file, pcm, rate, format="FLAC", subtype="PCM_16")
        return file.getvalue()
    level = (_HIGHEST - options.bitrate) / (_HIGHEST - _LOWEST)
    soundfile.write(file, np.clip(wav, -1, 1), rate, format="OGG", subtype="OPUS", compression_level=level)
    return with_serial(file.getvalue(), zlib.crc32(key.encode()))


def with_serial(ogg: bytes, serial: int) -> bytes:
    """An Ogg file of one stream under another serial number."""
    pages, at = [], 0
    while at < len(ogg):
        n_segments = ogg[at + 26]
        end = at + 27 + n_segments + sum(ogg[at + 27 : at + 27 + n_segments])
        page = bytearray(ogg[at:end])
        page[14:18] = serial.to_bytes(4, "little")
        page[22:26] = bytes(4)
        page[22:26] = ogg_crc(bytes(page)).to_bytes(4, "little")
        pages.append(bytes(page))
        at = end
    return b"".join(pages)


def ogg_crc(page: bytes) -> int:
    """CRC-32 with the usual polynomial, most significant bit first, from 0, not inverted: zlib's in a mirror."""
    mirrored = zlib.crc32(page.translate(_MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)
