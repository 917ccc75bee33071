"""What is made to be loaded draws no random weights, and ends as it would have."""

from __future__ import annotations

import torch
from myna.data.checkpoint import load_strictly, uninitialized
from torch import nn


def layers() -> nn.Module:
    return nn.Sequential(
        nn.Linear(5, 7), nn.Conv1d(3, 4, 5), nn.LSTM(4, 6), nn.Embedding(9, 2), nn.LayerNorm(3)
    )


def test_no_random_number_is_drawn():
    before = torch.get_rng_state()
    with uninitialized():
        layers()
    assert torch.equal(torch.get_rng_state(), before)
    layers()
    assert not torch.equal(torch.get_rng_state(), before)


def test_what_is_loaded_is_the_file():
    with uninitialized():
        model = layers()
    wanted = layers().state_dict()
    load_strictly(model, wanted, "a test")
    assert all(torch.equal(value, wanted[name]) for name, value in model.state_dict().items())
