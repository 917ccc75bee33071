"""The Streamable contract, over every layer that streams: cuts, the past, forks, saving, resets, delays."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from myna.codec.dac import DACConfig, dac_decoder, dac_encoder
from myna.codec.myna import MynaConfig, build_decoder, build_encoder
from myna.codec.seanet import SEANetConfig, seanet_decoder, seanet_encoder
from myna.layers import Chain, Conv1d, ConvTranspose1d, Residual, Snake, Stream, Streamable
from myna.layers.convnext import ConvNeXtBlock
from myna.layers.lstm import LSTM
from myna.layers.norm import Trim
from myna.layers.spectral import Frames, OverlapAdd
from myna.layers.transformer import Transformer, TransformerConfig
from torch import Tensor, nn

SEANET = SEANetConfig(dimension=4, n_filters=2, ratios=(3, 2), n_lstm=1, dilation_base=3, n_residual_layers=2)
CENTRED = SEANetConfig(dimension=4, n_filters=2, ratios=(3, 2), n_lstm=1, causal=False)
DAC = DACConfig(encoder_dim=2, encoder_rates=(2, 5), latent_dim=4, decoder_dim=8, decoder_rates=(5, 2))
MYNA = MynaConfig(hop=8, width=8, latent_width=12, encoder_depth=(1, 1), decoder_depth=(1, 1), latent_dim=4)

LAYERS: dict[str, tuple[int, Callable[[], Streamable]]] = {
    "lstm": (3, lambda: LSTM(3, 2)),
    "lstm-no-skip": (2, lambda: LSTM(2, 1, skip=False)),
    "trim": (2, lambda: Trim(3, 2)),
    "residual-centred": (3, lambda: Residual(Chain(Snake(3), Conv1d(3, 3, 7, dilation=3, padding=9)))),
    "residual-skip": (3, lambda: Residual(Conv1d(3, 3, 3), skip=nn.Conv1d(3, 3, 1))),
    "chain-of-one": (2, lambda: Chain(Conv1d(2, 2, 3, padding="centred"))),
    "chain-of-memoryless": (2, lambda: Chain(nn.ELU(), Snake(2))),
    "chain-down-up": (2, lambda: Chain(Conv1d(2, 3, 6, 3), nn.ELU(), ConvTranspose1d(3, 2, 6, 3))),
    "convnext": (4, lambda: ConvNeXtBlock(4, 8, 7)),
    "frames": (1, lambda: Frames(6, 2)),
    "overlap-add": (6, lambda: OverlapAdd(6, 2)),
    "seanet-encoder": (1, lambda: seanet_encoder(SEANET)),
    "seanet-decoder": (4, lambda: seanet_decoder(SEANET)),
    "seanet-centred-encoder": (1, lambda: seanet_encoder(CENTRED)),
    "seanet-centred-decoder": (4, lambda: seanet_decoder(CENTRED)),
    "dac-encoder": (1, lambda: dac_encoder(DAC)),
    "dac-decoder": (4, lambda: dac_decoder(DAC)),
    "myna-encoder": (1, lambda: build_encoder(MYNA)),
    "transformer": (8, lambda: Transformer(TransformerConfig(8, 2, 2, 1, 12, context=9))),
    "myna-decoder": (4, lambda: build_decoder(MYNA)),
}
for _kernel, _stride, _dilation in [
    (1, 1, 1), (2, 1, 1), (3, 1, 2), (7, 1, 1), (7, 1, 9), (3, 3, 1), (4, 2, 1), (5, 2, 3),
    (10, 5, 1), (16, 8, 1),
]:  # fmt: skip
    for _padding, _fill in (("causal", True), ("centred", True), (1, False), (_kernel // 2, True)):
        for _mode in ("constant", "reflect"):
            if isinstance(_padding, int) and _padding >= _kernel:
                continue
            LAYERS[
                f"conv-k{_kernel}-s{_stride}-d{_dilation}-{_padding}-{_mode}{'-fill' if _fill else ''}"
            ] = (
                2,
                lambda k=_kernel, s=_stride, d=_dilation, p=_padding, m=_mode, f=_fill: Conv1d(
                    2, 3, k, s, d, padding=p, pad_mode=m, fill=f
                ),
            )
    for _padding in ("causal", "centred", 0, (_stride + 1) // 2):
        if _dilation == 1 and (isinstance(_padding, str) or _padding <= _kernel - _stride):
            LAYERS[f"transpose-k{_kernel}-s{_stride}-{_padding}"] = (
                2,
                lambda k=_kernel, s=_stride, p=_padding: ConvTranspose1d(2, 3, k, s, padding=p),
            )
LAYERS["conv-groups"] = (4, lambda: Conv1d(4, 4, 3, groups=4))
LAYERS["conv-no-bias"] = (2, lambda: Conv1d(2, 2, 3, bias=False))
LAYERS["transpose-groups"] = (4, lambda: ConvTranspose1d(4, 4, 4, 2, groups=2))

every_layer = pytest.mark.parametrize("name", LAYERS)


def build(name: str) -> tuple[int, Streamable]:
    """Input channels and the layer, its weights (biases too) random but the same each time."""
    torch.manual_seed(zlib.crc32(name.encode()))
    channels, make = LAYERS[name]
    layer = make().eval()
    if not name.startswith("myna"):  # its transforms compute in float32, the dtype that all of it then has
        layer = layer.double()
    for parameter in layer.parameters():
        if parameter.ndim == 1:
            nn.init.uniform_(parameter, -0.5, 0.5)
    return channels, layer


def signal(layer: Streamable, channels: int, n: int, batch: int = 2, seed: int = 1) -> Tensor:
    dtype = next((p.dtype for p in layer.parameters()), torch.float64)
    x = torch.randn(batch, channels, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return x.to(dtype)


def cut(x: Tensor, cuts: list[int]) -> list[Tensor]:
    edges = [0, *sorted(cuts), x.shape[-1]]
    return [x[..., a:b] for a, b in itertools.pairwise(edges)]


def assert_same(name: str, a: Tensor, b: Tensor) -> None:
    tolerance = 1e-5 if a.dtype == torch.float32 else 1e-10
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@every_layer
@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(n=st.integers(1, 75), data=st.data())
def test_any_cut_equals_offline(name: str, n: int, data: st.DataObject):
    channels, layer = build(name)
    if isinstance(layer, Conv1d) and n + layer.left + layer.right < layer.span and not layer.fill:
        n = layer.span
    x = signal(layer, channels, n)
    pieces = cut(x, data.draw(st.lists(st.integers(0, n), max_size=12)))
    stream = Stream(layer, batch=2)
    out = [stream.push(piece) for piece in pieces]
    with torch.no_grad():
        assert_same(name, torch.cat([*out, stream.flush()], -1), layer(x))


@every_layer
def test_one_frame_at_a_time_equals_offline(name: str):
    channels, layer = build(name)
    x = signal(layer, channels, 60)
    stream = Stream(layer, batch=2)
    out = [stream.push(x[..., t : t + 1]) for t in range(60)]
    with torch.no_grad():
        assert_same(name, torch.cat([*out, stream.flush()], -1), layer(x))


@every_layer
def test_the_last_chunk_may_come_with_the_flush(name: str):
    channels, layer = build(name)
    x = signal(layer, channels, 50)
    stream = Stream(layer, batch=2)
    out = [stream.push(x[..., :33]), stream.flush(x[..., 33:])]
    with torch.no_grad():
        assert_same(name, torch.cat(out, -1), layer(x))
    with pytest.raises(ValueError, match="flushed"):
        stream.push(x)


@every_layer
def test_the_future_never_changes_the_past(name: str):
    """Output frames that the declared delay says are certain at t are blind to x[t:]."""
    channels, layer = build(name)
    x = signal(layer, channels, 240)
    for t in (150, 151, 157, 180):
        changed = torch.cat([x[..., :t], 10 * signal(layer, channels, 240 - t, seed=7)], -1)
        with torch.no_grad():
            y, z = layer(x), layer(changed)
        n = max((n for n in range(y.shape[-1] + 1) if layer.needed(n) <= t), default=0)
        assert n > 0
        assert_same(name, y[..., :n], z[..., :n])
        assert not torch.equal(y, z)


@every_layer
def test_measured_delay_is_the_declared_one(name: str):
    """The wait for output frame n, beyond the inputs that it covers, at worst, once the stream runs."""
    channels, layer = build(name)
    x, stream, emitted, arrival = signal(layer, channels, 400, batch=1), Stream(layer, batch=1), 0, {}
    for t in range(400):
        for _ in range(stream.push(x[..., t : t + 1]).shape[-1]):
            emitted += 1
            arrival[emitted] = t + 1
    steady = [n for n in arrival if arrival[n] >= 150]
    measured = max(arrival[n] - -(-n // Fraction(layer.rate)) for n in steady)
    assert max(0, measured) == layer.delay
    assert all(arrival[n] == layer.needed(n) for n in steady)


@every_layer
def test_forks_are_independent(name: str):
    channels, layer = build(name)
    x, other = signal(layer, channels, 64), signal(layer, channels, 40, seed=2)
    stream = Stream(layer, batch=2)
    head = stream.push(x[..., :37])
    fork = stream.fork()
    fork_out = torch.cat([head, fork.push(other), fork.flush()], -1)
    out = torch.cat([head, stream.push(x[..., 37:]), stream.flush()], -1)
    with torch.no_grad():
        assert_same(name, out, layer(x))
        assert_same(name, fork_out, layer(torch.cat([x[..., :37], other], -1)))


@every_layer
@pytest.mark.parametrize("at", [0, 2, 31])
def test_a_saved_stream_continues(name: str, at: int, tmp_path):
    channels, layer = build(name)
    x = signal(layer, channels, 64, batch=3)
    stream = Stream(layer, batch=3)
    head = stream.push(x[..., :at])
    stream.save(tmp_path / "state.safetensors")
    again = Stream.load(layer, tmp_path / "state.safetensors")
    out = torch.cat([head, again.push(x[..., at:]), again.flush()], -1)
    with torch.no_grad():
        assert_same(name, out, layer(x))


@every_layer
def test_a_saved_stream_may_end_at_once(name: str, tmp_path):
    channels, layer = build(name)
    x = signal(layer, channels, 40)
    stream = Stream(layer, batch=2)
    head = stream.push(x)
    stream.save(tmp_path / "state.safetensors")
    tail = Stream.load(layer, tmp_path / "state.safetensors").flush()
    with torch.no_grad():
        assert_same(name, torch.cat([head, tail], -1), layer(x))


@every_layer
def test_reset_rows_start_anew_and_the_others_go_on(name: str):
    channels, layer = build(name)
    x, fresh = (
        signal(layer, channels, 240, batch=3),
        signal(layer, channels, 90, batch=3, seed=5),
    )  # 240: whole strides
    stream = Stream(layer, batch=3)
    rows = torch.tensor([False, True, False])
    head = stream.push(x)
    if not layer.resettable:
        with pytest.raises(ValueError, match="restarted"):
            stream.reset(rows)
        return
    stream.reset(rows)
    tail = torch.cat([stream.push(fresh), stream.flush()], -1)
    with torch.no_grad():
        whole, anew = layer(torch.cat([x, fresh], -1)), layer(fresh)
    assert_same(name, tail[rows], anew[rows])
    assert_same(name, torch.cat([head, tail], -1)[~rows], whole[~rows])


def test_resetting_within_a_stride_is_refused():
    stream = Stream(Conv1d(1, 1, 4, 2), batch=2)
    stream.push(torch.randn(2, 1, 3))
    with pytest.raises(ValueError, match="between whole frames"):
        stream.reset(torch.tensor([True, False]))


def test_rates_and_resettable_of_the_models():
    assert seanet_encoder(SEANET).rate == Fraction(1, 6)
    assert seanet_decoder(SEANET).rate == 6
    assert seanet_encoder(SEANET).delay == 0
    assert not seanet_encoder(SEANET).resettable  # its beginning is reflected
    assert build_encoder(MYNA).resettable
    assert not dac_encoder(DAC).resettable


def test_paddings_that_cannot_stream_are_refused():
    with pytest.raises(ValueError, match="padding 3"):
        Conv1d(1, 1, 3, padding=3)
    with pytest.raises(ValueError, match="padding 2"):
        ConvTranspose1d(1, 1, 4, 3, padding=2)
    with pytest.raises(ValueError, match="stride"):
        Conv1d(1, 1, 2, stride=3)
    with pytest.raises(ValueError, match="gaps"):
        ConvTranspose1d(1, 1, 2, stride=3)


def test_a_residual_that_changes_the_rate_is_refused():
    with pytest.raises(ValueError, match="frame rate"):
        Residual(Conv1d(1, 1, 4, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_state_keeps_dtype_and_shape_in_the_steady_state(dtype: torch.dtype):
    """Aligned chunks give constant shapes, so that a CUDA graph can hold the step."""
    layer = build_encoder(MYNA).to(dtype) if dtype == torch.float32 else dac_encoder(DAC).to(dtype)
    x = torch.randn(1, 1, 400, dtype=dtype)
    state, shapes = layer.init_state(1, like=x), []
    with torch.no_grad():
        for t in range(0, 400, 80):
            y, state = layer.step(x[..., t : t + 80], state)
            assert y.dtype == dtype
            shapes.append([tuple(tensor.shape) for tensor in _tensors(state)])
    assert shapes[-1] == shapes[-2] == shapes[-3]


def _tensors(state) -> list[Tensor]:
    if isinstance(state, Tensor):
        return [state]
    return [tensor for branch in state for tensor in _tensors(branch)] if isinstance(state, tuple) else []


class _Sums(NamedTuple):
    total: torch.Tensor  # (B, 1)
    seen: torch.Tensor  # (B,)


class _RunningSum(Streamable):
    """Its memory has names."""

    def init_state(self, batch, like):
        return _Sums(like.new_zeros(batch, 1), torch.zeros(batch, dtype=torch.long)), None

    def step(self, x, state, final=False):
        sums, _ = state
        y = x.cumsum(-1) + sums.total[..., None]
        following = _Sums(sums.total + x.sum(-1), sums.seen + x.shape[-1])
        return y, (following, None)


def test_states_keep_their_names(tmp_path):
    x = torch.randn(2, 1, 9)
    stream = Stream(_RunningSum(), 2)
    stream.push(x[..., :4])
    fork = stream.fork()
    stream.save(tmp_path / "state.safetensors")
    loaded = Stream.load(_RunningSum(), tmp_path / "state.safetensors")
    for one in (fork, loaded):
        assert isinstance(one.state[0], _Sums)
        assert one.state[0].seen.tolist() == [4, 4]
        torch.testing.assert_close(one.push(x[..., 4:]), _RunningSum()(x)[..., 4:])
    fork.reset(torch.tensor([True, False]))
    assert fork.state[0].seen.tolist() == [0, 9]
