"""Shards over two processes: the losses of DDP, states that one process reads and two again, one file at the end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from myna.errors import InputError, UsageError
from myna.training.engine import distributed, sharded
from myna.training.engine.interrupt import Interrupt
from myna.training.engine.recipe import load_recipe
from myna.training.models.lm_recipe import ARRecipe
from myna.training.models.lm_trainer import ARTrainer
from myna.tts.registry import load_ar


def losses(folder: Path) -> dict[int, float]:
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return {row["step"]: row["loss"] for row in rows if row["kind"] == "train"}


STEPS = ["max_steps=5", "log_every=1", "schedule.decay=constant", "half_precision_export=false"]
HELD = ["data.held_out.utterances=2", "data.held_out.every_steps=100"]


def test_two_processes_in_shards(lm_tiny, tmp_path, processes):
    common = [*[one for one in lm_tiny if not one.startswith("output")], *STEPS, *HELD]

    def job(steps: int, name: str, *more: str) -> str:
        return " ".join([str(steps), *common, f"output={tmp_path / name}", *more])

    fsdp = "parallel=fsdp"
    processes.in_two_processes(
        processes.jobs,
        job(99, "ddp"),
        job(99, "fsdp", fsdp),
        job(99, "saving", fsdp, "checkpoint_activations=true"),
        job(2, "stopped", fsdp),
    )
    ddp, shards = losses(tmp_path / "ddp"), losses(tmp_path / "fsdp")
    assert list(ddp) == list(shards) == [1, 2, 3, 4, 5]
    assert list(shards.values()) == pytest.approx(list(ddp.values()), rel=1e-5)
    assert losses(tmp_path / "saving") == pytest.approx(shards, rel=1e-5)
    assert torch.load(tmp_path / "fsdp" / "seen.pt", weights_only=True)["kinds"] == {"DTensor"}

    # One safetensors file, of the weights as DDP has them.
    one, other = (load_ar(tmp_path / name / "last.safetensors").state_dict() for name in ("ddp", "fsdp"))
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=1e-4, atol=1e-5)

    # Two processes wrote it, one reads it, and writes it for two to go on.
    overrides = [*common, f"output={tmp_path / 'stopped'}", fsdp]
    alone = ARTrainer(load_recipe("myna-ar-tiny", ARRecipe, overrides), distributed.setup("cpu"), quiet=True)
    assert alone.step == 2
    seen = torch.load(tmp_path / "stopped" / "seen.pt", weights_only=True)["weights"]
    for name, value in alone.model.state_dict().items():
        assert torch.equal(value, seen[name])
    alone._save()
    alone.log.close()
    processes.in_two_processes(processes.jobs, job(99, "stopped", fsdp))
    assert losses(tmp_path / "stopped") == pytest.approx(shards, rel=1e-6)
    ended = [
        torch.load(tmp_path / name / "seen.pt", weights_only=True)["weights"] for name in ("fsdp", "stopped")
    ]
    for name, value in ended[0].items():
        assert torch.equal(value, ended[1][name])


def run(overrides: list[str]) -> ARTrainer:
    trainer = ARTrainer(
        load_recipe("myna-ar-tiny", ARRecipe, overrides), distributed.setup("cpu"), quiet=True
    )
    trainer.run(Interrupt())
    return trainer


def test_what_cannot_be(lm_tiny, tmp_path):
    with pytest.raises((InputError, UsageError), match="must not be wsd"):
        run([*lm_tiny, "parallel=fsdp", "schedule.decay=wsd"])
    alone = [*lm_tiny, "parallel=fsdp", "max_steps=1", "data.held_out=null"]
    run(alone)
    facts = sharded.read_facts(tmp_path / "run")
    assert facts is not None
    assert facts["step"] == 1
    assert [path.name for path in (tmp_path / "run").glob("state-*")] == ["state-1"]
    (tmp_path / "run" / "state.json").write_text("{}")
    with pytest.raises(InputError, match="remove it to start the run anew"):
        run(alone)
