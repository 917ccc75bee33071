"""EnCodec (Défossez et al. 2022): SEANet around a residual quantizer of Euclidean codebooks.

24 kHz is causal and runs sample by sample. 48 kHz normalises over time, so it runs on segments of one second,
each scaled to unit loudness, which overlap by a hundredth and are cross-faded:

    offset 0        47520     48000     95040     95520
           |---- segment 0 ----|
                      |---- segment 1 ------------|          480 samples are coded twice
                                          |---- segment 2 ...

Shapes: B batch, C audio channels, N samples, K codebooks, T frames, D latent channels, S segments.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from ..errors import InputError, UsageError
from ..layers.steady import SteadyStep
from .base import Codes
from .convolutional import ConvolutionalCodec, check_codes, check_n_codebooks, check_wav, fit
from .quantizer import EMACodebook, ResidualVQ
from .seanet import SEANetConfig, seanet_decoder, seanet_encoder
from .trainable import TrainingResult


@dataclass(frozen=True)
class EncodecConfig:
    """Dimensions of an EnCodec; the defaults are the published 24 kHz model."""

    name: str = "encodec-24k"
    sample_rate: int = 24_000
    seanet: SEANetConfig = field(default_factory=SEANetConfig)
    n_codebooks: int = 32
    codebook_size: int = 1024
    segment: int | None = None  # samples coded together, None for the whole input as one stream
    overlap: float = 0.01  # of neighbouring segments, as a share of the segment
    normalize: bool = False  # divide each segment by its loudness, which is stored beside its codes

    def __post_init__(self) -> None:
        if self.segment is None:
            if self.normalize:
                raise UsageError(
                    "EnCodec normalises the loudness of segments: set `segment` too, or not `normalize`"
                )
            return
        hop, common = self.seanet.hop_length, self.segment - self.segment_stride
        if self.segment % hop or not hop < common < 2 * hop:
            raise UsageError(
                f"segment {self.segment} with overlap {self.overlap} cannot be told apart in a row: "
                f"use a multiple of {hop} samples that overlaps by more than {hop} and less than {2 * hop}"
            )

    @property
    def segment_stride(self) -> int:
        """Samples from the start of one segment to that of the next."""
        return max(1, int((1 - self.overlap) * (self.segment or 1)))


ENCODEC_24K = EncodecConfig()
ENCODEC_48K = EncodecConfig(
    name="encodec-48k",
    sample_rate=48_000,
    seanet=SEANetConfig(channels=2, causal=False, norm="time_group_norm"),
    n_codebooks=16,
    segment=48_000,
    normalize=True,
)


class Encodec(ConvolutionalCodec):
    """EnCodec as one stream (24 kHz).

    The official bandwidths 1.5, 3, 6, 12 and 24 kbps are 2, 4, 8, 16 and 32 codebooks. A stream waits for a
    few frames at its beginning (a reflected start has to see what it mirrors), then every frame_size samples
    give one frame and every frame gives frame_size samples.
    """

    def __init__(self, config: EncodecConfig = ENCODEC_24K):
        super().__init__()
        seanet = config.seanet
        self.config, self.name, self.sample_rate = config, config.name, config.sample_rate
        self.channels, self.frame_size, self.decoder_channels = (
            seanet.channels,
            seanet.hop_length,
            seanet.dimension,
        )
        self.n_codebooks, self.codebook_size = config.n_codebooks, config.codebook_size
        self.encoder = seanet_encoder(seanet)
        self.quantizer = ResidualVQ(
            [EMACodebook(seanet.dimension, config.codebook_size) for _ in range(config.n_codebooks)]
        )
        self.decoder = seanet_decoder(seanet)
        if config.segment is None:
            self.delay = self.encoder.delay + self.decoder.delay * self.frame_size


class SegmentedEncodec(Encodec):
    """EnCodec by segments (48 kHz stereo).

    Codes.codes is the concatenation of the segments' frames along T, Codes.scale (B, S) their loudness. How
    many frames belong to each segment follows from T alone (`segment_frames`).
    """

    def __init__(self, config: EncodecConfig = ENCODEC_48K):
        super().__init__(config)
        if config.segment is None:
            raise ValueError("a SegmentedEncodec needs a config with segments; use Encodec")
        self.segment, self.stride = config.segment, config.segment_stride
        # A segment is coded once it is complete, and heard once the next one fades in over it.
        self.delay = self.segment

    def segment_frames(self, n_frames: int) -> list[int]:
        """Frames of each segment in a row of `n_frames`.

        All segments but the last are full, unless the input ended between the start of the last one and the
        end of the one before: that one is then a frame short, and the last a single frame.
        """
        full = self.packet_frames
        n, rest = divmod(n_frames, full)
        return [full] * n + [rest] if rest else [full] * (n - 1) + [full - 1, 1]

    @property
    def packet_frames(self) -> int:
        """Those of a segment."""
        return self.segment // self.frame_size

    def encode(self, wav: Tensor, n_codebooks: int | None = None, search: bool = False) -> Codes:
        check_wav(self, wav)
        stream = self.encoder_stream(wav.shape[0], n_codebooks, search)
        with torch.no_grad():
            codes = torch.cat([stream.push(wav), stream.flush()], dim=-1)
        return Codes(codes, wav.shape[-1], stream.scale)

    def decode(self, codes: Codes) -> Tensor:
        check_codes(self, codes.codes)
        stream = self.decoder_stream(codes.codes.shape[0])
        with torch.no_grad():
            wav = torch.cat([stream.push(codes.codes, codes.scale), stream.flush()], dim=-1)
            return fit(wav, codes.n_samples)

    def latents(self, wav: Tensor) -> Tensor:
        starts = range(0, wav.shape[-1], self.stride)
        return torch.cat([self.segment_latents(wav[..., s : s + self.segment])[0] for s in starts], dim=-1)

    def forward(
        self, wav: Tensor, n_codebooks: Tensor | None = None, unquantized: Tensor | None = None
    ) -> TrainingResult:
        """As in TrainableCodec, on crops that are a segment each."""
        if wav.shape[-1] > self.stride:
            raise UsageError(
                f"{self.name} learns from crops of {self.stride / self.sample_rate:g} s at most, a segment each; set "
                "data.seconds"
            )
        result = super().forward(wav, n_codebooks, unquantized)
        return replace(result, wav=result.wav * self._loudness(wav))

    def segment_latents(self, wav: Tensor) -> tuple[Tensor, Tensor]:
        """One segment (B, C, n) to its latents (B, D, t) and its loudness (B, 1)."""
        scale = self._loudness(wav)
        return self.encoder(wav / scale if self.config.normalize else wav), scale[:, :, 0]

    def _loudness(self, wav: Tensor) -> Tensor:
        """(B, C, n) -> (B, 1, 1), by which the network does not see it scaled; ones where it does."""
        if not self.config.normalize:
            return wav.new_ones(wav.shape[0], 1, 1)
        return wav.mean(dim=1, keepdim=True).square().mean(dim=2, keepdim=True).sqrt() + 1e-8

    def encoder_stream(
        self, batch: int = 1, n_codebooks: int | None = None, search: bool = False
    ) -> SegmentedEncoderStream:
        return SegmentedEncoderStream(self, batch, check_n_codebooks(self, n_codebooks), search)

    def decoder_stream(self, batch: int = 1) -> SegmentedDecoderStream:
        return SegmentedDecoderStream(self, batch)


class SegmentedEncoderStream:
    """Samples in, codes out, a segment at a time; `scale` (B, S) has the loudness of all segments coded so
    far."""

    def __init__(self, codec: SegmentedEncodec, batch: int, n_codebooks: int, search: bool):
        like = next(codec.parameters())
        self.codec, self.n_codebooks, self.search, self.finished = codec, n_codebooks, search, False
        self.waiting = like.new_zeros(batch, codec.channels, 0)
        self.scale: Tensor | None = like.new_zeros(batch, 0) if codec.config.normalize else None

    def push(self, wav: Tensor) -> Tensor:
        """wav (B, C, n), any n, to the codes (B, K, t) of the segments that it completes."""
        check_wav(self.codec, wav, shortest=0)
        return self._code(wav, self.codec.segment)

    def flush(self) -> Tensor:
        """The codes of what is left, which may be two short segments."""
        codes = self._code(self.waiting[..., :0], 1)
        self.finished = True
        return codes

    @torch.no_grad()
    def _code(self, wav: Tensor, shortest: int) -> Tensor:
        if self.finished:
            raise ValueError("this stream has been flushed; open a new one")
        codec = self.codec
        self.waiting = torch.cat([self.waiting, wav], dim=-1)
        codes = [
            torch.zeros(self.waiting.shape[0], self.n_codebooks, 0, dtype=torch.int64, device=wav.device)
        ]
        while self.waiting.shape[-1] >= shortest:
            latents, scale = codec.segment_latents(self.waiting[..., : codec.segment])
            codes.append(codec.quantizer.encode(latents, self.n_codebooks, self.search))
            if self.scale is not None:
                self.scale = torch.cat([self.scale, scale], dim=1)
            self.waiting = self.waiting[..., codec.stride :]
        return torch.cat(codes, dim=-1)


class SegmentedDecoderStream:
    """Codes in, samples out: segments are cross-faded where they overlap, each weighted by a triangle."""

    def __init__(self, codec: SegmentedEncodec, batch: int):
        like = next(codec.parameters())
        self.codec, self.finished = codec, False
        self._steps = SteadyStep(codec.decoder, _segment, "segment")
        self.waiting = torch.zeros(batch, codec.n_codebooks, 0, dtype=torch.int64, device=like.device)
        self.scale = like.new_zeros(batch, 0)
        self.weight: Tensor | None = None
        # The weighted sum of what reaches beyond the start of the next segment, and the sum of the weights.
        self.tail, self.tail_weight = like.new_zeros(batch, codec.channels, 0), like.new_zeros(0)

    def push(self, codes: Tensor, scale: Tensor | None = None) -> Tensor:
        """codes (B, K, t), any t, with the loudness (B, s) of the next s segments, to wav (B, C, n).

        The loudness of a segment must have come by the time its last frame has; K stays the same in a stream.
        """
        if codes.shape[-1]:
            check_codes(self.codec, codes)
            codes = codes.long()
            self.waiting = codes if not self.waiting.shape[-1] else torch.cat([self.waiting, codes], dim=-1)
        if scale is not None:
            self.scale = torch.cat([self.scale, scale.to(self.scale)], dim=1)
        return self._decode(final=False)

    def flush(self) -> Tensor:
        """The last segment, and what the one before left of itself."""
        wav = self._decode(final=True)
        self.finished = True
        return wav

    @torch.no_grad()
    def _decode(self, final: bool) -> Tensor:
        if self.finished:
            raise ValueError("this stream has been flushed; open a new one")
        codec, out = self.codec, [self.tail[..., :0]]
        full = codec.packet_frames
        while self.waiting.shape[-1] > (0 if final else full):
            # Only a frame beyond a full segment proves that it is full (`segment_frames`).
            n = codec.segment_frames(self.waiting.shape[-1])[0] if final else full
            self._add(self.waiting[..., :n])
            self.waiting = self.waiting[..., n:]
            last = final and self.waiting.shape[-1] == 0
            ready = self.tail.shape[-1] if last else codec.stride
            out.append(self.tail[..., :ready] / self.tail_weight[:ready])
            self.tail, self.tail_weight = self.tail[..., ready:], self.tail_weight[ready:]
        return torch.cat(out, dim=-1)

    def _add(self, codes: Tensor) -> None:
        codec = self.codec
        wav, _ = self._steps((codec.quantizer.decode(codes),), None)
        if codec.config.normalize:
            if self.scale.shape[1] == 0:
                raise InputError(
                    f"{codec.name} needs the loudness of every segment; give `scale` with the codes"
                )
            wav, self.scale = wav * self.scale[:, :1, None], self.scale[:, 1:]
        n = wav.shape[-1]
        if self.weight is None:  # the triangle is as wide as the first segment
            t = torch.linspace(0, 1, n + 2, device=wav.device, dtype=wav.dtype)[1:-1]
            self.weight = 0.5 - (t - 0.5).abs()
        weight = self.weight[:n]
        self.tail = fit(self.tail, max(n, self.tail.shape[-1]))
        self.tail_weight = fit(self.tail_weight, self.tail.shape[-1])
        self.tail = self.tail + fit(wav * weight, self.tail.shape[-1])
        self.tail_weight = self.tail_weight + fit(weight, self.tail.shape[-1])


def _segment(decoder: nn.Module, inputs: tuple[Tensor], state: None) -> tuple[Tensor, None]:
    return decoder(inputs[0]), state


def build_encodec(config: EncodecConfig) -> Encodec:
    """The model of a config, with weights yet to be loaded."""
    return Encodec(config) if config.segment is None else SegmentedEncodec(config)
