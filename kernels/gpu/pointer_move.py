"""One move of the phone pointer for each utterance in one launch (`tts.lm.durations.Drawn`), of thirty operations.

The model says how likely the pointer stays, or moves by one, two or three phones. It stays until the probability of
having stayed so long falls below a number that was drawn when the phone began; then a second number says how far it
goes. In float64, as the numbers are, one program an utterance.

Shapes: S utterances, P phones.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .launch import runs_on, tl, triton

MOVES = 4  # none, and up to three phones


class Limits(NamedTuple):
    """Of each utterance. last (S,): the last phone.   longest, furthest (S, P): how long each may last, and how far the
    pointer may move from it.   allowed (S, P, 4) bool: which moves may be drawn.   variety, speed (S,) float64."""

    last: Tensor
    longest: Tensor
    furthest: Tensor
    allowed: Tensor
    variety: Tensor
    speed: Tensor


def move_reference(
    places: Tensor, spans: Tensor, logits: Tensor, numbers: Tensor, limits: Limits, whole: bool = False
) -> tuple[Tensor, Tensor]:
    """As `move`."""
    each = torch.arange(len(places), device=places.device)
    (pointer, age), (stayed, until) = places.unbind(1), spans.unbind(1)
    at = pointer.minimum(limits.last)
    numbers = 0.5 + limits.variety[:, None] * (numbers - 0.5)
    begins = age == 0
    until = torch.where(begins, numbers[:, 0], until)
    weights = torch.softmax(logits.double().masked_fill(~limits.allowed[each, at], -torch.inf), dim=1)
    stayed = torch.where(begins, 1.0, stayed) * weights[:, 0] ** limits.speed
    reached = weights[:, 1:].cumsum(1)
    moves = 1 + (reached <= numbers[:, 1:2] * reached[:, -1:]).sum(1)
    moves = torch.where(moves > limits.furthest[each, at], 1, moves)
    stays = (stayed >= until) & (age + 1 < limits.longest[each, at])
    moves = torch.where(stays, 0, moves)
    moved = torch.stack([pointer + moves, torch.where(moves > 0, 0, age + 1)], dim=1)
    lasting = torch.stack([stayed, until], dim=1)
    if whole:
        over = moved[:, :1] > limits.last[:, None]
        held = torch.stack([pointer, age + 1], dim=1)
        moved, lasting = torch.where(over, held, moved), torch.where(over, spans, lasting)
    return moved, lasting


def supports(logits: Tensor) -> bool:
    """Whether `move` may be used: on a GPU."""
    return runs_on(logits) and logits.is_contiguous()


@triton.jit
def weight(logit, most, allowed, row, index: tl.constexpr):
    """Of a move, before it is divided by the sum of all."""
    value = tl.exp(logit.to(tl.float64) - most)
    return tl.where(tl.load(allowed + row * 4 + index) != 0, value, 0.0)


@triton.jit
def moved_by(
    to_none, to_one, to_two, to_three, pointer, age, stayed, until, end, longest, furthest, allowed, s, P,
    number, second, varied, faster, WHOLE: tl.constexpr,
):  # fmt: skip
    """A move of utterance s, from the logits of its four moves: the phone, its age, and its two spans."""
    row = s * P + tl.minimum(pointer, end)
    most = tl.maximum(tl.maximum(to_none, to_one), tl.maximum(to_two, to_three)).to(tl.float64)
    none = weight(to_none, most, allowed, row, 0)
    one = weight(to_one, most, allowed, row, 1)
    two = one + weight(to_two, most, allowed, row, 2)
    three = two + weight(to_three, most, allowed, row, 3)
    how_long = 0.5 + varied * (number - 0.5)
    how_far = (0.5 + varied * (second - 0.5)) * three
    begins = age == 0
    then = tl.where(begins, how_long, until)
    share = none / (none + three)
    power = tl.where(share > 0, tl.exp(faster * tl.log(tl.where(share > 0, share, 1.0))), 0.0)
    so_far = tl.where(begins, 1.0, stayed) * power
    moves = (
        1 + (one <= how_far).to(tl.int64) + (two <= how_far).to(tl.int64) + (three <= how_far).to(tl.int64)
    )
    moves = tl.where(moves > tl.load(furthest + row), 1, moves)
    stays = (so_far >= then) & (age + 1 < tl.load(longest + row))
    moves = tl.where(stays, 0, moves)
    to = pointer + moves
    grown = tl.where(moves > 0, 0, age + 1)
    if WHOLE:
        over = to > end
        to = tl.where(over, pointer, to)
        grown = tl.where(over, age + 1, grown)
        so_far = tl.where(over, stayed, so_far)
        then = tl.where(over, until, then)
    return to, grown, so_far, then


@triton.jit
def move_kernel(
    places, spans, logits, numbers, last, longest, furthest, allowed, variety, speed, moved, lasting,
    P, PLACE, SPAN, NUMBER, WHOLE: tl.constexpr,
):  # fmt: skip
    """PLACE, SPAN, NUMBER: entries from those of one utterance to those of the next."""
    s = tl.program_id(0)
    to, grown, so_far, then = moved_by(
        tl.load(logits + 4 * s), tl.load(logits + 4 * s + 1), tl.load(logits + 4 * s + 2), tl.load(logits + 4 * s + 3),
        tl.load(places + PLACE * s), tl.load(places + PLACE * s + 1), tl.load(spans + SPAN * s),
        tl.load(spans + SPAN * s + 1), tl.load(last + s), longest, furthest, allowed, s, P,
        tl.load(numbers + s * NUMBER), tl.load(numbers + s * NUMBER + 1), tl.load(variety + s), tl.load(speed + s),
        WHOLE,
    )  # fmt: skip
    tl.store(moved + 2 * s, to)
    tl.store(moved + 2 * s + 1, grown)
    tl.store(lasting + 2 * s, so_far)
    tl.store(lasting + 2 * s + 1, then)


@torch.library.custom_op("myna::move_pointer", mutates_args=())
def _move(
    places: Tensor, spans: Tensor, logits: Tensor, numbers: Tensor, limits: list[Tensor], whole: bool
) -> tuple[Tensor, Tensor]:
    moved = places.new_empty(*places.shape, dtype=torch.int64)
    lasting = spans.new_empty(*spans.shape, dtype=torch.float64)
    last, longest, furthest, allowed, variety, speed = limits
    move_kernel[(len(places),)](
        places, spans, logits, numbers, last, longest, furthest, allowed, variety, speed, moved, lasting,
        longest.shape[1], places.stride(0), spans.stride(0), numbers.stride(0), WHOLE=whole, num_warps=1,
    )  # fmt: skip
    return moved, lasting


@_move.register_fake
def _(places, spans, logits, numbers, limits, whole):
    return places.new_empty(places.shape), spans.new_empty(spans.shape)


def move(
    places: Tensor, spans: Tensor, logits: Tensor, numbers: Tensor, limits: Limits, whole: bool = False
) -> tuple[Tensor, Tensor]:
    """The pointers after a frame: places and spans as given, in memory of their own.

    places (S, 2) int64: the phone, and for how many frames before this one.   spans (S, 2) float64: the probability of
    having stayed so long, and where the pointer moves on.   logits (S, 4).   numbers (S, 2) in [0, 1), float64; the
    first counts only where a phone begins. All but the logits may be parts of wider tables.   whole: a pointer that
    would pass the last phone stays on it instead.
    """
    return _move(places, spans, logits, numbers, list(limits), whole)
