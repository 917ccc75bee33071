"""Recordings to the files of the original programs: EnCodec's `.ecdc`, DAC's `.dac`.

Both state facts about the whole recording before the codes (its length, its loudness), so it is read twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import BinaryIO

import numpy as np
import torch

from ..data.audio import AudioReader
from ..data.loudness import LoudnessMeter
from ..data.resample import resampled_length
from ..errors import InputError, UsageError
from .base import Codec
from .dac import DAC
from .formats import DacContent, EcdcWriter, LanguageModel, write_dac
from .pipeline import Compressed, CountedReader, Progress, encode_blocks, segments

DAC_LOUDNESS = -16.0  # LUFS, to which the original program brings what it encodes


def compress_to_ecdc(
    open_reader: Callable[[], AudioReader],
    file: BinaryIO,
    codec: Codec,
    n_codebooks: int,
    lm: LanguageModel | None = None,
    progress: Progress | None = None,
) -> Compressed:
    """Write a recording as `.ecdc`, which keeps neither its rate nor its channels: they become the model's.

    open_reader: opens the recording, twice. Raises UsageError for another model than EnCodec's.
    """
    began = time.perf_counter()
    with open_reader() as reader:
        info, counted = reader.info, CountedReader(reader)
        for _ in counted.blocks(1.0):
            pass
    n_samples = resampled_length(counted.n_samples, info.sample_rate, codec.sample_rate)
    writer = EcdcWriter(file, codec.name, n_samples, n_codebooks, lm)
    with open_reader() as reader:
        mixed = _Mapped(CountedReader(reader, progress), codec.channels, lambda x: mix(x, codec.channels))
        for piece in encode_blocks(mixed, codec, n_codebooks):
            for codes, scale in segments(piece, codec):
                writer.push(codes, scale)
    writer.close()
    elapsed = time.perf_counter() - began
    return Compressed(info.sample_rate, info.channels, counted.n_samples, n_codebooks, file.tell(), elapsed)


def compress_to_dac(
    open_reader: Callable[[], AudioReader],
    file: BinaryIO,
    codec: Codec,
    n_codebooks: int,
    progress: Progress | None = None,
) -> Compressed:
    """Write a recording as `.dac`: at the loudness DAC works with, coded in one pass.

    open_reader: opens the recording, twice. Raises UsageError for another model than DAC.
    """
    if not isinstance(codec, DAC):
        raise UsageError(
            f".dac holds codes of DAC, not of {codec.name}; write .myna instead, or choose a dac- model"
        )
    began = time.perf_counter()
    with open_reader() as reader:
        info, meter = reader.info, LoudnessMeter(reader.info.sample_rate, reader.info.channels)
        for block in reader.blocks(5.0):
            meter.push(block)
    input_db = meter.loudness
    gain = min(10 ** ((DAC_LOUDNESS - input_db) / 20), 1 / max(meter.peak, 1e-9))
    with open_reader() as reader:
        scaled = _Mapped(CountedReader(reader, progress), info.channels, lambda x: x * np.float32(gain))
        pieces = [piece.codes.to(torch.int16) for piece in encode_blocks(scaled, codec, n_codebooks)]
    codes = torch.cat(pieces, dim=-1).long()
    content = DacContent(codes, input_db, meter.n_samples, info.sample_rate, codes.shape[-1], info.channels)
    write_dac(file, content)
    elapsed = time.perf_counter() - began
    return Compressed(info.sample_rate, info.channels, meter.n_samples, n_codebooks, file.tell(), elapsed)


def mix(block: np.ndarray, channels: int) -> np.ndarray:
    """(C, n) to (channels, n) as EnCodec does: the mean to mono, mono to both sides. Raises InputError
    otherwise."""
    if channels == 1:
        return block.mean(axis=0, keepdims=True)
    if block.shape[0] in (1, channels):
        return np.repeat(block, channels // block.shape[0], axis=0)
    raise InputError(
        f".ecdc in stereo takes mono or stereo, not {block.shape[0]} channels; write .myna instead"
    )


class _Mapped:
    """A reader whose blocks pass through a function."""

    def __init__(self, reader: CountedReader, channels: int, change: Callable[[np.ndarray], np.ndarray]):
        self.reader, self.change = reader, change
        self.info = replace(reader.info, channels=channels)

    def blocks(self, seconds: float) -> Iterator[np.ndarray]:
        for block in self.reader.blocks(seconds):
            yield self.change(block)
