"""What a step of a transformer is made of, and its prefill."""

import pytest
import torch
from myna.kernels.gpu import decode_attention, flash_attention, linear_rows, qkv

from .conftest import doubled


@pytest.mark.parametrize(("n", "i", "o"), [(1, 40, 24), (2, 33, 5), (5, 600, 9)])
@pytest.mark.parametrize("gated", [False, True])
def test_linear_rows(n, i, o, gated, guard, dtype, close):
    torch.manual_seed(0)
    x, weight = (
        guard(torch.randn(n, i).to(dtype)),
        guard((torch.randn(o * (1 + gated), i) * i**-0.5).to(dtype)),
    )
    bias, gain = guard(torch.randn(o * (1 + gated))), guard(torch.rand(i) + 0.5)
    scale, residual = guard(torch.rand(o) + 0.5), guard(torch.randn(n, o).to(dtype))
    for kinds in ({}, {"gain": gain, "bias": bias}, {"bias": bias, "scale": scale, "residual": residual}):
        exact = linear_rows.linear_rows_reference(
            x.double(), weight.double(), gated=gated, **{k: v.double() for k, v in kinds.items()}
        )
        close(linear_rows.linear_rows(x, weight, gated=gated, **kinds), exact)


@pytest.mark.parametrize(("n", "i", "o"), [(1, 40, 24), (3, 600, 9)])
def test_a_norm_that_is_kept(n, i, o, guard, dtype, close):
    torch.manual_seed(0)
    x, weight = guard(torch.randn(n, i).to(dtype) * 2), guard((torch.randn(o, i) * i**-0.5).to(dtype))
    gain, bias = guard(torch.rand(i) + 0.5), guard(torch.randn(o))
    y, normed = linear_rows.norm_linear_rows(x, gain, weight, bias)
    exact = linear_rows.norm_linear_rows_reference(x.double(), gain.double(), weight.double(), bias.double())
    close(y, exact[0])
    close(normed, exact[1])


def test_qkv_turns_and_writes_the_ring(guard, dtype):
    torch.manual_seed(1)
    h, g, d, s = 4, 2, 10, 24
    x, gain = guard(torch.randn(3, 72).to(dtype)), guard(torch.rand(72) + 0.5)
    weight = guard((torch.randn((h + 2 * g) * d, 72) * 72**-0.5).to(dtype))
    frequencies = guard(10_000.0 ** -(torch.arange(0, d, 2) / d))
    position = torch.tensor([3, 1500, 40], device=x.device)
    keys, values = (guard.empty((3, g, s, d), dtype) for _ in range(2))
    q = qkv.qkv(x, gain, weight, frequencies, position, keys, values, h)
    exact = qkv.qkv_reference(
        x.double(), gain.double(), weight.double(), frequencies.double(), position, h, g
    )
    rows = torch.arange(3, device=x.device)
    slot = position % s
    for ours, truth in zip((q, keys[rows, :, slot], values[rows, :, slot]), exact, strict=True):
        error = (ours.double() - truth).norm() / truth.norm()
        assert error < (1e-4 if dtype == torch.float32 else 1.2e-2)  # the phase at 1500 is float32's
    assert int(keys.isnan().sum()) == 3 * g * (s - 1) * d  # nothing else was written


@pytest.mark.parametrize(("h", "g", "d", "s"), [(4, 2, 10, 24), (2, 2, 16, 70), (6, 2, 20, 33)])
def test_decode_attention_reads_what_is_held(h, g, d, s, guard, dtype, close):
    """One row has just begun, one is half full, one has wrapped around."""
    torch.manual_seed(2)
    position = torch.tensor([0, s // 2, 5 * s + 3], device=guard.device)
    q = guard(torch.randn(3, h, d).to(dtype))
    keys, values = (guard(torch.randn(3, g, s, d).to(dtype)) for _ in range(2))
    for row in (0, 1):
        keys[row, :, int(position[row]) + 1 :] = float("nan")
        values[row, :, int(position[row]) + 1 :] = float("nan")
    exact = decode_attention.decode_attention_reference(
        *(t.double() for t in (q, keys.nan_to_num(), values.nan_to_num())), position
    )
    close(decode_attention.decode_attention(q, keys, values, position), exact)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("ragged", [True, False])
def test_flash_attention(causal, ragged, guard, dtype, close):
    torch.manual_seed(3)
    q = guard(torch.randn(2, 4, 70, 20).to(dtype))
    k, v = (guard(torch.randn(2, 2, 70, 20).to(dtype)) for _ in range(2))
    lengths = torch.tensor([70, 33], device=q.device) if ragged else None
    if ragged:
        k[1, :, 33:] = v[1, :, 33:] = float("nan")
    exact = flash_attention.flash_attention_reference(
        *(doubled(t.nan_to_num()) for t in (q, k, v)), causal, lengths
    )
    ours = flash_attention.flash_attention(q, k, v, causal, lengths)
    close(ours, exact)
