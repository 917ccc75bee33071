"""Attention against its definition, and what rotary positions promise."""

from __future__ import annotations

import math

import pytest
import torch
from myna.layers.attention import Attention, Rotary, attend, rotate
from torch import Tensor


def plain(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """softmax(q k / sqrt(d)) v, head by head, frame by frame."""
    y = torch.zeros_like(q)
    per_group = q.shape[1] // k.shape[1]
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            for t in range(q.shape[2]):
                seen = mask[b, 0, t]
                keys, values = k[b, h // per_group][seen], v[b, h // per_group][seen]
                y[b, h, t] = torch.softmax(keys @ q[b, h, t] / math.sqrt(q.shape[3]), dim=0) @ values
    return y


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (4, 2), (3, 1)])
@pytest.mark.parametrize("t", [1, 6])
def test_attend_is_its_definition(training, heads, groups, t):
    torch.manual_seed(0)
    q, k, v = torch.randn(2, heads, t, 4), torch.randn(2, groups, 6, 4), torch.randn(2, groups, 6, 4)
    q.requires_grad_(training)
    mask = torch.rand(2, 1, t, 6) < 0.6
    mask[..., 0] = True
    added = torch.zeros(mask.shape).masked_fill(~mask, float("-inf"))
    torch.testing.assert_close(attend(q, k, v, added), plain(q.detach(), k, v, mask), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_causal_is_the_triangle(training):
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 4, 5, 4), torch.randn(2, 2, 5, 4), torch.randn(2, 2, 5, 4)
    q.requires_grad_(training)
    triangle = torch.ones(5, 5, dtype=torch.bool).tril().expand(2, 1, 5, 5)
    got = attend(q, k, v, None, causal=True)
    torch.testing.assert_close(got, plain(q.detach(), k, v, triangle), rtol=1e-5, atol=1e-5)


def test_both_ways_of_attending_have_the_same_gradients():
    torch.manual_seed(0)
    grads = []
    k0, v0, q0 = (torch.randn(2, h, 7, 4) for h in (2, 2, 4))
    for fused in (False, True):
        q, k, v = (x.clone().requires_grad_() for x in (q0, k0, v0))
        if fused:
            k4, v4 = (x.repeat_interleave(2, dim=1) for x in (k, v))
            y = torch.nn.functional.scaled_dot_product_attention(q, k4, v4, is_causal=True)
        else:
            y = attend(q, k, v, None, causal=True)
        grads.append(torch.autograd.grad(y.square().sum(), (q, k, v)))
    for one, two in zip(*grads, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


def test_rotary_products_depend_on_distance_alone():
    torch.manual_seed(0)
    rotary = Rotary(8)
    q, k = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)

    def product(p: int, r: int) -> float:
        turned = [rotate(x, rotary(torch.tensor([[at]]), x.dtype)) for x, at in ((q, p), (k, r))]
        return float((turned[0] * turned[1]).sum())

    assert product(7, 3) == pytest.approx(product(1004, 1000), abs=1e-3)
    assert product(7, 3) != pytest.approx(product(8, 3), abs=1e-3)
    assert product(5, 5) == pytest.approx(float((q * k).sum()), abs=1e-5)


def test_channels_that_cannot_be_divided_are_refused():
    with pytest.raises(ValueError, match="must divide"):
        Attention(10, 4)
    with pytest.raises(ValueError, match="groups"):
        Attention(12, 4, 3)
    with pytest.raises(ValueError, match="even"):
        Rotary(5)
