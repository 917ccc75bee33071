"""Everything that a recipe for a codec can say, with its defaults. `recipes/myna-24k.yaml` is an example."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from ...codec.dac import DAC_24K, DACConfig
from ...codec.encodec import ENCODEC_24K, EncodecConfig
from ...codec.myna import MynaConfig
from ...data.augment import AugmentOptions
from ...evaluation.measures.spectral import SpectralLossOptions
from ..engine.recipe import Section, strict
from ..engine.trainer_recipe import TrainerRecipe, ValidationSection
from .adversarial import GANLoss

ON_THE_WAVEFORM = (
    "mel",
    "stft",
    "complex",
    "waveform",
    "intelligibility",
    "loudness",
    "generator",
    "features",
)  # what the balancer can weigh
ON_THE_CODES = ("commitment", "codebook")
LOSSES = (*ON_THE_WAVEFORM, *ON_THE_CODES)

Weight = float | list[tuple[int, float]]


class HeldOutSection(ValidationSection):
    """What the codec is judged by: fixed crops from splits that are not trained on."""

    splits: tuple[str, ...] = ("dev", "test")
    sources: tuple[str, ...] | None = None  # None: all
    crops: int = Field(default=32, ge=1)
    seconds: float = Field(default=2.0, gt=0)
    perceptual: bool = True  # PESQ and STOI too, where those packages are installed
    best_by: Literal["mel", "stft", "complex", "si_sdr", "pesq", "stoi"] = "mel"  # decides best.safetensors


class DataSection(Section):
    corpus: Path  # folder of WebDataset shards; relative to the working directory
    cache: Path | None = None  # of the decoded corpus; None: ~/.cache/myna/corpus
    splits: tuple[str, ...] = ("train",)
    sources: dict[str, float] | None = None  # how often each is drawn; None: by its hours
    seconds: float = Field(default=1.0, gt=0)  # of a crop
    batch_size: int = Field(default=16, ge=1)  # crops on each process
    min_rms: float = Field(default=0.0, ge=0, lt=1)  # draw quieter crops again (0.003: -50 dB of full scale)
    augment: strict(AugmentOptions) = AugmentOptions()  # pyright: ignore[reportInvalidTypeForm]
    held_out: HeldOutSection | None = HeldOutSection()  # None: train blindly, keep the last weights only


class PhaseSection(Section):
    """What begins when, in steps. A codec that quantises from the first step collapses to a few codes."""

    # Warm-up: latents pass as they are, then codebooks start from them. 0: start as a fitted transform codec.
    unquantized_steps: int = Field(default=250, ge=0)
    codebook_batches: int = Field(default=16, ge=1)  # batches whose latents the codebooks start from
    unquantized_share: float = Field(default=0.3, ge=0, lt=1)  # of the examples, after the warm-up
    quantizer_dropout: float = Field(default=0.5, ge=0, le=1)  # share with a random number of codebooks
    adversarial_from: int | None = Field(default=None, ge=0)  # None: never; discriminators are not even built


class SpectrogramDiscriminatorSection(Section):
    n_ffts: tuple[int, ...] = (2048, 1024, 512)
    width: int = Field(default=32, ge=1)


class PeriodDiscriminatorSection(Section):
    periods: tuple[int, ...] = (2, 3, 5, 7, 11)
    width: int = Field(default=32, ge=1)


class DiscriminatorSection(Section):
    """Which discriminators judge, and how they learn."""

    ms_stft: SpectrogramDiscriminatorSection | None = None
    multi_period: PeriodDiscriminatorSection | None = None
    multi_band_stft: SpectrogramDiscriminatorSection | None = None
    loss: GANLoss = "hinge"
    relative_features: bool = True  # feature distances relative to the size of the features (EnCodec)
    seconds: float | None = Field(default=None, gt=0)  # judge a random part so long of each crop; None: all
    update_share: float = Field(default=1.0, gt=0, le=1)  # of the steps, in which they learn (EnCodec: 2/3)
    lr: float = Field(default=1e-4, gt=0)
    betas: tuple[float, float] = (0.8, 0.99)
    clip: float = Field(default=10.0, gt=0)  # of the gradient's norm


class BalancerSection(Section):
    """EnCodec's balancer: the weights of losses on the waveform become shares of the gradient."""

    total_norm: float = Field(default=1.0, gt=0)
    decay: float = Field(default=0.999, ge=0, lt=1)


class CodecRecipe(TrainerRecipe):
    """A recipe of `myna train` for a codec of the house's kind."""

    # A run may gain discriminators between two sittings, and weights that fit them.
    may_change = (
        *TrainerRecipe.may_change,
        *("phases.adversarial_from", "discriminators", "losses", "balancer"),
    )

    kind: Literal["codec", "encodec", "dac"] = "codec"
    model: strict(MynaConfig) = MynaConfig()  # pyright: ignore[reportInvalidTypeForm]
    data: DataSection
    phases: PhaseSection = PhaseSection()
    # "decoder": the encoder and the codebooks of `init_from` stay, so that files and voices of before are still read
    trained: Literal["all", "decoder"] = "all"
    # By the names they are logged under. A list [[step, weight], ...] is interpolated linearly between its
    # steps.
    losses: dict[str, Weight] = Field(
        default={"complex": 1.0, "mel": 1.0, "commitment": 0.25, "codebook": 1.0}
    )
    spectral: strict(SpectralLossOptions) = SpectralLossOptions()  # pyright: ignore[reportInvalidTypeForm]
    own_band_only: bool = False  # compare each recording below half its original rate only
    balancer: BalancerSection | None = None  # None: losses are added with their weights
    discriminators: DiscriminatorSection = DiscriminatorSection()

    @field_validator("losses")
    @classmethod
    def _known_losses(cls, losses: dict[str, Weight]) -> dict[str, Weight]:
        for name in losses:
            if name not in LOSSES:
                raise ValueError(f"unknown loss {name} (known: {', '.join(LOSSES)})")
        return losses

    @model_validator(mode="after")
    def _fits_together(self) -> CodecRecipe:
        d = self.discriminators
        if self.phases.adversarial_from is not None and not (
            d.ms_stft or d.multi_period or d.multi_band_stft
        ):
            raise ValueError("phases.adversarial_from is set but discriminators names none")
        if self.trained == "decoder" and self.init_from is None:
            raise ValueError("trained is decoder, so init_from must name the codec whose encoder stays")
        return self


class EncodecRecipe(CodecRecipe):
    """The same for EnCodec (Défossez et al. 2022)."""

    kind: Literal["encodec"] = "encodec"  # pyright: ignore[reportIncompatibleVariableOverride]
    model: strict(EncodecConfig) = ENCODEC_24K  # pyright: ignore


class DACRecipe(CodecRecipe):
    """The same for DAC (Kumar et al. 2023)."""

    kind: Literal["dac"] = "dac"  # pyright: ignore[reportIncompatibleVariableOverride]
    model: strict(DACConfig) = DAC_24K  # pyright: ignore


RECIPES = {"codec": CodecRecipe, "encodec": EncodecRecipe, "dac": DACRecipe}


def weight_at(weight: Weight, step: int) -> float:
    """A loss weight at a step: constant, or between the points around it."""
    if isinstance(weight, (int, float)):
        return float(weight)
    points = sorted(weight)
    before = [p for p in points if p[0] <= step]
    after = [p for p in points if p[0] > step]
    if not before:
        return float(after[0][1])
    if not after:
        return float(before[-1][1])
    (s0, w0), (s1, w1) = before[-1], after[0]
    return w0 + (w1 - w0) * (step - s0) / (s1 - s0)
