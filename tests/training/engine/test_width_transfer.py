"""Rates of a narrow model for a wide one."""

from __future__ import annotations

import pytest
import torch
from myna.errors import UsageError
from myna.training.engine.schedule import set_rate
from myna.training.engine.trainer import decayed_groups
from myna.training.engine.width_transfer import transfer
from myna.training.models.token_ar import narrower
from myna.tts.lm.token_ar import TokenAR, TokenARConfig

WIDE = TokenARConfig(width=64, depth=1, text_depth=1, n_heads=4, n_kv_heads=1, hidden=128, context=32)


def made(narrow_width: int, begins: bool) -> tuple[TokenAR, dict[str, torch.Tensor], torch.optim.Optimizer]:
    """The wide model, its weights before the rule, and an optimizer by the rule."""
    torch.manual_seed(0)
    model = TokenAR(WIDE)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    narrow = TokenAR(narrower(WIDE, narrow_width))
    groups = transfer(model, narrow, decayed_groups(model, 0.1, never=("extra",)), begins)
    return model, before, torch.optim.AdamW(groups, lr=1.0)


def of(optimizer: torch.optim.Optimizer, parameter: torch.Tensor) -> dict:
    (group,) = [g for g in optimizer.param_groups if any(p is parameter for p in g["params"])]
    return group


def test_every_parameter_is_in_one_group():
    model, _, optimizer = made(16, True)
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())


def test_matrices_that_grow_learn_more_slowly_and_decay_as_before():
    model, before, optimizer = made(16, True)
    set_rate(optimizer, 0.4)
    weights = dict(model.named_parameters())
    hidden = "transformer.blocks.0.feed_forward.gate_up.weight"
    for grown in (hidden, "transformer.blocks.0.attention.out.weight", "head.out.weight"):
        group = of(optimizer, weights[grown])
        assert group["lr"] == pytest.approx(0.1)  # four times as wide
        assert group["lr"] * group["weight_decay"] == pytest.approx(0.4 * 0.1)
    for same in ("age.weight", "begin", "voice.0.weight", "transformer.blocks.0.norm1.weight"):
        assert of(optimizer, weights[same])["lr"] == pytest.approx(0.4), same
    assert torch.equal(weights[hidden], before[hidden])


def test_readouts_begin_smaller_but_for_trained_weights():
    model, before, _ = made(16, True)
    torch.testing.assert_close(model.head.out.weight, before["head.out.weight"] / 2)
    trained, before, _ = made(16, False)
    assert torch.equal(trained.head.out.weight, before["head.out.weight"])


def test_nothing_changes_at_the_models_own_width():
    model, before, optimizer = made(64, True)
    assert all(group["rate_share"] == 1 for group in optimizer.param_groups)
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.1, 0.0]
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


@pytest.mark.parametrize("width", [24, 128, 0])
def test_heads_must_fit(width):
    with pytest.raises(UsageError, match="rates_of_width"):
        narrower(WIDE, width)
