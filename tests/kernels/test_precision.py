"""What a processor is asked, what is chosen from it, and products in bfloat16 and 8 bits beside float32's."""

from __future__ import annotations

import pytest
import torch
from myna.errors import UsageError
from myna.kernels import bf16, precision
from myna.kernels.bf16 import Bf16Linear, Bf16Matrix, product_reference
from myna.kernels.conv1d import PackedMatrix, conv1d_packed, conv1d_reference, pack_conv1d
from myna.kernels.int8 import int8_engine
from myna.kernels.matrices import MATRICES, linear
from myna.kernels.precision import (
    WORKS,
    Processor,
    bf16_gain,
    check_precision,
    choose,
    chosen_here,
    processor,
)


def decibels(y: torch.Tensor, exact: torch.Tensor) -> float:
    return float(10 * torch.log10((y - exact).double().square().sum() / exact.double().square().sum()))


@pytest.fixture
def machine(monkeypatch):
    """Pretend to have a processor, on which bf16 is so many times as fast as float32."""

    def pretend(*instructions: str, gain: float = 0.0, native: bool = True, int8: bool = True) -> None:
        monkeypatch.setattr(precision, "processor", lambda: Processor("pretended", instructions))
        monkeypatch.setattr(bf16, "is_native", lambda: native)
        monkeypatch.setattr(precision, "int8_engine", lambda: "fbgemm" if int8 else None)
        times = iter([gain, 1.0] * 20)
        monkeypatch.setattr(precision, "_seconds", lambda call: (call(), next(times))[1])
        bf16_gain.cache_clear()

    yield pretend
    bf16_gain.cache_clear()


@pytest.mark.usefixtures("no_native")
def test_auto_with_matrix_units(machine):
    machine("avx2", "avx512f", "amx_bf16", gain=4.0)
    assert choose("auto", "codec decoder") == choose("auto", "speech decoder") == "bf16"
    assert choose("auto", "codec encoder") == choose("auto", "whisper") == "float32"
    assert choose("auto", "speech model") == choose("auto", "large whisper") == "int8"


@pytest.fixture
def no_native(monkeypatch):
    """Products as a processor without the instructions computes them, whatever this one has."""
    monkeypatch.setattr(bf16, "_native", lambda rows, packed: product_reference(rows, packed))
    monkeypatch.setattr(
        torch.ops.mkldnn, "_reorder_linear_weight", lambda weight, n: weight.float(), raising=False
    )


@pytest.mark.usefixtures("no_native")
@pytest.mark.parametrize(
    ("instructions", "gain", "native"),
    [
        (("avx2",), 9.0, True),  # no instructions: it is not even measured
        (("avx512_bf16",), 1.2, True),  # they are there and do not pay
        (("amx_bf16",), 9.0, False),  # oneDNN does not use them
    ],
)
def test_auto_is_never_slower(machine, instructions, gain, native):
    machine(*instructions, gain=gain, native=native)
    assert choose("auto", "codec decoder") == "float32"
    assert choose("bf16", "codec decoder") == "bf16"  # the user's choice all the same


def test_auto_without_8_bits(machine):
    machine("avx2", int8=False)
    assert choose("auto", "speech model") == choose("auto", "large whisper") == "float32"
    with pytest.raises(UsageError, match="no products in 8 bits"):
        choose("int8", "speech model")


def test_what_cannot_be():
    with pytest.raises(UsageError, match="auto, float32, bf16, int8"):
        check_precision("int4")
    for narrow in ("bf16", "int8"):
        with pytest.raises(UsageError, match="for CPUs, not for cuda"):
            check_precision(narrow, "cuda:0")
    assert choose("auto", "speech model", "cuda") == "float32"


def test_this_machine():
    assert set(chosen_here()) == set(WORKS)
    assert processor().name
    assert processor().name in str(processor())
    assert chosen_here()["codec encoder"] == "float32"


@pytest.mark.parametrize("rows", [1, 7])
def test_bf16_is_what_bfloat16_makes_of_it(rows):
    torch.manual_seed(0)
    x, weight, bias = torch.randn(rows, 96), torch.randn(40, 96), torch.randn(40)
    exact = x @ weight.t() + bias
    y = Bf16Linear(weight, bias)(x)
    torch.testing.assert_close(y, product_reference(x, weight) + bias, rtol=0.02, atol=0.02)
    assert -60 < decibels(y, exact) < -45
    torch.testing.assert_close(Bf16Linear(weight, bias, gelu=True)(x), torch.nn.functional.gelu(y))
    assert Bf16Matrix(weight.t()).product(x).dtype == torch.float32


@pytest.mark.parametrize(("kind", "worst"), [("bf16", -45), ("int8", -30)])
@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "outputs"), [(7, 1, 3, 16), (1, 1, 1, 16), (4, 2, 1, 8), (3, 1, 1, 1)]
)
def test_convolutions(kind, worst, kernel, stride, dilation, outputs):
    if kind == "int8" and int8_engine() is None:
        pytest.skip("no products in 8 bits here")
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 32, 60), torch.randn(outputs, 32, kernel), torch.randn(outputs)
    exact = conv1d_reference(x, weight, bias, stride, dilation)
    with torch.no_grad():
        packed = pack_conv1d(weight, MATRICES[kind])
        y = conv1d_packed(x, weight, packed, bias, stride, dilation)
    assert decibels(y, exact) < worst


def test_a_layer_keeps_its_own_numbers_in_float32_and_with_gradients():
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(24, 8), torch.randn(3, 5, 24)
    assert torch.equal(linear(layer, x, "bf16"), layer(x))  # gradients are on
    with torch.no_grad():
        assert torch.equal(linear(layer, x, "float32"), layer(x))
        y = linear(layer, x, "bf16")
        assert y.shape == (3, 5, 8)
        assert -65 < decibels(y, layer(x)) < -40
        layer.weight.mul_(2)  # what was packed before does not count any more
        assert decibels(linear(layer, x, "bf16"), layer(x)) < -40
    assert isinstance(MATRICES["float32"](torch.eye(3)), PackedMatrix)
