"""Everything that a recipe for CLVP can say, with its defaults. `recipes/myna-clvp-cpu.yaml` is an example."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from ...tts.rerank.clvp import CLVPConfig
from ..engine.recipe import Section, strict
from ..engine.trainer_recipe import OptimizerSection, TrainerRecipe, ValidationSection


class CLVPHeldOut(ValidationSection):
    """What the network is judged by: fixed batches of the split dev, as large as those of training."""

    batches: int = Field(default=2, ge=1)


class CLVPData(Section):
    mel_sets: tuple[Path, ...]  # files of `python -m myna.training.sets.extract_mels`
    tokens: str  # the tokenizer's weights: a path
    leave_out_worst: float = Field(default=0.1, ge=0, lt=1)  # share of each source's utterances, by alignment
    batch_size: int = Field(
        default=64, ge=2
    )  # utterances of a step, on each process; all others are negatives
    max_frames: int = Field(default=600, ge=2)  # of 50 Hz; longer utterances are left out
    damage: tuple[int, int] = (6, 25)  # tokens of the stretch that is another's
    token_noise: float = Field(default=0.05, ge=0, le=1)  # share of the tokens that are replaced by any other
    held_out: CLVPHeldOut | None = CLVPHeldOut()  # None: train blindly, keep the last weights only


class CLVPRecipe(TrainerRecipe):
    """A recipe of `myna train` for CLVP."""

    may_change: ClassVar[tuple[str, ...]] = (
        *TrainerRecipe.may_change,
        *("data.mel_sets", "data.batch_size", "optimizer.lr"),
    )

    kind: Literal["clvp"] = "clvp"
    model: strict(CLVPConfig) = CLVPConfig()  # pyright: ignore[reportInvalidTypeForm]
    data: CLVPData
    optimizer: OptimizerSection = OptimizerSection(betas=(0.9, 0.98), weight_decay=0.05)
