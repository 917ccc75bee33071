"""Everything that a recipe for an aligner can say, with its defaults. `recipes/myna-aligner.yaml` is an example."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from ...tts.aligner import AlignerConfig
from ..engine.recipe import Section, strict
from ..engine.trainer_recipe import TrainerRecipe, ValidationSection


class AlignerHeldOut(ValidationSection):
    """What the aligner is judged by: utterances with given times, and how well it likes the others."""

    splits: tuple[str, ...] = ("dev", "test")
    utterances: int = Field(default=50, ge=1)  # of each source


class AlignerAugment(Section):
    """What happens to recordings, so that telephones, rooms and children are known. Shares are of the utterances."""

    speed: tuple[float, float] = (0.8, 1.3)  # log-uniform; pitch and formants move along
    speed_share: float = Field(default=0.7, ge=0, le=1)
    noise_share: float = Field(default=0.6, ge=0, le=1)
    noise_db: tuple[float, float] = (5.0, 40.0)  # signal to noise
    band_share: float = Field(default=0.4, ge=0, le=1)  # telephone bands
    band_hz: tuple[float, float] = (3000.0, 7500.0)  # their upper ends
    room_share: float = Field(default=0.3, ge=0, le=1)
    room_seconds: tuple[float, float] = (0.1, 0.6)  # reverberation to -60 dB


class AlignerData(Section):
    corpus: Path  # folder of WebDataset shards; relative to the working directory
    cache: Path | None = None  # of the decoded corpus; None: ~/.cache/myna/corpus
    splits: tuple[str, ...] = ("train",)
    language: str = "en"  # of the texts
    seconds: float = Field(default=40.0, gt=0)  # of speech in a batch, on each process
    augment: AlignerAugment = AlignerAugment()
    held_out: AlignerHeldOut | None = AlignerHeldOut()  # None: train blindly, keep the last weights only


class AlignerRecipe(TrainerRecipe):
    """A recipe of `myna train` for an aligner."""

    kind: Literal["aligner"] = "aligner"
    model: strict(AlignerConfig) = AlignerConfig()  # pyright: ignore[reportInvalidTypeForm]
    data: AlignerData
    # First it learns from the times that the corpus has. Before each of these steps it aligns what has none, or has
    # approximate ones, and learns from that, too.
    realign_at: tuple[int, ...] = ()
    realign_hours: float = Field(default=1.0, gt=0)  # of each source, at most

    @model_validator(mode="after")
    def _in_order(self) -> AlignerRecipe:
        if list(self.realign_at) != sorted({*self.realign_at}) or min(self.realign_at, default=1) < 1:
            raise ValueError(f"realign_at must be steps from 1 on, in order, got {list(self.realign_at)}")
        return self
