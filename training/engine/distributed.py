"""One process or many: the same code runs alone and under `torchrun`.

torchrun --nproc-per-node 2 -m myna.apps.cli train recipes/myna-24k.yaml
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ...errors import UsageError


@dataclass(frozen=True)
class World:
    """This process among its peers: rank 0 of 1 where there are none."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks to the user."""
        return self.rank == 0


def setup(device: str = "auto") -> World:
    """Join the processes that torchrun started, if it did. device: "auto", "cpu" or "cuda".

    Raises UsageError for a GPU that is not there.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("device cuda was asked for, but torch finds no GPU; set device: cpu in the recipe")
    if device not in ("cpu", "cuda"):
        raise UsageError(f"device {device!r} is not one of auto, cpu, cuda")
    place = (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        if device == "cuda"
        else torch.device("cpu")
    )
    if place.type == "cuda":
        torch.cuda.set_device(place)
    if "RANK" in os.environ and not dist.is_initialized():
        dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
    if dist.is_initialized():
        return World(dist.get_rank(), dist.get_world_size(), place)
    return World(0, 1, place)


def shutdown(together: bool = True) -> None:
    """Leave the other processes, together with them: one that goes first may abort those still sending. What
    `wrap` returned should be out of use by now. together: False after a failure of this process alone, which would
    wait for the others for ever."""
    if dist.is_initialized():
        gc.collect()
        if together:
            barrier()
        dist.destroy_process_group()


def wrap(module: nn.Module, world: World, partly_used: bool = False) -> nn.Module:
    """The module with its gradients averaged over the processes (itself where there is one process).

    partly_used: some steps leave some parameters out. Buffers are not synchronised: codebooks that follow the
    data sum their statistics themselves.
    """
    if world.size == 1:
        return module
    devices = [world.device.index] if world.device.type == "cuda" else None
    return DistributedDataParallel(
        module, device_ids=devices, broadcast_buffers=False, find_unused_parameters=partly_used
    )


def mean(value: Tensor) -> Tensor:
    """The mean of `value` over the processes, detached."""
    value = value.detach().clone()
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(value)
        value /= dist.get_world_size()
    return value


def any_true(value: bool) -> bool:
    """Whether `value` is true in any process: so that all of them stop at the same step."""
    if not (dist.is_initialized() and dist.get_world_size() > 1):
        return value
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    flag = torch.tensor(float(value), device=device)
    dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return bool(flag)


def broadcast(tensors: Iterable[Tensor]) -> None:
    """Overwrite `tensors` with rank 0's."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor.data, 0)


def barrier() -> None:
    """Wait for the other processes (while rank 0 builds a cache, say)."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.barrier()
