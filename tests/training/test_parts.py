"""Balancer, averages, schedules, the state on disk, the log."""

import itertools
import json
import os
import signal

import pytest
import torch
from myna.errors import InputError, OutputError
from myna.training.engine.checkpoint import load_module_state, load_state, module_state, save_state
from myna.training.engine.ema import EMA
from myna.training.engine.interrupt import Interrupt
from myna.training.engine.logging import RunLog
from myna.training.engine.schedule import rate_factor
from myna.training.models.balancer import Balancer
from torch import nn


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e5])
def test_balancer_gives_each_loss_its_share_whatever_its_scale(scale):
    torch.manual_seed(0)
    output = torch.randn(4, 1, 50, requires_grad=True)
    a, b = torch.randn(4, 1, 50), torch.randn(4, 1, 50)
    losses = {"a": scale * (output * a).sum(), "b": (output * b).sum()}
    got = Balancer({"a": 3.0, "b": 1.0}, total_norm=2.0).gradient(losses, output)

    def unit(direction):
        return direction / direction.flatten(1).norm(dim=1).mean()

    torch.testing.assert_close(got, 2.0 * (0.75 * unit(a) + 0.25 * unit(b)))


def test_balancer_averages_norms_over_steps():
    output = torch.zeros(1, 1, 4, requires_grad=True)
    direction = torch.tensor([[[1.0, 0, 0, 0]]])
    balancer = Balancer({"a": 1.0}, decay=0.5)
    first = balancer.gradient({"a": (output * direction).sum()}, output)
    second = balancer.gradient({"a": 4 * (output * direction).sum()}, output)
    assert float(first.norm()) == pytest.approx(1)
    assert float(second.norm()) == pytest.approx(4 / ((0.5 * 1 + 4) / 1.5))
    resumed = Balancer({"a": 1.0}, decay=0.5)
    resumed.load_state_dict(balancer.state_dict())
    third = {"a": 2 * (output * direction).sum()}
    torch.testing.assert_close(resumed.gradient(third, output), balancer.gradient(third, output))


def test_ema_follows_fast_then_slowly_and_swaps_back():
    module = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        module.weight.fill_(0.0)
        ema = EMA(module, decay=0.5)
        module.weight.fill_(1.0)
    ema.update(module)
    assert float(ema.shadow["weight"]) == pytest.approx(1 - 2 / 11)
    for _ in range(40):
        ema.update(module)
    before = float(ema.shadow["weight"])
    with torch.no_grad():
        module.weight.fill_(3.0)
    ema.update(module)
    assert float(ema.shadow["weight"]) == pytest.approx(before + 0.5 * (3 - before))
    with ema.swapped_in(module):
        torch.testing.assert_close(module.weight.data, ema.shadow["weight"])
    assert module.weight.item() == 3.0


def test_learning_rate_warms_up_and_ends_where_it_should():
    factors = [rate_factor(s, s / 100, warmup_steps=10, final=0.1) for s in range(101)]
    assert factors[0] == pytest.approx(0.1, rel=0.01)
    assert max(factors) == pytest.approx(factors[9])
    assert all(a > b for a, b in itertools.pairwise(factors[9:]))
    assert factors[-1] == pytest.approx(0.1)
    assert rate_factor(1000, 0.5, decay="exponential", gamma=0.999) == pytest.approx(0.999**1000)
    assert rate_factor(1000, 0.9, decay="constant") == 1


def test_a_state_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    path = tmp_path / "state.pt"
    save_state(path, {"step": 1, "modules": {"x": {"w": torch.ones(2)}}})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match="No space left"):
        save_state(path, {"step": 2})
    monkeypatch.undo()
    assert load_state(path, torch.device("cpu"))["step"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["state.pt"]


@pytest.mark.parametrize("content", [b"", b"no state", b"PK\x03\x04" + bytes(50)])
def test_what_is_no_state_is_one_line(tmp_path, content):
    path = tmp_path / "state.pt"
    path.write_bytes(content)
    with pytest.raises(InputError, match="is not a state of this trainer"):
        load_state(path, torch.device("cpu"))


def test_module_state_holds_what_a_checkpoint_leaves_out():
    module = nn.Linear(2, 2)
    module.register_buffer("count", torch.tensor([5.0]), persistent=False)
    other = nn.Linear(2, 2)
    other.register_buffer("count", torch.tensor([0.0]), persistent=False)
    load_module_state(other, module_state(module))
    assert float(other.count) == 5
    torch.testing.assert_close(other.weight, module.weight)
    with pytest.raises(ValueError, match="only in one"):
        load_module_state(nn.Linear(2, 2), module_state(module))
    with pytest.raises(ValueError, match="has shape"):
        load_module_state(nn.Linear(3, 2), module_state(nn.Linear(2, 2)))


def test_metrics_of_steps_taken_again_are_forgotten(tmp_path):
    log = RunLog(tmp_path, total=10, quiet=True)
    for step in range(1, 6):
        log.scalars(step, "train", {"mel": float(step)})
    log.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 5, "ki')  # killed while writing
    RunLog(tmp_path, total=10, start=3, quiet=True).close()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]


def test_first_ctrl_c_asks_second_insists():
    before = signal.getsignal(signal.SIGINT)
    with Interrupt() as interrupt:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
