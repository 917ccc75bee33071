"""What every trainer's recipe can say: how long, how fast, on what, and what is kept."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from .recipe import Section
from .schedule import Decay


class OptimizerSection(Section):
    """AdamW; decay is for matrices only."""

    # schedule-free (Defazio et al. 2024): what is judged and shipped is an average that needs no schedule
    kind: Literal["adamw", "schedule-free"] = "adamw"
    lr: float = Field(default=1e-3, gt=0)
    betas: tuple[float, float] = (0.8, 0.99)
    weight_decay: float = Field(default=0.01, ge=0)
    clip: float = Field(default=1.0, gt=0)  # of the gradient's norm


class ScheduleSection(Section):
    """The learning rate (of all optimizers) over the run."""

    warmup_steps: int = Field(default=100, ge=0)
    decay: Decay = "cosine"
    over: Literal["steps", "minutes"] = (
        "steps"  # of max_steps or max_minutes; by minutes, resume is not bit-exact
    )
    final: float = Field(
        default=0.05, ge=0, le=1
    )  # share of the rate at the end of the cosine, or of the cooldown
    cooldown: float = Field(default=0.1, gt=0, le=1)  # share of the run that ends it, of decay "wsd"
    gamma: float = Field(default=0.999996, gt=0, le=1)  # of exponential decay, each step


class ValidationSection(Section):
    """When a model is judged by what it does not train on."""

    every_steps: int | None = Field(default=500, ge=1)
    every_minutes: float | None = Field(default=None, gt=0)  # whichever comes first


class TrainerRecipe(Section):
    """The part of a recipe that training/engine/trainer.py reads."""

    # Keys and sections that may differ when a run is continued (training/engine/same_run.py).
    may_change: ClassVar[tuple[str, ...]] = (
        *(
            "init_from",
            "device",
            "precision",
            "checkpoint_activations",
            "threads",
            "max_steps",
            "max_minutes",
        ),
        *("log_every", "save_every_steps", "save_every_minutes", "half_precision_export"),
        # Files may have moved; whether they are the same, nobody can tell from their names.
        *("data.corpus", "data.cache", "data.speech_set", "data.codec", "data.held_out"),
    )

    output: Path  # folder of the run: state, weights, logs
    seed: int = Field(default=0, ge=0)
    device: str = "auto"  # auto, cpu or cuda
    precision: Literal["float32", "bf16"] = "float32"  # bf16: autocast of the models; losses stay float32
    # ddp: every process has all weights; fsdp: a share of them (training/engine/sharded.py)
    parallel: Literal["ddp", "fsdp"] = "ddp"
    checkpoint_activations: bool = False  # less memory: blocks are computed again on the way back
    threads: int | None = Field(default=None, ge=1)  # of a CPU process; None: torch's choice
    max_steps: int | None = Field(default=None, ge=1)
    max_minutes: float | None = Field(default=None, gt=0)  # of training in all, over interruptions
    init_from: str | None = None  # weights to start from: a path, or "shipped" for the ones in weights/
    optimizer: OptimizerSection = OptimizerSection()
    schedule: ScheduleSection = ScheduleSection()
    ema: float = Field(default=0.999, ge=0, lt=1)
    log_every: int = Field(default=20, ge=1)
    save_every_steps: int | None = Field(default=None, ge=1)
    save_every_minutes: float | None = Field(default=5.0, gt=0)
    half_precision_export: bool = True  # float16 in best.safetensors and last.safetensors

    @model_validator(mode="after")
    def _ends(self) -> TrainerRecipe:
        if self.max_steps is None and self.max_minutes is None:
            raise ValueError("set max_steps or max_minutes, or the run never ends")
        if self.optimizer.kind == "schedule-free" and self.schedule.decay != "constant":
            raise ValueError("optimizer.kind is schedule-free, so schedule.decay must be constant")
        if self.parallel == "fsdp" and (self.schedule.decay == "wsd" or self.optimizer.kind != "adamw"):
            raise ValueError(
                "parallel is fsdp, so schedule.decay must not be wsd, and optimizer.kind be adamw"
            )
        if self.schedule.decay in ("cosine", "wsd") and getattr(self, f"max_{self.schedule.over}") is None:
            raise ValueError(
                f"schedule.over is {self.schedule.over}, so max_{self.schedule.over} must be set"
            )
        return self
