"""The state of a run, whole on disk at every moment: a run that is killed and started again goes on exactly.

Batches are functions of the step and random numbers are seeded by the step, so the state is only what
learning has changed: weights, buffers, optimizers, averages, and the number of the step.
"""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import InputError, OutputError

FORMAT = 1


def module_state(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and all buffers, also those that a published checkpoint leaves out (code usage counts)."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


@torch.no_grad()
def load_module_state(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Copy what `module_state` gave. Raises ValueError where names or shapes differ."""
    own = module_state(module)
    if set(own) != set(state):
        raise ValueError(f"{sorted(set(own) ^ set(state))[0]} is only in one of the two")
    for name, tensor in own.items():
        if tensor.shape != state[name].shape:
            raise ValueError(f"{name} has shape {tuple(state[name].shape)}, the model {tuple(tensor.shape)}")
        tensor.copy_(state[name])


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write under another name and rename: killed in the middle, the state before is still there.

    `state` holds tensors, numbers, strings and containers of them. Raises OutputError (disk full, no
    permission).
    """
    partial = path.with_name(f".{path.name}.part")
    try:
        with open(partial, "wb") as file:
            torch.save({"format": FORMAT, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        partial.unlink(missing_ok=True)
        raise OutputError(
            f"cannot save the state of the run to {path}: {str(error).splitlines()[0]}"
        ) from error


def load_state(path: Path, device: torch.device) -> dict[str, Any]:
    """Raises InputError for a file that is no state of a run."""
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        if state["format"] != FORMAT:
            raise ValueError(f"format {state['format']}")
    except (
        OSError,
        RuntimeError,
        ValueError,
        KeyError,
        TypeError,
        EOFError,
        pickle.UnpicklingError,
    ) as error:
        raise InputError(f"{path} is not a state of this trainer; remove it to start the run anew") from error
    return state
