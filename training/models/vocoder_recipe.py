"""Everything that a recipe for a vocoder can say, with its defaults. `recipes/myna-vocoder-cpu.yaml` is an example."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from ...evaluation.measures.spectral import SpectralLossOptions
from ...tts.decoders.vocoder import VocoderConfig
from ..engine.recipe import Section, strict
from ..engine.trainer_recipe import TrainerRecipe, ValidationSection


class VocoderHeldOut(ValidationSection):
    """What the vocoder is judged by: crops of a hidden set that is not trained on, the same each time."""

    hidden_set: Path
    crops: int = Field(default=32, ge=1)


class VocoderData(Section):
    hidden_sets: tuple[Path, ...]  # files of `python -m myna.training.sets.extract_hidden`
    corpus: Path  # folder of WebDataset shards: what should be heard
    cache: Path | None = None  # of the decoded corpus; None: ~/.cache/myna/corpus
    codec: str = "myna-24k"  # whose codes these are: a name or a path
    batch_size: int = Field(default=6, ge=1)  # crops a step, on each process
    frames: int = Field(default=120, ge=20)  # of a crop
    skipped: int = Field(default=5, ge=0)  # the first frames of a crop, which lack their past, teach nothing
    prompt_frames: tuple[int, int] = (60, 150)  # of the voice
    drop_voice: float = Field(default=0.03, ge=0, le=1)  # of the crops hide it
    held_out: VocoderHeldOut | None = None  # None: train blindly, keep the last weights only


class VocoderAdversary(Section):
    """A discriminator that hears whether it is speech, and whether it is the voice that was asked for."""

    from_step: int = Field(default=0, ge=0)  # it learns from this step on,
    heard_from: int = Field(default=150, ge=0)  # and from this one the vocoder learns from it
    width: int = Field(default=24, ge=1)
    frames: int = Field(default=60, ge=10)  # of each crop that it hears, at random
    generator: float = Field(default=0.1, ge=0)  # weight of being taken for real
    features: float = Field(default=0.2, ge=0)  # of its layers' likeness on what is heard and what should be
    lr: float = Field(default=5e-4, gt=0)
    betas: tuple[float, float] = (0.5, 0.9)
    clip: float = Field(default=10.0, gt=0)  # of the gradient's norm


class VocoderLosses(Section):
    """Weights; names as in the logs."""

    mel: float = Field(default=2.0, ge=0)
    stft: float = Field(default=0.3, ge=0)
    pitch: float = Field(default=0.1, ge=0)  # nats
    voicing: float = Field(default=0.3, ge=0)


class VocoderRecipe(TrainerRecipe):
    """A recipe of `myna train` for a vocoder."""

    # A run may gain a discriminator between two sittings, and weights that fit it.
    may_change: ClassVar[tuple[str, ...]] = (
        *TrainerRecipe.may_change,
        *("data.hidden_sets", "adversary", "losses", "optimizer.lr"),
    )

    kind: Literal["vocoder"] = "vocoder"
    model: strict(VocoderConfig) = VocoderConfig()  # pyright: ignore[reportInvalidTypeForm]
    data: VocoderData
    losses: VocoderLosses = VocoderLosses()
    adversary: VocoderAdversary | None = None
    spectral: strict(SpectralLossOptions) = SpectralLossOptions(  # pyright: ignore[reportInvalidTypeForm]
        mel_windows=(256, 512, 1024, 2048),
        mel_bands=(40, 80, 80, 160),
        mel_floor=1e-3,
        stft_windows=(256, 512, 1024, 2048),
        complex_windows=(),
        windows_per_step=2,
    )
