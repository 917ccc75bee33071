"""Fused steps beside the models that they are made of, small and with random weights."""

import pytest
import torch
from myna.codec.dac import DAC, DACConfig
from myna.codec.dac_fused import FusedDACDecoder
from myna.codec.myna import MynaCodec, MynaConfig
from myna.codec.myna_fused import FusedMynaDecoder
from myna.layers import Stream
from myna.layers.transformer import Transformer, TransformerConfig
from myna.layers.transformer_fused import FusedTransformer


def shaken(module: torch.nn.Module, by: float) -> torch.nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * by)
    return module.eval().requires_grad_(False)


@pytest.fixture(params=[0, 2], ids=["", "waiting"])
def codec(device: str, request) -> MynaCodec:
    torch.manual_seed(0)
    config = MynaConfig(
        hop=20, width=24, latent_width=32, encoder_depth=(1, 1), decoder_depth=(1, 1), latent_dim=8, codebook_size=16,
        n_codebooks=3, look_ahead=request.param,
    )  # fmt: skip
    return shaken(MynaCodec(config), 0.2).to(device)


@pytest.mark.parametrize("frames", [1, 2])
def test_the_house_decoder(codec, frames, device):
    codes = torch.randint(0, 16, (2, 3, 4), device=device)
    fused, stream = FusedMynaDecoder(codec, 2, frames), Stream(codec.decoder, 2)
    for chunk in codes.split(frames, dim=-1):
        truth = stream.push(codec.quantizer.decode(chunk))
        torch.testing.assert_close(fused.step(chunk), truth, rtol=1e-4, atol=1e-5)


def test_fewer_codebooks_and_streams_that_pause_or_begin_anew(codec, device):
    codes = torch.randint(0, 16, (2, 2, 4), device=device)
    fused = FusedMynaDecoder(codec, 2)
    first = fused.step(codes[..., :1], torch.tensor([True, False], device=device)).clone()
    second = fused.step(
        torch.stack([codes[0, :, 1:2], codes[1, :, :1]]), torch.tensor([True, True], device=device)
    )
    fused.position[0] = 0
    third = fused.step(
        torch.stack([codes[0, :, :1], codes[1, :, 1:2]]), torch.tensor([True, True], device=device)
    )
    alone = [Stream(codec.decoder), Stream(codec.decoder)]
    wav = [
        [s.push(codec.quantizer.decode(codes[r : r + 1, :, t : t + 1])) for t in range(2)]
        for r, s in enumerate(alone)
    ]
    for got, truth in ((first[:1], wav[0][0]), (second[:1], wav[0][1]), (second[1:], wav[1][0])):
        torch.testing.assert_close(got, truth, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(third[:1], first[:1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(third[1:], wav[1][1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("widest", [0, 16])
def test_dac(widest, device):
    """Strides even and odd; units in one launch and in two."""
    torch.manual_seed(1)
    config = DACConfig(
        encoder_dim=8, encoder_rates=(2, 3), decoder_dim=32, decoder_rates=(3, 2), latent_dim=12, n_codebooks=2,
        codebook_size=16,
    )  # fmt: skip
    codec = shaken(DAC(config), 0.05).to(device)
    latents = torch.randn(2, 12, 6, device=device)
    fused = FusedDACDecoder(codec, torch.float32, widest)
    torch.testing.assert_close(fused(latents), codec.decoder(latents), rtol=1e-4, atol=1e-5)


def test_a_transformer_goes_on_from_a_prefill_beyond_its_context(device):
    torch.manual_seed(2)
    model = Transformer(TransformerConfig(width=40, depth=2, n_heads=4, n_kv_heads=2, hidden=48, context=7))
    model = model.eval().requires_grad_(False).to(device)
    x = torch.randn(2, 40, 12, device=device)
    _, state = model.step(x[..., :3], model.init_state(2, x))
    fused = FusedTransformer(model, 2)
    fused.load(state)
    for t in range(3, 12):
        y, state = model.step(x[..., t : t + 1], state)
        torch.testing.assert_close(fused.step(x[..., t]), y[..., 0], rtol=1e-4, atol=1e-5)
    assert torch.equal(fused.position, state[0])
