"""A recipe trained by Ray Train, on whatever machines a Ray cluster has: processes as torchrun would start them.

    myna train recipes/myna-ar.yaml --ray 4 --ray-address auto

Recipe, corpus and output must lie at the same paths on all machines.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import InputError, UsageError
from .engine.recipe import read_key
from .engine.trainer import TrainingSummary


def launch(
    recipe: str | Path,
    overrides: Sequence[str],
    workers: int,
    address: str | None = None,
    quiet: bool = False,
) -> TrainingSummary:
    """Train in so many processes of a cluster.

    address: of a running cluster (host:port, or auto); None: what $RAY_ADDRESS says, else a cluster of this machine.
    Raises UsageError without the package ray, or if the cluster cannot be reached, and what `training.train` raises.
    """
    if workers < 1:
        raise UsageError(f"--ray {workers}: expected at least 1 process")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    try:
        import ray
        from ray.train import RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer
    except ImportError:
        raise UsageError("--ray needs the package ray with its trainers; pip install 'myna[ray]'") from None
    read_key(recipe, "kind", "codec")  # a recipe that is not there is one line here
    ours = not ray.is_initialized()
    if ours:
        _connect(ray, address, workers)
    gpu = device_of(recipe, overrides) != "cpu" and float(ray.cluster_resources().get("GPU", 0)) >= workers
    work = {"recipe": str(recipe), "overrides": list(overrides), "quiet": quiet, "folder": os.getcwd()}
    try:
        trainer = TorchTrainer(
            _train,
            train_loop_config=work,
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpu),
            torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
            run_config=RunConfig(storage_path=str(Path(work["folder"]) / ".ray"), name="train"),
        )
        found = trainer.fit()
    except Exception as error:  # Ray has an exception of its own for every layer
        raise InputError(f"the training failed in a worker: {_last_line(error)}") from error
    finally:
        if ours:
            ray.shutdown()
    told = dict(found.metrics or {})
    return TrainingSummary(**{**told, "output": Path(told["output"])})


def device_of(recipe: str | Path, overrides: Sequence[str]) -> str:
    """auto, cpu or cuda."""
    given = [one.partition("=")[2] for one in overrides if one.startswith("device=")]
    return given[-1] if given else str(read_key(recipe, "device", "auto"))


def _train(work: dict[str, Any]) -> None:
    """In a worker, whose process group is there already."""
    from ray import train as ray_train

    from .train import train

    os.chdir(work["folder"])
    summary = train(work["recipe"], work["overrides"], quiet=work["quiet"])
    ray_train.report({**asdict(summary), "output": str(summary.output)})


def _connect(ray: Any, address: str | None, workers: int) -> None:
    import logging

    address = address or os.environ.get("RAY_ADDRESS")
    local = {} if address else {"include_dashboard": False, "num_cpus": workers + 1}
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **local)
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UsageError(f"no Ray cluster at {address or 'this machine'}: {reason}") from None


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
