"""Schedules for runs that never end: a short decay for a release, and none; resumed exactly, and gone on with."""

from __future__ import annotations

import math
import sys
from itertools import pairwise

import pytest
import torch
from myna.errors import InputError, MissingModelError, UsageError
from myna.training.engine import distributed
from myna.training.engine.checkpoint import load_state, module_state
from myna.training.engine.interrupt import Interrupt
from myna.training.engine.recipe import load_recipe
from myna.training.engine.schedule import rate_factor
from myna.training.models.lm_recipe import ARRecipe
from myna.training.models.lm_trainer import ARTrainer

CPU = torch.device("cpu")


def test_the_rate_warms_up_stays_and_goes_down_at_the_end():
    rates = [rate_factor(step, step / 100, 10, "wsd", 0.05, cooldown=0.2) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10:81] == [1.0] * 71
    assert rates[90] == pytest.approx(0.05 + 0.95 * (1 - math.sqrt(0.5)))
    assert all(a > b for a, b in pairwise(rates[80:]))
    assert rates[100] == pytest.approx(0.05)


def run(overrides: list[str], steps: int | None = None) -> ARTrainer:
    """A tiny run, stopped after so many steps."""
    trainer = ARTrainer(
        load_recipe("myna-ar-tiny", ARRecipe, overrides), distributed.setup("cpu"), quiet=True
    )

    class Stop(Interrupt):
        @property
        def requested(self) -> bool:
            return steps is not None and trainer.step >= steps

        @requested.setter
        def requested(self, value: bool) -> None: ...

    trainer.run(Stop())
    return trainer


def same(one: ARTrainer, other: ARTrainer) -> bool:
    a, b = module_state(one.model), module_state(other.model)
    return all(torch.equal(value, b[name]) for name, value in a.items())


WSD = [
    "max_steps=12",
    "schedule.decay=wsd",
    "schedule.cooldown=0.25",
    "schedule.warmup_steps=2",
    "data.held_out=null",
]
FREE = ["max_steps=8", "schedule.decay=constant", "optimizer.kind=schedule-free", "data.held_out=null"]


@pytest.mark.parametrize("kind", [WSD, FREE], ids=["wsd", "schedule-free"])
def test_a_run_that_was_stopped_goes_on_exactly(kind, lm_tiny, tmp_path):
    if kind is FREE:
        pytest.importorskip("schedulefree")
    whole = run([*lm_tiny, *kind, f"output={tmp_path / 'whole'}"])
    run([*lm_tiny, *kind], steps=5)
    assert load_state(tmp_path / "run" / "state.pt", CPU)["step"] == 5
    resumed = run([*lm_tiny, *kind])
    assert resumed.step == whole.step
    assert same(resumed, whole)


def test_a_run_that_is_made_longer_goes_on_from_before_its_rate_went_down(lm_tiny, tmp_path):
    run([*lm_tiny, *WSD])
    assert (
        load_state(tmp_path / "run" / "stable.pt", CPU)["step"] == 10
    )  # the first step of which 3/4 are behind
    longer = [*WSD, "max_steps=24"]
    extended = run([*lm_tiny, *longer])
    whole = run([*lm_tiny, *longer, f"output={tmp_path / 'whole'}"])
    assert extended.step == whole.step == 24
    assert same(extended, whole)
    # Stopped before it goes down again, it goes on from where it was.
    again = [*lm_tiny, *WSD, f"output={tmp_path / 'third'}"]
    run(again)
    run([*again, "max_steps=40"], steps=15)
    trainer = ARTrainer(
        load_recipe("myna-ar-tiny", ARRecipe, [*again, "max_steps=80"]), distributed.setup("cpu"), quiet=True
    )
    assert trainer.step == 15
    trainer.log.close()


def test_what_ships_of_a_schedule_free_run_is_its_average(lm_tiny, tmp_path):
    pytest.importorskip("schedulefree")
    trainer = run([*lm_tiny, *FREE, "half_precision_export=false"])
    from myna.tts.registry import load_ar

    shipped = load_ar(tmp_path / "run" / "last.safetensors").state_dict()
    learned = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.optimizer.eval()  # pyright: ignore
    average = trainer.model.state_dict()
    name = "transformer.blocks.0.attention.qkv.weight"
    assert torch.equal(shipped[name], average[name])
    assert not torch.equal(shipped[name], learned[name])


def test_what_cannot_be(lm_tiny, monkeypatch):
    with pytest.raises((InputError, UsageError), match="must be constant"):
        run([*lm_tiny, "optimizer.kind=schedule-free", "schedule.decay=cosine"])
    with pytest.raises((InputError, UsageError), match="max_steps must be set"):
        run([*lm_tiny, "schedule.decay=wsd", "max_steps=null", "max_minutes=1"])
    monkeypatch.setitem(sys.modules, "schedulefree", None)
    with pytest.raises(MissingModelError, match=r"pip install 'myna\[train\]'"):
        run([*lm_tiny, *FREE])
