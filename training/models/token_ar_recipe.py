"""Everything that a recipe for the token AR can say, with its defaults. `recipes/myna-token-ar-cpu.yaml` is an
example."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from ...tts.lm.token_ar import TokenARConfig
from ..engine.recipe import Section, strict
from ..engine.trainer_recipe import OptimizerSection, TrainerRecipe, ValidationSection
from ..sets.examples import ExampleOptions


class TokenARHeldOut(ValidationSection):
    """What the model is judged by: fixed examples of the split dev."""

    examples: int = Field(default=64, ge=1)


EXAMPLES = ExampleOptions(own_prompt=0.1, max_frames=1000, hide_phones=0.1, hide_tokens=0.0, hide_highs=0.0)


class TokenARData(Section):
    mel_sets: tuple[Path, ...]  # files of `python -m myna.training.sets.extract_mels`
    tokens: str  # the tokenizer's weights: a path
    sources: dict[str, float] | None = None  # share of the examples; None: by their voices
    leave_out_worst: float = Field(default=0.1, ge=0, lt=1)  # share of each source's utterances, by alignment
    batch_frames: int = Field(default=6000, ge=100)  # frames of 50 Hz a step, on each process
    examples: strict(ExampleOptions) = EXAMPLES  # pyright: ignore[reportInvalidTypeForm]
    held_out: TokenARHeldOut | None = TokenARHeldOut()  # None: train blindly, keep the last weights only


class TokenARRecipe(TrainerRecipe):
    """A recipe of `myna train` for the autoregressive model over speech tokens."""

    may_change: ClassVar[tuple[str, ...]] = (
        *TrainerRecipe.may_change,
        *("data.mel_sets", "data.sources", "data.batch_frames", "optimizer.lr"),
    )

    kind: Literal["token-ar"] = "token-ar"
    model: strict(TokenARConfig) = TokenARConfig()  # pyright: ignore[reportInvalidTypeForm]
    data: TokenARData
    # The learning rate is one that was found at this width (`engine.width_transfer`); None: at the model's own.
    rates_of_width: int | None = Field(default=None, ge=1)
    optimizer: OptimizerSection = OptimizerSection(betas=(0.9, 0.95), weight_decay=0.05)
