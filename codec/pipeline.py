"""Recordings to compressed files and back, in blocks, in constant memory.

    blocks (C, n) -> Resampler -> streams (S, c, m) -> encoder stream -> codes (S, K, t) -> file
    file -> codes -> decoder stream -> streams -> Resampler -> cut to the exact length -> blocks

A codec of fewer channels than the recording codes them side by side, as rows of a batch: a stereo recording
through a mono codec is two streams, six channels through a stereo codec are three.

Shapes: C channels of the recording, S streams, c channels of the codec, n and m samples, K codebooks, t
frames.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import torch
from torch import Tensor

from ..data.audio import LOSSY, AudioInfo, AudioReader, AudioWriter
from ..data.loudness import SILENCE, LoudnessMeter
from ..data.resample import Resampler, resampled_length
from ..errors import CorruptStreamError, InputError, UsageError
from ..marks.search import listen
from ..marks.tags import is_synthetic
from ..marks.watermark import WatermarkStream, can_mark
from .base import Codec, EncoderStream
from .checkpoint import codes_hash
from .dac_chunks import DacChunkStream
from .encodec import SegmentedEncodec
from .formats import CompressedFile, Damage, MynaWriter, cut, header_for, open_compressed
from .formats.entropy import ContextCoder
from .formats.header import Header
from .myna import MynaCodec

Progress = Callable[[float, float | None], None]  # seconds of audio done, seconds in all if known

BLOCK_SECONDS = 1.0  # of audio a step of a codec: the time of a packet, so that a pipe waits for nothing else
FILE_PACKET_SECONDS = 5.0  # of a file's packets: what surrounds them is 1 % of it; a damaged one costs 5 s
_LONG = 6.0  # seconds of which the watermark's pattern alone tells (of 2 s, it misses one in fifty)
PREROLL_SECONDS = 2.0  # decoded and dropped before a start in the middle: longer than a decoder remembers


@dataclass(frozen=True)
class Compressed:
    """What compressing took.  n_samples: a channel, at the original rate.  elapsed: seconds it took."""

    sample_rate: int
    channels: int
    n_samples: int
    n_codebooks: int
    n_bytes: int
    elapsed: float

    @property
    def seconds(self) -> float:
        return self.n_samples / self.sample_rate

    @property
    def bitrate(self) -> float:
        """Bits a second of the bytes written."""
        return 8 * self.n_bytes / self.seconds


@dataclass(frozen=True)
class Decompressed:
    """What decompressing gave.

    n_samples: a channel.   clipped: samples beyond full scale.   damage: a line for each part that was lost.
    elapsed: seconds it took.
    """

    sample_rate: int
    channels: int
    n_samples: int
    clipped: int
    damage: tuple[str, ...]
    elapsed: float

    @property
    def seconds(self) -> float:
        return self.n_samples / self.sample_rate


def says_synthetic(source: str | Path | BinaryIO | None, reader: AudioReader) -> bool:
    """Whether a recording is speech of Myna's: by its tags, and where it can be read twice by the watermark.

    source: a path or a file that seeks, None for a pipe.   reader: opened on it, not read yet.
    """
    if is_synthetic(reader.info.tags) or source is None:
        return is_synthetic(reader.info.tags)
    info = reader.info
    long = info.n_frames is not None and info.n_frames > _LONG * info.sample_rate
    if isinstance(source, str | Path):
        with AudioReader(source) as again:
            return listen(again, quick=long).found
    at = source.tell()
    try:
        source.seek(0)
        with AudioReader(source) as again:
            return listen(again, quick=long).found
    finally:
        source.seek(at)


def split_channels(block: np.ndarray, codec_channels: int) -> Tensor:
    """(C, n) to streams (S, c, n); a group that is not full repeats its last channel."""
    missing = -block.shape[0] % codec_channels
    if missing:
        block = np.concatenate([block, np.repeat(block[-1:], missing, axis=0)])
    rows, n = block.shape
    return torch.from_numpy(np.ascontiguousarray(block)).view(rows // codec_channels, codec_channels, n)


def join_channels(wav: Tensor, channels: int) -> np.ndarray:
    """Streams (S, c, n) to (C, n): the inverse of `split_channels`, repeated channels averaged."""
    flat = wav.flatten(0, 1)
    if flat.shape[0] > channels:
        flat = torch.cat([flat[: channels - 1], flat[channels - 1 :].mean(dim=0, keepdim=True)])
    return flat.float().cpu().numpy()


def stream_count(channels: int, codec: Codec) -> int:
    """S for a recording of `channels`."""
    return -(-channels // codec.channels)


class Blocks(Protocol):
    """What can be encoded: facts and blocks, as an AudioReader has them."""

    info: AudioInfo

    def blocks(self, seconds: float) -> Iterator[np.ndarray]: ...


class CountedReader:
    """A reader that knows, at its end, how many samples a channel it has given."""

    def __init__(self, reader: AudioReader, progress: Progress | None = None):
        self.reader, self.info, self.n_samples, self._progress = reader, reader.info, 0, progress

    def blocks(self, seconds: float) -> Iterator[np.ndarray]:
        rate = self.info.sample_rate
        total = None if self.info.n_frames is None else self.info.n_frames / rate
        for block in self.reader.blocks(seconds):
            self.n_samples += block.shape[1]
            yield block
            if self._progress:
                self._progress(self.n_samples / rate, total)


@dataclass(frozen=True)
class Piece:
    """Consecutive codes (S, K, t); scale (S, segments) of the segments that they complete, else None."""

    codes: Tensor
    scale: Tensor | None = None


def encode_blocks(
    reader: Blocks, codec: Codec, n_codebooks: int | None = None, writer: MynaWriter | None = None
) -> Iterator[Piece]:
    """The codes of a recording, piece by piece: those of `codec.encode`, with its search, on the whole of it; where the
    codec and its entropy model can (`PacketSearch`), those that are also cheap in the packets of `writer`.

    The codec is fed in blocks of one size however the recording arrives, so a pipe and a file give the same
    bits.
    """
    channels = reader.info.channels
    resampler = Resampler(reader.info.sample_rate, codec.sample_rate, channels)
    encoder = _encoder(codec, stream_count(channels, codec), n_codebooks, writer)
    device = next(codec.parameters()).device
    size = max(1, round(BLOCK_SECONDS * codec.sample_rate / codec.frame_size)) * codec.frame_size
    waiting = np.zeros((channels, 0), np.float32)
    n_scales = 0

    def piece(codes: Tensor) -> Piece:
        nonlocal n_scales
        scale = getattr(encoder, "scale", None)  # (S, segments so far), of models that normalise loudness
        if scale is None:
            return Piece(codes.cpu())
        new, n_scales = scale[:, n_scales:].cpu(), scale.shape[1]
        return Piece(codes.cpu(), new)

    for block in reader.blocks(BLOCK_SECONDS):
        waiting = np.concatenate([waiting, resampler.push(block)], axis=1)
        while waiting.shape[1] >= size:
            yield piece(encoder.push(split_channels(waiting[:, :size], codec.channels).to(device)))
            waiting = waiting[:, size:]
    waiting = np.concatenate([waiting, resampler.flush()], axis=1)
    if waiting.shape[1]:
        yield piece(encoder.push(split_channels(waiting, codec.channels).to(device)))
    yield piece(encoder.flush())


def _encoder(codec: Codec, streams: int, n_codebooks: int | None, writer: MynaWriter | None) -> EncoderStream:
    packets = None if writer is None else packet_encoder(codec, streams, n_codebooks, writer)
    return packets or codec.encoder_stream(streams, n_codebooks, search=True)


def packet_encoder(
    codec: Codec, streams: int, n_codebooks: int | None, writer: MynaWriter
) -> EncoderStream | None:
    """An encoder stream that chooses codes which are cheap in the packets of `writer`; None where the codec does not
    search, or nothing tells what a code costs."""
    if not (isinstance(codec, MynaCodec) and codec.searches and isinstance(writer.coder, ContextCoder)):
        return None
    k = codec.n_codebooks if n_codebooks is None else n_codebooks
    return codec.packet_stream(streams, k, writer.header.packet_frames, writer.coder.model)


def decode_blocks(
    compressed: CompressedFile,
    codec: Codec,
    start: float = 0.0,
    duration: float | None = None,
    progress: Progress | None = None,
) -> Iterator[np.ndarray]:
    """The recording (C, n) piece by piece, at its own rate and, from first to last, of its own length.

    start, duration: the stretch to decode, in seconds. A file that seeks is read from shortly before `start`.
    Raises CorruptStreamError as `CompressedFile.packets` does, InputError if `start` is behind the end.
    """
    info = compressed.info
    rate = info.original_sample_rate
    total = info.duration
    if total is not None and start >= total > 0:
        raise InputError(f"the recording lasts {total:.2f} s; a start at {start:g} s is behind its end")
    chunked = info.separate_chunks
    decoder = DacChunkStream(codec, info.streams) if chunked else codec.decoder_stream(info.streams)
    resampler = Resampler(codec.sample_rate, rate, info.channels)
    device = next(codec.parameters()).device
    # Segments that overlap have frames that are not evenly spaced in time: those files are decoded from the
    # start.
    seek = max(0.0, start - PREROLL_SECONDS) if info.format == "myna" and not info.scaled else 0.0
    fade = _Fade(codec.frame_size)
    window: _Window | None = None
    marker: _Marker | None = None

    def marked(wav: Tensor) -> Tensor:
        return wav if marker is None else marker.push(wav)

    for packet in compressed.packets(seek):
        if window is None:
            at = round(packet.start * codec.frame_size * rate / codec.sample_rate) - info.skip
            window = _Window(compressed, codec, at, round(start * rate), duration)
        codes = packet.codes.to(device)
        # Only the streams of models that normalise loudness take it.
        loudness = () if packet.scale is None else (packet.scale[:, None],)
        wav = decoder.push(codes, *loudness)
        if info.synthetic and marker is None:
            marker = _Marker(codec, info.streams, packet.start * codec.frame_size)
        wav = fade.apply(wav, codes.shape[-1], packet.gain)
        block = window.cut(resampler.push(join_channels(marked(wav), info.channels)))
        if block.shape[1]:
            yield block
        if progress:
            progress(window.at / rate, compressed.info.duration)
        if window.complete:
            return
    if window is not None:
        wav = fade.apply(decoder.flush(), 0, None)
        yield window.cut(resampler.push(join_channels(marked(wav), info.channels)))
        yield window.cut(resampler.flush(), final=True)


class _Marker:
    """The watermark on every channel of a decoder's output.   at: samples from the recording's beginning, so that a
    stretch is marked as it is in the whole. Raises MissingModelError: without it nothing is given out."""

    def __init__(self, codec: Codec, streams: int, at: int):
        n = streams * codec.channels
        self._rows = [WatermarkStream(codec.sample_rate, at) for _ in range(n)]

    def push(self, wav: Tensor) -> Tensor:
        """wav (S, c, n) -> the same, marked."""
        rows = wav.flatten(0, 1).float().cpu().numpy()
        done = [stream.push(row) for stream, row in zip(self._rows, rows, strict=True)]
        return torch.from_numpy(np.stack(done)).view(wav.shape)


class _Fade:
    """Gains a frame (of lost packets, which fade out) on audio that may come later than its frames."""

    def __init__(self, frame_size: int):
        self.frame_size = frame_size
        self.gains = np.ones(1, np.float32)  # of the frames from the one before the next sample on
        self.at = frame_size  # of the next sample, counted from the first of these frames

    def apply(self, wav: Tensor, n_frames: int, gain: Tensor | None) -> Tensor:
        """wav (S, c, n), the audio that `n_frames` more frames, of gain (n_frames,) or None for 1, made
        certain."""
        new = np.ones(n_frames, np.float32) if gain is None else gain.numpy()
        self.gains = np.concatenate([self.gains, new])
        n = wav.shape[-1]
        if (self.gains != 1).any():
            centres = (np.arange(len(self.gains)) + 0.5) * self.frame_size
            envelope = np.interp(np.arange(self.at, self.at + n), centres, self.gains)
            wav = wav * torch.from_numpy(envelope).to(wav)
        self.at += n
        passed = min(max(0, self.at // self.frame_size - 1), len(self.gains) - 1)
        self.gains, self.at = self.gains[passed:], self.at - passed * self.frame_size
        return wav


class _Window:
    """The stretch of the decoded samples that is wanted, in a stream whose true length may be learned at its
    end.

    at: position, in samples at the original rate, of the next sample to come.
    """

    def __init__(self, compressed: CompressedFile, codec: Codec, at: int, start: int, duration: float | None):
        rate = compressed.info.original_sample_rate
        self.compressed, self.at, self.start = compressed, at, start
        self.end = None if duration is None else start + round(duration * rate)
        # What a codec adds behind the end: less than two frames and its delay. Held back while the end is
        # unknown.
        self.margin = resampled_length(2 * codec.frame_size + codec.delay, codec.sample_rate, rate)
        self.held = np.zeros((compressed.info.channels, 0), np.float32)

    @property
    def complete(self) -> bool:
        end = self._end()
        return end is not None and self.at >= end

    def cut(self, block: np.ndarray, final: bool = False) -> np.ndarray:
        """The part of what has come that is wanted and certain; with `final`, all that is left of it."""
        block = np.concatenate([self.held, block], axis=1)
        end = self._end()
        n = block.shape[1]
        if end is not None:
            n = max(0, min(n, end - self.at))
            short = end - self.at - n
            # A codec may fall a few samples short of the end; a damaged file by more, which silence must not
            # hide.
            if final and 0 < short <= self.margin:
                block = np.pad(block, ((0, 0), (0, short)))
                n += short
        elif not final:
            n = max(0, n - self.margin)
        first = min(n, max(0, self.start - self.at))
        wanted = block[:, first:n]
        self.held = block[:, n:] if end is None else block[:, :0]
        self.at += n
        return wanted

    def _end(self) -> int | None:
        ends = [end for end in (self.end, self.compressed.info.n_samples) if end is not None]
        return min(ends) if ends else None


def compress(
    reader: AudioReader,
    file: BinaryIO,
    codec: Codec,
    n_codebooks: int | None = None,
    progress: Progress | None = None,
    packet_seconds: float | None = None,
    synthetic: bool = False,
) -> Compressed:
    """Write a recording to an open file or pipe as `.myna`.

    packet_seconds: what is lost with a damaged packet, and waited for in a pipe; longer packets make smaller files.
    None: the codec's, a second.   synthetic: Myna said it (`says_synthetic`): the file says so, and the watermark is
    put back when it is decoded, since no codec of 4 kbps keeps it in short recordings.
    Raises InputError as `AudioReader.blocks` does, UsageError for packets that the codec or the format cannot have.
    """
    began = time.perf_counter()
    counted, info = CountedReader(reader, progress), reader.info
    n_codebooks = n_codebooks or codec.n_codebooks
    header = replace(
        myna_header(codec, info, n_codebooks, packet_seconds),
        synthetic=synthetic and can_mark(codec.sample_rate),
    )
    writer = MynaWriter(file, header)
    for piece in encode_blocks(counted, codec, n_codebooks, writer):
        for codes, scale in segments(piece, codec):
            writer.push(codes, scale)
    writer.close(counted.n_samples)
    elapsed = time.perf_counter() - began
    return Compressed(
        info.sample_rate, info.channels, counted.n_samples, n_codebooks, writer.bytes_written, elapsed
    )


def myna_header(
    codec: Codec, info: AudioInfo, n_codebooks: int, packet_seconds: float | None = None
) -> Header:
    """The header of a recording's `.myna` file; packet_seconds as in `compress`."""
    frames = None
    if packet_seconds is not None and not isinstance(codec, SegmentedEncodec):
        frames = max(1, round(packet_seconds * codec.frame_rate))
    header = header_for(
        codec,
        info.sample_rate,
        info.channels,
        n_codebooks,
        n_samples=None if info.format in LOSSY else info.n_frames,
        streams=stream_count(info.channels, codec),
        packet_frames=frames,
        weights_hash=codes_hash(codec),
    )
    if isinstance(codec, SegmentedEncodec):  # a packet is a segment
        header = replace(header, packet_hop=codec.stride, scaled=codec.config.normalize)
    return header


def segments(piece: Piece, codec: Codec) -> Iterator[tuple[Tensor, Tensor | None]]:
    """The codes of a piece segment by segment, each with its loudness (S,); all at once for other models."""
    if piece.scale is None or not isinstance(codec, SegmentedEncodec):
        if piece.codes.shape[-1]:
            yield piece.codes, None
        return
    full, n_frames = codec.packet_frames, piece.codes.shape[-1]
    n = piece.scale.shape[1]
    lengths = [full] * n if n_frames == full * n else codec.segment_frames(n_frames)
    yield from zip(piece.codes.split(lengths, dim=-1), piece.scale.unbind(1), strict=True)


@dataclass(frozen=True)
class Shrunk:
    """What `shrink` kept, and what was damaged in its source."""

    n_codebooks: int
    damage: tuple[Damage, ...]


def shrink(source: BinaryIO, destination: BinaryIO, max_bytes: int, most: int | None = None) -> Shrunk:
    """Copy a `.myna` file with as many codebooks (of `most`) as fit in `max_bytes`.

    Raises UsageError if not even one fits.
    """
    source.seek(0)
    few, many = 0, most or open_compressed(source).info.n_codebooks  # `few` fit, more than `many` do not
    smallest = 0
    while few < many:
        k = (few + many + 1) // 2
        with tempfile.TemporaryFile() as trial:
            source.seek(0)
            cut(source, trial, k)
            fits = trial.tell() <= max_bytes
            smallest = trial.tell()
        few, many = (k, many) if fits else (few, k - 1)
    if few == 0:
        raise UsageError(
            f"{max_bytes} bytes are too few: the lowest bitrate takes {smallest}; give a larger size"
        )
    source.seek(0)
    return Shrunk(few, tuple(cut(source, destination, few)))


def restore_loudness(
    blocks: Iterator[np.ndarray], rate: int, channels: int, loudness: float
) -> Iterator[np.ndarray]:
    """The same at `loudness` (LUFS), which only the end of a recording tells: it waits in a temporary
    file."""
    meter = LoudnessMeter(rate, channels)
    with tempfile.TemporaryFile() as waiting:
        for block in blocks:
            meter.push(block)
            waiting.write(np.ascontiguousarray(block.T, np.float32).tobytes())
        # Silence has no loudness to restore.
        gain = 10 ** ((loudness - meter.loudness) / 20) if meter.loudness > SILENCE else 1.0
        waiting.seek(0)
        while data := waiting.read(4 * channels * rate):
            yield np.frombuffer(data, np.float32).reshape(-1, channels).T * np.float32(gain)


def decompress(
    compressed: CompressedFile,
    open_output: Callable[[int | None], AudioWriter],
    codec: Codec,
    start: float = 0.0,
    duration: float | None = None,
    progress: Progress | None = None,
    flush: Callable[[], None] | None = None,
) -> Decompressed:
    """Decode a compressed file into what `open_output` gives for the number of samples to come (None: not
    known).

    flush: called after every block, so that a player hears it at once.
    Raises CorruptStreamError if damage leaves not a single sample.
    """
    began = time.perf_counter()
    info = compressed.info
    n_expected = info.n_samples
    if n_expected is not None:
        first = round(start * info.original_sample_rate)
        length = n_expected if duration is None else round(duration * info.original_sample_rate)
        n_expected = max(0, min(n_expected - first, length))
    writer = open_output(n_expected)
    n_samples = clipped = 0
    blocks = decode_blocks(compressed, codec, start, duration, progress)
    if info.input_db is not None:
        blocks = restore_loudness(blocks, info.original_sample_rate, info.channels, info.input_db)
    for block in blocks:
        clipped += int((np.abs(block) > 1).sum())
        writer.write(block)
        n_samples += block.shape[1]
        if flush:
            flush()
    writer.close()
    damage = [str(damage) for damage in compressed.damage]
    if n_expected is not None and n_samples < n_expected and not damage:
        damage.append(f"the file: ends after {n_samples} of {n_expected} samples")
    if not n_samples and n_expected != 0 and damage:
        raise CorruptStreamError(
            f"too damaged, nothing of the recording is left ({damage[0]}); get the file again"
        )
    elapsed = time.perf_counter() - began
    return Decompressed(info.original_sample_rate, info.channels, n_samples, clipped, tuple(damage), elapsed)
