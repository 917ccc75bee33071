"""One token of the token AR: tensors in, tensors out, of fixed shapes, so that a CUDA graph can hold it, as `step` has
it for a frame. The pointer moves twice, once for each half (`tts.lm.token_ar`).

Shapes: R rows that guidance compares, P phones, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from ...layers.streaming import State
from .durations import Drawn, Place, Stay
from .sampling import SamplingOptions, as_drawn, guide, no_codes, remembered
from .step import Ask, Frame, SpeechStep, draws
from .token_ar import TokenAR

N_NUMBERS = 6  # that a token takes: two for itself, two for the pointer's move before each half of the next


# Plain numbers on a CPU.
Halves = tuple[Stay, Stay] | tuple[Place, Place]


class TokenState(NamedTuple):
    """What a token hands to the next."""

    cache: State  # the transformer's, of R rows
    before: Tensor  # (R, W) the token before
    halves: Halves  # the pointer in both halves of the next token
    recent: Tensor  # the tokens that repetition-aware sampling looks at

    @property
    def stays(self) -> Halves:
        """Every place of the pointer that is kept."""
        return self.halves

    @property
    def pointer(self) -> Tensor | int:
        """The phone that is said next; the utterance is over when it has passed the last."""
        return self.halves[0].pointer


class TokenStep(SpeechStep):
    """From token to token.

    phones: (R, P, W), what each row knows of each phone.   voice: (R, W).   guidance: (R - 1,), the weights of the rows
    that hide something, less one.
    """

    def __init__(
        self,
        model: TokenAR,
        options: SamplingOptions,
        phones: Tensor,
        voice: Tensor,
        guidance: Tensor,
        durations: Drawn,
    ):
        self.model: TokenAR = model
        self.options, self.guidance, self.durations, self._drawn = options, guidance, durations, durations
        self.phones, self.voice, self.n_phones = phones, voice, phones.shape[1]
        self._draw, _ = draws(as_drawn(options))

    def begin(self, cache: State, before: Tensor) -> TokenState:
        """Before the first token, which begins with the first phone and stays on it; before: (R, W). How long the
        phone lasts is not drawn yet (`timed`)."""
        device = before.device
        halves: Halves
        if device.type == "cpu":
            halves = Place.begin(0), Place.begin(0)._replace(age=1)
        else:
            first = Stay.begin(0, device)
            halves = first, first._replace(age=first.age + 1)
        return TokenState(cache, before, halves, no_codes(self.options, device))

    def timed(self, state: TokenState, number: float) -> TokenState:
        """The same with a number for how long the first phone lasts."""
        first, second = state.halves
        until = first.until + 0.5 + self.options.duration_temperature * (number - 0.5)
        return state._replace(halves=(first, second._replace(until=until)))

    def drawn(self, source: Iterator[float], begins: bool) -> list[float]:
        """The numbers of a token, whether a phone `begins` or not."""
        return [next(source) for _ in range(N_NUMBERS)]

    def asks(
        self, state: TokenState, numbers: Tensor, reach: int | None = None
    ) -> Generator[Ask, Any, tuple[Frame, TokenState]]:
        model, (first, second) = self.model, state.halves
        states = torch.cat([self._phone(self.phones, first), self._phone(self.phones, second)], dim=-1)
        both = yield Ask(model.halves, (states,))
        x = state.before + both + self.voice + model.segment.weight[1]
        hidden, cache = yield Ask(None, (x,), state.cache, reach)
        logits = guide((yield Ask(model.head, (hidden,))), self.guidance)
        token = yield Ask(self._draw, (logits[None], state.recent[None], numbers[None, :2]))  # (1,)
        frame = Frame(token, _pointers(first, second), hidden[0])
        moves = numbers[2:].tolist() if isinstance(second, Place) else numbers[2:]
        following = yield from self._move(second, hidden[:1], token, model.move_first, moves[:2])
        after = yield from self._move(following, hidden[:1], token, model.move_second, moves[2:])
        halves = following, self._whole(following, after)
        before = model.token(token).expand(len(hidden), -1)
        recent = remembered(state.recent, token, self.options)
        return frame, TokenState(cache, before, halves, recent)

    def _phone(self, text: Tensor, stay: Stay | Place) -> Tensor:
        """What each row knows of the phone that is said, (R, W)."""
        last, oldest, ages = self.n_phones - 1, self.model.config.max_age, self.model.age.weight
        if isinstance(stay, Place):
            return text[:, min(stay.pointer, last)] + ages[min(stay.age, oldest)]
        at, age = stay.pointer.clamp(max=last).reshape(1), stay.age.clamp(max=oldest).reshape(1)
        return text[:, at][:, 0] + ages[age]

    def _move(
        self,
        stay: Stay | Place,
        hidden: Tensor,
        token: Tensor,
        head: Callable[..., Tensor],
        numbers: Any,
    ) -> Generator[Ask, Any, Any]:
        """The pointer in the half after `stay`; head: of the model, for which half of its token that one is."""
        logits = (yield Ask(head, (hidden, token, self._phone(self.phones[:1], stay))))[0]
        if isinstance(stay, Place):
            beyond = max(0, stay.pointer - (self.n_phones - 1))
            moved = self._drawn.of_numbers(
                stay._replace(pointer=stay.pointer - beyond), logits.tolist(), numbers
            )
            return moved._replace(pointer=moved.pointer + beyond)
        inside = stay._replace(pointer=stay.pointer.clamp(max=self.n_phones - 1))
        moved = self.durations(inside, logits, numbers)
        return moved._replace(pointer=moved.pointer + stay.pointer - inside.pointer)

    def _whole(self, following: Any, after: Any) -> Any:
        """The second half of a token, from the first and where the pointer would go: the last token is whole, so that
        the last phone takes its second half, too."""
        over, held = after.pointer >= self.n_phones, following._replace(age=following.age + 1)
        if isinstance(after, Place):
            return held if over else after
        return Stay(*(torch.where(over, h, a) for h, a in zip(held, after, strict=True)))


def _pointers(first: Stay | Place, second: Stay | Place) -> Tensor:
    """(2,)."""
    if isinstance(first, Place):
        return torch.tensor([first.pointer, second.pointer])
    return torch.stack([first.pointer, cast(Stay, second).pointer])
