"""Steps captured once they have settled: the samples are those of the stream, whatever comes and goes.

On a CPU the steps that a GPU captures run as they are, over the state that is held."""

from __future__ import annotations

import gc
import warnings
import weakref

import pytest
import torch
from myna.layers import Chain, Conv1d, ConvTranspose1d, Residual, Snake, Stream, steady
from myna.layers.steady import HeldStep, SteadyStream

CUTS = (2, 2, 2, 3, 0, 2, 2, 2, 3, 3, 1, 2, 2)


def decoder(**more) -> Chain:
    torch.manual_seed(0)
    unit = Residual(Chain(Snake(4), Conv1d(4, 4, 3, dilation=2, **more), Snake(4), Conv1d(4, 4, 1)))
    return Chain(Conv1d(6, 8, 3), ConvTranspose1d(8, 4, 4, stride=2), unit, Conv1d(4, 1, 5)).eval()


def fed(stream: Stream, x: torch.Tensor, cuts=CUTS) -> torch.Tensor:
    parts = x[..., : sum(cuts)].split(list(cuts), dim=-1)
    return torch.cat([*(stream.push(part).clone() for part in parts), stream.flush()], dim=-1)


@pytest.mark.parametrize("more", [{}, {"padding": 2}, {"pad_mode": "reflect"}])
def test_chunks_of_any_length(steadily, more):
    """Also of layers that look ahead, or reflect their beginning."""
    layer, x = decoder(**more), torch.randn(2, 6, 40)
    assert torch.equal(fed(SteadyStream(layer, 2), x), fed(Stream(layer, 2), x))
    assert steadily.count(2) > 2
    assert steadily.count(3) > 0
    assert steadily.count(1) == 0  # came once


def test_nothing_is_captured_on_a_cpu(monkeypatch):
    monkeypatch.setattr(steady, "AFTER", 1)
    layer, x = decoder(), torch.randn(1, 6, 40)
    stream = SteadyStream(layer)
    assert torch.equal(fed(stream, x), fed(Stream(layer), x))
    assert stream._steps._held is None


def test_rows_begin_anew(steadily):
    layer, x = decoder(), torch.randn(2, 6, 40)
    ours, theirs = SteadyStream(layer, 2), Stream(layer, 2)
    for step, part in enumerate(x.split(2, dim=-1)):
        if step in (7, 12):
            for stream in (ours, theirs):
                stream.reset(torch.tensor([step == 7, True]))
        assert torch.equal(ours.push(part), theirs.push(part))
    assert steadily.count(2) > 12


def test_forks_and_saved_streams_go_on_alone(steadily, tmp_path):
    layer, x = decoder(), torch.randn(1, 6, 40)
    stream = SteadyStream(layer)
    for part in x[..., :12].split(2, dim=-1):
        stream.push(part)
    stream.save(tmp_path / "state.safetensors")
    fork, loaded = stream.fork(), SteadyStream.load(layer, tmp_path / "state.safetensors")
    plain = Stream(layer)
    plain.push(x[..., :12])
    for part in x[..., 12:].split(2, dim=-1):
        stream.push(-part)
    expected = fed(plain, x[..., 12:])
    for other in (fork, loaded):
        assert torch.equal(fed(other, x[..., 12:]), expected)


def test_streams_side_by_side_have_steps_of_their_own(steadily):
    layer, x = decoder(), torch.randn(3, 1, 6, 40)
    streams = [SteadyStream(layer) for _ in range(3)]
    parts: list[list[torch.Tensor]] = [[], [], []]
    for at in range(0, 40, 2):
        for stream, own, made in zip(streams, x, parts, strict=True):
            made.append(stream.push(own[..., at : at + 2]))
    for own, made in zip(x, parts, strict=True):
        assert torch.equal(torch.cat(made, -1), Stream(layer).push(own))
    held = {id(stream._steps._held) for stream in streams}
    assert len(held) == 3
    del streams, stream
    gc.collect()
    again = SteadyStream(layer)
    assert torch.equal(fed(again, x[0]), fed(Stream(layer), x[0]))
    assert id(again._steps._held) in held  # lent again


def test_a_step_does_not_read_back(steadily, no_synchronisation):
    layer, x = decoder(), torch.randn(1, 6, 2)
    stream = SteadyStream(layer)
    for _ in range(6):
        stream.push(x)
    before = steadily.count(2)
    with no_synchronisation():
        for _ in range(3):
            stream.push(x)
    assert steadily.count(2) == before + 3


def test_a_step_that_cannot_be_captured_runs_as_it_is(steadily, monkeypatch):
    class NoGraphs:
        def __init__(self, function, inputs, state):
            with torch.inference_mode():
                function(*inputs)  # warmed up, then
            raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(steady, "CapturedStep", NoGraphs)
    layer, x = decoder(), torch.randn(1, 6, 40)
    with pytest.warns(UserWarning, match="not permitted"):
        ours = fed(SteadyStream(layer), x)
    with warnings.catch_warnings(action="error"):  # nobody tries again, and nobody is told again
        again = fed(SteadyStream(layer), x)
    expected = fed(Stream(layer), x)
    assert torch.equal(ours, expected)
    assert torch.equal(again, expected)


def test_a_step_that_comes_out_wrong_runs_as_it_is(steadily, monkeypatch):
    real = HeldStep._advance
    monkeypatch.setattr(HeldStep, "_advance", lambda self, *inputs: real(self, *inputs) * 1.1)
    layer, x = decoder(), torch.randn(1, 6, 40)
    with pytest.warns(UserWarning, match="off what the layers give"):
        ours = fed(SteadyStream(layer), x)
    assert torch.equal(ours, fed(Stream(layer), x))
    assert not steadily.shapes


def test_a_state_that_is_lost_is_found(steadily, monkeypatch):
    """The comparison goes on from step to step, so that it hears a state that stays behind."""

    def forgetful(self, *inputs):
        return self._step(self._model, inputs, self.state)[0]

    monkeypatch.setattr(HeldStep, "_advance", forgetful)
    layer, x = decoder(), torch.randn(1, 6, 40)
    with pytest.warns(UserWarning, match="off what the layers give"):
        assert torch.equal(fed(SteadyStream(layer), x), fed(Stream(layer), x))


def test_so_many_lengths_are_captured(steadily, monkeypatch):
    monkeypatch.setattr(steady, "MOST", 2)
    layer, x = decoder(), torch.randn(1, 6, 60)
    cuts = (2,) * 5 + (3,) * 5 + (4,) * 5
    assert torch.equal(fed(SteadyStream(layer), x, cuts), fed(Stream(layer), x, cuts))
    assert {n for n in (2, 3, 4) if steadily.count(n)} == {2, 3}


def test_changed_weights_are_captured_anew(steadily):
    layer, x = decoder(), torch.randn(1, 6, 40)
    fed(SteadyStream(layer), x)
    with torch.no_grad():
        layer.layers[0].weight.mul_(2)  # pyright: ignore
    assert torch.equal(fed(SteadyStream(layer), x), fed(Stream(layer), x))


def test_a_model_can_go(steadily):
    layer = decoder()
    fed(SteadyStream(layer), torch.randn(1, 6, 40))
    assert steadily.shapes
    gone = weakref.ref(layer)
    del layer
    gc.collect()
    assert gone() is None
