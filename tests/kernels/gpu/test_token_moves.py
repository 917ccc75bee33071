"""The moves after a token, and what the transformer reads next, beside PyTorch in float64."""

import pytest
import torch
from myna.kernels.gpu.pointer_move import Limits
from myna.kernels.gpu.token_moves import (
    HeadTables,
    InputTables,
    Speech,
    input_reference,
    supports,
    token_moves,
    token_moves_reference,
)

from .conftest import doubled

V, P, A = 11, 5, 4


def tables(s: int, r: int, c: int, w: int, guard) -> tuple[HeadTables, InputTables]:
    def normal(*shape: int, scale: float = 1.0) -> torch.Tensor:
        return guard(torch.randn(shape) * scale)

    head = HeadTables(
        normal(V, c),
        normal(s, P, c),
        normal(A, c),
        normal(2, c),
        normal(4, c, scale=3 * c**-0.5),
        guard(torch.tensor([2.0, 0, 0, 0])),
    )
    return head, InputTables(normal(V, w), normal(s, r, 2, P, w), normal(2, A, w), normal(s, r, w))


def limits(s: int, guard) -> Limits:
    furthest = torch.randint(1, 4, (s, P))
    return Limits(
        last=guard(torch.randint(1, P, (s,))),
        longest=guard(torch.randint(2, 30, (s, P))),
        furthest=guard(furthest),
        allowed=(torch.arange(4) <= furthest[..., None]).to(guard.device),
        variety=guard(torch.rand(s, dtype=torch.float64)),
        speed=guard(0.5 + torch.rand(s, dtype=torch.float64)),
    )


def copies(speech: Speech, guard) -> Speech:
    return Speech(*map(guard, speech))


def in_float64(tables):
    return type(tables)(*map(doubled, tables))


@pytest.mark.parametrize(("s", "r", "c", "w"), [(7, 1, 8, 16), (6, 3, 20, 33)])
def test_moves_and_inputs_are_those_of_the_reference(s, r, c, w, guard):
    """Several tokens one after the other, some utterances paused; from parts of wider tables; channels that are no
    power of two; phones older than the table of ages, and pointers past the last phone."""
    torch.manual_seed(r)
    head, inputs = tables(s, r, c, w, guard)
    own, seen = limits(s, guard), set()
    device = guard.device
    places = torch.stack([torch.randint(0, P, (s, 2)), torch.randint(0, 6, (s, 2))], dim=-1).to(device)
    places[:, 1, 0] = places[:, 1, 0].minimum(own.last) + (torch.arange(s, device=device) % 5 == 0)
    speech = Speech(
        torch.randn(s, r, w).to(device),
        torch.arange(s * r, device=device),
        places,
        torch.rand(s, 2, 2).double().to(device),
    )
    for step in range(4):
        ours, theirs = copies(speech, guard), in_float64(copies(speech, guard))
        token, wide = guard(torch.randint(0, V, (s,))), guard(torch.randn(s, r, 9 + c))
        numbers = guard(torch.rand(s, 6, dtype=torch.float64))
        active = torch.arange(s, device=device) % 4 != step
        now = token_moves(token, wide[:, 0, 9:], numbers[:, 2:], active, ours, head, inputs, own)
        truth = token_moves_reference(
            token,
            wide[:, 0, 9:].double(),
            numbers[:, 2:],
            active,
            theirs,
            in_float64(head),
            in_float64(inputs),
            own,
        )
        assert torch.equal(now, truth)
        assert torch.equal(ours.places, theirs.places)
        assert torch.equal(ours.position, theirs.position)
        torch.testing.assert_close(ours.spans, theirs.spans, rtol=1e-5, atol=1e-7)  # logits are float32's
        torch.testing.assert_close(ours.x.double(), theirs.x, rtol=1e-5, atol=1e-5)
        for held, before in zip(ours, speech, strict=True):  # nobody who pauses is touched
            pause, held = ~active, held.unflatten(0, (s, -1))
            assert torch.equal(held[pause], before.unflatten(0, (s, -1))[pause])
        seen |= set((ours.places[:, 0, 0] - speech.places[:, 1, 0])[active].tolist())
        speech = Speech(*(t.clone() for t in ours))
    assert {0, 1} <= seen


def test_the_input_is_a_sum_of_both_halves(guard):
    """By hand, for one utterance of one row."""
    _, inputs = tables(1, 1, 4, 6, guard)
    places = torch.tensor(
        [[[2, 1], [9, 30]]], device=guard.device
    )  # the second beyond the last phone, and old
    x = input_reference(
        torch.ones(1, 6, device=guard.device), places, torch.tensor([3], device=guard.device), inputs
    )
    by_hand = 1 + inputs.voice[0, 0] + inputs.phones[0, 0, 0, 2] + inputs.ages[0, 1]
    by_hand = by_hand + inputs.phones[0, 0, 1, 3] + inputs.ages[1, A - 1]
    torch.testing.assert_close(x[0, 0], by_hand)


def test_a_cpu_is_not_supported():
    one = torch.zeros(1, 1)
    head = HeadTables(*[one] * 6)
    assert not supports(one, Speech(*[one] * 4), head, InputTables(*[one] * 4))


def test_the_operator_is_well_formed(device):
    torch.manual_seed(0)

    class Here:
        def __init__(self):
            self.device = device

        def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(device)

    here = Here()
    head, inputs = tables(2, 2, 8, 16, here)
    places, spans = torch.zeros(2, 2, 2, dtype=torch.int64), torch.zeros(2, 2, 2, dtype=torch.float64)
    speech = torch.zeros(2, 2, 16), torch.zeros(4, dtype=torch.int64), places, spans
    given = torch.tensor([3, 1]), torch.randn(2, 8), torch.rand(2, 4).double(), torch.tensor([True, False])
    args = *map(here, given), *map(here, speech), list(head), list(inputs), list(limits(2, here))
    torch.library.opcheck(
        torch.ops.myna.token_moves.default, args, test_utils=("test_schema", "test_faketensor")
    )
