"""The AR's step for a batch of utterances that come and go, all in one CUDA graph.

    slot 0 | R rows that guidance compares | \\
    slot 1 | R rows                        |  > transformer, heads, draws, pointers: one replay a frame of each
    slot 2 | free                          | /

Every utterance has a slot. A slot that is not active keeps its state, and what comes out for it means nothing; whoever
joins brings the state that its prompt has left, which is copied into the slot. Shapes never change and nothing is read
back, so that on a GPU the step is captured (`layers.graph`), with the fused transformer where that is supported; on a
CPU the same step runs as it is. What an utterance says is what `ARStep` says alone, to rounding: a batch's products are
summed in another order.

Shapes: S slots, R rows, P phones (the most that an utterance may have), N coarse codebooks, V codebook_size, W width.
"""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor

from ...errors import UsageError
from ...kernels.gpu.launch import runs_on
from ...layers import transformer_fused
from ...layers.graph import CapturedStep, Pool, agree, identity
from ...layers.streaming import tree_map
from ...layers.transformer_fused import FusedTransformer
from .ar import MAX_ADVANCE, ARModel
from .durations import Drawn, Stay
from .sampling import SamplingOptions, draw_apart_rows, draw_rows, remembered
from .step import ARState, ARStep, Frame, tables_of


class ARSlots:
    """Steps of up to `slots` utterances at once.

    model: an ARModel, or what `for_inference` made of one.   options: of all that is said; what comes with an utterance
    (`as_captured`) may differ from slot to slot.   rows: of each slot, 1 without guidance.   phones: the most that an
    utterance may have.

    >>> slots = ARSlots(model, options, slots=8, rows=3, phones=256)
    >>> slots.join(2, generator.step, generator.state)          # of an ARGenerator: its prompt has been read
    >>> codes, pointer, hidden = slots(numbers, active)         # (S, N), (S,), (S, W): the same memory at every call
    """

    def __init__(self, model: ARModel, options: SamplingOptions, slots: int, rows: int, phones: int):
        self.model, self.options, self.n_slots, self.rows = model, options, slots, rows
        like = model.begin.detach()
        device, width = like.device, model.config.width
        self._tables, self._ages = tables_of(model), model.age.weight.detach()
        self._fused = None
        if transformer_fused.supports(model.transformer, slots * rows):
            self._fused = FusedTransformer(model.transformer, slots * rows, like.dtype)
            self._position, self._caches = self._fused.position, self._fused.caches
        else:
            self._position, self._caches = model.init_state(slots * rows)
        self._phones = like.new_zeros(slots, rows, phones, width)
        self._guidance = like.new_zeros(slots, rows - 1)
        self._longest = torch.ones(slots, phones, dtype=torch.long, device=device)
        self._furthest = torch.ones(slots, phones, dtype=torch.long, device=device)
        self._allowed = torch.ones(slots, phones, MAX_ADVANCE + 1, dtype=torch.bool, device=device)
        self._speed = torch.ones(slots, dtype=torch.float64, device=device)
        self._variety = torch.ones_like(self._speed)  # of the durations
        self._before = like.new_zeros(slots, rows, width)
        zeros = torch.zeros(slots, dtype=torch.long, device=device)
        self._stay = Stay(zeros, zeros.clone(), torch.ones_like(zeros, dtype=torch.float64), zeros.double())
        window = max(options.repetition_window, 1)
        self._recent = torch.full((slots, window), -1, dtype=torch.long, device=device)
        self._each = torch.arange(slots, device=device)
        n_numbers = 4 + len(model.depth_heads)
        inputs = torch.zeros(slots, n_numbers, dtype=torch.float64, device=device), zeros > 0
        with torch.inference_mode():
            self._step = CapturedStep(self._advance, inputs, self.state)

    @property
    def state(self) -> list[Tensor]:
        """All tensors that a step changes."""
        caches = [t for cache in self._caches for t in cache]
        return [self._position, *caches, self._before, *self._stay, self._recent]

    @torch.inference_mode()
    def join(self, slot: int, step: ARStep, state: ARState) -> None:
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
        self._speed[slot], self._variety[slot] = step.options.speed, step.options.duration_temperature
        tables = (self._longest, self._furthest, self._allowed)
        for table, given in zip(tables, step.durations.tables, strict=True):
            table[slot, :n] = given
        self._before[slot], self._recent[slot] = state.before, state.recent
        for held, given in zip(self._stay, state.stay, strict=True):
            held[slot] = given

    def __call__(self, numbers: Tensor, active: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One frame of every slot that is active (S,), bool: codes (S, N), pointer (S,), hidden (S, W).

        numbers: (S, 3 + N) in [0, 1), float64, of each as `ARStep.numbers` has them.
        """
        return self._step(numbers, active)

    def frame(self, slot: int, made: tuple[Tensor, Tensor, Tensor]) -> Frame:
        """What a step has made for a slot, in memory of its own."""
        return Frame(*(part[slot].clone() for part in made))

    @property
    def pointer(self) -> Tensor:
        """(S,): the phone that each slot says next; an utterance is over when it has passed its last."""
        return self._stay.pointer

    def _advance(self, numbers: Tensor, active: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        model, stay, o = self.model, self._stay, self.options
        at = stay.pointer.clamp(max=self._phones.shape[2] - 1)
        age = self._ages[stay.age.clamp(max=model.config.max_age)]
        x = self._before + self._phones[self._each, :, at] + age[:, None]
        hidden = self._transform(
            x.flatten(0, 1), active.repeat_interleave(self.rows, output_size=len(self._position))
        )
        code = draw_apart_rows(self._guided(model.code_head(hidden)), self._recent, numbers[:, :2], o)
        own = hidden.view(self.n_slots, self.rows, -1)[:, 0]
        after = self._moved(stay, at, model.advance_head(own, code), numbers[:, 2:4])
        codes = [code]
        for k, head in enumerate(model.depth_heads):
            known = torch.stack(codes, dim=1).repeat_interleave(self.rows, dim=0)
            logits = self._guided(head(hidden, known))
            codes.append(draw_rows(logits, numbers[:, 4 + k], o.temperature, o.top_k, o.top_p))
        said = torch.stack(codes, dim=1), stay.pointer.clone(), own.clone()
        before = cast(Tensor, sum(table[c] for table, c in zip(self._tables, codes, strict=True)))
        _keep(self._before, before[:, None].expand_as(self._before), active)
        for held, new in zip(stay, after, strict=True):
            _keep(held, new, active)
        _keep(self._recent, remembered(self._recent, code[:, None], o), active)
        return said

    def _transform(self, x: Tensor, active: Tensor) -> Tensor:
        """x (S R, W) -> hidden (S R, W); the others stay where they are: what is written for them is written over."""
        if self._fused is not None:
            return self._fused.step(x, active)
        y, (position, _) = self.model.step(x, (self._position, self._caches))
        _keep(self._position, position, active)
        return y

    def _guided(self, logits: Tensor) -> Tensor:
        """(S R, V) -> (S, V), as `sampling.guide`."""
        logits = logits.view(self.n_slots, self.rows, -1)
        shown = logits[:, 0]
        if self.rows == 1:
            return shown
        return shown + (self._guidance[:, None] @ (logits[:, :1] - logits[:, 1:]))[:, 0]

    def _moved(self, stay: Stay, at: Tensor, logits: Tensor, numbers: Tensor) -> Stay:
        """The pointers after this frame, as `durations.Drawn`."""
        each = self._each
        numbers = 0.5 + self._variety[:, None] * (numbers - 0.5)
        begins = stay.age == 0
        until = torch.where(begins, numbers[:, 0], stay.until)
        weights = torch.softmax(logits.double().masked_fill(~self._allowed[each, at], -torch.inf), dim=1)
        stayed = torch.where(begins, 1.0, stay.stayed) * weights[:, 0] ** self._speed
        reached = weights[:, 1:].cumsum(1)
        moves = 1 + (reached <= numbers[:, 1:] * reached[:, -1:]).sum(1)
        moves = torch.where(moves > self._furthest[each, at], 1, moves)
        stays = (stayed >= until) & (stay.age + 1 < self._longest[each, at])
        return stay._replace(stayed=stayed, until=until).moved(torch.where(stays, 0, moves))


def as_captured(options: SamplingOptions) -> SamplingOptions:
    """Options without what comes with an utterance: equal for those that can have slots side by side."""
    return SamplingOptions(
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        repetition_window=options.repetition_window,
        repetition_threshold=options.repetition_threshold,
    )


_POOL: Pool[ARSlots] = Pool()
_PHONES = 64  # a slot has room for a multiple of so many, so that utterances of other lengths find it


def captured_slots(step: ARStep, state: ARState, n_slots: int = 1) -> ARSlots | None:
    """A slot for one utterance, or for each of several like it, captured in a CUDA graph; None where there is no GPU or
    no way (`graph.Pool` warns)."""
    model = step.model
    if not isinstance(step.durations, Drawn) or not runs_on(model.begin):
        return None
    rows, n, _ = step.phones.shape
    room = -(-n // _PHONES) * _PHONES

    def make() -> ARSlots:
        # A copy refers to the parts of the model and not to itself, so that it can go.
        slots = ARSlots(copy.copy(model), step.options, n_slots, rows, room)
        check(slots, step, state)
        return slots

    key = n_slots, rows, room, as_captured(step.options), identity(model.begin)
    return _POOL.borrow(step, model, key, make)


@torch.inference_mode()
def check(slots: ARSlots, step: ARStep, state: ARState, n: int = 3) -> None:
    """Raises RuntimeError unless a slot says what the step itself says, for `n` frames."""
    device = step.phones.device
    slots.join(0, step, state)
    numbers = torch.rand(n, 4 + len(slots.model.depth_heads), dtype=torch.float64, device=device)
    active = torch.arange(slots.n_slots, device=device) == 0
    ours = [slots(each.expand(slots.n_slots, -1), active)[2][0].clone() for each in numbers]
    own, theirs = state._replace(cache=tree_map(lambda t: t.clone(), state.cache)), []
    for each in numbers:
        frame, own = step(own, each)
        theirs.append(frame.hidden)
    agree(ours, theirs)


def _keep(held: Tensor, new: Tensor, active: Tensor) -> None:
    """Write what is new where a row is active."""
    held.copy_(torch.where(active.view(-1, *[1] * (new.ndim - 1)), new, held))
