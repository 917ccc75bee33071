"""A step of `layers.transformer.Transformer` in five or six launches a block, for a frame of each stream on a GPU.

    norm, QKV, rotary, ring | attention, in parts (| joined) | out, residual | norm, gate and up, SwiGLU | out, residual

Position and caches are those of the Transformer's own state, so a prefill by the one is continued by the other.
Shapes: B streams, W width, G key and value heads, S slots, D head width.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels.gpu import decode_attention, linear_rows, qkv
from .graph import CapturedStep, Pool, agree, identity
from .streaming import State
from .transformer import Transformer


def supports(model: Transformer, batch: int) -> bool:
    """Whether the fused step may be used: on a GPU, without a condition, a few streams."""
    config, like = model.config, cast(Tensor, model.norm.weight)
    return (
        qkv.runs_on(like)
        and config.condition == 0
        and config.width <= 2048
        and config.width // config.n_heads <= 256
        and batch <= linear_rows.MOST_ROWS
    )


class FusedTransformer:
    """The Transformer's weights in `dtype`, and a state for `batch` streams; a step changes the state in place.

    position: (B,) frames that each stream has had. Set entries to 0 to begin anew.
    """

    def __init__(self, model: Transformer, batch: int = 1, dtype: torch.dtype = torch.float32):
        self.config, self.dtype = model.config, dtype
        self._blocks = [_weights(block, dtype) for block in model.blocks]
        self.gain, self.eps = model.norm.weight.detach().float(), model.norm.eps
        self._frequencies = model.rotary.frequencies.float().contiguous()
        like = self.gain.to(dtype)
        self.position, self.caches = model.init_state(batch, like)

    @property
    def state(self) -> list[Tensor]:
        """All tensors that a step changes."""
        return [self.position, *(t for cache in self.caches for t in cache)]

    def load(self, state: State) -> None:
        """Go on from a state of the Transformer, such as a prefill has left."""
        position, caches = state
        with torch.inference_mode():
            self.position.copy_(position)
            for own, given in zip(self.caches, caches, strict=True):
                own[0].copy_(given[0])
                own[1].copy_(given[1])

    def step(self, x: Tensor, active: Tensor | None = None) -> Tensor:
        """x (B, W) -> (B, W), after the last norm. active (B,), bool: streams that go on."""
        x = self.blocks(x)
        self.position.add_(1 if active is None else active.to(self.position.dtype))
        return F.rms_norm(x, (x.shape[-1],), self.gain.to(x.dtype), self.eps)

    def blocks(self, x: Tensor) -> Tensor:
        """The same without the last norm (`gain`, `eps`), and whoever calls moves the positions on."""
        x, eps = x.to(self.dtype).contiguous(), self.eps
        for w, (keys, values) in zip(self._blocks, self.caches, strict=True):
            q = qkv.qkv(
                x, w["norm1"], w["qkv"], self._frequencies, self.position, keys, values, self.config.n_heads, eps
            )  # fmt: skip
            y = decode_attention.decode_attention(q, keys, values, self.position)
            x = linear_rows.linear_rows(y.flatten(1), w["out"], residual=x)
            h = linear_rows.linear_rows(x, w["gate_up"], gain=w["norm2"], gated=True, eps=eps)
            x = linear_rows.linear_rows(h, w["down"], residual=x)
        return x


_POOL: Pool[tuple[FusedTransformer, CapturedStep]] = Pool()


def captured(user: object, model: Transformer, state: State) -> CapturedStep | None:
    """Steps x (B, W) -> (B, W) that go on from `state`, in a CUDA graph; None where there is no GPU or no way."""
    position, caches = state
    dtype = model.norm.weight.dtype
    if caches[0][0].dtype != dtype or not supports(model, len(position)):
        return None

    def make() -> tuple[FusedTransformer, CapturedStep]:
        fused = FusedTransformer(model, len(position), dtype)
        x = torch.zeros(len(position), model.config.width, dtype=dtype, device=position.device)
        step = CapturedStep(fused.step, (x,), fused.state)
        with torch.inference_mode():
            xs, own = torch.randn(3, *x.shape, dtype=dtype, device=x.device), model.init_state(len(x), x)
            theirs = []
            for frame in xs:
                y, own = model.step(frame[:, :, None], own)
                theirs.append(y[:, :, 0])
            agree([step(frame).clone() for frame in xs], theirs)
        return fused, step

    made = _POOL.borrow(user, model, (len(position), identity(model.norm.weight)), make)
    if made is None:
        return None
    made[0].load(state)
    return made[1]


def _gain(norm: nn.Module, width: int, like: Tensor) -> Tensor:
    """Of an RMS norm; or, where it has moved into the matrix that follows, what makes one of the length."""
    weight = getattr(norm, "weight", None)
    return torch.full_like(like[0], width**-0.5).float() if weight is None else weight.detach().float()


def _weights(block: Any, dtype: torch.dtype) -> dict[str, Tensor]:
    width, like = block.attention.qkv.weight.shape[1], block.attention.qkv.weight.detach()
    return {
        "norm1": _gain(block.norm1, width, like),
        "qkv": block.attention.qkv.weight.detach().to(dtype).contiguous(),
        "out": block.attention.out.weight.detach().to(dtype).contiguous(),
        "norm2": _gain(block.norm2, width, like),
        "gate_up": block.feed_forward.gate_up.weight.detach().to(dtype).contiguous(),
        "down": block.feed_forward.out.weight.detach().to(dtype).contiguous(),
    }
