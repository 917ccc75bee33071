"""Opus, the codec to compare with, through the libsndfile inside the package soundfile."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import soundfile

from ...errors import UsageError
from ..measures.perceptual import at_rate

LOWEST, HIGHEST = 6000, 256000  # bits a second for one channel, of libsndfile's scale
RATES = (8000, 12000, 16000, 24000, 48000)


@dataclass(frozen=True)
class OpusResult:
    """wav (N,) after decoding; n_bytes of the whole Ogg file, payload_bytes of its audio packets."""

    wav: np.ndarray
    n_bytes: int
    payload_bytes: int


def opus(wav: np.ndarray, sample_rate: int, bitrate: float) -> OpusResult:
    """wav (N,) through Opus at `bitrate` bits a second (variable bitrate, full effort) and back.

    Raises UsageError for a bitrate that libsndfile cannot ask for.
    """
    if not LOWEST <= bitrate <= HIGHEST:
        raise UsageError(
            f"Opus at {bitrate / 1000:g} kbps: expected {LOWEST // 1000} to {HIGHEST // 1000} kbps"
        )
    rate = next((r for r in RATES if r >= sample_rate), RATES[-1])
    # libsndfile sets the bitrate of Opus by its compression level: 0 is the highest, 1 the lowest.
    level = (HIGHEST - bitrate) / (HIGHEST - LOWEST)
    file = io.BytesIO()
    soundfile.write(
        file, at_rate(wav, sample_rate, rate), rate, format="OGG", subtype="OPUS", compression_level=level
    )
    decoded, _ = soundfile.read(io.BytesIO(file.getvalue()), dtype="float32")
    return OpusResult(
        at_rate(decoded, rate, sample_rate)[: len(wav)], len(file.getvalue()), ogg_payload(file.getvalue())
    )


def ogg_payload(file: bytes) -> int:
    """Bytes of the audio in an Ogg Opus file: the bodies of pages from the third on (RFC 3533, 7845)."""
    position, pages = 0, []
    while position < len(file):
        n_segments = file[position + 26]
        body = sum(file[position + 27 : position + 27 + n_segments])
        pages.append(body)
        position += 27 + n_segments + body
    return sum(pages[2:])  # OpusHead and OpusTags have a page each
