"""Samplers reach the distribution that a perfect model describes, and deterministic ones the point that a fine solver
reaches from the same noise."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from mixture import Mixture, Oracle
from myna.diffusion import (
    DDIM,
    Ancestral,
    DPMSolver2M,
    Euler,
    Guidance,
    Heun,
    LinearPath,
    Midpoint,
    SampleOptions,
    Sway,
    Times,
    TrigonometricPath,
    Uniform,
    cosine_schedule,
    even_log_snr,
    linear_schedule,
    sample,
)
from myna.diffusion.parametrisations import PARAMETRISATIONS
from scipy.integrate import solve_ivp

TORTOISE = linear_schedule(4000, 2.5e-5, 0.005)
COSINE = cosine_schedule(1000)
N = 20_000  # samples: the Kolmogorov-Smirnov distance of true ones is below 0.0115 in 99 of 100 draws


def noise(n: int = N, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def run(sampler, path, parametrisation="x0", x=None, grid=None, spread=None, **settings):
    options = SampleOptions(sampler, path, parametrisation, grid or Uniform(), **settings)
    generator = torch.Generator().manual_seed(1)
    oracle = Oracle(path, parametrisation, spread)
    return sample(oracle, noise() if x is None else x, None, options, generator=generator)


# ---- the distribution


@pytest.mark.parametrize(
    ("sampler", "path", "limit"),
    [
        (Ancestral(200, "small"), TORTOISE, 0.02),
        (Ancestral(200, "large"), TORTOISE, 0.02),
        (DDIM(100), TORTOISE, 0.02),
        (DDIM(200, eta=1.0), TORTOISE, 0.02),
        (DPMSolver2M(100), TORTOISE, 0.02),
        (DPMSolver2M(30), COSINE, 0.02),
        (DDIM(100), COSINE, 0.02),
        (DDIM(100), LinearPath(), 0.02),
        (DDIM(200, eta=1.0), LinearPath(), 0.02),
        (DPMSolver2M(30), LinearPath(), 0.02),
        (Euler(100), LinearPath(), 0.02),
        (Midpoint(20), LinearPath(), 0.02),
        (Heun(20), LinearPath(), 0.02),
        (Euler(100), TrigonometricPath(), 0.02),
        (Midpoint(20), TrigonometricPath(), 0.02),
        (Heun(20), TrigonometricPath(), 0.02),
    ],
    ids=repr,
)
def test_the_mixture_is_reached(sampler, path, limit):
    assert Mixture().distance(run(sampler, path)) < limit


@pytest.mark.parametrize("spread", [-1.0, 0.3, 1.0])
def test_a_learned_variance_is_followed(spread):
    path = linear_schedule(200, 1e-4, 0.1)  # few coarse steps, so that the bounds differ
    learned = run(Ancestral(20, "learned"), path, spread=spread)
    if spread == 0.3:
        between = run(Ancestral(20, "small"), path).std(), run(Ancestral(20, "large"), path).std()
        assert between[0] < learned.std() < between[1]
    else:
        assert torch.allclose(
            learned, run(Ancestral(20, "small" if spread < 0 else "large"), path), atol=1e-9
        )


def test_a_model_that_learned_no_variance_is_refused():
    with pytest.raises(ValueError, match="no variance"):
        run(Ancestral(5), TORTOISE)


# ---- the point


def solved(path, x: torch.Tensor, t0: float = 0.0) -> torch.Tensor:
    """Where the flow of a continuous path ends, by a Runge-Kutta of eighth order."""
    oracle = Oracle(path, "velocity")

    def field(t: float, y: np.ndarray) -> np.ndarray:
        # So close to the data the field is that of the points themselves.
        times = torch.full((len(y),), min(t, 1 - 1e-9), dtype=torch.float64)
        return oracle(torch.from_numpy(y)[:, None], times, None)[:, 0].numpy()

    end = solve_ivp(field, (t0, 1.0), x[:, 0].numpy(), "DOP853", rtol=1e-10, atol=1e-10)
    return torch.from_numpy(end.y[:, -1])[:, None]


@pytest.mark.parametrize("path", [LinearPath(), TrigonometricPath()], ids=repr)
@pytest.mark.parametrize(("kind", "order"), [(DDIM, 1), (Euler, 1), (Midpoint, 2), (Heun, 2)])
def test_deterministic_samplers_converge_to_the_fine_solver_at_their_order(kind, order, path):
    x = noise(300)
    truth = solved(path, x)
    # Mean and not maximum: between two modes the flow parts, and one point may go either way.
    coarse, fine = ((run(kind(n), path, x=x) - truth).abs().mean() for n in (100, 200))
    assert fine < (0.01 if order == 1 else 0.001)
    assert coarse / fine > 2**order * 0.8


def test_more_steps_of_a_discrete_path_come_closer_to_all_of_them():
    x = noise(300)
    truth = run(DDIM(4000), TORTOISE, x=x)
    errors = {n: (run(DDIM(n), TORTOISE, x=x) - truth).abs().mean() for n in (20, 80, 320)}
    assert errors[20] > 2 * errors[80] > 4 * errors[320]


def test_the_solver_of_second_order_wants_even_steps_in_log_snr():
    x = noise(300)
    truth = run(DDIM(4000), TORTOISE, x=x)

    def error(n: int, grid=None) -> float:
        return float((run(DPMSolver2M(n), TORTOISE, x=x, grid=grid) - truth).abs().mean())

    even = {n: error(n, even_log_snr(TORTOISE, n)) for n in (12, 24)}
    assert even[12] / even[24] > 3  # its second order
    assert even[24] < error(24) / 3
    assert even[24] < float((run(DDIM(24), TORTOISE, x=x) - truth).abs().mean()) / 2


def test_every_index_is_visited_at_most_once():
    levels = TORTOISE.levels(20, even_log_snr(TORTOISE, 20))
    assert (levels[0].t, levels[-2].t, levels[-1].t) == (3999, 0, -1)
    # As many steps as there are indices: the schedule is coarser than they are even.
    assert [at.t for at in COSINE.levels(1000, even_log_snr(COSINE, 1000))] == list(range(999, -2, -1))


def test_ddim_on_a_straight_path_is_euler():
    x = noise(50)
    assert torch.allclose(run(DDIM(7), LinearPath(), x=x), run(Euler(7), LinearPath(), x=x), atol=1e-12)


# ---- parametrisations and grids


@pytest.mark.parametrize("kind", PARAMETRISATIONS)
@pytest.mark.parametrize(
    ("sampler", "path"),
    [
        (Euler(10), LinearPath()),
        (Midpoint(6), LinearPath()),
        (Heun(6), LinearPath()),
        (Heun(6), TrigonometricPath()),
        (DDIM(10), TORTOISE),
        (DPMSolver2M(10), TORTOISE),
        (Ancestral(10, "small"), TORTOISE),
    ],
    ids=repr,
)
def test_whatever_a_model_predicts_the_samples_are_the_same(sampler, path, kind):
    x = noise(50)
    grid = Uniform(1e-3 if path.continuous else 0.0)  # noise alone says nothing about the data at time 0
    said = run(sampler, path, kind, x, grid)
    assert torch.allclose(said, run(sampler, path, "x0", x, grid), atol=1e-8)


def test_epsilon_is_refused_where_there_is_no_data():
    with pytest.raises(ValueError, match="start the grid above 0"):
        run(Euler(4), LinearPath(), "epsilon")


@pytest.mark.parametrize("grid", [Sway(-1.0), Sway(0.5), Times((0.0, *(i / 30 for i in range(1, 30)), 1.0))])
def test_a_grid_changes_the_steps_and_not_where_they_lead(grid):
    x = noise(300)
    assert (run(Midpoint(30), LinearPath(), x=x, grid=grid) - solved(LinearPath(), x)).abs().mean() < 0.01
    assert [round(grid(u), 9) for u in (0.0, 1.0)] == [0, 1]


def test_sway_takes_more_steps_near_the_noise():
    grid = Sway(-1.0)
    assert grid(0.5) == pytest.approx(1 - np.cos(np.pi / 4))
    levels = LinearPath().levels(10, grid)
    widths = [b.t - a.t for a, b in pairwise(levels)]
    assert widths == sorted(widths)


# ---- guidance


@pytest.mark.parametrize("batched", [False, True])
def test_guidance_moves_the_mean_as_it_should(batched):
    # Two Gaussians of one width: (1 + k) times one score less k times the other is that of a third such Gaussian.
    path, k = LinearPath(), 1.5
    deviation = 0.4

    def model(x, t, mean):
        alpha, sigma, *_ = (c[:, None] for c in path.coefficients(t))
        return mean + alpha * deviation**2 / (alpha**2 * deviation**2 + sigma**2) * (x - alpha * mean)

    given, absent = torch.full((N, 1), 0.5), torch.full((N, 1), -0.25)
    options = SampleOptions(Heun(30), path, "x0", guidance=Guidance(k, batched=batched))
    x = sample(model, noise(), given, options, without=absent)
    assert float(x.mean()) == pytest.approx(0.5 + k * 0.75, abs=0.02)
    assert float(x.std()) == pytest.approx(deviation, abs=0.02)


def test_the_ramp_is_tortoises():
    # k_i = k (1 - i / N), i from N - 1 to 0.
    guidance = Guidance(2.0, ramp=True)
    assert [guidance.at(step, 4) for step in range(4)] == [2 * (1 - i / 4) for i in (3, 2, 1, 0)]


def test_no_guidance_costs_no_second_pass():
    calls = []

    def model(x, t, conditioning):
        calls.append(conditioning)
        return torch.zeros_like(x)

    sample(model, noise(2), "given", SampleOptions(Euler(3), guidance=Guidance(0.0)), without="absent")
    assert calls == ["given"] * 3


# ---- the schedule


def test_respacing_is_the_published_one():
    # Added up in floating point and rounded half to even.
    indices = [int(level.t) for level in TORTOISE.levels(30, Uniform())]
    assert indices[-1] == -1
    assert indices[:3] == [3999, 3861, 3723]
    assert indices[-4:-1] == [276, 138, 0]
    assert len(indices) == 31


def test_alpha_bar_of_the_respaced_schedule_is_that_of_the_training():
    levels = TORTOISE.levels(30, Uniform())
    betas = np.linspace(2.5e-5, 0.005, 4000)
    for at in levels[:-1]:
        assert at.alpha**2 == pytest.approx(np.cumprod(1 - betas)[int(at.t)], rel=1e-12)
        assert at.alpha**2 + at.sigma**2 == pytest.approx(1)


# ---- what cannot be done


@pytest.mark.parametrize("sampler", [Euler(3), Midpoint(3), Heun(3)])
def test_a_flow_sampler_refuses_a_discrete_path(sampler):
    with pytest.raises(ValueError, match="DDIM or DPMSolver2M"):
        run(sampler, TORTOISE)


def test_ancestral_sampling_refuses_a_flow():
    with pytest.raises(ValueError, match="discrete"):
        run(Ancestral(3, "small"), LinearPath())


@pytest.mark.parametrize(
    "make",
    [
        lambda: Euler(0),
        lambda: Sway(-2),
        lambda: Uniform(1.0),
        lambda: Times((0.0, 0.5)),
        lambda: Guidance(-1),
        lambda: SampleOptions(temperature=-1),
        lambda: SampleOptions(parametrisation="noise"),  # pyright: ignore[reportArgumentType]
        lambda: linear_schedule(10, 0.0, 0.1),
    ],
)
def test_impossible_options_are_refused(make):
    with pytest.raises(ValueError, match=r"\w"):
        make()


def test_more_steps_than_the_path_has_are_refused():
    with pytest.raises(ValueError, match="take 1 to 100"):
        run(DDIM(101), linear_schedule(100))


def test_a_seed_repeats_the_noise_that_is_added():
    x = noise(20)
    assert torch.equal(run(Ancestral(9, "small"), TORTOISE, x=x), run(Ancestral(9, "small"), TORTOISE, x=x))


def test_predicted_data_is_kept_within_its_bounds():
    x = run(Ancestral(30, "small"), TORTOISE, x=noise(500), clamp=0.7)
    assert float(x.abs().max()) <= 0.7
