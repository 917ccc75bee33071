"""The token AR's step for a batch of utterances that come and go (`slots_base`): the pointer moves twice a token.

    next input of each row --> transformer --> last norm, both heads --> draw --> moves of the pointer, next input
                                               (`norm_linear_rows`)             (`token_moves`)

So it is on a GPU, beside the transformer four launches; what of a sum reads only a phone or an age is added up when an
utterance gets its slot. Elsewhere, and where parts of the model are not plain layers, the same in PyTorch's operations.

Shapes: S slots, R rows, P phones (the most that an utterance may have), V codebook_size, C channels of the move's head,
W width.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...kernels.gpu import linear_rows, token_moves
from ...kernels.gpu.token_moves import HeadTables, InputTables, Speech
from .sampling import SamplingOptions
from .slots_base import Slots, SpeechState
from .step import SpeechStep
from .token_ar import TokenAR
from .token_step import N_NUMBERS, TokenStep


class TokenSlots(Slots):
    """Steps of up to `slots` utterances of the token AR at once; arguments as of `ARSlots`.

    >>> slots = TokenSlots(model, options, slots=8, rows=3, phones=256)
    >>> slots.join(2, generator.step, generator.begin(source))  # of a TokenGenerator: its prompt has been read
    >>> codes, pointer, hidden = slots(numbers, active)         # (S, 1), (S, 2), (S, W): the same memory at every call
    """

    def __init__(self, model: TokenAR, options: SamplingOptions, slots: int, rows: int, phones: int):
        super().__init__(model, options, slots, rows, phones, n_stays=2, n_numbers=N_NUMBERS)
        self._voice = torch.zeros_like(self._before)
        self._tables = self._made_tables() if self._fused is not None and _plain(model) else None
        self._capture()

    @property
    def state(self) -> list[Tensor]:
        return super().state + ([] if self._tables is None else [self._tables.speech.x])

    @torch.inference_mode()
    def join(self, slot: int, step: SpeechStep, state: SpeechState) -> None:
        super().join(slot, step, state)
        assert isinstance(step, TokenStep)
        # What stands for a token of the target comes with the voice.
        self._voice[slot] = step.voice + self.model.segment.weight[1]
        self._limits.last[slot] = step.n_phones - 1
        if self._tables is not None:
            self._join_tables(slot, step, self._tables)

    def _advance(self, numbers: Tensor, active: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self._tables is not None:
            return self._advance_fused(numbers, active, self._tables)
        model, places, spans = self.model, self._places, self._spans
        known = self._known(places)  # (S, 2, R, W)
        x = self._before + model.halves(known.transpose(1, 2).flatten(2)) + self._voice
        hidden = self._transform(x.flatten(0, 1), active)
        token = self._drawn(model.head(hidden), numbers[:, :2], active)
        own = self._own(hidden)
        said = token[:, None], places[:, :, 0].clone(), own.clone()
        head, both = model.move_head, model.move_head.said(own, token)
        logits = head.moves(both, known[:, 1, 0], 0)
        following = self._moved(places[:, 1], spans[:, 1], logits, numbers[:, 2:4])
        logits = head.moves(both, self._known(following[0][:, None])[:, 0, 0], 1)
        # The last token is whole: the last phone takes its second half, too.
        after = self._moved(*following, logits, numbers[:, 4:], whole=True)
        self._go_on(model.token(token), (following[0], after[0]), (following[1], after[1]), active)
        return said

    def _known(self, places: Tensor) -> Tensor:
        """What each row knows of the phones at (S, H, 2), or of the last one, (S, H, R, W)."""
        at = places[..., 0].minimum(self._limits.last[:, None])
        age = self._ages[places[..., 1].clamp(max=self.model.config.max_age)]
        return self._phones[self._each[:, None], :, at] + age[:, :, None]

    def _advance_fused(self, numbers: Tensor, active: Tensor, t: _Tables) -> tuple[Tensor, Tensor, Tensor]:
        assert self._fused is not None
        x = self._fused.blocks(t.speech.x.flatten(0, 1))
        both, hidden = linear_rows.norm_linear_rows(x, self._fused.gain, t.weight, t.bias, self._fused.eps)
        both, n = both.view(self.n_slots, self.rows, -1), self.model.codebook_size
        token = self._drawn(both[..., :n], numbers[:, :2], active)
        now = token_moves.token_moves(
            token, both[:, 0, n:], numbers[:, 2:], active, t.speech, t.head, t.inputs, self._limits
        )
        return token[:, None], now, self._own(hidden)

    def _made_tables(self) -> _Tables | None:
        """None where the kernel does not take them."""
        model, (slots, rows, phones, width) = self.model, self._phones.shape
        head, like = model.move_head, self._before

        def dense(weight: Tensor) -> Tensor:
            return weight.detach().contiguous()

        with torch.no_grad():
            halves = model.halves.weight.unflatten(1, (2, width)).transpose(0, 1)  # (2, W, W)
            tables = _Tables(
                torch.cat([model.head.weight, head.hidden.weight]),
                torch.cat([model.head.bias, head.hidden.bias]),
                HeadTables(
                    token=dense(head.token.weight),
                    phones=like.new_zeros(slots, phones, len(head.hidden.bias)),
                    ages=nn.functional.linear(self._ages, head.phone.weight),
                    halves=dense(head.which_half.weight),
                    out=dense(head.out.weight),
                    bias=dense(head.out.bias),
                ),
                InputTables(
                    token=dense(model.token.weight),
                    phones=like.new_zeros(slots, rows, 2, phones, width),
                    ages=self._ages @ halves.mT,
                    voice=self._voice,
                ),
                Speech(torch.zeros_like(like), self._position, self._places, self._spans),
            )
            said = tables.bias[None, model.codebook_size :]
            return tables if token_moves.supports(said, tables.speech, tables.head, tables.inputs) else None

    def _join_tables(self, slot: int, step: TokenStep, t: _Tables) -> None:
        """What of an utterance's sums reads one of its phones only, and its first input."""
        model, n = self.model, step.n_phones
        t.head.phones[slot, :n] = model.move_head.phone(step.phones[0])
        halves = model.halves.weight.unflatten(1, (2, -1)).transpose(0, 1)
        t.inputs.phones[slot, :, :, :n] = step.phones[:, None] @ halves.mT
        own = slice(slot, slot + 1)
        phones, voice = t.inputs.phones[own], t.inputs.voice[own]
        tables = t.inputs._replace(phones=phones, voice=voice)
        t.speech.x[own] = token_moves.input_reference(
            self._before[own], self._places[own], self._limits.last[own], tables
        )


class _Tables(NamedTuple):
    """weight (V + C, W), bias (V + C,): of the tokens' head, then of the hidden state in the move's head. The others as
    `token_moves` has them."""

    weight: Tensor
    bias: Tensor
    head: HeadTables
    inputs: InputTables
    speech: Speech


def _plain(model: Any) -> bool:
    """Whether the layers around the transformer are what `for_inference` makes of them on a GPU."""
    head = model.move_head
    linear = model.head, model.halves, head.hidden, head.phone, head.out
    tables = model.token, head.token, head.which_half
    return all(type(part) is nn.Linear for part in linear) and all(
        type(part) is nn.Embedding for part in tables
    )
