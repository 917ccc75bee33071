"""The parts of the speech models that learn a voice: what each of them reads in a step.

A part is a copy of a model with adapters in it. What it learns from in a step is a function of the step.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ...codec.checkpoint import weights_hash
from ...errors import UsageError
from ...layers.lora import LoRALinear, attach, weights_of
from ...tts.lm.adapter import Adapter
from ...tts.lm.ar import ARModel
from ..sets.lm_data import Batches, ExampleOptions, Planner, collate
from .material import Material
from .recipe import AdaptRecipe, PartSection


class Part(Protocol):
    """name: of the adapter in the voice.   layers: what learns.   base: hash of the weights beside it.   speaker (E,):
    that it reads in place of the prompt's; None: the prompt's."""

    name: str
    layers: Mapping[str, LoRALinear]
    base: str
    speaker: Tensor | None

    def loss(self, step: int) -> Tensor: ...


class SpeakingPart(Part, Protocol):
    """An AR, judged by how probable the sentences kept apart are: `held_loss`."""

    def held_loss(self) -> float: ...


def attached(model: torch.nn.Module, section: PartSection, part: str, seed: int) -> Mapping[str, LoRALinear]:
    """Raises UsageError for targets that the model has not."""
    try:
        return attach(model, section.lora, seed)
    except ValueError as error:
        raise UsageError(f"{part}.lora of the recipe: {error}") from None


def as_adapter(part: Part, facts: Mapping[str, object] | None = None) -> Adapter:
    """What it has learned, in the precision in which it is kept."""
    return Adapter(weights_of(part.layers).half(), part.base, facts or {}, part.speaker)


def from_others(recipe: AdaptRecipe, there: bool, step: int) -> bool:
    """Whether a step learns from other people."""
    if not there:
        return False
    return bool(np.random.default_rng([recipe.seed, 7, step]).random() < recipe.others.share)


class ARPart:
    """The AR on the person's sentences, each after a prompt of theirs."""

    name = "ar"
    speaker: Tensor | None = None

    def __init__(self, ar: ARModel, mine: Material, others: Material | None, recipe: AdaptRecipe):
        assert mine.speech is not None
        section, self.recipe = recipe.ar, recipe
        self.base = weights_hash(ar)[:16]
        self.model = copy.deepcopy(ar)
        self.layers = attached(self.model, section, self.name, recipe.seed)
        options = ExampleOptions(join=0.3, max_frames=1000, drop_text=0.1, drop_voice=0.05)
        self._mine = Batches(mine.speech, mine.train(), options, section.batch_frames, recipe.seed, pool=8)
        self._others = None
        if others is not None and others.speech is not None:
            self._others = Batches(
                others.speech, others.train(), options, section.batch_frames, recipe.seed, pool=8
            )
        self._held = self._judged(mine, mine.kept_apart())

    def loss(self, step: int) -> Tensor:
        self.model.train()
        batches = self._mine
        if self._others is not None and from_others(self.recipe, True, step):
            batches = self._others
        return self.model(batches.batch(step)).loss

    @torch.inference_mode()
    def held_loss(self) -> float:
        """Of the sentences kept apart."""
        self.model.eval()
        return float(np.mean([float(self.model(batch).loss) for batch in self._held]))

    def _judged(self, mine: Material, chosen: Sequence[int]) -> list:
        assert mine.speech is not None
        plain = ExampleOptions(join=0.0, max_frames=1000, drop_text=0.0, drop_voice=0.0)
        planner = Planner(mine.speech, [*mine.train(), *chosen], plain)
        rng = np.random.default_rng(self.recipe.seed)
        return [collate([planner.read(planner.plan(i, rng))]) for i in chosen]
