"""Saved states of runs, compared leaf by leaf."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from myna.training.engine.checkpoint import load_state

CPU = torch.device("cpu")


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Every leaf of a state by its path."""
    if isinstance(tree, dict):
        return {k: v for key, value in tree.items() for k, v in flat(value, f"{prefix}/{key}").items()}
    if isinstance(tree, (list, tuple)):
        return flat(dict(enumerate(tree)), prefix)
    return {prefix: tree}


def assert_same_state(a: Path, b: Path) -> None:
    """But for the minutes that the runs took."""
    one, two = flat(load_state(a, CPU)), flat(load_state(b, CPU))
    assert one.keys() == two.keys()
    for key, value in one.items():
        if key != "/minutes":
            same = torch.equal(value, two[key]) if isinstance(value, torch.Tensor) else value == two[key]
            assert same, f"{key} differs"
