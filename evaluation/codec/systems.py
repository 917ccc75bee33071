"""What a report compares: a codec of the house at several numbers of codebooks, Opus, and nothing at all.

Shapes: N samples, K codebooks, T frames.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...codec import Codec, Codes
from ...codec.formats import MynaWriter, open_compressed
from ...codec.formats.header import Header
from ...codec.pipeline import FILE_PACKET_SECONDS, Piece, myna_header, packet_encoder, segments
from ...data.audio import AudioInfo
from ..clips import Clip
from ..measures.perceptual import at_rate
from .opus import opus

_MOST_FRAMES = 1000  # a packet, whatever the codec's frame rate


@dataclass(frozen=True)
class Times:
    """Seconds spent: waveform to codes, codes to waveform, codes to a file in memory, and that to codes."""

    encode: float
    decode: float
    pack: float
    unpack: float


@dataclass(frozen=True)
class Outcome:
    """A clip through a system: wav (N,) at the clip's rate, bytes of the file, and without its headers."""

    wav: np.ndarray
    n_bytes: int
    payload_bytes: int | None = None
    times: Times | None = None
    codes: Tensor | None = None


def through_codec(codec: Codec, clip: Clip, n_codebooks: Sequence[int]) -> Iterator[tuple[int, Outcome]]:
    """The clip at each number of codebooks, through a whole `.myna` file in memory, as `myna compress` writes it.

    A codec whose codes depend on the file is encoded for each number; others once, at the most codebooks: fewer are
    the first of these. Mono goes into every channel of the codec and comes out as their mean.
    """
    device = device_of(codec)
    wav = torch.from_numpy(at_rate(clip.wav, clip.sample_rate, codec.sample_rate)).to(device)
    wav = wav.expand(1, codec.channels, -1)
    info = AudioInfo(clip.sample_rate, 1, len(clip.wav), "WAV", "FLOAT")
    whole, encoded = None, 0.0
    for k in n_codebooks:
        header = myna_header(codec, info, k, min(FILE_PACKET_SECONDS, _MOST_FRAMES / float(codec.frame_rate)))
        packets = packet_encoder(codec, 1, k, MynaWriter(io.BytesIO(), header))
        if packets is not None or whole is None:
            start = clock(device)
            if packets is None:
                whole = codec.encode(wav, max(n_codebooks), search=True)
            else:
                codes = torch.cat([packets.push(wav), packets.flush()], dim=-1)
                whole = Codes(codes, wav.shape[-1])
            encoded = clock(device) - start
        codes = whole.keep(k)
        start = clock(device)
        data = pack(codec, codes, header, len(clip.wav))
        packed = clock(device)
        unpacked = unpack(data, codes.n_samples)
        read = clock(device)
        decoded = codec.decode(Codes(unpacked.codes.to(device), unpacked.n_samples, whole.scale))
        times = Times(encoded, clock(device) - read, packed - start, read - packed)
        mono = decoded[0].mean(0).float().cpu().numpy()
        back = at_rate(mono, codec.sample_rate, clip.sample_rate)[: len(clip.wav)]
        yield k, Outcome(back, len(data), None, times, codes.codes)


def through_opus(clip: Clip, bitrate: float) -> Outcome:
    """The clip through Opus at `bitrate` bits a second."""
    result = opus(clip.wav, clip.sample_rate, bitrate)
    return Outcome(result.wav, result.n_bytes, result.payload_bytes)


def uncompressed(clip: Clip) -> Outcome:
    """The clip as 16-bit PCM in a WAV file: what every measure gives at best."""
    return Outcome(clip.wav, 2 * len(clip.wav) + 44, 2 * len(clip.wav))


def pack(codec: Codec, codes: Codes, header: Header, n_samples: int) -> bytes:
    """The `.myna` file of one clip of `n_samples` at its own rate."""
    file = io.BytesIO()
    writer = MynaWriter(file, header)
    for segment, scale in segments(Piece(codes.codes, codes.scale), codec):
        writer.push(segment, scale)
    writer.close(n_samples)
    return file.getvalue()


def unpack(data: bytes, n_samples: int) -> Codes:
    """The codes in a `.myna` file."""
    packets = [packet.codes for packet in open_compressed(io.BytesIO(data)).packets()]
    return Codes(torch.cat(packets, dim=-1), n_samples)


def device_of(codec: Codec) -> torch.device:
    return next(codec.parameters(), torch.zeros(())).device


def clock(device: torch.device) -> float:
    """Seconds, once the device has finished what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def reconstruct(
    codec: Codec, wav: np.ndarray, sample_rate: int, n_codebooks: int | None = None
) -> np.ndarray:
    """(N,) at `sample_rate` through a codec of any rate and number of channels, and back to (N,)."""
    device = next(codec.parameters(), torch.zeros(())).device
    x = torch.from_numpy(at_rate(wav, sample_rate, codec.sample_rate)).to(device)
    y = codec.reconstruct(x.expand(1, codec.channels, -1), n_codebooks, search=True)
    return at_rate(y[0].mean(0).float().cpu().numpy(), codec.sample_rate, sample_rate)[: len(wav)]
