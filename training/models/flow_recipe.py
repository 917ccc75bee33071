"""Everything that a recipe for the flow decoder can say, with its defaults. `recipes/myna-flow.yaml` is an example."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from ...codec.mel.speech_tokens import SpeechTokensConfig
from ...tts.decoders.flow.decoder import FlowConfig
from ..engine.recipe import Section, strict
from ..engine.trainer_recipe import OptimizerSection, TrainerRecipe, ValidationSection
from ..sets.examples import ExampleOptions


class FlowHeldOut(ValidationSection):
    """What the decoder is judged by: fixed examples of the split dev."""

    examples: int = Field(default=64, ge=1)


class FlowData(Section):
    mel_sets: tuple[Path, ...]  # files of `python -m myna.training.sets.extract_mels`
    sources: dict[str, float] | None = None  # share of the examples; None: by their voices
    leave_out_worst: float = Field(
        default=0.05, ge=0, lt=1
    )  # share of each source's utterances, by alignment
    least_quality: float | None = (
        None  # DNSMOS of what is said; prompts may have less (`extract_mels --quality`)
    )
    batch_frames: int = Field(default=4000, ge=100)  # a step's, on each process
    examples: strict(ExampleOptions) = ExampleOptions()  # pyright: ignore[reportInvalidTypeForm]
    held_out: FlowHeldOut | None = FlowHeldOut()  # None: train blindly, keep the last weights only


class FlowLosses(Section):
    """Weights; names as in the logs."""

    mean: float = Field(default=0.5, ge=0)  # L1 + half of L2 of the trunk's mel
    flow: float = Field(default=1.0, ge=0)  # of the head's
    phone: float = Field(default=0.2, ge=0)  # nats: the phone, from tokens alone
    pitch: float = Field(default=0.2, ge=0)  # octaves, voicing and loudness, from tokens alone
    # What a recogniser hears, from tokens alone; the mel sets then need it (`extract_mels --content tiny.en`).
    content: float = Field(default=0.0, ge=0)
    spread: float = Field(default=0.1, ge=0)  # that tokens use all of their levels


class FlowAdversary(Section):
    """A discriminator over the head's mels, told the trunk's mean and the voice."""

    from_step: int = Field(default=0, ge=0)  # it learns from this step on,
    heard_from: int = Field(default=300, ge=0)  # and from this one the decoder learns from it
    width: int = Field(default=24, ge=1)
    frames: int = Field(default=128, ge=16)  # mel frames of each target that it sees, at random
    # Share of the examples that are drawn as in speaking, in one or two steps, which are those that are judged,
    spoken: float = Field(default=0.6, gt=0, le=1)
    temperature: float = Field(default=0.4, ge=0)  # from noise of this deviation;
    regression: float = Field(default=0.3, ge=0)  # weight of their squared error, which pulls to the mean
    generator: float = Field(default=0.03, ge=0)  # weight of being taken for real
    voice: float = Field(default=0.03, ge=0)  # of being taken for the voice
    features: float = Field(default=0.04, ge=0)  # of its layers' likeness
    lr: float = Field(default=3e-4, gt=0)
    betas: tuple[float, float] = (0.5, 0.9)
    clip: float = Field(default=10.0, gt=0)


class FlowReading(Section):
    """A network that reads phones from recordings, and what is drawn has to be read as its text."""

    heard_from: int = Field(default=300, ge=0)  # the decoder learns from it from this step on
    weight: float = Field(default=0.1, ge=0)  # of its cross-entropy, nats a frame
    updates: int = Field(default=3, ge=1)  # of the network in a step: recordings are cheap to read
    width: int = Field(default=160, ge=1)
    lr: float = Field(default=1e-3, gt=0)
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = Field(default=5.0, gt=0)


class FlowRecipe(TrainerRecipe):
    """A recipe of `myna train` for the flow decoder and its speech tokens."""

    may_change: ClassVar[tuple[str, ...]] = (
        *TrainerRecipe.may_change,
        *(
            "data.mel_sets",
            "data.sources",
            "data.least_quality",
            "data.batch_frames",
            "losses",
            "optimizer.lr",
            "train_tokens",
            "adversary",
            "reading",
        ),
    )

    kind: Literal["flow"] = "flow"
    model: strict(FlowConfig) = FlowConfig()  # pyright: ignore[reportInvalidTypeForm]
    tokens: strict(SpeechTokensConfig) = SpeechTokensConfig()  # pyright: ignore[reportInvalidTypeForm]
    data: FlowData
    losses: FlowLosses = FlowLosses()
    adversary: FlowAdversary | None = None
    reading: FlowReading | None = None
    # None: new ones; a path: to start from, or to keep as they are where train_tokens is false.
    init_tokens: str | None = None
    train_tokens: bool = True
    head_alone: bool = False  # all but the head stays as it is: a step takes half the time
    flow_from: int = Field(default=0, ge=0)  # the head learns from this step on
    unrounded_until: int = Field(
        default=0, ge=0
    )  # steps in which half of the examples read tokens before rounding
    token_noise: float = Field(default=0.05, ge=0, le=1)  # share of the tokens that are replaced by any other
    speaker_noise: float = Field(
        default=0.02, ge=0
    )  # deviation of what is added to each number of a speaker vector
    blocks: tuple[int, ...] = (12, 16, 24, 32, 48, 100_000)  # frames of a block, drawn for each step
    weight_cap: float = Field(default=4.0, gt=0)  # of the flow's loss, which weighs 0.5 / (1 - t)^2
    optimizer: OptimizerSection = OptimizerSection(betas=(0.9, 0.98), weight_decay=0.02)

    @model_validator(mode="after")
    def _something_to_begin_with(self) -> FlowRecipe:
        if self.head_alone and (self.init_from is None or self.init_tokens is None or self.train_tokens):
            raise ValueError(
                "head_alone needs what it is the head of: set init_from, init_tokens and train_tokens: false"
            )
        if self.head_alone and self.flow_from:
            raise ValueError("head_alone learns from the first step on: set flow_from: 0")
        late = self.max_steps is not None and self.flow_from >= self.max_steps
        for name in ("adversary", "reading"):
            if late and getattr(self, name) is not None:
                raise ValueError(
                    f"{name} judges the head, which learns nothing before the run ends: lower flow_from"
                )
        return self
