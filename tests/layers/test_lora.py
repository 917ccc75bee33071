"""Adapters: nothing when absent, exact when merged, and rows of a batch that do not know of each other."""

from __future__ import annotations

import threading

import pytest
import torch
from myna.kernels.float_linear import HalfLinear, PackedLinear, packs
from myna.kernels.int8 import Int8Linear, int8_engine
from myna.layers.convnext import ConvNeXtBlock, Pointwise
from myna.layers.lora import (
    Bank,
    LoRALinear,
    LoRAOptions,
    LoRAWeights,
    adapted,
    attach,
    detach,
    load_weights,
    weights_of,
)
from myna.layers.transformer import Transformer, TransformerConfig
from torch import nn

CONFIG = TransformerConfig(width=32, depth=2, n_heads=4, n_kv_heads=2, hidden=48, context=32)
TARGETS = ("*.attention.qkv", "*.feed_forward.*")


def model(seed: int = 0) -> Transformer:
    torch.manual_seed(seed)
    return Transformer(CONFIG).eval()


def trained(net: nn.Module, seed: int, rank: int = 4, targets: tuple[str, ...] = TARGETS) -> LoRAWeights:
    """An adapter that does something."""
    layers = attach(net, LoRAOptions(rank, targets=targets))
    torch.manual_seed(seed)
    for layer in layers.values():
        nn.init.normal_(layer.up, 0, 0.3)
    weights = weights_of(layers)
    detach(net)
    return weights


def test_a_new_adapter_is_nothing_and_only_it_learns():
    net, x = model(), torch.randn(2, 32, 7)
    net.requires_grad_(False)  # attention is computed otherwise where it learns
    before = net(x)
    layers = attach(net, LoRAOptions(4, targets=TARGETS))
    assert set(layers) == {
        f"blocks.{i}.{name}"
        for i in (0, 1)
        for name in ("attention.qkv", "feed_forward.gate_up", "feed_forward.out")
    }
    with torch.no_grad():
        assert torch.equal(net(x), before)
    assert {n.rsplit(".", 1)[1] for n, p in net.named_parameters() if p.requires_grad} == {"down", "up"}
    net(x).square().sum().backward()
    assert all(layer.up.grad is not None and layer.up.grad.abs().sum() > 0 for layer in layers.values())
    detach(net)
    assert not any(isinstance(part, LoRALinear) for part in net.modules())
    assert torch.equal(net(x), before)


@torch.no_grad()
def test_merged_it_says_the_same_and_unmerged_it_is_what_it_was():
    torch.manual_seed(0)
    base = nn.Linear(24, 16)
    kept, x = base.weight.detach().clone(), torch.randn(5, 24)
    layer = LoRALinear(base, torch.randn(4, 24), torch.randn(16, 4), 0.7)
    beside = layer(x)
    expected = base(x) + 0.7 * x @ layer.down.T @ layer.up.T
    torch.testing.assert_close(beside, expected)
    for _ in range(3):
        layer.merge()
        layer.merge()  # once is enough
        torch.testing.assert_close(layer(x), beside, rtol=1e-5, atol=1e-5)
        layer.unmerge()
        assert torch.equal(base.weight, kept)
    assert torch.equal(layer(x), beside)


def test_dropout_is_for_learning_only():
    layer = LoRALinear(nn.Linear(24, 16), torch.randn(4, 24), torch.randn(16, 4), 1.0, dropout=0.5)
    x = torch.randn(5, 24)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


def _bases() -> list[tuple[str, nn.Module]]:
    torch.manual_seed(1)
    weight, bias = torch.randn(48, 96).half().float(), torch.randn(48)
    plain = nn.Linear(96, 48)
    plain.weight, plain.bias = nn.Parameter(weight), nn.Parameter(bias)
    found: list[tuple[str, nn.Module]] = [("plain", plain)]
    if packs(weight):
        found.append(("packed", PackedLinear(weight, bias)))
    if (engine := int8_engine()) is not None:
        found.append(("int8", Int8Linear(weight, bias, engine)))
    if "fbgemm" in torch.backends.quantized.supported_engines:
        found.append(("half", HalfLinear(weight, bias)))
    return found


@pytest.mark.parametrize(
    ("name", "base"), _bases(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_kind_of_layer_takes_one_beside(name, base):
    x, down, up = torch.randn(3, 96), torch.randn(8, 96), torch.randn(48, 8)
    layer = LoRALinear(base, down, up, 0.5)
    torch.testing.assert_close(layer(x) - base(x), 0.5 * x @ down.T @ up.T, rtol=1e-4, atol=1e-3)
    if name != "plain":
        with pytest.raises(TypeError, match="before it is packed"):
            layer.merge()


@torch.no_grad()
def test_a_view_speaks_with_it_and_the_model_without():
    net, x = model(), torch.randn(2, 32, 7)
    plain = net(x)
    weights = trained(net, 1)
    view = adapted(net, weights)
    assert torch.equal(net(x), plain)
    layers = attach(net, LoRAOptions(4, targets=TARGETS))
    load_weights(layers, weights)
    torch.testing.assert_close(view(x), net(x), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(view(x), plain, atol=1e-2)
    detach(net)
    shared = {id(p) for p in net.parameters()} & {id(p) for p in view.parameters()}
    assert len(shared) > 5  # norms, and the layers without an adapter


@torch.no_grad()
def test_a_convolutional_net_takes_one_too():
    torch.manual_seed(0)
    net = nn.Sequential(ConvNeXtBlock(16, 32), Pointwise(16, 8)).eval()
    x = torch.randn(2, 16, 9)
    plain = net(x)
    view = adapted(net, trained(net, 1, targets=("*.expand", "*.contract", "*.linear")))
    torch.testing.assert_close(net(x), plain)  # frozen, its convolution is computed in another order
    assert not torch.allclose(view(x), plain, atol=1e-2)


def test_what_does_not_fit_is_refused():
    net = model()
    with pytest.raises(ValueError, match="no linear layer is named"):
        attach(net, LoRAOptions(targets=("*.nobody",)))
    with pytest.raises(ValueError, match="rank is 1 to 16"):
        LoRAOptions(rank=17)
    weights = trained(net, 1)
    other = Transformer(TransformerConfig(width=16, depth=2, n_heads=2, n_kv_heads=1, hidden=24))
    with pytest.raises(ValueError, match="has not"):
        adapted(other, weights)
    with pytest.raises(ValueError, match="has not"):
        Bank(other).join(weights)
    with pytest.raises(ValueError, match="one rank"):
        LoRAWeights({"a": torch.zeros(2, 3)}, {"a": torch.zeros(3, 4)}, 1.0)


@torch.no_grad()
def test_rows_of_a_batch_have_adapters_of_their_own_and_say_what_each_says_alone():
    net = model()
    each = [trained(net, 1, rank=4), None, trained(net, 2, rank=16), trained(net, 3, rank=8)]
    bank = Bank(net)
    slots = torch.tensor([bank.join(one) for one in each])
    frames = torch.randn(6, 4, 32)

    def say(rows: list[int], with_slots: bool = True) -> torch.Tensor:
        state, out = bank.model.init_state(len(rows), frames), []
        for frame in frames[:, rows]:
            with bank.rows(slots[rows] if with_slots else 0):
                y, state = bank.model.step(frame[:, :, None], state)
            out.append(y[:, :, 0])
        return torch.stack(out)

    together = say([0, 1, 2, 3])
    for row, one in enumerate(each):
        alone = say([row])
        # Of the layers themselves the numbers are the same; of a batch's float products they are to rounding
        # (`tts.lm.row_exact` has those that are the same, tests/tts/lm/test_shared.py).
        torch.testing.assert_close(together[:, row], alone[:, 0], rtol=1e-5, atol=1e-5)
        view = net if one is None else adapted(net, one)
        state, out = view.init_state(1, frames), []
        for frame in frames[:, [row]]:
            y, state = view.step(frame[:, :, None], state)
            out.append(y[0, :, 0])
        torch.testing.assert_close(together[:, row], torch.stack(out), rtol=1e-4, atol=1e-4)
    assert torch.equal(say([1]), say([1], with_slots=False))  # nobody's adapter adds nothing


def test_what_a_bank_adds_to_a_row_is_the_same_in_any_batch():
    net = nn.Sequential(nn.Linear(320, 960))
    each = [trained(net, seed, rank=8, targets=("*",)) for seed in range(3)]
    net[0].weight.data.zero_()
    net[0].bias.data.zero_()
    bank = Bank(net)
    slots = torch.tensor([bank.join(one) for one in each])
    x = torch.randn(3, 320)
    with bank.rows(slots):
        together = bank.model(x)
    for row in range(3):
        with bank.rows(slots[row : row + 1]):
            assert torch.equal(bank.model(x[row : row + 1])[0], together[row])


def test_adapters_join_and_leave_a_bank_and_other_threads_see_none():
    net = nn.Sequential(nn.Linear(8, 8))
    one, other = trained(net, 1, targets=("*",)), trained(net, 2, targets=("*",))
    bank = Bank(net)
    first = bank.join(one)
    assert bank.join(one) == first
    second = bank.join(other)
    assert second != first
    x = torch.randn(1, 8)
    plain = net(x)
    with bank.rows(second):
        heard = []
        thread = threading.Thread(target=lambda: heard.append(bank.model(x)))
        thread.start()
        thread.join()
        assert torch.equal(heard[0], plain)
        said = bank.model(x)
    assert not torch.equal(said, plain)
    bank.leave(first)
    bank.leave(first)
    assert bank.join(other) == second
    third = bank.join(trained(net, 3, targets=("*",)))
    assert third == first  # its place was free
    with bank.rows(second):
        assert torch.equal(bank.model(x), said)
