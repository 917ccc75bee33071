"""The decoder of `myna-24k` as a step of 22 launches, for a batch of streams on a GPU.

    codes --> rows of the codebooks added up
          --> conv 3 --> ConvNeXt x 4 (50 Hz) --> x 2 --> ConvNeXt x 4 (100 Hz) --> linear, expanded --> inverse MDCT

Every layer remembers its inputs in a ring, addressed by the position of its stream. So a stream begins anew by setting
its position to 0, and one that pauses keeps its position; no other memory has to be touched. The inverse MDCT and its
overlap-add are one convolution with two taps: half of each frame's samples are heard with it, half with the next.

Shapes: B streams, K codebooks, T frames (50 Hz) a step, N samples.
"""

from __future__ import annotations

from typing import Any, Protocol, cast

import torch
from torch import Tensor

from ..kernels.gpu import causal_conv, conv_transpose, convnext, rvq
from ..layers.conv import Conv1d, ConvTranspose1d
from ..layers.convnext import ConvNeXtBlock
from ..layers.graph import CapturedStep, Pool, agree, identity
from ..layers.streaming import Chain, Stream
from .quantizer import EMACodebook, ResidualVQ


class HouseCodec(Protocol):
    """What is read of a `codec.myna.MynaCodec`."""

    config: Any
    quantizer: ResidualVQ
    decoder: Chain


def supports(codec: HouseCodec, batch: int, frames: int) -> bool:
    """Whether the fused step may be used, and pays: on a GPU, EMA codebooks, few frames in all."""
    weight = codec.decoder.layers[0].weight
    x = cast(Tensor, weight)
    return (
        isinstance(codec.quantizer.codebooks[0], EMACodebook)
        and causal_conv.runs_on(x)
        and batch * frames * codec.config.stride <= convnext.MOST_ROWS
    )


class FusedMynaDecoder:
    """Steps of `frames` frames for `batch` streams; state in place, so that a CUDA graph can hold it.

    dtype: of the weights and of what is kept between layers; the inverse MDCT is in float32.
    position: (B,) frames that each stream has had. Set entries to 0 to begin anew.
    """

    def __init__(
        self, codec: HouseCodec, batch: int = 1, frames: int = 1, dtype: torch.dtype = torch.float32
    ):
        self.frames, self.dtype, self.stride = frames, dtype, codec.config.stride
        layers = cast("list[Any]", list(codec.decoder.layers))
        self.device = layers[0].weight.device
        books = cast("list[EMACodebook]", list(codec.quantizer.codebooks))
        self.table = torch.stack([book.embed for book in books]).to(dtype).contiguous()
        up = next(i for i, layer in enumerate(layers) if isinstance(layer, ConvTranspose1d))
        lift, raised, synthesis = layers[0], layers[up], layers[-2]
        self._lift = _conv(lift, dtype)
        self._slow = [_block(layer, dtype) for layer in layers[1:up]]
        self._up = conv_transpose.pack(
            raised.weight.detach().to(dtype), raised.bias.detach().float(), raised.stride
        )
        self._fast = [_block(layer, dtype) for layer in layers[up + 1 : -2]]
        self._synthesis(synthesis, dtype)
        k, t = codec.config.kernel_size, frames * self.stride
        self.position = torch.zeros(batch, dtype=torch.int64, device=self.device)
        self._moved = torch.full_like(self.position, frames)

        def ring(channels: int, taps: int, frames: int, dtype: torch.dtype = dtype) -> Tensor:
            shape = batch, causal_conv.slots(taps, 1, frames), channels
            return torch.zeros(shape, dtype=dtype, device=self.device)

        self._rings = [
            ring(lift.in_channels, lift.kernel_size, frames),
            *(ring(codec.config.latent_width, k, frames) for _ in self._slow),
            ring(codec.config.latent_width, self._up.weight.shape[0], frames),
            *(ring(codec.config.width, k, t) for _ in self._fast),
            ring(codec.config.hop, 2, t, torch.float32),
        ]

    def _synthesis(self, layer: Any, dtype: torch.dtype) -> None:
        linear, hop = layer.project.linear, layer.mdct.basis.shape[1]
        self._project = linear.weight.detach().to(dtype)[None].contiguous()
        self._project_bias = cast(Tensor, linear.bias).detach().float()
        self._scale = layer.scale.detach().float().flatten().contiguous()
        basis = layer.mdct.basis.float()  # (2 H, H): the first half of a frame is heard with the frame itself
        self._basis = torch.stack([basis[hop:], basis[:hop]]).contiguous()

    @property
    def state(self) -> list[Tensor]:
        """All tensors that a step changes."""
        return [self.position, *self._rings]

    def step(self, codes: Tensor, active: Tensor | None = None) -> Tensor:
        """codes (B, K, T) with T = frames -> samples (B, 1, N). active (B,), bool: streams that go on; what comes out
        for the others means nothing."""
        b, k, t = codes.shape
        rows = rvq.rvq_decode(codes.transpose(1, 2).reshape(b * t, k), self.table[:k])
        return self.step_latents(rows.view(b, t, -1), active)

    def step_latents(self, x: Tensor, active: Tensor | None = None) -> Tensor:
        """The same from latents (B, T, D), channels-last."""
        rings, at, s = iter(self._rings), self.position, self.stride
        weight, bias = self._lift
        x = causal_conv.causal_conv(x.contiguous(), next(rings), at, weight, bias)
        for block in self._slow:
            x = convnext.convnext(x, next(rings), at, block)
        x = conv_transpose.conv_transpose(x, next(rings), at, self._up)
        for block in self._fast:
            x = convnext.convnext(x, next(rings), at, block, rate=s)
        x, _ = causal_conv.conv_rows(
            x, self._project, self._project_bias, activation="expand", scale=self._scale
        )
        x = causal_conv.causal_conv(x.float(), next(rings), at, self._basis, rate=s)
        at.add_(self._moved if active is None else self._moved * active)
        return x.flatten(1)[:, None]


def _conv(layer: Conv1d, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    weight = layer.weight.detach().permute(2, 0, 1).to(dtype).contiguous()
    return weight, None if layer.bias is None else layer.bias.detach().float()


def _block(layer: ConvNeXtBlock, dtype: torch.dtype) -> convnext.ConvNeXtWeights:
    def full(x: Any) -> Tensor:
        return cast(Tensor, x).detach().float().contiguous()

    return convnext.ConvNeXtWeights(
        full(layer.depthwise.weight[:, 0].t()),
        full(layer.depthwise.bias),
        full(layer.norm.weight),
        full(layer.norm.bias),
        layer.expand.weight.detach().to(dtype).contiguous(),
        full(layer.expand.bias),
        full(layer.alpha),
        layer.contract.weight.detach().to(dtype).contiguous(),
        full(layer.contract.bias),
        full(layer.scale),
    )


_POOL: Pool[tuple[FusedMynaDecoder, CapturedStep]] = Pool()


class _User:
    """Who has borrowed a decoder."""


class FusedStream:
    """`layers.Stream` through the decoder, frame by frame in a CUDA graph: latents (B, D, T) -> wav (B, 1, N)."""

    def __init__(
        self, codec: HouseCodec, batch: int, made: tuple[FusedMynaDecoder, CapturedStep], user: _User
    ):
        self.codec, self.batch, self.finished = codec, batch, False
        self._decoder, self._step = made
        self._user = user  # when it goes, the decoder is lent to another

    @torch.inference_mode()
    def push(self, latents: Tensor) -> Tensor:
        """Any number of frames, none too."""
        if self.finished:
            raise ValueError("this stream has been flushed; open a new one")
        rows = latents.transpose(1, 2).to(self._decoder.dtype)
        if rows.shape[1] == 0:
            return latents.new_zeros(self.batch, 1, 0)
        return torch.cat([self._step(row).clone() for row in rows.split(1, dim=1)], dim=-1).to(latents.dtype)

    def flush(self, latents: Tensor) -> Tensor:
        """The last frames; the decoder owes nothing after them."""
        wav = self.push(latents)
        self.finished = True
        return wav

    def fork(self) -> FusedStream:
        """An independent copy that continues from here. Raises RuntimeError where there is no room for one."""
        other = fused_stream(self.codec, self.batch)
        if other is None:
            raise RuntimeError("another decoder could not be captured; MYNA_KERNELS=off needs none")
        with torch.inference_mode():
            for own, theirs in zip(other._decoder.state, self._decoder.state, strict=True):
                own.copy_(theirs)
        other.finished = self.finished
        return other


def fused_stream(codec: HouseCodec, batch: int) -> FusedStream | None:
    """A stream from the beginning; None where there is no GPU, or no way."""
    if not supports(codec, batch, 1):
        return None
    like = cast(Tensor, codec.decoder.layers[0].weight)

    def make() -> tuple[FusedMynaDecoder, CapturedStep]:
        decoder = FusedMynaDecoder(codec, batch, 1, like.dtype)
        row = torch.zeros(batch, 1, codec.config.latent_dim, dtype=like.dtype, device=like.device)
        step = CapturedStep(decoder.step_latents, (row,), decoder.state)
        with torch.inference_mode():
            frames = torch.randn(3, *row.shape, dtype=row.dtype, device=row.device)
            own = Stream(codec.decoder, batch)
            agree([step(x).clone() for x in frames], [own.push(x.transpose(1, 2)) for x in frames])
        return decoder, step

    user = _User()
    made = _POOL.borrow(user, codec.decoder, (batch, identity(like)), make)
    if made is None:
        return None
    with torch.inference_mode():
        made[0].position.zero_()
    return FusedStream(codec, batch, made, user)
