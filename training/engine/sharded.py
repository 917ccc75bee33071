"""Weights, gradients and optimizer in shards over the processes (FSDP2, `fully_shard`: Zhao et al. 2023), for models
that one device cannot hold; and their state on disk, which any number of processes can read.

    output/state-STEP/   torch.distributed.checkpoint: every process writes its shards
    output/state.json    which of them is whole, and the facts of the run

A run of one process has the same state and no shards, so that a run can go from two machines to one and back.
"""

from __future__ import annotations

import json
import shutil
import warnings
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint

from ...data.files import atomic_output, output_errors
from ...errors import InputError, OutputError
from ...layers.dit import DiTBlock
from ...layers.transformer import Block
from . import distributed
from .distributed import World

_FORMAT = 1
_BLOCKS = (Block, DiTBlock)  # what is gathered, computed and let go at a time


def shard(model: nn.Module, world: World, bf16: bool) -> nn.Module:
    """The model, its parameters in shards where there are several processes. bf16: what is gathered and computed;
    gradients are summed in float32."""
    if world.size == 1:
        return model
    mesh = init_device_mesh(world.device.type, (world.size,))
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if bf16 else MixedPrecisionPolicy()
    for part in model.modules():
        if isinstance(part, _BLOCKS):
            fully_shard(part, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    return model


def checkpoint_activations(model: nn.Module) -> None:
    """Blocks keep their inputs only, and are computed again on the way back (Chen et al. 2016)."""
    for part in model.modules():
        if isinstance(part, _BLOCKS):
            part.forward = partial(checkpoint, part.forward, use_reentrant=False)


def touched(loss: Tensor, model: nn.Module) -> Tensor:
    """The same loss, to which every parameter outside of the blocks belongs: all processes then have gradients of the
    same ones, whatever their batches use."""
    own = [p for p in model.parameters() if not isinstance(p, DTensor) and p.requires_grad]
    return loss + sum((0.0 * p.sum().to(loss.dtype) for p in own), torch.zeros_like(loss))


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may be in shards, in one piece."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def full_weights(model: nn.Module) -> dict[str, Tensor]:
    """All weights in one piece, on the CPU of the main process; every process must call it."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return cast("dict[str, Tensor]", get_model_state_dict(model, options=options))


def save_shards(
    output: Path,
    facts: dict[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: dict[str, Tensor],
    world: World,
) -> None:
    """Every process writes its part; the state before is there until this one is whole. Raises OutputError."""
    folder = output / f"state-{facts['step']}"
    state = {
        "model": get_model_state_dict(model),
        "optimizer": get_optimizer_state_dict(model, optimizer),
        "ema": ema,
    }
    if world.is_main:
        with output_errors(output):
            output.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
    distributed.barrier()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that there is but one process
            save(state, checkpoint_id=str(folder), no_dist=world.size == 1)
    except (OSError, RuntimeError, CheckpointException) as error:
        raise OutputError(
            f"cannot save the state of the run to {folder}: {str(error).strip().splitlines()[-1]}"
        ) from error
    distributed.barrier()
    if world.is_main:
        told = {"format": _FORMAT, "folder": folder.name, **facts}
        with atomic_output(output / "state.json", force=True) as file:
            file.write(json.dumps(told).encode())
        for other in output.glob("state-*"):
            if other != folder:
                shutil.rmtree(other, ignore_errors=True)
    distributed.barrier()


def read_facts(output: Path) -> dict[str, Any] | None:
    """Of the state that is whole; None where there is none. Raises InputError for a file that is something else."""
    path = output / "state.json"
    if not path.is_file():
        return None
    try:
        facts = json.loads(path.read_text("utf-8"))
        if facts["format"] != _FORMAT or not (output / facts["folder"]).is_dir():
            raise ValueError("its shards are not there")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is not a state of this trainer ({error}); remove it to start the run anew"
        ) from error
    return facts


def load_shards(
    output: Path,
    facts: dict[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: dict[str, Tensor],
    world: World,
) -> None:
    """Take up what `save_shards` wrote, with whatever number of processes. Raises InputError where it does not fit."""
    state = {
        "model": get_model_state_dict(model),
        "optimizer": get_optimizer_state_dict(model, optimizer),
        "ema": ema,
    }
    folder = output / facts["folder"]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            load(state, checkpoint_id=str(folder), no_dist=world.size == 1)
        set_model_state_dict(model, state["model"])
        set_optimizer_state_dict(model, optimizer, state["optimizer"])
    except (OSError, RuntimeError, KeyError, ValueError, CheckpointException) as error:
        raise InputError(
            f"{folder} is the state of another model ({str(error).strip().splitlines()[-1]}); choose another output in "
            "the recipe, or remove it"
        ) from error
