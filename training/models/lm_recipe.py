"""Everything that a recipe for a codec language model can say, with its defaults. `recipes/myna-ar-cpu.yaml` and
`recipes/myna-nar-cpu.yaml` are examples."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from ...tts.decoders.nar import NARConfig
from ...tts.lm.ar import ARConfig
from ..engine.recipe import Section, strict
from ..engine.trainer_recipe import OptimizerSection, TrainerRecipe, ValidationSection
from ..sets.lm_data import ExampleOptions


class LMHeldOutSection(ValidationSection):
    """What a model is judged by: fixed sequences from splits that are not trained on."""

    splits: tuple[str, ...] = ("dev", "test")
    sources: tuple[str, ...] | None = None  # None: all
    speeds: tuple[float, ...] = (1.0,)
    utterances: int = Field(default=48, ge=1)  # of each source, or as many as there are


class LMDataSection(Section):
    speech_set: (
        Path  # a file of `python -m myna.training.sets.extract_speech`; relative to the working directory
    )
    codec: str = "myna-24k"  # whose codes these are: a name or a path
    splits: tuple[str, ...] = ("train",)
    sources: dict[str, float] | None = None  # share of the frames; None: by what there is
    speeds: tuple[float, ...] | None = None  # a speaker at another speed is another voice; None: all
    leave_out_worst: float = Field(default=0.0, ge=0, lt=1)  # share of each source's utterances, by alignment
    batch_frames: int = Field(default=4000, ge=1)  # a step's, on each process
    examples: strict(ExampleOptions) = ExampleOptions()  # pyright: ignore[reportInvalidTypeForm]
    held_out: LMHeldOutSection | None = LMHeldOutSection()  # None: train blindly, keep the last weights only


class LMRecipe(TrainerRecipe):
    """What recipes of both kinds say."""

    data: LMDataSection
    optimizer: OptimizerSection = OptimizerSection(betas=(0.9, 0.95), weight_decay=0.05)


class ARRecipe(LMRecipe):
    """A recipe of `myna train` for an autoregressive model: the coarse codebooks."""

    kind: Literal["ar"]
    model: strict(ARConfig) = ARConfig()  # pyright: ignore[reportInvalidTypeForm]


class NARRecipe(LMRecipe):
    """A recipe of `myna train` for a non-autoregressive model: the other codebooks."""

    kind: Literal["nar"]
    model: strict(NARConfig) = NARConfig()  # pyright: ignore[reportInvalidTypeForm]
    # How often each group of codebooks is trained; None: all alike.
    group_weights: tuple[float, ...] | None = None

    @model_validator(mode="after")
    def _weights_of_all_groups(self) -> NARRecipe:
        weights = self.group_weights
        if weights is not None and (len(weights) != len(self.model.groups) or min(weights) <= 0):
            raise ValueError(
                f"group_weights must be {len(self.model.groups)} numbers above 0, as the model has groups; got "
                f"{list(weights)}"
            )
        return self
