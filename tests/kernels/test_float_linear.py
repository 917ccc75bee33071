"""Matrices in other orders and widths give float32's products."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from myna.asr.model.inference import for_inference
from myna.asr.model.whisper import Whisper, WhisperDims
from myna.kernels.float_linear import HalfLinear, PackedLinear, fits_half, packs


def in_half(*shape: int, scale: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return (scale * torch.randn(*shape, generator=generator)).half().float()


@pytest.mark.parametrize("rows", [(1,), (5, 1), (2, 70)])
@pytest.mark.parametrize("bias", [False, True])
@torch.no_grad()
def test_products_are_those_of_float32(rows, bias):
    weight, x = in_half(96, 64), torch.randn(*rows, 64, generator=torch.Generator().manual_seed(0))
    added = in_half(96) if bias else None
    expected = F.linear(x, weight, added)
    layers = [PackedLinear(weight, added)] if packs(weight) else []
    layers += [HalfLinear(weight, added)] if fits_half(weight) else []
    for layer in layers:
        torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)
    if packs(weight):
        fused = PackedLinear(weight, added, gelu=True)
        torch.testing.assert_close(fused(x), F.gelu(expected), atol=2e-5, rtol=1e-5)


def test_sixteen_bits_are_for_weights_that_lose_nothing():
    assert not fits_half(torch.full((2, 2), 0.1))
    assert not fits_half(torch.full((2, 2), 1e5))
    if fits_half(in_half(4, 4)):  # where torch has such products: numbers below the smallest normal one, too
        tiny, x = in_half(8, 16, scale=1e-6), 1000 * torch.ones(1, 16)
        assert fits_half(tiny)
        torch.testing.assert_close(HalfLinear(tiny, None)(x), F.linear(x, tiny), atol=1e-7, rtol=1e-4)


@torch.inference_mode()
def test_a_model_in_half_precision_decodes_the_same():
    torch.manual_seed(1)
    model = Whisper(WhisperDims(80, 50, 32, 2, 1, 120, 70, 32, 2, 2))
    for parameter in model.parameters():
        parameter.data = parameter.data.half().float()
    ready, mel, said = for_inference(model), torch.randn(2, 80, 100), torch.tensor([[3, 5, 8], [1, 2, 3]])
    features = model.encode(mel)
    torch.testing.assert_close(ready.encode(mel), features, atol=1e-5, rtol=1e-4)
    expected = model.all_logits(said, model.init_state(features))
    torch.testing.assert_close(
        ready.all_logits(said, ready.init_state(features)), expected, atol=1e-5, rtol=1e-4
    )
