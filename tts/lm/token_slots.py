"""The token AR's step for a batch of utterances that come and go (`slots_base`): the pointer moves twice a token.

Shapes: S slots, R rows, P phones (the most that an utterance may have), W width.
"""

from __future__ import annotations

import torch
from torch import Tensor

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
        self._capture()

    @torch.inference_mode()
    def join(self, slot: int, step: SpeechStep, state: SpeechState) -> None:
        super().join(slot, step, state)
        assert isinstance(step, TokenStep)
        # What stands for a token of the target comes with the voice.
        self._voice[slot] = step.voice + self.model.segment.weight[1]
        self._limits.last[slot] = step.n_phones - 1

    def _advance(self, numbers: Tensor, active: Tensor) -> tuple[Tensor, Tensor, Tensor]:
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
