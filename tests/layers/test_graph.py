"""Captured steps: the same as the stream, for streams that come and go, without asking the device for numbers."""

from __future__ import annotations

import pytest
import torch
from myna.layers import Chain, Conv1d, ConvTranspose1d, Residual, Snake, Stream
from myna.layers.graph import CapturedStep, StreamGraph
from myna.layers.transformer import Transformer, TransformerConfig

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
]


def decoder() -> Chain:
    torch.manual_seed(0)
    unit = Residual(Chain(Snake(4), Conv1d(4, 4, 3, dilation=2), Snake(4), Conv1d(4, 4, 1)))
    return Chain(Conv1d(6, 8, 3), ConvTranspose1d(8, 4, 4, stride=2), unit, Conv1d(4, 1, 5)).eval()


@pytest.mark.parametrize("device", DEVICES)
def test_streams_come_and_go(device):
    layer = decoder().to(device)
    x = torch.randn(3, 6, 30, device=device)
    graph = StreamGraph(Stream(layer, 3), x[..., :2])
    graph.reset(torch.ones(3, dtype=torch.bool, device=device))
    got: list[list[torch.Tensor]] = [[], [], []]
    taken = [0, 0, 0]
    for step in range(12):
        if step == 5:  # another stream takes the place of the second
            graph.reset(torch.tensor([False, True, False], device=device))
            got[1], taken[1] = [], 0
        active = [True, step % 2 == 0, step > 3]
        chunk = torch.stack([x[row, :, taken[row] : taken[row] + 2] for row in range(3)])
        y = graph.push(chunk, torch.tensor(active, device=device)).clone()
        for row in range(3):
            if active[row]:
                got[row].append(y[row])
                taken[row] += 2
    for row in range(3):
        alone = Stream(layer).push(x[row : row + 1, :, : taken[row]])
        torch.testing.assert_close(torch.cat(got[row], -1), alone[0], rtol=1e-4, atol=1e-5)


def test_a_reflected_beginning_settles():
    layer = Chain(Conv1d(2, 3, 5, pad_mode="reflect"), Conv1d(3, 1, 3))
    graph = StreamGraph(Stream(layer), torch.randn(1, 2, 1))
    assert graph.warm > 0


def test_uneven_chunks_do_not_settle():
    with pytest.raises(ValueError, match="whole frames"):
        StreamGraph(Stream(Chain(Conv1d(2, 3, 4, stride=2))), torch.randn(1, 2, 1))


def test_the_state_is_as_before_capturing():
    count = torch.zeros(1)

    def step(x: torch.Tensor) -> torch.Tensor:
        return x + count.add_(1)

    captured = CapturedStep(step, (torch.zeros(1),), [count])
    assert count.item() == 0
    assert [captured(torch.zeros(1)).item() for _ in range(2)] == [1, 2]


def test_steps_do_not_synchronise(no_synchronisation):
    """A codec's decoder and a transformer, in the steady state that a graph captures."""
    layer = decoder()
    stream, x = Stream(layer), torch.randn(1, 6, 2)
    stream.push(x)
    model = Transformer(
        TransformerConfig(width=16, depth=2, n_heads=2, n_kv_heads=1, hidden=24, context=8)
    ).eval()
    state = model.init_state(2, torch.zeros(1))
    graph = StreamGraph(Stream(layer, 2), torch.randn(2, 6, 2))
    active = torch.tensor([True, False])
    with no_synchronisation(), torch.no_grad():
        stream.push(x)
        for _ in range(10):
            _, state = model.step(torch.randn(2, 16, 1), state)
        graph.push(torch.randn(2, 6, 2), active)


@pytest.mark.parametrize(
    "ask",
    [
        torch.Tensor.item,
        torch.Tensor.tolist,
        bool,
        int,
        torch.nonzero,
        torch.where,
        lambda x: x[x > 0],
        lambda x: x[[0]],
        lambda x: x.repeat_interleave(torch.ones_like(x).long()),
        lambda x: torch.tensor([2.0]).to(x),
    ],
)
def test_a_synchronisation_would_be_found(ask, no_synchronisation):
    x = torch.ones(1)
    with no_synchronisation(), pytest.raises(AssertionError, match="waits"):
        ask(x)


def test_what_a_graph_can_hold_is_not_refused(no_synchronisation):
    x, at = torch.arange(6.0).view(2, 3), torch.tensor([1, 0])
    with no_synchronisation():
        y = torch.where(x > 2, x[at], 0.0).repeat_interleave(2, dim=0)
        y[:, 1:] = y[:, at].masked_fill(y[:, at] == 0, -1)
    assert y.tolist() == [[0, -1, -1]] * 2 + [[0, 1, -1]] * 2
