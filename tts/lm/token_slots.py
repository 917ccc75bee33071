"""The token AR's step for a batch of utterances that come and go (`slots_base`): the pointer moves twice a token.

Shapes: S slots, R rows, P phones (the most that an utterance may have), W width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .durations import Stay
from .sampling import SamplingOptions, draw_apart_rows
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
        self._last = torch.zeros_like(self._each)  # the last phone of each
        self._capture()

    @torch.inference_mode()
    def join(self, slot: int, step: SpeechStep, state: SpeechState) -> None:
        super().join(slot, step, state)
        assert isinstance(step, TokenStep)
        self._voice[slot], self._last[slot] = step.voice, step.n_phones - 1

    def _advance(self, numbers: Tensor, active: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        model, (first, second) = self.model, self._stays
        both = self._known(first), self._known(second)
        x = self._before + model.halves(torch.cat(both, dim=-1)) + self._voice + model.segment.weight[1]
        hidden = self._transform(x.flatten(0, 1), active)
        token = draw_apart_rows(self._guided(model.head(hidden)), self._recent, numbers[:, :2], self.options)
        own = self._own(hidden)
        pointer = torch.stack([first.pointer, second.pointer], dim=1)
        said = token[:, None], pointer, own.clone()
        logits = model.move_first(own, token, both[1][:, 0])
        following = self._moved(second, self._inside(second), logits, numbers[:, 2:4])
        logits = model.move_second(own, token, self._known(following)[:, 0])
        after = self._moved(following, self._inside(following), logits, numbers[:, 4:])
        # The last token is whole: the last phone takes its second half, too.
        over = after.pointer > self._last
        held = following._replace(age=following.age + 1)
        after = Stay(*(torch.where(over, h, a) for h, a in zip(held, after, strict=True)))
        self._go_on(model.token(token), [following, after], token, active)
        return said

    def _inside(self, stay: Stay) -> Tensor:
        """The phone that is said, or the last one, (S,)."""
        return stay.pointer.minimum(self._last)

    def _known(self, stay: Stay) -> Tensor:
        """What each row knows of the phone that is said, (S, R, W)."""
        age = self._ages[stay.age.clamp(max=self.model.config.max_age)]
        return self._phones[self._each, :, self._inside(stay)] + age[:, None]
