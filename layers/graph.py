"""A step that is captured once and replayed: on a GPU a CUDA graph, which starts all its kernels with one call.

    inputs --> [ copied into the captured tensors ] --> replay --> [ captured outputs ]
                                  ^                        |
                                  +------ state, in place -+

Inputs, outputs and state keep their addresses, so what is captured must be made of fixed shapes and must not ask the
GPU for a number: nothing here calls `.item()`. On a CPU the same class calls the function.

>>> step = CapturedStep(function, (x,), state)          # function(*inputs) updates the tensors of `state` in place
>>> y = step(x)                                          # the same memory at every call: use it before the next
"""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from .streaming import State, Stream, Streamable, tree_map

T = TypeVar("T")
_CAPTURING = threading.Lock()  # one thread at a time captures


def tensors_of(tree: State) -> list[Tensor]:
    """The tensors of a state, in order."""
    found: list[Tensor] = []
    tree_map(lambda t: (found.append(t), t)[1], tree)
    return found


class CapturedStep(Generic[T]):
    """`function(*inputs)`, tensors to a tensor or a tuple of them, captured on a GPU.

    inputs: examples, whose shapes all calls must have.   state: every tensor that the function changes; put back after
    the calls that capturing takes.
    """

    def __init__(self, function: Callable[..., T], inputs: Sequence[Tensor], state: Sequence[Tensor] = ()):
        self._function = function
        self._inputs = [x.clone() for x in inputs]
        self._graph: torch.cuda.CUDAGraph | None = None
        if self._inputs[0].device.type != "cuda":
            return
        with _CAPTURING:
            self._capture(function, state)

    def _capture(self, function: Callable[..., T], state: Sequence[Tensor]) -> None:
        saved = [t.clone() for t in state]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side), torch.inference_mode():
            for _ in range(2):  # kernels are compiled and memory is found before anything is recorded
                function(*self._inputs)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        # Other threads of a server go on meanwhile, and find memory, which they otherwise may not.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"), torch.inference_mode():
            self._output = function(*self._inputs)
        for tensor, before in zip(state, saved, strict=True):
            tensor.copy_(before)

    def __call__(self, *inputs: Tensor) -> T:
        if self._graph is None:
            with torch.inference_mode():
                return self._function(*inputs)
        with torch.inference_mode():
            for held, x in zip(self._inputs, inputs, strict=True):
                held.copy_(x)
            self._graph.replay()
        return self._output


class Pool(Generic[T]):
    """What takes long to make for a model (a captured step), lent to one user at a time.

    It is taken back when the user is gone, and goes with the model. Where making fails the pool says so once and lends
    nothing: the caller has another way.
    """

    def __init__(self) -> None:
        self._free: weakref.WeakKeyDictionary[nn.Module, dict[Hashable, list[T]]] = (
            weakref.WeakKeyDictionary()
        )
        self._failed = False

    def borrow(self, user: object, model: nn.Module, key: Hashable, make: Callable[[], T]) -> T | None:
        """One made for `model` and `key`. It must not refer to the model, or neither ever goes."""
        if self._failed:
            return None
        free = self._free.setdefault(model, {}).setdefault(key, [])
        try:
            lent = free.pop()  # asked first, another thread could take the last
        except IndexError:
            lent = self.attempt(make)
        if lent is not None:
            weakref.finalize(user, free.append, lent)
        return lent

    def attempt(self, make: Callable[[], T]) -> T | None:
        """What `make` gives; where it fails, None, now and from then on."""
        if self._failed:
            return None
        try:
            return make()
        except (
            Exception
        ) as problem:  # the compiler's, the driver's, out of memory: whatever it is, it can wait
            self._failed = True
            warnings.warn(
                f"fused kernels are not used: {problem} (MYNA_KERNELS=off keeps them off)", stacklevel=3
            )
            return None


def agree(ours: Sequence[Tensor], theirs: Sequence[Tensor], within: float = 0.02) -> None:
    """Raises RuntimeError unless results are those of the layers themselves, to 2 % of their size: a kernel that this
    GPU or compiler gets wrong is found before it is heard."""
    a, b = (torch.stack(list(results)).double() for results in (ours, theirs))
    off = float((a - b).norm() / b.norm().clamp(min=1e-30))
    if not off < within:
        raise RuntimeError(f"a fused step is {off:.1e} off what the layers give")


def identity(weight: Tensor) -> Hashable:
    """What changes when a weight does."""
    version = None if weight.is_inference() else weight._version
    return weight.data_ptr(), version, weight.dtype, weight.device


class StreamGraph:
    """Chunks of one length through a Stream, captured; rows of the batch are streams that come and go.

    A row that is not active keeps its state, and what comes out for it means nothing. Restart a row with `reset`.
    Raises ValueError where the step's shapes do not settle: chunks must be of whole frames.

    >>> graph = StreamGraph(Stream(codec.decoder, batch=8), chunk)     # chunk (8, C, T)
    >>> wav = graph.push(chunk, active)                                # active (8,), bool
    """

    def __init__(self, stream: Stream, chunk: Tensor):
        self.stream = stream
        settled, warm = _settled(stream.layer, stream.state, chunk)
        self.warm = warm
        self._state = tree_map(lambda t: t.clone(), settled)
        self._step = CapturedStep(
            self._advance, (chunk, chunk.new_ones(chunk.shape[0], dtype=torch.bool)), tensors_of(self._state)
        )

    def _advance(self, chunk: Tensor, active: Tensor) -> Tensor:
        y, following = self.stream.layer.step(chunk, tree_map(lambda t: t.clone(), self._state))
        for old, new in zip(tensors_of(self._state), tensors_of(following), strict=True):
            old.copy_(torch.where(active.view(-1, *[1] * (new.ndim - 1)), new, old))
        return y

    def push(self, chunk: Tensor, active: Tensor) -> Tensor:
        """chunk (B, C, T) as the first, active (B,) bool -> (B, C', T'), the same memory at every call."""
        return self._step(chunk, active)

    def reset(self, rows: Tensor) -> None:
        """Start the rows where `rows` (B,) is true anew."""
        with torch.inference_mode():
            self.stream.state = self._state
            self.stream.reset(rows)
            for old, new in zip(tensors_of(self._state), tensors_of(self.stream.state), strict=True):
                old.copy_(new)


def _settled(layer: Streamable, state: State, chunk: Tensor, most: int = 64) -> tuple[State, int]:
    """A state from which a step leads to one of the same shapes, and how many chunks of zeros it took."""
    with torch.inference_mode():
        for taken in range(most):
            kept = tree_map(lambda t: t.clone(), state)
            _, following = layer.step(torch.zeros_like(chunk), state)
            if shape_of(following) == shape_of(kept):
                return kept, taken
            state = following
    raise ValueError(
        f"chunks of {chunk.shape[-1]} frames do not settle into steps of one shape; give whole frames of the model"
    )


def shape_of(tree: State) -> Hashable:
    """The shapes of a state's tensors, and its integers."""
    if isinstance(tree, Tensor):
        return tuple(tree.shape)
    return tuple(shape_of(branch) for branch in tree) if isinstance(tree, tuple) else tree
