"""What moves the weights: AdamW (Loshchilov and Hutter 2019), or its schedule-free kind (Defazio et al. 2024)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ...errors import MissingModelError
from .trainer_recipe import OptimizerSection


def make_optimizer(groups: list[dict[str, Any]], section: OptimizerSection) -> torch.optim.Optimizer:
    """groups: as `trainer.decayed_groups` gives them. Raises MissingModelError without the package schedulefree, where
    that is asked for."""
    if section.kind == "adamw":
        return torch.optim.AdamW(groups, lr=section.lr, betas=section.betas, fused=True)
    try:
        from schedulefree import AdamWScheduleFree
    except ImportError:
        raise MissingModelError(
            "optimizer.kind schedule-free needs the package schedulefree; pip install 'myna[train]'"
        ) from None
    return AdamWScheduleFree(groups, lr=section.lr, betas=section.betas)


def learning(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimizer, its weights those that gradients are taken at."""
    if hasattr(optimizer, "train"):
        optimizer.train()  # pyright: ignore[reportAttributeAccessIssue]
    return optimizer


@contextmanager
def averaged(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Inside, the weights are the average that a schedule-free optimizer keeps; outside exactly what they were."""
    own = [(p, p.detach().clone()) for group in optimizer.param_groups for p in group["params"]]
    optimizer.eval()  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        optimizer.train()  # pyright: ignore[reportAttributeAccessIssue]
        with torch.no_grad():
            for parameter, value in own:
                parameter.copy_(value)
