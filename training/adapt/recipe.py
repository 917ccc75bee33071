"""Everything that a recipe for adapting a voice can say, with its defaults. `recipes/adapt.yaml` is an example."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from ...layers.lora import LoRAOptions
from ..engine.recipe import Section, strict


class PartSection(Section):
    """How one part of the speech models is adapted."""

    lora: strict(LoRAOptions)  # pyright: ignore[reportInvalidTypeForm]
    lr: float = Field(default=1e-3, gt=0)
    warmup_steps: int = Field(default=10, ge=0)
    clip: float = Field(default=1.0, gt=0)  # of the gradient's norm
    measure_every: int = Field(default=30, ge=1)  # steps
    max_steps: int | None = Field(default=None, ge=1)  # None: as many as there is time for


class ARSection(PartSection):
    lora: strict(LoRAOptions) = LoRAOptions(  # pyright: ignore[reportInvalidTypeForm]
        rank=8, alpha=16, dropout=0.05, targets=("transformer.blocks.*",)
    )
    lr: float = Field(default=5e-4, gt=0)
    share: float = Field(default=0.3, ge=0, lt=1)  # of the time; 0: the AR stays as it is
    batch_frames: int = Field(default=1200, ge=1)


class FlowSection(PartSection):
    lora: strict(LoRAOptions) = LoRAOptions(  # pyright: ignore[reportInvalidTypeForm]
        rank=8,
        alpha=16,
        targets=(
            "trunk.blocks.*",
            "head.blocks.*",
            "inputs",
            "out",
            "head_inputs",
            "head_out",
            "voice.map.*",
        ),
    )
    batch_frames: int = Field(default=1200, ge=100)
    unknown_voice: float = Field(default=0.0, ge=0, le=1)  # of the examples hide whose voice it is


class CodecSection(PartSection):
    """The decoder of a codec, whose files of the person then sound better."""

    lora: strict(LoRAOptions) = LoRAOptions(  # pyright: ignore[reportInvalidTypeForm]
        rank=16, alpha=16, targets=("layers.*.expand", "layers.*.contract", "layers.*.project.linear")
    )
    lr: float = Field(default=2e-3, gt=0)
    measure_every: int = Field(default=20, ge=1)
    batch_size: int = Field(default=12, ge=1)
    seconds: float = Field(default=1.0, gt=0)  # of a crop
    losses_of: str = "myna-24k-v2-cpu"  # the recipe whose losses it learns by


class OthersSection(Section):
    """Speech of other people, so that words survive."""

    corpus: Path | None = None  # folder of WebDataset shards, such as `myna prepare` writes; None: without
    utterances: int = Field(default=40, ge=2)
    share: float = Field(default=0.15, ge=0, lt=1)  # of the steps


class AdaptRecipe(Section):
    """A recipe of `myna voices adapt`."""

    kind: Literal["adapt"] = "adapt"
    seed: int = Field(default=0, ge=0)
    threads: int | None = Field(default=None, ge=1)  # None: torch's choice
    held_out: float = Field(default=0.1, gt=0, lt=0.5)  # of the recordings, by which it is judged
    sentences: int = Field(default=8, ge=1)  # said each time it is judged, half of them the person's own
    last_sentences: int = Field(default=16, ge=1)  # said when its strength is chosen, which decides more
    patience: int = Field(default=5, ge=1)  # judgements without a gain, after which it stops
    words_slack: float = Field(
        default=0.15, ge=0
    )  # nats a phone by which words may become less clear by the AR's adapter,
    words_meanwhile: float = Field(default=0.5, ge=0)  # by all of the decoder's while it learns,
    words_kept: float = Field(
        default=0.1, ge=0
    )  # and by all adapters as they are used (training/adapt/strength.py)
    others: OthersSection = OthersSection()
    ar: ARSection = ARSection()
    flow: FlowSection = FlowSection()
    codec: CodecSection = CodecSection()
