"""Drawing codes: each option by what it may and may not draw, and by frequencies."""

from __future__ import annotations

import itertools

import pytest
import torch
from myna.errors import UsageError
from myna.tts.lm.sampling import (
    SamplingOptions,
    draw,
    draw_apart,
    draw_apart_rows,
    draw_rows,
    guide,
    no_codes,
    uniforms,
)

LOGITS = torch.log(torch.tensor([0.05, 0.4, 0.25, 0.2, 0.1]))


def frequencies(n: int = 4000, **options) -> list[float]:
    numbers = uniforms(3)
    counts = torch.zeros(5)
    for _ in range(n):
        counts[draw(LOGITS, torch.tensor(next(numbers)), **options)] += 1
    return (counts / n).tolist()


def test_codes_come_as_often_as_they_are_likely():
    assert frequencies() == pytest.approx([0.05, 0.4, 0.25, 0.2, 0.1], abs=0.025)


def test_temperature_sharpens():
    sharp = LOGITS.exp().square() / LOGITS.exp().square().sum()
    assert frequencies(temperature=0.5) == pytest.approx(sharp.tolist(), abs=0.025)
    assert frequencies(100, temperature=0) == [0, 1, 0, 0, 0]


def test_top_k_keeps_the_k_likeliest():
    assert frequencies(top_k=2) == pytest.approx([0, 0.4 / 0.65, 0.25 / 0.65, 0, 0], abs=0.025)
    assert frequencies(top_k=1) == [0, 1, 0, 0, 0]


def test_top_p_keeps_the_codes_up_to_the_one_that_reaches_it():
    assert frequencies(top_p=0.3) == [0, 1, 0, 0, 0]
    assert frequencies(top_p=0.6) == pytest.approx([0, 0.4 / 0.65, 0.25 / 0.65, 0, 0], abs=0.025)
    assert frequencies(top_p=0.7)[3] > 0.15


@pytest.mark.parametrize("u", [0.0, 1 - 2**-24])
@pytest.mark.parametrize("options", [{}, {"top_p": 0.99}, {"top_k": 3, "top_p": 0.5}])
def test_the_ends_of_the_range_give_codes(u, options):
    assert 0 <= draw(LOGITS, torch.tensor(u), **options) < 5


def test_seeds_reproduce_and_differ():
    def some(seed: int) -> list[float]:
        return list(itertools.islice(uniforms(seed), 600))

    torch.manual_seed(1)
    first = some(5)
    torch.rand(3)  # nobody else's draws matter
    assert some(5) == first
    assert some(6) != first
    assert len(set(first)) > 590


def test_repetition_aware_sampling_leaves_a_loop():
    """A code with nearly all of the probability: drawn again and again, until it is drawn anew from all codes."""
    looping = torch.log(torch.tensor([0.9, 0.04, 0.03, 0.02, 0.01]))
    options = SamplingOptions(temperature=1, top_p=0.5, repetition_window=10, repetition_threshold=0.1)

    def said(options: SamplingOptions) -> list[int]:
        numbers, recent, codes = uniforms(0), no_codes(options, looping.device), []
        for _ in range(400):
            drawn = torch.tensor([next(numbers), next(numbers)])
            code, recent = draw_apart(looping, recent, drawn, options)
            codes.append(int(code))
        return codes

    assert set(said(SamplingOptions(temperature=1, top_p=0.5, repetition_window=0))) == {0}
    assert 0.02 < sum(code != 0 for code in said(options)) / 400 < 0.2


@pytest.mark.parametrize(
    "options",
    [
        SamplingOptions(),
        SamplingOptions(top_k=40, top_p=1.0),
        SamplingOptions(temperature=0),
        SamplingOptions(repetition_window=4, repetition_threshold=0.1, top_p=0.3),
        SamplingOptions(repetition_window=0, top_p=1.0),
    ],
)
def test_rows_that_are_drawn_together_are_drawn_as_alone(options):
    torch.manual_seed(0)
    logits, numbers = torch.randn(40, 300), torch.rand(40, 2, dtype=torch.float64)
    o = options
    together = draw_rows(logits, numbers[:, 0], o.temperature, o.top_k, o.top_p)
    alone = [
        draw(row, u, o.temperature, o.top_k, o.top_p) for row, u in zip(logits, numbers[:, 0], strict=True)
    ]
    assert together.tolist() == torch.stack(alone).tolist()
    recent = together[:, None].repeat(1, max(o.repetition_window, 1))  # so that all are drawn anew
    apart = draw_apart_rows(logits, recent, numbers, o)
    each = [draw_apart(*row, o)[0] for row in zip(logits, recent, numbers, strict=True)]
    assert apart.tolist() == torch.stack(each).tolist()
    if o.repetition_window and o.temperature:
        assert apart.tolist() != together.tolist()


def test_guidance_of_one_is_none_and_more_goes_beyond():
    rows = torch.randn(3, 5)
    torch.testing.assert_close(guide(rows, torch.zeros(2)), rows[0])
    torch.testing.assert_close(guide(rows[:1], torch.zeros(0)), rows[0])
    torch.testing.assert_close(guide(rows[:2], torch.ones(1)), 2 * rows[0] - rows[1])
    both = guide(rows, torch.tensor([0.5, 2.0]))
    torch.testing.assert_close(both, rows[0] + 0.5 * (rows[0] - rows[1]) + 2 * (rows[0] - rows[2]))


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1},
        {"temperature": float("nan")},
        {"top_p": 0},
        {"top_p": 1.5},
        {"top_k": -1},
        {"duration_temperature": 2},
        {"speed": 0},
        {"text_guidance": float("inf")},
        {"max_sound_frames": 0},
    ],
)
def test_impossible_options_are_refused_by_name(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        SamplingOptions(**wrong)
