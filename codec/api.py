"""`myna.compress` and `myna.decompress`.

Shapes: C channels, N samples.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..data.audio import Audio, AudioReader, AudioWriter
from ..data.wav import WavWriter
from ..errors import InputError, UsageError
from .base import Codec
from .formats import open_compressed
from .pipeline import FILE_PACKET_SECONDS, says_synthetic
from .pipeline import compress as compress_stream
from .pipeline import decompress as decompress_stream
from .registry import DEFAULT_CODEC, codec_for, load_codec, load_encodec_lm


def compress(
    source: str | Path | BinaryIO | Audio,
    model: str | Path | Codec = DEFAULT_CODEC,
    bitrate: float | None = None,
    packet_seconds: float = FILE_PACKET_SECONDS,
) -> bytes:
    """A recording to the bytes of a `.myna` file.

    source: a path, an open file, or an `Audio` (samples (C, N), sample_rate).
    model: a name of `myna models list`, a checkpoint, or a codec that is loaded.
    bitrate: bits a second before entropy coding and for one channel, at most; None for all the model has.
    packet_seconds: of a packet: what damage to it costs; longer ones make smaller files.
    Raises InputError, UsageError or MissingModelError.

    >>> data = compress("speech.wav", bitrate=2000)
    >>> data = compress(Audio(samples, 16_000))
    """
    codec = model if isinstance(model, Codec) else load_codec(model)
    if isinstance(source, Audio):
        source = _as_wav(source)
    out = io.BytesIO()
    with AudioReader(source) as reader:
        seeks = source if isinstance(source, str | Path) or source.seekable() else None
        synthetic = says_synthetic(seeks, reader)
        compress_stream(
            reader,
            out,
            codec,
            codec.codebooks_for(bitrate),
            packet_seconds=packet_seconds,
            synthetic=synthetic,
        )
    return out.getvalue()


def decompress(source: str | Path | BinaryIO | bytes, model: str | Path | Codec | None = None) -> Audio:
    """A compressed file (`.myna`, or `.ecdc` and `.dac` of the published models) to its recording.

    source: a path, an open file, or the bytes.   model: as in `compress`; None for the one that the file
    names. The samples (C, N) have the original rate, channels and length; damaged parts are concealed, and
    said by a warning.
    Raises InputError, CorruptStreamError or MissingModelError.

    >>> audio = decompress(data)
    >>> audio.samples.shape, audio.sample_rate
    """
    if isinstance(source, bytes):
        source = io.BytesIO(source)
    if isinstance(source, (str, Path)):
        try:
            with open(source, "rb") as file:
                return decompress(file, model)
        except OSError as error:
            raise InputError(f"cannot read {source}: {(error.strerror or str(error)).lower()}") from error
    compressed = open_compressed(
        source, lambda name: load_encodec_lm(name.replace("encodec-", "encodec-lm-"))
    )
    codec = codec_for(compressed.info, model, note=_warn)
    blocks = _Blocks()
    for damage in decompress_stream(compressed, lambda _: blocks, codec).damage:
        _warn(f"the file is damaged: {damage}")
    empty = np.zeros((compressed.info.channels, 0), np.float32)  # a file may hold no packet
    return Audio(np.concatenate([empty, *blocks.blocks], axis=1), compressed.info.original_sample_rate)


class _Blocks(AudioWriter):
    """A writer that keeps what it is given."""

    def __init__(self) -> None:
        self.blocks: list[np.ndarray] = []

    def write(self, block: np.ndarray) -> None:
        self.blocks.append(block)

    def close(self) -> None:
        pass


def _warn(line: str) -> None:
    warnings.warn(line, stacklevel=3)


def _as_wav(audio: Audio) -> BinaryIO:
    """Samples in memory as a file, so that they pass the same checks."""
    samples = np.atleast_2d(np.asarray(audio.samples, np.float32))
    if samples.ndim != 2:
        raise UsageError(f"samples of shape {samples.shape}; expected (channels, samples)")
    out = io.BytesIO()
    writer = WavWriter(out, audio.sample_rate, samples.shape[0], samples.shape[1], float32=True)
    writer.write(samples)
    writer.close()
    out.seek(0)
    return out
