from __future__ import annotations

import pytest
import torch
from myna.diffusion import LinearPath, TrigonometricPath, corrupt, interpret, linear_schedule
from myna.diffusion.parametrisations import PARAMETRISATIONS
from myna.diffusion.paths import level

PATHS = [(LinearPath(), 0.3), (TrigonometricPath(), 0.6), (linear_schedule(100), 40)]


@pytest.mark.parametrize(("path", "t"), PATHS, ids=repr)
@pytest.mark.parametrize("kind", PARAMETRISATIONS)
def test_a_target_interpreted_gives_back_what_was_mixed(path, t, kind):
    torch.manual_seed(0)
    x0, noise = torch.randn(2, 4, 3, 5, dtype=torch.float64)
    times = torch.full((4,), float(t))
    x, target = corrupt(path, x0, noise, times, kind)
    said = interpret(target, kind, x, level(path, t))
    assert torch.allclose(said.x0, x0, atol=1e-10)
    assert torch.allclose(said.noise, noise, atol=1e-10)
    _, velocity = corrupt(path, x0, noise, times, "velocity")
    assert torch.allclose(said.velocity, velocity, atol=1e-10)


@pytest.mark.parametrize(("path", "t"), PATHS[:2], ids=repr)
def test_the_velocity_is_the_derivative_of_the_state(path, t):
    x0, noise = torch.randn(2, 1, 8, dtype=torch.float64)
    step = 1e-6
    before, after = (
        corrupt(path, x0[None, 0], noise[None, 0], torch.tensor([t + d], dtype=torch.float64), "velocity")[0]
        for d in (-step, step)
    )
    _, velocity = corrupt(
        path, x0[None, 0], noise[None, 0], torch.tensor([t], dtype=torch.float64), "velocity"
    )
    assert torch.allclose((after - before) / (2 * step), velocity, atol=1e-6)


def test_every_row_has_its_own_time():
    x0, noise = torch.ones(2, 1, 3), torch.zeros(2, 1, 3)
    x, _ = corrupt(LinearPath(), x0, noise, torch.tensor([0.25, 0.75]), "velocity")
    assert x[:, 0, 0].tolist() == [0.25, 0.75]


def test_a_clamp_binds_the_data_and_the_noise_follows():
    at = level(linear_schedule(100), 50)
    x = torch.full((1, 1), 3.0)
    said = interpret(torch.full((1, 1), -2.0), "epsilon", x, at, clamp=1.0)
    assert float(said.x0) == 1.0
    assert at.alpha * float(said.x0) + at.sigma * float(said.noise) == pytest.approx(3.0)
