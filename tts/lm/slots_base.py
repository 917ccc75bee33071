"""A batch of utterances that come and go, all in one CUDA graph: what the steps of all autoregressive models have.

    slot 0 | R rows that guidance compares | \\
    slot 1 | R rows                        |  > transformer, heads, draws, pointers: one replay a frame of each
    slot 2 | free                          | /

Every utterance has a slot. A slot that is not active keeps its state, and what comes out for it means nothing; whoever
joins brings the state that its prompt has left, which is copied into the slot. Shapes never change and nothing is read
back, so that on a GPU the step is captured (`layers.graph`), with the fused transformer where that is supported; on a
CPU the same step runs as it is. What an utterance says is what its own step says alone, to rounding: a batch's products
are summed in another order.

Shapes: S slots, R rows, P phones (the most that an utterance may have), V codebook_size, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from ...errors import UsageError
from ...kernels.gpu import pointer_move, sampling
from ...layers import transformer_fused
from ...layers.graph import CapturedStep
from ...layers.streaming import State
from ...layers.transformer_fused import FusedTransformer
from .ar import MAX_ADVANCE
from .durations import Drawn, Place, Stay
from .sampling import SamplingOptions, draw_apart_rows, remembered
from .step import Frame, SpeechStep


class SpeechState(Protocol):
    """What `ARState` and `TokenState` have in common."""

    @property
    def cache(self) -> State: ...

    @property
    def before(self) -> Tensor: ...

    @property
    def recent(self) -> Tensor: ...

    @property
    def stays(self) -> Sequence[Stay | Place]: ...


class Slots:
    """Steps of up to `slots` utterances at once; `ARSlots` and `TokenSlots` say what a step is (`_advance`).

    n_stays: places of the pointer that an utterance keeps.   n_numbers: that a step takes. The others as of `ARSlots`.
    """

    def __init__(
        self,
        model: Any,
        options: SamplingOptions,
        slots: int,
        rows: int,
        phones: int,
        n_stays: int,
        n_numbers: int,
    ):
        self.model, self.options = model, options
        self.n_slots, self.rows, self.n_numbers = slots, rows, n_numbers
        like = model.begin.detach()
        device, width = like.device, model.config.width
        self._ages = model.age.weight.detach()
        self._fused = None
        if transformer_fused.supports(model.transformer, slots * rows):
            self._fused = FusedTransformer(model.transformer, slots * rows, like.dtype)
            self._position, self._caches = self._fused.position, self._fused.caches
        else:
            self._position, self._caches = model.init_state(slots * rows)
        self._phones = like.new_zeros(slots, rows, phones, width)
        self._guidance = like.new_zeros(slots, rows - 1)
        ones = torch.ones(slots, phones, dtype=torch.long, device=device)
        fractions = torch.ones(slots, dtype=torch.float64, device=device)
        self._limits = pointer_move.Limits(
            last=torch.full_like(ones[:, 0], phones - 1),
            longest=ones,
            furthest=ones.clone(),
            allowed=torch.ones(slots, phones, MAX_ADVANCE + 1, dtype=torch.bool, device=device),
            variety=fractions,
            speed=fractions.clone(),
        )
        self._before = like.new_zeros(slots, rows, width)
        # Places of the pointer, as `pointer_move.move` has them, side by side.
        self._places = torch.zeros(slots, n_stays, 2, dtype=torch.long, device=device)
        self._spans = torch.zeros(slots, n_stays, 2, dtype=torch.float64, device=device)
        window = max(options.repetition_window, 1)
        self._recent = torch.full((slots, window), -1, dtype=torch.long, device=device)
        self._each = torch.arange(slots, device=device)
        o = options
        drawn = o.temperature, o.top_k, o.top_p, o.repetition_threshold
        self._draws = torch.tensor([drawn] * slots, dtype=torch.float32, device=device)

    def _capture(self) -> None:
        """To be called once all tensors are there."""
        inputs = self._spans.new_zeros(self.n_slots, self.n_numbers), self._each < 0
        with torch.inference_mode():
            self._step = CapturedStep(self._advance, inputs, self.state)

    def _advance(self, numbers: Tensor, active: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One frame: what `__call__` gives; the state is changed in place where a slot is active."""
        raise NotImplementedError

    @property
    def state(self) -> list[Tensor]:
        """All tensors that a step changes."""
        caches = [t for cache in self._caches for t in cache]
        return [self._position, *caches, self._before, self._places, self._spans, self._recent]

    @torch.inference_mode()
    def join(self, slot: int, step: SpeechStep, state: SpeechState) -> None:
        """Put an utterance into a slot, which becomes its own. Raises UsageError for one that does not fit: other
        options or rows, more phones, durations that are given."""
        rows, n, _ = step.phones.shape
        if (
            as_captured(step.options) != as_captured(self.options)
            or rows != self.rows
            or n > self._phones.shape[2]
            or not isinstance(step.durations, Drawn)
        ):
            raise UsageError(
                f"an utterance of {rows} rows and {n} phones does not fit slots of {self.rows} rows and "
                f"{self._phones.shape[2]} phones with other options; open slots for it"
            )
        own = slice(slot * rows, (slot + 1) * rows)
        position, caches = state.cache
        self._position[own] = position
        for (keys, values), (given_keys, given_values) in zip(self._caches, caches, strict=True):
            keys[own], values[own] = given_keys, given_values
        self._phones[slot, :, :n], self._guidance[slot] = step.phones, step.guidance
        limits = self._limits
        limits.speed[slot], limits.variety[slot] = step.options.speed, step.options.duration_temperature
        tables = (limits.longest, limits.furthest, limits.allowed)
        for table, given in zip(tables, step.durations.tables, strict=True):
            table[slot, :n] = given
        self._before[slot], self._recent[slot] = state.before, state.recent
        for at, stay in enumerate(state.stays):
            self._places[slot, at, 0], self._places[slot, at, 1] = stay.pointer, stay.age
            self._spans[slot, at, 0], self._spans[slot, at, 1] = stay.stayed, stay.until

    def __call__(self, numbers: Tensor, active: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One frame of every slot that is active (S,), bool: codes, pointer and hidden of each.

        numbers: (S, n_numbers) in [0, 1), float64, of each as its own step's `numbers` has them.
        """
        return self._step(numbers, active)

    def frame(self, slot: int, made: tuple[Tensor, Tensor, Tensor]) -> Frame:
        """What a step has made for a slot, in memory of its own."""
        return Frame(*(part[slot].clone() for part in made))

    @property
    def pointer(self) -> Tensor:
        """(S,): the phone that each slot says next; an utterance is over when it has passed its last."""
        return self._places[:, 0, 0]

    def _transform(self, x: Tensor, active: Tensor) -> Tensor:
        """x (S R, W), active (S,) -> hidden (S R, W); the others stay where they are: what is written for them is
        written over."""
        active = active.repeat_interleave(self.rows, output_size=len(self._position))
        if self._fused is not None:
            return self._fused.step(x, active)
        y, (position, _) = self.model.step(x, (self._position, self._caches))
        _keep(self._position, position, active)
        return y

    def _own(self, hidden: Tensor) -> Tensor:
        """hidden (S R, W) -> (S, W), of the rows that know everything."""
        return hidden.view(self.n_slots, self.rows, -1)[:, 0]

    def _guided(self, logits: Tensor) -> Tensor:
        """(S R, V) -> (S, V), as `sampling.guide`."""
        logits = logits.view(self.n_slots, self.rows, -1)
        shown = logits[:, 0]
        if self.rows == 1:
            return shown
        return shown + (self._guidance[:, None] @ (logits[:, :1] - logits[:, 1:]))[:, 0]

    def _drawn(self, logits: Tensor, numbers: Tensor, active: Tensor) -> Tensor:
        """Codes (S,) from logits (S R, V), by numbers (S, 2), not too often the same (`sampling.draw_apart_rows`); the
        window that this is judged by moves on where a slot is active."""
        o = self.options
        logits = logits.view(self.n_slots, self.rows, -1)
        if sampling.supports(logits):
            window = self._recent if o.repetition_window else self._recent[:, :0]
            return sampling.sample(logits, self._guidance, self._draws, numbers, window, active)
        code = draw_apart_rows(self._guided(logits), self._recent, numbers, o)
        if o.repetition_window and o.temperature:
            _keep(self._recent, remembered(self._recent, code[:, None], o), active)
        return code

    def _moved(
        self, places: Tensor, spans: Tensor, logits: Tensor, numbers: Tensor, whole: bool = False
    ) -> tuple[Tensor, Tensor]:
        """The pointers after this frame, (S, 2) each, as `durations.Drawn` has them (`pointer_move.move`)."""
        move = pointer_move.move if pointer_move.supports(logits) else pointer_move.move_reference
        return move(places, spans, logits, numbers, self._limits, whole)

    def _go_on(
        self, before: Tensor, places: Sequence[Tensor], spans: Sequence[Tensor], active: Tensor
    ) -> None:
        """What a step hands to the next, where a slot is active. before: (S, W), the frame that was said.   places,
        spans: of the pointer."""
        _keep(self._before, before[:, None], active)
        _keep(self._places, torch.stack(list(places), dim=1), active)
        _keep(self._spans, torch.stack(list(spans), dim=1), active)


def as_captured(options: SamplingOptions) -> SamplingOptions:
    """Options without what comes with an utterance: equal for those that can have slots side by side."""
    return SamplingOptions(
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        repetition_window=options.repetition_window,
        repetition_threshold=options.repetition_threshold,
    )


def _keep(held: Tensor, new: Tensor, active: Tensor) -> None:
    """Write what is new where a row is active."""
    torch.where(active.view(-1, *[1] * (new.ndim - 1)), new, held, out=held)
