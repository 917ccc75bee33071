"""The residual unit and the ConvNeXt block: steps against the whole, in float64."""

import pytest
import torch
from myna.kernels.gpu import convnext, residual_unit
from myna.kernels.gpu.causal_conv import slots

from .conftest import doubled


def unit_weights(c: int, dtype: torch.dtype, device: str) -> residual_unit.UnitWeights:
    def normal(*shape: int, scale: float) -> torch.Tensor:
        return torch.randn(shape, device=device) * scale

    return residual_unit.UnitWeights(
        torch.rand(c, device=device) + 0.3,
        normal(7, c, c, scale=(7 * c) ** -0.5).to(dtype),
        normal(c, scale=0.1),
        torch.rand(c, device=device) + 0.3,
        normal(c, c, scale=c**-0.5).to(dtype),
        normal(c, scale=0.1),
    )


@pytest.mark.parametrize(("c", "t", "d"), [(16, 8, 9), (24, 5, 3), (40, 1, 1)])
def test_residual_unit_steps(c, t, d, guard, dtype, close):
    torch.manual_seed(0)
    w = unit_weights(c, dtype, guard.device)
    ring = guard.empty((2, slots(7, d, t), c), dtype)
    n = ring.shape[1] // t + 2
    xs, position, ys = torch.randn(2, n * t, c).to(dtype), torch.zeros(2, dtype=torch.int64), []
    position = position.to(ring.device)
    for x in xs.split(t, dim=1):
        ys.append(residual_unit.residual_unit(guard(x), ring, position, w, d))
        position += t
    xs = xs.to(ring.device)
    past = xs.new_zeros(2, 6 * d, c).double()
    close(torch.cat(ys, 1), residual_unit.residual_unit_reference(past, doubled(xs), doubled(w), d))


def test_residual_unit_of_a_whole_signal(guard, dtype, close):
    torch.manual_seed(1)
    w, alpha = unit_weights(24, dtype, guard.device), guard(torch.rand(24) + 0.3)
    x = guard(torch.randn(2, 35, 24).to(dtype))
    bent = (x.double() + torch.sin(w.alpha1 * x.double()).square() / w.alpha1).to(dtype)
    past = x.new_zeros(2, 18, 24).double()
    exact = residual_unit.residual_unit_reference(past, doubled(x), doubled(w), 3)
    for given in (None, guard(bent)):
        y, z = residual_unit.residual_unit_rows(x, w, 3, 18, given, alpha)
        close(y, exact)
        close(z, exact + torch.sin(alpha * exact).square() / alpha)


def test_a_residual_unit_whose_second_product_is_in_parts(guard, dtype, close, monkeypatch):
    """As before Hopper, on fewer channels."""
    asked = []

    def tiles(rows, channels, half, capability):
        asked.append((rows, channels))
        return 16, 16, 4

    monkeypatch.setattr(residual_unit, "tiles", tiles)
    torch.manual_seed(2)
    w, x = unit_weights(40, dtype, guard.device), guard(torch.randn(1, 21, 40).to(dtype))
    y, _ = residual_unit.residual_unit_rows(x, w, 1, 6)
    past = x.new_zeros(1, 6, 40).double()
    close(y, residual_unit.residual_unit_reference(past, doubled(x), doubled(w), 1))
    assert asked == [(21, 64)]


def test_only_units_over_many_frames_have_other_tiles_before_hopper(monkeypatch):
    monkeypatch.setattr(residual_unit, "INTERPRETED", False)
    for rows in (16, 132 * 16 + 1, 132 * 32 + 1):
        for channels in (16, 64, 128, 256):
            for half in (False, True):
                new, old = (residual_unit.tiles(rows, channels, half, at) for at in ((9, 0), (8, 0)))
                assert new[0] == min(channels, 64)
                many = rows > 132 * 32 and half
                assert old == ((min(channels, 32), *new[1:]) if many else new)
                assert residual_unit.tiles(rows, channels, half, (12, 0)) == old


@pytest.mark.parametrize(("b", "t", "c"), [(1, 1, 24), (3, 2, 20)])
def test_convnext_steps(b, t, c, guard, dtype, close):
    torch.manual_seed(2)
    e = 3 * c

    def vector(n: int) -> torch.Tensor:
        return guard(torch.randn(n) * 0.2)

    w = convnext.ConvNeXtWeights(
        guard(torch.randn(7, c) * 0.4), vector(c), guard(torch.rand(c) + 0.5), vector(c),
        guard((torch.randn(e, c) * c**-0.5).to(dtype)), vector(e), guard(torch.rand(e) + 0.3),
        guard((torch.randn(c, e) * e**-0.5).to(dtype)), vector(c), guard(torch.rand(c)),
    )  # fmt: skip
    ring = guard.empty((b, slots(7, 1, t), c), dtype)
    n = ring.shape[1] // t + 2
    xs, position, ys = torch.randn(b, n * t, c).to(dtype), torch.zeros(b, dtype=torch.int64), []
    position = position.to(ring.device)
    for x in xs.split(t, dim=1):
        ys.append(convnext.convnext(guard(x), ring, position, w, rate=t))
        position += 1
    xs = xs.to(ring.device)
    close(
        torch.cat(ys, 1), convnext.convnext_reference(xs.new_zeros(b, 6, c).double(), doubled(xs), doubled(w))
    )
