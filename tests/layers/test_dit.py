"""A step of a DiT outside Python is the step itself."""

from __future__ import annotations

import pytest
import torch
from myna.layers import dit
from myna.layers.dit import DiT, DiTConfig


@pytest.fixture
def model() -> DiT:
    torch.manual_seed(0)
    model = DiT(DiTConfig(width=32, depth=2, n_heads=2, hidden=48, kernel=3, context=32), condition=8).eval()
    for parameter in model.parameters():  # what starts at zero would hide mistakes
        if parameter.abs().sum() == 0:
            parameter.data.normal_(0, 0.3)
    return model


@torch.no_grad()
def said(model: DiT) -> list[torch.Tensor]:
    """Blocks of several lengths in two rows, further than the cache is long."""
    generator = torch.Generator().manual_seed(1)
    condition = torch.randn(2, 8, generator=generator)
    state, found, reach = model.init_state(2, condition), [], 0
    for n in (2, 6, 12, 16, 1, 9):
        reach += n
        y, state = model.step(torch.randn(2, n, 32, generator=generator), condition, state, reach)
        found.append(y)
    return found


def test_the_numbers_are_those_of_the_operations_one_by_one(model, monkeypatch):
    ours = said(model)
    monkeypatch.setattr(dit, "_is_plain", lambda x, layers: False)
    assert all(torch.equal(a, b) for a, b in zip(ours, said(model), strict=True))


def test_layers_of_another_kind_are_called(model):
    class Doubled(torch.nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    plain, layer = said(model), model.blocks[0].attention.out
    doubled = Doubled(32, 32, bias=False)
    doubled.weight = layer.weight
    model.blocks[0].attention.out = doubled
    assert not any(torch.equal(a, b) for a, b in zip(plain, said(model), strict=True))
