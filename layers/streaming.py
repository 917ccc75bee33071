"""The streaming contract of all layers and models.

Memory is an argument, never a mode: a layer that remembers takes its state and returns the next one, and the
offline `forward` is one long `step`, so that offline and streaming cannot drift apart.

Shapes: B batch, C channels, T frames. States are pytrees of tensors and plain integers. A layer emits every
output frame as soon as its inputs have arrived, so a chunk of any length goes in and between none and all of
its frames come out; in the steady state with aligned chunks all shapes are constant (a CUDA graph can hold
the step).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from fractions import Fraction
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

State = Any  # a pytree: None, int, Tensor, or a (named) tuple of pytrees


def tree_map(fn: Callable[[Tensor], Tensor], tree: State) -> State:
    """Apply `fn` to every tensor of a state, leaving integers and None as they are."""
    if isinstance(tree, Tensor):
        return fn(tree)
    if isinstance(tree, tuple):
        return like(tree, (tree_map(fn, branch) for branch in tree))
    return tree


def like(tree: tuple[Any, ...], branches: Iterable[State]) -> State:
    """A tuple of the branches, named as `tree` is."""
    return type(tree)(*branches) if hasattr(tree, "_fields") else tuple(branches)


def join(past: Tensor, x: Tensor) -> Tensor:
    """`past` and then `x` along time. The order of the axes in memory is x's: the fast convolutions hand
    tensors on with the channels innermost, and turning them around at every layer would cost more than it
    saves."""
    return x if past.shape[-1] == 0 else join_all([past, x])


def join_all(parts: list[Tensor], order: Tensor | None = None) -> Tensor:
    """Parts (B, C, T) one after the other along time, in the memory order of `order`, else of the last."""
    if len(parts) == 1:
        return parts[0]
    order = parts[-1] if order is None else order
    if order.ndim == 3 and order.stride(1) == 1 and order.shape[1] > 1:
        return torch.cat([part.transpose(1, 2) for part in parts], dim=1).transpose(1, 2)
    return torch.cat(parts, dim=-1)


class Streamable(nn.Module):
    """A layer with explicit memory.

    rate: output frames per input frame (1/8 for a convolution of stride 8, 8 for its transpose).
    delay: look-ahead in input frames once the stream runs (0 when strictly causal).
    resettable: whether single rows of a batch can be restarted in the middle of a stream, which needs every
        row to emit at the same time: true for causal layers with constant padding.
    """

    rate: Fraction = Fraction(1)
    delay: int = 0
    resettable: bool = True

    def needed(self, n: int) -> int:
        """Input frames that must have arrived for the first `n` output frames to be out, once the stream
        runs."""
        return -(-n * self.rate.denominator // self.rate.numerator) + self.delay

    def init_state(self, batch: int, like: Tensor) -> State:
        """The state before the first frame, for `batch` rows, on the device and in the dtype of `like`."""
        raise NotImplementedError

    def step(self, x: Tensor, state: State, final: bool = False) -> tuple[Tensor, State]:
        """Consume x (B, C, T) and `state`; return the frames that are now certain, and the next state.

        `final` says that nothing follows: the layer pads the end by its own rule and emits what it still
        owes.
        The input state may be reused for storage: whoever wants to keep it forks it first.
        """
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.step(x, self.init_state(x.shape[0], like=x), final=True)[0]


class Chain(Streamable):
    """Layers in sequence; those that are not Streamable work frame by frame, on no frames too, without
    memory."""

    def __init__(self, *layers: nn.Module):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        # Layers that do not know theirs (a snake, an ELU) keep the channels of what follows.
        self.in_channels = next((n for layer in layers if (n := getattr(layer, "in_channels", None))), None)

    @property
    def rate(self) -> Fraction:  # pyright: ignore[reportIncompatibleVariableOverride]
        rate = Fraction(1)
        for layer in self._streamable():
            rate *= layer.rate
        return rate

    @property
    def delay(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Look-ahead in frames of the chain's own input: the worst of one period of its strides, since a
        frame and its neighbour can wait for different numbers of inputs."""
        period = max(prod(layer.rate.numerator for layer in self._streamable()), 1)
        waits = (self.needed(n) - -(-n // self.rate) for n in range(1000 * period, 1001 * period))
        return max(0, *waits, 0)

    def needed(self, n: int) -> int:
        for layer in reversed(list(self._streamable())):
            n = layer.needed(n)
        return n

    @property
    def resettable(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return all(layer.resettable for layer in self._streamable())

    def _streamable(self) -> Iterable[Streamable]:
        return (layer for layer in self.layers if isinstance(layer, Streamable))

    def init_state(self, batch: int, like: Tensor) -> State:
        return tuple(
            layer.init_state(batch, like) if isinstance(layer, Streamable) else None for layer in self.layers
        )

    def step(self, x: Tensor, state: State, final: bool = False) -> tuple[Tensor, State]:
        return step_layers(self.layers, x, state, final)


def step_layers(
    layers: Iterable[nn.Module], x: Tensor, state: State, final: bool = False
) -> tuple[Tensor, State]:
    """One step through layers in sequence, with one entry of `state` each (None for those without memory)."""
    following = []
    for layer, own in zip(layers, state, strict=True):
        if isinstance(layer, Streamable):
            x, own = layer.step(x, own, final)
        else:
            x = layer(x)
        following.append(own)
    return x, tuple(following)


class Residual(Streamable):
    """x + body(x), the skip held back until the body has caught up with it.

    The body keeps the frame rate. `skip` may be a 1x1 convolution (EnCodec) or None for the identity (DAC,
    ConvNeXt).
    """

    def __init__(self, body: Streamable, skip: nn.Module | None = None):
        super().__init__()
        if body.rate != 1:
            raise ValueError(f"the body of a residual must keep the frame rate, got rate {body.rate}")
        self.body, self.skip = body, skip
        self.in_channels = getattr(body, "in_channels", None)

    @property
    def delay(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.body.delay

    def needed(self, n: int) -> int:
        return self.body.needed(n)

    @property
    def resettable(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.body.resettable

    def init_state(self, batch: int, like: Tensor) -> State:
        return self.body.init_state(batch, like), None

    def step(self, x: Tensor, state: State, final: bool = False) -> tuple[Tensor, State]:
        body_state, waiting = state
        y, body_state = self.body.step(x, body_state, final)
        held = x if waiting is None else join(waiting, x)
        n = y.shape[-1]
        passed, waiting = held[..., :n], held[..., n:]
        if n:
            y = y + (passed if self.skip is None else self.skip(passed))
        return y, (body_state, waiting)


class Stream:
    """One running stream through a Streamable: owns its state, takes chunks of any length.

    >>> stream = Stream(model, batch=1)
    >>> audio = [stream.push(chunk) for chunk in chunks] + [stream.flush()]
    """

    def __init__(self, layer: Streamable, batch: int = 1, like: Tensor | None = None):
        if like is None:
            like = next((p for p in layer.parameters() if p.is_floating_point()), torch.zeros(()))
        self.layer, self.batch, self._like = layer, batch, like.detach()
        self.state = layer.init_state(batch, self._like)
        self.finished = False
        self.in_channels: int | None = getattr(layer, "in_channels", None)  # else known from the first chunk

    @torch.inference_mode()
    def push(self, x: Tensor) -> Tensor:
        """Feed x (B, C, T), any T including 0; return what is certain so far, (B, C', T')."""
        return self._step(x, final=False)

    @torch.inference_mode()
    def flush(self, x: Tensor | None = None) -> Tensor:
        """End the stream (after a last chunk, if given) and return what it still owed."""
        if x is None:
            x = self._empty()
        y = self._step(x, final=True)
        self.finished = True
        return y

    def fork(self) -> Stream:
        """An independent copy that continues from here."""
        other = Stream.__new__(Stream)
        other.layer, other.batch, other._like = self.layer, self.batch, self._like
        other.finished, other.in_channels = self.finished, self.in_channels
        other.state = tree_map(lambda t: t.clone(), self.state)
        return other

    def reset(self, rows: Tensor) -> None:
        """Start the rows where `rows` (B,) is true anew; the others go on undisturbed."""
        if not self.layer.resettable:
            raise ValueError(
                "rows of this stream cannot be restarted one by one because its layers look ahead or reflect "
                "their beginning; open a new Stream instead"
            )
        fresh = self.layer.init_state(self.batch, self._like)
        self.state = _merge(rows, fresh, self.state)

    def save(self, path: str | Path) -> None:
        """Write the state to a safetensors file."""
        tensors: dict[str, Tensor] = {}
        shape = _flatten(self.state, tensors, "s")
        meta = {
            "state": json.dumps(shape),
            "batch": str(self.batch),
            "finished": str(int(self.finished)),
            "in_channels": str(self.in_channels or 0),
        }
        # Cloned, because the format refuses tensors that share memory, as two fresh zeros may.
        save_file({k: v.contiguous().clone() for k, v in tensors.items()}, str(path), metadata=meta)

    @classmethod
    def load(cls, layer: Streamable, path: str | Path) -> Stream:
        """Continue a stream that `save` wrote, through the same layer."""
        from safetensors import safe_open

        stream = cls(layer)
        with safe_open(str(path), framework="pt", device=str(stream._like.device)) as file:
            meta = file.metadata()
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        stream.batch, stream.finished = int(meta["batch"]), bool(int(meta["finished"]))
        stream.in_channels = int(meta.get("in_channels", 0)) or None
        stream.state = _unflatten(json.loads(meta["state"]), tensors, stream.state)
        return stream

    def _step(self, x: Tensor, final: bool) -> Tensor:
        if self.finished:
            raise ValueError("this stream has been flushed; open a new one")
        self.in_channels = x.shape[1]
        y, self.state = self._advanced(x, final)
        return y

    def _advanced(self, x: Tensor, final: bool) -> tuple[Tensor, State]:
        return self.layer.step(x, self.state, final)

    def _empty(self) -> Tensor:
        return self._like.new_zeros(self.batch, self.in_channels or 1, 0)


def _merge(rows: Tensor, fresh: State, running: State) -> State:
    """Rows of `fresh` where `rows` is true, of `running` elsewhere; tensors carry the batch first."""
    if isinstance(running, Tensor):
        if not isinstance(fresh, Tensor):  # e.g. a skip that had nothing to hold back yet
            fresh = torch.zeros_like(running)
        if fresh.shape != running.shape:
            raise ValueError(
                "rows can only be restarted between whole frames: push a multiple of the stride, then reset"
            )
        mask = rows.to(running.device).view(-1, *([1] * (running.ndim - 1)))
        return torch.where(mask, fresh, running)
    if isinstance(running, tuple):
        return like(running, (_merge(rows, f, r) for f, r in zip(fresh, running, strict=True)))
    return running


def _flatten(tree: State, tensors: dict[str, Tensor], name: str) -> Any:
    """The tree with each tensor replaced by its name, the tensors collected beside it."""
    if isinstance(tree, Tensor):
        tensors[name] = tree
        return {"tensor": name}
    if isinstance(tree, tuple):
        return [_flatten(branch, tensors, f"{name}.{i}") for i, branch in enumerate(tree)]
    return tree


def _unflatten(shape: Any, tensors: dict[str, Tensor], named: State) -> State:
    """named: a fresh state, whose tuples say what theirs are called."""
    if isinstance(shape, dict):
        return tensors[shape["tensor"]]
    if isinstance(shape, list):
        named = named if isinstance(named, tuple) else (None,) * len(shape)
        return like(
            named, (_unflatten(*pair) for pair in zip(shape, [tensors] * len(shape), named, strict=True))
        )
    return shape
