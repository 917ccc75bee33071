"""Phone durations: when the pointer moves, and how far.

How long a phone lasts is drawn by its hazard: at each frame the model says how likely the pointer moves on; it does
once the probability of having stayed so long falls below a number drawn for the phone. A number of a half
gives the median duration, numbers all over (0, 1) the model's own spread; `duration_temperature` lies between.

Everything is tensors, so that a step can be captured; on a CPU a `Place` in plain numbers takes a hundredth of the
time of thirty operations on tensors of one number. Shapes: P phones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..text.phones import PUNCTUATION, SPACE, SYMBOLS
from .ar import MAX_ADVANCE
from .sampling import SamplingOptions

_PAUSES = frozenset(SYMBOLS.index(symbol) for symbol in (SPACE, *PUNCTUATION))
_SPACE = SYMBOLS.index(SPACE)

# Frames that 9,995 of 10,000 of each sound do not last, and half as many again: an AR that has lost its place stays in
# a sound that nobody holds. From 290,000 aligned phones of the training corpus (50 frames a second). Sounds of which
# there are fewer than a hundred, and those that are held as long as any sound may be, have no bound of their own.
_HELD = {
    **dict.fromkeys("bɐ", 9),
    **dict.fromkeys("wjɡv", 12),
    **dict.fromkeys("ðfhɒ", 14),
    **dict.fromkeys("pᵻθ", 16),
    **dict.fromkeys("ʌeɛɾ", 19),
    **dict.fromkeys("okaʒ", 24),
    **dict.fromkeys("əɑʃæŋ", 28),
    **dict.fromkeys("ɹɜdɚ", 33),
    **dict.fromkeys("ɔl", 38),
    "ʔ": 8,
}
_LONGEST = {SYMBOLS.index(sound): frames for sound, frames in _HELD.items()}


def longest(symbol: int, options: SamplingOptions) -> int:
    """Frames that a phone may last."""
    if symbol in _PAUSES:
        return options.max_pause_frames
    return min(options.max_sound_frames, _LONGEST.get(symbol, options.max_sound_frames))


class Stay(NamedTuple):
    """Where the pointer is. pointer, age (): the phone, and for how many frames before this one; stayed, until () in
    float64: the probability of having stayed so long, and where the pointer moves on."""

    pointer: Tensor
    age: Tensor
    stayed: Tensor
    until: Tensor

    @classmethod
    def begin(cls, pointer: int, device: torch.device) -> Stay:
        at = torch.tensor(pointer, device=device)
        return cls(
            at, torch.zeros_like(at), torch.ones((), dtype=torch.float64, device=device), at.double() * 0
        )

    def moved(self, moves: Tensor) -> Stay:
        """In the next frame."""
        age = torch.where(moves > 0, 0, self.age + 1)
        return self._replace(pointer=self.pointer + moves, age=age)


class Place(NamedTuple):
    """A `Stay` in plain numbers, for a loop on a CPU."""

    pointer: int
    age: int
    stayed: float
    until: float

    @classmethod
    def begin(cls, pointer: int) -> Place:
        return cls(pointer, 0, 1.0, 0.0)


class Durations(Protocol):
    """What moves the pointer. draws: whether by the numbers."""

    draws: bool

    def __call__(self, stay: Stay, logits: Tensor, numbers: Tensor) -> Stay:
        """The pointer after this frame, from logits (4,) and two numbers in [0, 1), the first of which counts only when
        the phone begins."""
        ...


class Drawn:
    """Durations by the model's hazard: never over a sound, never later than a phone may last. symbols: (P,)."""

    draws = True

    def __init__(self, symbols: Sequence[int], options: SamplingOptions, device: torch.device):
        self.options = options
        most = [longest(symbol, options) for symbol in symbols]
        furthest = [_furthest(symbols, at) for at in range(len(symbols))]
        self._bounds = list(zip(most, furthest, strict=True))
        self._longest = torch.tensor(most, device=device)
        reach = torch.arange(MAX_ADVANCE + 1) <= torch.tensor(furthest)[:, None]
        self._allowed = reach.to(device)  # (P, 4)
        self._furthest = torch.tensor(furthest, device=device)

    @property
    def tables(self) -> tuple[Tensor, Tensor, Tensor]:
        """For each phone: frames that it may last (P,), how far the pointer may move from it (P,), which moves may be
        drawn (P, 4)."""
        return self._longest, self._furthest, self._allowed

    def __call__(self, stay: Stay, logits: Tensor, numbers: Tensor) -> Stay:
        at = stay.pointer.reshape(1)
        numbers = 0.5 + self.options.duration_temperature * (numbers.double() - 0.5)
        begins = stay.age == 0
        until = torch.where(begins, numbers[0], stay.until)
        weights = torch.softmax(logits.double().masked_fill(~self._allowed[at][0], -torch.inf), dim=0)
        stayed = torch.where(begins, 1.0, stay.stayed) * weights[0] ** self.options.speed
        reached = weights[1:].cumsum(0)
        moves = 1 + (reached <= numbers[1] * reached[-1]).sum()
        moves = torch.where(moves > self._furthest[at][0], 1, moves)
        stays = (stayed >= until) & (stay.age + 1 < self._longest[at][0])
        return stay._replace(stayed=stayed, until=until).moved(torch.where(stays, 0, moves))

    def of_numbers(self, place: Place, logits: Sequence[float], numbers: Sequence[float]) -> Place:
        """The same in plain numbers."""
        pointer, age, stayed, until = place
        most, furthest = self._bounds[pointer]
        begins, moves = (0.5 + self.options.duration_temperature * (number - 0.5) for number in numbers)
        if age == 0:
            stayed, until = 1.0, begins
        largest = max(logits[: furthest + 1])
        weights = [math.exp(logit - largest) for logit in logits[: furthest + 1]]
        total = sum(weights)
        stayed *= (weights[0] / total) ** self.options.speed
        if stayed >= until and age + 1 < most:
            return Place(pointer, age + 1, stayed, until)
        # How far: the first move up to which the weights, without that of staying, reach the number's share.
        reached = list(accumulate(weight / total for weight in weights[1:]))
        step = 1 + sum(below <= moves * reached[-1] for below in reached)
        return Place(pointer + (step if step <= furthest else 1), 0, stayed, until)


class Given:
    """Durations as they were in a recording. pointer: the phone of every frame; n_phones: where it ends."""

    draws = False

    def __init__(self, pointer: Sequence[int], n_phones: int, device: torch.device):
        frames = torch.tensor(pointer)
        said, lasts = frames.unique_consecutive(return_counts=True)
        after = torch.cat([said[1:], torch.tensor([n_phones])])
        self._lasts = torch.zeros(n_phones, dtype=torch.long).index_copy_(0, said, lasts).to(device)
        self._after = torch.zeros(n_phones, dtype=torch.long).index_copy_(0, said, after).to(device)

    def __call__(self, stay: Stay, logits: Tensor, numbers: Tensor) -> Stay:
        at = stay.pointer.reshape(1)
        stays = stay.age + 1 < self._lasts[at][0]
        return stay.moved(torch.where(stays, 0, self._after[at][0] - stay.pointer))


def _furthest(symbols: Sequence[int], pointer: int) -> int:
    """How far the pointer may move: only spaces are passed over, which need not last."""
    moves = 1
    while moves < MAX_ADVANCE and pointer + moves < len(symbols) - 1:
        if symbols[pointer + moves] != _SPACE:
            break
        moves += 1
    return moves
