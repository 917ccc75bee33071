"""Steps of a running stream, captured once their shapes have settled.

    chunk, state --> as it is: the first chunks, one of another length, the last one
                 `-> replayed (`graph.CapturedStep`): chunks of a length that has come often

A step is a function of a model, tensors and a state, to a tensor and the next state. On a GPU, where it leaves a state
of the same shapes, it is counted; from the `AFTER`th on it runs in a CUDA graph, which was held against the step
itself. Captured steps belong to the model and are lent to one stream at a time, so that what a server has captured
serves whoever comes next. On a CPU, and with MYNA_KERNELS=off, every step runs as it is.
"""

from __future__ import annotations

import copy
import weakref
from collections import Counter
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

from torch import Tensor, nn

from .graph import CapturedStep, Pool, agree, identity, shape_of, tensors_of
from .streaming import State, Stream, Streamable, tree_map

# (model, inputs, state) -> (output, next state). It may take hints that spare work, without which it is the same.
Step = Callable[..., tuple[Tensor, State]]

AFTER = 8  # equal steps in a process, which take about as long as capturing and comparing one
MOST = 8  # lengths of chunks that are captured for a state
_COMPARED = 3  # steps


def may_capture(tensor: Tensor) -> bool:
    """Whether steps of a model whose tensor this is can be captured."""
    if tensor.device.type != "cuda":
        return False
    from ..kernels.gpu.launch import runs_on  # with Triton, which a CPU does not need and is slow to import

    return runs_on(tensor)


class HeldStep:
    """A step over a state in memory of its own, captured for each shape of inputs that `capture` is given."""

    def __init__(self, model: nn.Module, step: Step, state: State):
        # A copy refers to the parts of the model and not to itself, so that it can go (`graph.Pool`).
        self._model, self._step = copy.copy(model), step
        self.state = tree_map(lambda t: t.clone(), state)
        self.shape = shape_of(state)
        self._captured: dict[Hashable, CapturedStep[Tensor]] = {}

    def __contains__(self, inputs: Hashable) -> bool:
        return inputs in self._captured

    def full(self) -> bool:
        return len(self._captured) >= MOST

    def load(self, state: State) -> None:
        """Go on from `state`."""
        if state is not self.state:
            for held, given in zip(tensors_of(self.state), tensors_of(state), strict=True):
                held.copy_(given)

    def __call__(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """The output, in memory of its own; `state` is the next one."""
        return self._captured[shape_of(inputs)](*inputs).clone()

    def capture(self, inputs: tuple[Tensor, ...], state: State) -> HeldStep:
        """Raises RuntimeError unless the captured step gives what the step itself does, from `state` on."""
        self.load(state)
        saved = tree_map(lambda t: t.clone(), self.state)
        try:
            captured = CapturedStep(self._advance, inputs, tensors_of(self.state))
            ours = [captured(*inputs).clone() for _ in range(_COMPARED)]
        finally:
            self.load(saved)  # whoever finds that it fails goes on from there
        theirs = []
        for _ in range(_COMPARED):
            y, saved = self._step(self._model, inputs, saved)
            theirs.append(y)
        agree(ours, theirs)
        self._captured[shape_of(inputs)] = captured
        return self

    def _advance(self, *inputs: Tensor) -> Tensor:
        y, following = self._step(self._model, inputs, self.state)
        for held, new in zip(tensors_of(self.state), tensors_of(following), strict=True):
            if new is not held:
                held.copy_(new)
        return y


class _OfModel:
    """What is known of a model's steps: where one fails, the others of this model run as they are, too."""

    def __init__(self) -> None:
        self.pool: Pool[HeldStep] = Pool()
        self.seen: Counter[Hashable] = Counter()


_STEPS: weakref.WeakKeyDictionary[nn.Module, _OfModel] = weakref.WeakKeyDictionary()


class SteadyStep:
    """The steps of one stream. key: what `step` depends on besides the model, its inputs and its state.

    >>> steps = SteadyStep(model, step, key=options)
    >>> y, state = steps((x,), state)                # the state that came out last, or any other
    """

    def __init__(self, model: nn.Module, step: Step, key: Hashable = None):
        self._model, self._step, self._key = model, step, key
        self._held: HeldStep | None = None

    def __call__(self, inputs: tuple[Tensor, ...], state: State, **hints: Any) -> tuple[Tensor, State]:
        """hints: for the step as it is. A captured one has none, since they would change from step to step."""
        if not (may_capture(inputs[0]) and inputs[0].numel()):
            return self._step(self._model, inputs, state, **hints)
        kind = self._key, shape_of(state), shape_of(inputs)
        own = _STEPS.setdefault(self._model, _OfModel())
        held = self._lent(own, state, kind)
        if held is not None and kind[2] in held:
            held.load(state)
            return held(inputs), held.state
        y, following = self._step(self._model, inputs, state, **hints)
        if shape_of(following) == kind[1]:
            own.seen[kind] += 1
            held = self._lent(own, following, kind)
            if held is not None and not held.full():
                own.pool.attempt(lambda: held.capture(inputs, following))
        return y, following

    def _lent(
        self, own: _OfModel, state: State, kind: tuple[Hashable, Hashable, Hashable]
    ) -> HeldStep | None:
        """What steps of a kind that has come often are captured over."""
        if own.seen[kind] < AFTER:
            return None
        if self._held is None or self._held.shape != kind[1]:
            key = *kind[:2], identity(next(self._model.parameters()))
            make = partial(HeldStep, self._model, self._step, state)
            self._held = own.pool.borrow(self, self._model, key, make)
        return self._held


class SteadyStream(Stream):
    """A `Stream` whose steps are captured where they may be; the samples are the same."""

    def __init__(self, layer: Streamable, batch: int = 1, like: Tensor | None = None):
        super().__init__(layer, batch, like)
        self._steps = SteadyStep(layer, _stream_step, "stream")

    def fork(self) -> SteadyStream:
        other = SteadyStream(self.layer, self.batch, self._like)
        other.finished, other.in_channels = self.finished, self.in_channels
        other.state = tree_map(lambda t: t.clone(), self.state)
        return other

    def _advanced(self, x: Tensor, final: bool) -> tuple[Tensor, State]:
        return super()._advanced(x, final) if final else self._steps((x,), self.state)


def _stream_step(layer: Streamable, inputs: tuple[Tensor, ...], state: State) -> tuple[Tensor, State]:
    return layer.step(inputs[0], state)
