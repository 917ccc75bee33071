"""The AR's step for a batch of utterances that come and go (`slots_base`), and slots for utterances of either model.

Shapes: S slots, R rows, P phones (the most that an utterance may have), N coarse codebooks, W width.
"""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import Tensor

from ...kernels.gpu import sampling
from ...kernels.gpu.launch import runs_on
from ...layers.graph import Pool, agree, identity
from ...layers.streaming import tree_map
from .ar import ARModel
from .durations import Drawn
from .sampling import SamplingOptions, draw_rows
from .slots_base import Slots, as_captured
from .step import SpeechStep, tables_of
from .token_slots import TokenSlots
from .token_step import TokenStep


class ARSlots(Slots):
    """Steps of up to `slots` utterances at once.

    model: an ARModel, or what `for_inference` made of one.   options: of all that is said; what comes with an utterance
    (`as_captured`) may differ from slot to slot.   rows: of each slot, 1 without guidance.   phones: the most that an
    utterance may have.

    >>> slots = ARSlots(model, options, slots=8, rows=3, phones=256)
    >>> slots.join(2, generator.step, generator.state)          # of an ARGenerator: its prompt has been read
    >>> codes, pointer, hidden = slots(numbers, active)         # (S, N), (S,), (S, W): the same memory at every call
    """

    def __init__(self, model: ARModel, options: SamplingOptions, slots: int, rows: int, phones: int):
        super().__init__(model, options, slots, rows, phones, n_stays=1, n_numbers=4 + len(model.depth_heads))
        self._tables = tables_of(model)
        self._capture()

    def _advance(self, numbers: Tensor, active: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        model, places, spans = self.model, self._places[:, 0], self._spans[:, 0]
        at = places[:, 0].clamp(max=self._phones.shape[2] - 1)
        age = self._ages[places[:, 1].clamp(max=model.config.max_age)]
        x = self._before + self._phones[self._each, :, at] + age[:, None]
        hidden = self._transform(x.flatten(0, 1), active)
        code = self._drawn(model.code_head(hidden), numbers[:, :2], active)
        own = self._own(hidden)
        after = self._moved(places, spans, model.advance_head(own, code), numbers[:, 2:4])
        codes = [code]
        for k, head in enumerate(model.depth_heads):
            known = torch.stack(codes, dim=1).repeat_interleave(self.rows, dim=0)
            codes.append(self._drawn_further(head(hidden, known), numbers[:, 4 + k :]))
        said = torch.stack(codes, dim=1), places[:, 0].clone(), own.clone()
        before = cast(Tensor, sum(table[c] for table, c in zip(self._tables, codes, strict=True)))
        self._go_on(before, after[:1], after[1:], active)
        return said

    def _drawn_further(self, logits: Tensor, numbers: Tensor) -> Tensor:
        """Codes (S,) of a deeper codebook from logits (S R, V), by numbers (S, 1)."""
        o = self.options
        logits = logits.view(self.n_slots, self.rows, -1)
        if sampling.supports(logits):
            return sampling.sample(logits, self._guidance, self._draws, numbers, self._recent[:, :0])
        return draw_rows(self._guided(logits), numbers[:, 0], o.temperature, o.top_k, o.top_p)


_POOL: Pool[Slots] = Pool()
_PHONES = 64  # a slot has room for a multiple of so many, so that utterances of other lengths find it


def slots_for(step: SpeechStep, model: Any, n_slots: int, phones: int) -> Slots:
    """Slots for utterances like that of a step. model: a view of its model."""
    kind = TokenSlots if isinstance(step, TokenStep) else ARSlots
    return kind(model, step.options, n_slots, len(step.phones), phones)


def captured_slots(step: SpeechStep, state: Any, n_slots: int = 1) -> Slots | None:
    """A slot for one utterance, or for each of several like it, captured in a CUDA graph; None where there is no GPU or
    no way (`graph.Pool` warns)."""
    model = step.model
    if not isinstance(step.durations, Drawn) or not runs_on(model.begin):
        return None
    rows, n, _ = step.phones.shape
    room = -(-n // _PHONES) * _PHONES

    def make() -> Slots:
        # A copy refers to the parts of the model and not to itself, so that it can go.
        slots = slots_for(step, copy.copy(model), n_slots, room)
        check(slots, step, state)
        return slots

    key = n_slots, rows, room, as_captured(step.options), identity(model.begin)
    return _POOL.borrow(step, model, key, make)


@torch.inference_mode()
def check(slots: Slots, step: SpeechStep, state: Any, n: int = 3) -> None:
    """Raises RuntimeError unless a slot says what the step itself says, for `n` frames."""
    device = step.phones.device
    slots.join(0, step, state)
    numbers = torch.rand(n, slots.n_numbers, dtype=torch.float64, device=device)
    active = torch.arange(slots.n_slots, device=device) == 0
    ours = [slots(each.expand(slots.n_slots, -1), active)[2][0].clone() for each in numbers]
    own, theirs = state._replace(cache=tree_map(lambda t: t.clone(), state.cache)), []
    for each in numbers:
        frame, own = step(own, each)
        theirs.append(frame.hidden)
    agree(ours, theirs)
