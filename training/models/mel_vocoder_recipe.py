"""Everything that a recipe for the mel vocoder can say, with its defaults. `recipes/myna-mel-vocoder-cpu.yaml` is an
example."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from ...codec.mel_vocoder import MelVocoderConfig
from ...evaluation.measures.spectral import SpectralLossOptions
from ..engine.recipe import Section, strict
from ..engine.trainer_recipe import OptimizerSection, TrainerRecipe, ValidationSection


class MelVocoderHeldOut(ValidationSection):
    """What the vocoder is judged by: fixed crops of the split dev."""

    crops: int = Field(default=32, ge=1)


class MelVocoderData(Section):
    corpora: tuple[Path, ...]  # folders of WebDataset shards
    pitches: tuple[Path, ...]  # files of `python -m myna.training.sets.extract_pitch`
    # Files of `python -m myna.training.models.draw_mels`: mels that a decoder drew, which stand for the recordings' own
    drawn: tuple[Path, ...] = ()
    drawn_share: float = Field(default=0.6, ge=0, le=1)  # in this share of the crops that are not moved
    cache: Path | None = None  # of the decoded corpora; None: ~/.cache/myna/corpus
    sources: dict[str, float] | None = None  # share of the crops; None: by seconds
    batch_size: int = Field(default=8, ge=1)  # crops a step, on each process
    shortest: float = Field(default=1.0, gt=0)  # seconds of a recording that is used
    frames: int = Field(default=150, ge=20)  # of a crop: 1.5 s
    skipped: int = Field(default=40, ge=0)  # the first frames of a crop, which lack their past, teach nothing
    scale: tuple[float, float] = (0.85, 1.18)  # by which a step's voices are moved,
    scaled: float = Field(default=0.4, ge=0, le=1)  # in this share of the steps
    gain_db: tuple[float, float] = (-10.0, 3.0)
    held_out: MelVocoderHeldOut | None = (
        MelVocoderHeldOut()
    )  # None: train blindly, keep the last weights only


class MelVocoderAdversary(Section):
    """Discriminators over log-magnitudes (UnivNet's)."""

    from_step: int = Field(default=0, ge=0)  # they learn from this step on,
    heard_from: int = Field(default=500, ge=0)  # and from this one the vocoder learns from them
    n_ffts: tuple[int, ...] = (512, 1024, 2048)
    width: int = Field(default=16, ge=1)
    samples: int = Field(default=16_384, ge=4096)  # of each crop that they hear, at random
    generator: float = Field(default=0.1, ge=0)  # weight of being taken for real
    features: float = Field(default=0.2, ge=0)  # of their layers' likeness
    lr: float = Field(default=3e-4, gt=0)
    betas: tuple[float, float] = (0.5, 0.9)
    clip: float = Field(default=10.0, gt=0)


class MelVocoderLosses(Section):
    """Weights; names as in the logs."""

    mel: float = Field(default=2.0, ge=0)
    stft: float = Field(default=0.3, ge=0)
    pitch: float = Field(default=0.1, ge=0)  # nats
    voicing: float = Field(default=0.3, ge=0)


class MelVocoderRecipe(TrainerRecipe):
    """A recipe of `myna train` for the mel vocoder."""

    may_change: ClassVar[tuple[str, ...]] = (
        *TrainerRecipe.may_change,
        *(
            "data.corpora",
            "data.pitches",
            "data.sources",
            "data.drawn",
            "data.drawn_share",
            "data.scaled",
            "data.batch_size",
            "adversary",
            "losses",
            "optimizer.lr",
        ),
    )

    kind: Literal["mel-vocoder"] = "mel-vocoder"
    model: strict(MelVocoderConfig) = MelVocoderConfig()  # pyright: ignore[reportInvalidTypeForm]
    data: MelVocoderData
    losses: MelVocoderLosses = MelVocoderLosses()
    adversary: MelVocoderAdversary | None = None
    spectral: strict(SpectralLossOptions) = SpectralLossOptions(  # pyright: ignore[reportInvalidTypeForm]
        mel_windows=(256, 512, 1024, 2048),
        mel_bands=(40, 80, 80, 160),
        mel_floor=1e-3,
        stft_windows=(256, 512, 1024, 2048),
        complex_windows=(),
        windows_per_step=2,
    )
    optimizer: OptimizerSection = OptimizerSection(clip=3.0)
