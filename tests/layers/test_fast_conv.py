"""The matrix-product convolutions against PyTorch's, alone and inside the layers that use them."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from myna.codec.dac import DACConfig, dac_decoder, dac_encoder
from myna.codec.seanet import SEANetConfig, seanet_decoder, seanet_encoder
from myna.kernels.conv1d import (
    PackedMatrix,
    conv1d_packed,
    conv1d_reference,
    conv_transpose1d_packed,
    conv_transpose1d_reference,
    pack_conv1d,
    pack_conv_transpose1d,
    supports,
)
from myna.layers import Conv1d, ConvTranspose1d, Stream
from myna.layers.lstm import LSTM
from torch import nn


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("outputs", [1, 6, 48])
@pytest.mark.parametrize(("channels", "frames"), [(1, 40), (5, 31), (12, 1), (64, 6000)])
@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"),
    [(1, 1, 1), (7, 1, 1), (7, 1, 9), (4, 2, 1), (10, 5, 1), (5, 2, 1), (3, 2, 3)],
)
@pytest.mark.parametrize("bias", [True, False])
def test_conv1d(batch, channels, outputs, frames, kernel, stride, dilation, bias):
    torch.manual_seed(0)
    x = torch.randn(batch, channels, frames + (kernel - 1) * dilation)
    w = torch.randn(outputs, channels, kernel) / (channels * kernel) ** 0.5
    b = torch.randn(outputs) if bias else None
    with torch.no_grad():
        y = conv1d_packed(x, w, pack_conv1d(w), b, stride, dilation)
    assert y.transpose(1, 2).is_contiguous()
    torch.testing.assert_close(y, conv1d_reference(x, w, b, stride, dilation), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("frames", [1, 2, 50])
@pytest.mark.parametrize(("kernel", "stride"), [(4, 2), (10, 5), (3, 3), (6, 2), (1, 1)])
def test_conv_transpose1d(batch, frames, kernel, stride):
    torch.manual_seed(0)
    x, w = torch.randn(batch, 12, frames), torch.randn(12, 5, kernel)
    with torch.no_grad():
        y = conv_transpose1d_packed(x, pack_conv_transpose1d(w), kernel, stride)
    torch.testing.assert_close(y, conv_transpose1d_reference(x, w, stride), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 2, 7, 300])
@pytest.mark.parametrize("size", [(3, 5), (96, 48), (512, 300)])
def test_packed_matrices(rows: int, size: tuple[int, int]):
    torch.manual_seed(0)
    x, matrix, bias = torch.randn(rows, size[0]), torch.randn(size) / size[0] ** 0.5, torch.randn(size[1])
    product = PackedMatrix(matrix).product
    with torch.no_grad():
        torch.testing.assert_close(product(x), x @ matrix, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(product(x, bias), x @ matrix + bias, rtol=1e-5, atol=1e-5)


def test_not_used_where_it_does_not_apply():
    x, w = torch.randn(1, 2, 9), torch.randn(3, 2, 3)
    assert not supports(x, w)  # gradients are on
    with torch.no_grad():
        assert supports(x, w)
        assert not supports(x.double(), w.double())
        assert not supports(x.to(torch.bfloat16), w.to(torch.bfloat16))
    with torch.inference_mode():
        assert supports(x, w)
        assert not supports(x, torch.randn(3, 2, 3))  # it would not say when it changes


@pytest.mark.parametrize("layer", [Conv1d(3, 4, 3), ConvTranspose1d(3, 4, 4, 2)], ids=["conv", "transpose"])
def test_changed_weights_are_noticed(layer: nn.Module):
    """In place, by an optimiser, by load_state_dict, or replaced."""
    x = torch.randn(1, 3, 20)

    def check():
        expected = layer(x)  # with gradients: PyTorch's convolution
        with torch.no_grad():
            torch.testing.assert_close(layer(x), expected.detach(), rtol=1e-5, atol=1e-5)

    check()
    with torch.no_grad():
        layer.weight.mul_(2)
    check()
    layer(x).square().sum().backward()
    torch.optim.SGD(layer.parameters(), 0.1).step()
    check()
    layer.load_state_dict({key: value + 1 for key, value in layer.state_dict().items()})
    check()
    layer.weight = nn.Parameter(torch.randn_like(layer.weight))
    check()
    with torch.inference_mode():
        layer.weight.mul_(2)
    check()


def test_what_is_packed_is_not_part_of_a_layer(tmp_path):
    layer, x = Conv1d(3, 4, 3), torch.randn(1, 3, 20)
    with torch.no_grad():
        expected = layer(x)
        for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            torch.testing.assert_close(other(x), expected)
            other.weight.zero_()
            torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("frames", [1, 2, 24, 25, 60])
def test_lstm_of_few_frames_is_the_same(frames: int):
    torch.manual_seed(0)
    layer, x = LSTM(16, 2), torch.randn(1, 16, 60)
    with torch.no_grad():
        whole = layer.lstm(x.permute(2, 0, 1))[0].permute(1, 2, 0) + x
        state, out = layer.init_state(1, x), []
        for start in range(0, 60, frames):
            y, state = layer.step(x[..., start : start + frames], state)
            out.append(y)
    torch.testing.assert_close(torch.cat(out, -1), whole, rtol=1e-5, atol=1e-6)


SEANET = SEANetConfig(dimension=8, n_filters=4, ratios=(3, 2), n_lstm=1)
DAC = DACConfig(encoder_dim=8, encoder_rates=(2, 5), latent_dim=8, decoder_dim=16, decoder_rates=(5, 2))


@pytest.mark.parametrize("build", [seanet_encoder, seanet_decoder, dac_encoder, dac_decoder])
@pytest.mark.parametrize("batch", [1, 2])
def test_streams_in_float32_equal_offline_in_float64(build, batch: int):
    torch.manual_seed(0)
    layer = build(SEANET if "seanet" in build.__name__ else DAC).eval()
    channels = 1 if "encoder" in build.__name__ else 8
    x = torch.randn(batch, channels, 300)
    stream, out = Stream(layer, batch), []
    for start, end in ((0, 1), (1, 6), (6, 30), (30, 31), (31, 131), (131, 300)):
        out.append(stream.push(x[..., start:end]))
    y = torch.cat([*out, stream.flush()], -1)
    expected = layer.double()(x.double()).float()
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
