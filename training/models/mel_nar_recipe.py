"""Everything that a recipe for the NAR over the mel codec can say, with its defaults. `recipes/myna-mel-nar-cpu.yaml`
is an example."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from ...tts.decoders.nar import NARConfig
from ..engine.recipe import Section, strict
from ..engine.trainer_recipe import OptimizerSection, TrainerRecipe, ValidationSection
from ..sets.examples import ExampleOptions

_MODEL = NARConfig(
    name="myna-mel-nar",
    codebook_size=1000,
    codebook_dim=8,
    chunks=(6, 12, 25),
    places=2,
    mel=320,
    width=256,
    depth=4,
    hidden=512,
    context=1024,
    max_age=31,
)


class MelNARHeldOut(ValidationSection):
    """What the model is judged by: fixed examples of the split dev."""

    examples: int = Field(default=64, ge=1)


class MelNARData(Section):
    mel_sets: tuple[Path, ...]  # files of `python -m myna.training.sets.extract_mels`
    codec: str  # the mel codec whose codebooks are filled: a name or a path
    sources: dict[str, float] | None = None  # share of the examples; None: by their voices
    leave_out_worst: float = Field(default=0.1, ge=0, lt=1)  # share of each source's utterances, by alignment
    batch_frames: int = Field(default=4000, ge=100)  # frames of 50 Hz a step, on each process
    examples: strict(ExampleOptions) = ExampleOptions(  # pyright: ignore[reportInvalidTypeForm]
        own_prompt=0.1, hide_speaker=0.0, hide_phones=0.1, hide_tokens=0.0, hide_highs=0.0
    )
    held_out: MelNARHeldOut | None = MelNARHeldOut()  # None: train blindly, keep the last weights only


class MelNARRecipe(TrainerRecipe):
    """A recipe of `myna train` for VALL-E's second stage over the mel codec."""

    may_change: ClassVar[tuple[str, ...]] = (
        *TrainerRecipe.may_change,
        *("data.mel_sets", "data.sources", "data.batch_frames", "group_weights", "optimizer.lr"),
    )

    kind: Literal["mel-nar"] = "mel-nar"
    model: strict(NARConfig) = _MODEL  # pyright: ignore[reportInvalidTypeForm]
    data: MelNARData
    # How often each group of codebooks is trained; None: all alike.
    group_weights: tuple[float, ...] | None = None
    optimizer: OptimizerSection = OptimizerSection(betas=(0.9, 0.95), weight_decay=0.05)

    @model_validator(mode="after")
    def _weights_of_all_groups(self) -> MelNARRecipe:
        weights = self.group_weights
        if weights is not None and (len(weights) != len(self.model.groups) or min(weights) <= 0):
            raise ValueError(
                f"group_weights must be {len(self.model.groups)} numbers above 0, as the model has groups; got "
                f"{list(weights)}"
            )
        return self
