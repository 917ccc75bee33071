"""What follows the draw of a token in one launch: two moves of the phone pointer, and what the transformer reads next
(`tts.lm.token_ar`, `tts.lm.token_slots`), of forty operations.

    token, hidden state, phone of the second half   --> move --> phone of the next token's first half
    the same, phone of its first half               --> move --> phone of its second half
    token, voice, the phones of both halves, ages   --> the transformer's next input, of every row

Linear layers read phones and ages only, so they are done before: a phone's share of a sum when its utterance gets a
slot, an age's once. What is left are sums of rows of tables, and 4 x C products. One program an utterance, since a move
hangs on the one before; the table of places is small, and nobody else reads it meanwhile.

Shapes: S utterances, R rows that guidance compares, P phones, V codebook_size, A ages, C channels of the move's head, W
width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .launch import power_of_two, runs_on, tl, triton
from .pointer_move import Limits, move_reference, moved_by


class HeadTables(NamedTuple):
    """What the move's head adds up, and its last layer. token (V, C); phones (S, P, C), with the bias; ages (A, C);
    halves (2, C); out (4, C), bias (4,)."""

    token: Tensor
    phones: Tensor
    ages: Tensor
    halves: Tensor
    out: Tensor
    bias: Tensor


class InputTables(NamedTuple):
    """What the transformer's input is the sum of. token (V, W); phones (S, R, 2, P, W) and ages (2, A, W), of both
    halves; voice (S, R, W)."""

    token: Tensor
    phones: Tensor
    ages: Tensor
    voice: Tensor


class Speech(NamedTuple):
    """What goes on from token to token, in place. x (S, R, W): the transformer's next input.   position (S R,) int64:
    tokens that each row has had.   places (S, 2, 2) int64, spans (S, 2, 2) float64: the pointer in both halves of the
    next token, as `pointer_move.move` has them."""

    x: Tensor
    position: Tensor
    places: Tensor
    spans: Tensor


def input_reference(before: Tensor, places: Tensor, last: Tensor, tables: InputTables) -> Tensor:
    """before (S, W) or (S, R, W), the embedding of the last token; places (S, 2, 2), last (S,) -> (S, R, W)."""
    each = torch.arange(len(places), device=places.device)
    x = tables.voice + (before if before.ndim == 3 else before[:, None])
    for half in (0, 1):
        at = places[:, half, 0].minimum(last)
        age = places[:, half, 1].clamp(max=tables.ages.shape[1] - 1)
        x = x + tables.phones[each, :, half, at] + tables.ages[half, age][:, None]
    return x


def token_moves_reference(
    token: Tensor,
    said: Tensor,
    numbers: Tensor,
    active: Tensor,
    speech: Speech,
    head: HeadTables,
    inputs: InputTables,
    limits: Limits,
) -> Tensor:
    """As `token_moves`."""
    each = torch.arange(len(token), device=token.device)
    known = said + head.token[token]

    def logits(places: Tensor, half: int) -> Tensor:
        at, age = places[:, 0].minimum(limits.last), places[:, 1].clamp(max=len(head.ages) - 1)
        hidden = F.silu(known + head.phones[each, at] + head.ages[age] + head.halves[half])
        return F.linear(hidden, head.out, head.bias)

    now = speech.places[:, :, 0].clone()
    own = speech.places[:, 1], speech.spans[:, 1]
    first = move_reference(*own, logits(own[0], 0), numbers[:, :2], limits)
    second = move_reference(*first, logits(first[0], 1), numbers[:, 2:], limits, whole=True)
    places, spans = (torch.stack(both, dim=1) for both in zip(first, second, strict=True))
    x = input_reference(inputs.token[token], places, limits.last, inputs)
    going = active[:, None, None]
    for held, new in zip((speech.x, speech.places, speech.spans), (x, places, spans), strict=True):
        held.copy_(torch.where(going, new, held))
    speech.position.add_(active[:, None].expand(-1, speech.x.shape[1]).flatten())
    return now


def supports(said: Tensor, speech: Speech, head: HeadTables, inputs: InputTables) -> bool:
    """Whether `token_moves` may be used: on a GPU, dense tables in float32."""
    tensors = speech.x, *head, *inputs
    return (
        runs_on(said, *tensors)
        and said.stride(1) == 1
        and all(t.is_contiguous() for t in (*tensors, *speech))
        and all(t.dtype == torch.float32 for t in (said, *tensors))
        and not torch.is_grad_enabled()
        and head.ages.shape[0] == inputs.ages.shape[1]
    )


@triton.jit
def move_logits(known, phones, ages, half, out, bias, at, age, c, C: tl.constexpr):
    """Of the four moves from the phone whose row is `at` of a table, which has lasted `age`."""
    hidden = known + tl.load(phones + at * C + c, mask=c < C, other=0.0)
    hidden += tl.load(ages + age * C + c, mask=c < C, other=0.0) + tl.load(half + c, mask=c < C, other=0.0)
    hidden = hidden / (1.0 + tl.exp(-hidden))
    none = tl.sum(hidden * tl.load(out + c, mask=c < C, other=0.0), 0) + tl.load(bias)
    one = tl.sum(hidden * tl.load(out + C + c, mask=c < C, other=0.0), 0) + tl.load(bias + 1)
    two = tl.sum(hidden * tl.load(out + 2 * C + c, mask=c < C, other=0.0), 0) + tl.load(bias + 2)
    three = tl.sum(hidden * tl.load(out + 3 * C + c, mask=c < C, other=0.0), 0) + tl.load(bias + 3)
    return none, one, two, three


@triton.jit
def token_moves_kernel(
    token, said, numbers, active, x, position, places, spans, now,
    head_token, head_phones, head_ages, head_halves, head_out, head_bias,
    in_token, in_phones, in_ages, in_voice,
    last, longest, furthest, allowed, variety, speed,
    P, SAID, NUMBER,
    A: tl.constexpr, C: tl.constexpr, CP: tl.constexpr, W: tl.constexpr, WP: tl.constexpr, R: tl.constexpr,
    RP: tl.constexpr,
):  # fmt: skip
    """SAID, NUMBER: entries from those of one utterance to those of the next. CP, WP, RP: rounded up to a power of
    two."""
    s = tl.program_id(0)
    c = tl.arange(0, CP)
    code = tl.load(token + s)
    end, varied, faster = tl.load(last + s), tl.load(variety + s), tl.load(speed + s)
    goes_on = tl.load(active + s) != 0
    here, there = tl.load(places + 4 * s), tl.load(places + 4 * s + 2)
    age = tl.load(places + 4 * s + 3)
    stayed, until = tl.load(spans + 4 * s + 2), tl.load(spans + 4 * s + 3)
    r = tl.arange(0, RP)
    count = tl.load(position + s * R + r, mask=r < R, other=0)
    known = tl.load(said + s * SAID + c, mask=c < C, other=0.0)
    known += tl.load(head_token + code * C + c, mask=c < C, other=0.0)
    none, one, two, three = move_logits(
        known, head_phones, head_ages, head_halves, head_out, head_bias, s * P + tl.minimum(there, end),
        tl.minimum(age, A - 1), c, C,
    )  # fmt: skip
    first, first_age, first_stayed, first_until = moved_by(
        none, one, two, three, there, age, stayed, until, end, longest, furthest, allowed, s, P,
        tl.load(numbers + s * NUMBER), tl.load(numbers + s * NUMBER + 1), varied, faster, False,
    )  # fmt: skip
    none, one, two, three = move_logits(
        known, head_phones, head_ages, head_halves + C, head_out, head_bias, s * P + tl.minimum(first, end),
        tl.minimum(first_age, A - 1), c, C,
    )  # fmt: skip
    # The last token is whole: the last phone takes its second half, too.
    second, second_age, second_stayed, second_until = moved_by(
        none, one, two, three, first, first_age, first_stayed, first_until, end, longest, furthest, allowed, s, P,
        tl.load(numbers + s * NUMBER + 2), tl.load(numbers + s * NUMBER + 3), varied, faster, True,
    )  # fmt: skip
    tl.debug_barrier()  # all have read what is written over
    tl.store(now + 2 * s, here)
    tl.store(now + 2 * s + 1, there)
    tl.store(position + s * R + r, count + 1, mask=r < tl.where(goes_on, R, 0))
    tl.store(places + 4 * s, first, mask=goes_on)
    tl.store(places + 4 * s + 1, first_age, mask=goes_on)
    tl.store(places + 4 * s + 2, second, mask=goes_on)
    tl.store(places + 4 * s + 3, second_age, mask=goes_on)
    tl.store(spans + 4 * s, first_stayed, mask=goes_on)
    tl.store(spans + 4 * s + 1, first_until, mask=goes_on)
    tl.store(spans + 4 * s + 2, second_stayed, mask=goes_on)
    tl.store(spans + 4 * s + 3, second_until, mask=goes_on)
    w = tl.arange(0, WP)
    inside = w < W
    same = tl.load(in_token + code * W + w, mask=inside, other=0.0)
    same += tl.load(in_ages + tl.minimum(first_age, A - 1) * W + w, mask=inside, other=0.0)
    same += tl.load(in_ages + (A + tl.minimum(second_age, A - 1)) * W + w, mask=inside, other=0.0)
    for row in tl.static_range(R):
        own = s * R + row
        phone = in_phones + 2 * own * P * W
        y = same + tl.load(in_voice + own * W + w, mask=inside, other=0.0)
        y += tl.load(phone + tl.minimum(first, end) * W + w, mask=inside, other=0.0)
        y += tl.load(phone + (P + tl.minimum(second, end)) * W + w, mask=inside, other=0.0)
        tl.store(x + own * W + w, y, mask=w < tl.where(goes_on, W, 0))


@torch.library.custom_op("myna::token_moves", mutates_args=("x", "position", "places", "spans"))
def _token_moves(
    token: Tensor, said: Tensor, numbers: Tensor, active: Tensor, x: Tensor, position: Tensor, places: Tensor,
    spans: Tensor, head: list[Tensor], inputs: list[Tensor], limits: list[Tensor],
) -> Tensor:  # fmt: skip
    s, r, w = x.shape
    p, c = head[1].shape[1:]
    now = places.new_empty(s, 2, dtype=torch.int64)
    token_moves_kernel[(s,)](
        token, said, numbers, active, x, position, places, spans, now, *head, *inputs, *limits, p, said.stride(0),
        numbers.stride(0), A=head[2].shape[0], C=c, CP=power_of_two(c), W=w, WP=power_of_two(w), R=r,
        RP=power_of_two(r), num_warps=4,
    )  # fmt: skip
    return now


@_token_moves.register_fake
def _(token, said, numbers, active, x, position, places, spans, head, inputs, limits):
    return places.new_empty(x.shape[0], 2)


def token_moves(
    token: Tensor,
    said: Tensor,
    numbers: Tensor,
    active: Tensor,
    speech: Speech,
    head: HeadTables,
    inputs: InputTables,
    limits: Limits,
) -> Tensor:
    """Both moves after a token, in place, where an utterance is active -> the phones of both halves of that token,
    (S, 2).

    token (S,) int64: the one that was drawn.   said (S, C): the share that the hidden state has in the move's head, of
    rows that know everything; rows may be apart.   numbers (S, 4) in [0, 1), float64, two for each move; columns of a
    wider table will do.   active (S,) bool.
    """
    return _token_moves(token, said, numbers, active, *speech, list(head), list(inputs), list(limits))
