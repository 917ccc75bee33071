"""Everything that a recipe for the speech tokens alone can say, with its defaults. `recipes/myna-tokens-cpu.yaml` is an
example."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from ...codec.mel.speech_tokens import SpeechTokensConfig
from ..engine.recipe import Section, strict
from ..engine.trainer_recipe import OptimizerSection, TrainerRecipe, ValidationSection


class TokensHeldOut(ValidationSection):
    """What the tokens are judged by: fixed utterances of the split dev."""

    examples: int = Field(default=64, ge=1)


class TokensData(Section):
    mel_sets: tuple[Path, ...]  # files of `python -m myna.training.sets.extract_mels`
    sources: dict[str, float] | None = None  # share of the utterances; None: by their voices
    leave_out_worst: float = Field(
        default=0.05, ge=0, lt=1
    )  # share of each source's utterances, by alignment
    batch_frames: int = Field(default=2560, ge=100)  # frames of 50 Hz a step, on each process
    frames: int = Field(default=400, ge=2)  # of an utterance at most
    held_out: TokensHeldOut | None = TokensHeldOut()  # None: train blindly, keep the last weights only


class TokensLosses(Section):
    """Weights; names as in the logs."""

    phone: float = Field(default=0.5, ge=0)  # nats
    pitch: float = Field(default=1.0, ge=0)  # octaves, voicing and loudness
    # What a recogniser hears; the mel sets then need it (`extract_mels --content tiny.en`), 0: they do not.
    content: float = Field(default=1.0, ge=0)
    spread: float = Field(default=0.1, ge=0)  # that all levels are used


class TokensRecipe(TrainerRecipe):
    """A recipe of `myna train` for the speech tokens, before a decoder reads them."""

    may_change: ClassVar[tuple[str, ...]] = (
        *TrainerRecipe.may_change,
        *("data.mel_sets", "data.sources", "data.batch_frames", "losses", "optimizer.lr"),
    )

    kind: Literal["tokens"] = "tokens"
    model: strict(SpeechTokensConfig) = SpeechTokensConfig()  # pyright: ignore[reportInvalidTypeForm]
    data: TokensData
    losses: TokensLosses = TokensLosses()
    # Until the first of these steps numbers get noise as large as rounding (Balle et al. 2017, section 3), from the
    # second on all are rounded. Between, those of a rising share of the utterances.
    rounded: tuple[int, int] = (300, 800)
    optimizer: OptimizerSection = OptimizerSection(lr=2e-3, betas=(0.9, 0.98), weight_decay=0.02)

    @model_validator(mode="after")
    def _in_order(self) -> TokensRecipe:
        if not 0 <= self.rounded[0] <= self.rounded[1]:
            raise ValueError(f"rounded must rise from 0 or more, got {list(self.rounded)}")
        return self
