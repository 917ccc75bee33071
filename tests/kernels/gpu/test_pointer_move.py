from __future__ import annotations

import pytest
import torch
from myna.kernels.gpu.pointer_move import Limits, move, move_reference
from myna.tts.lm.durations import Drawn, Stay
from myna.tts.lm.sampling import SamplingOptions


def limits(s: int, p: int, guard) -> Limits:
    furthest = torch.randint(1, 4, (s, p))
    return Limits(
        last=guard(torch.randint(0, p, (s,))),
        longest=guard(torch.randint(1, 9, (s, p))),
        furthest=guard(furthest),
        allowed=(torch.arange(4) <= furthest[..., None]).to(guard.device),
        variety=guard(torch.rand(s, dtype=torch.float64)),
        speed=guard(0.5 + torch.rand(s, dtype=torch.float64)),
    )


@pytest.mark.parametrize("whole", [False, True])
def test_moves_are_those_of_the_reference(whole, guard):
    """Pointers on every phone and past the last, phones that begin and that end, from parts of wider tables."""
    torch.manual_seed(0)
    s, p = 24, 5
    own = limits(s, p, guard)
    stayed, moved = set(), set()
    for _ in range(4):
        places = guard(torch.stack([torch.randint(0, p, (s, 2)), torch.randint(0, 4, (s, 2))], dim=-1))
        places[:, 1, 0] = places[:, 1, 0].minimum(own.last) + (torch.arange(s, device=places.device) % 7 == 0)
        spans, numbers = guard(torch.rand(s, 2, 2).double()), guard(torch.rand(s, 6).double())
        logits = guard(torch.randn(s, 4) * 3)
        given = places[:, 1], spans[:, 1], logits, numbers[:, 2:4], own, whole
        ours, theirs = move(*given), move_reference(*given)
        assert torch.equal(ours[0], theirs[0])
        torch.testing.assert_close(ours[1], theirs[1], rtol=1e-12, atol=1e-15)
        steps = ours[0][:, 0] - places[:, 1, 0]
        moved |= set(steps.tolist())
        stayed |= set(ours[0][:, 1].tolist())
    assert moved == {0, 1, 2, 3}
    assert {0, 1, 2} <= stayed


def test_the_reference_is_what_one_utterance_does():
    """`durations.Drawn`, phone by phone of a sentence, to its end."""
    symbols, options = [5, 9, 1, 7, 1, 8, 4], SamplingOptions(duration_temperature=0.8, speed=1.2)
    drawn = Drawn(symbols, options, torch.device("cpu"))
    one = torch.ones(1, dtype=torch.float64)
    tables = (table[None] for table in drawn.tables)
    own = Limits(torch.tensor([6]), *tables, 0.8 * one, 1.2 * one)
    generator = torch.Generator().manual_seed(3)
    stay, seen = Stay.begin(0, torch.device("cpu")), set()
    for _ in range(60):
        logits = torch.randn(4, generator=generator)
        numbers = torch.rand(2, generator=generator, dtype=torch.float64)
        places, spans = torch.stack(stay[:2])[None], torch.stack(stay[2:])[None]
        moved, lasting = move_reference(places, spans, logits[None], numbers[None], own)
        stay = drawn(stay, logits, numbers)
        assert moved[0].tolist() == [int(stay.pointer), int(stay.age)]
        torch.testing.assert_close(lasting[0], torch.stack(stay[2:]), rtol=0, atol=0)
        seen.add(int(stay.pointer))
        if int(stay.pointer) > 6:
            break
    assert 7 in seen
