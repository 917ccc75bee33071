"""Everything that a recipe for the codec `myna-mel` can say, with its defaults. `recipes/myna-mel-cpu.yaml` is an
example."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from ...codec.mel.codec import MelCodecConfig
from ..engine.recipe import Section, strict
from ..engine.trainer_recipe import OptimizerSection, TrainerRecipe, ValidationSection


class MelCodecHeldOut(ValidationSection):
    """What the codec is judged by: fixed stretches of the split dev."""

    examples: int = Field(default=64, ge=1)
    frames: int = Field(default=200, ge=2)  # of 50 Hz, of each at most


class MelCodecData(Section):
    mel_sets: tuple[Path, ...]  # files of `python -m myna.training.sets.extract_mels`
    sources: dict[str, float] | None = None  # share of the crops; None: by their voices
    batch_frames: int = Field(default=3200, ge=4)  # frames of 50 Hz a step, on each process
    frames: int = Field(default=100, ge=2)  # of a crop at most: 2 s
    held_out: MelCodecHeldOut | None = MelCodecHeldOut()  # None: train blindly, keep the last weights only


class MelCodecLosses(Section):
    """Weights; names as in the logs."""

    mel: float = Field(default=5.0, ge=0)  # L1 + half of L2 of the normalised mel
    said: float = Field(default=0.25, ge=0)  # what tokens leave of the latents, squared
    commitment: float = Field(default=0.25, ge=0)  # of latents, to the codes' vectors
    codebook: float = Field(default=1.0, ge=0)  # of factorized codebooks, to the latents


class MelCodecRecipe(TrainerRecipe):
    """A recipe of `myna train` for the codec of mel spectrograms."""

    may_change: ClassVar[tuple[str, ...]] = (
        *TrainerRecipe.may_change,
        *("data.mel_sets", "data.sources", "data.batch_frames", "losses", "optimizer.lr", "train_tokens"),
        *("tokens", "vocoder"),
    )

    kind: Literal["mel-codec"] = "mel-codec"
    # Its `tokens` and `vocoder` are those of the two files below.
    model: strict(MelCodecConfig) = MelCodecConfig()  # pyright: ignore[reportInvalidTypeForm]
    tokens: str  # the tokenizer: a path
    vocoder: str  # the mel vocoder, which is not trained here: a path
    # Whether the tokenizer learns, too. What it then learns is this codec's alone: tokens of an AR stay as they are.
    train_tokens: bool = False
    data: MelCodecData
    losses: MelCodecLosses = MelCodecLosses()
    codebook_dropout: float = Field(
        default=0.7, ge=0, le=1
    )  # share of the crops that are decoded from fewer codebooks than all
    start_frames: int = Field(default=40_000, ge=1)  # code frames that a new codec starts from
    optimizer: OptimizerSection = OptimizerSection(betas=(0.9, 0.98), weight_decay=0.01)
