"""The AR over speech tokens on the person's sentences, each after a prompt of theirs."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...codec.checkpoint import weights_hash
from ...codec.mel.speech_tokens import SpeechTokenizer
from ...tts.lm.token_ar import TokenAR
from ..models.token_ar import token_batch, tokens_of
from ..models.token_ar_recipe import EXAMPLES
from ..sets.examples import ALL_SHOWN, Batches, Planner
from ..sets.mel_set import MelSet
from .material import Material
from .mels import mels
from .parts import attached, from_others
from .recipe import AdaptRecipe


class TokenARPart:
    """tokenizer: of the tokens that it says."""

    name = "token-ar"
    speaker: Tensor | None = None  # what it says changes with another one: no judgement could be compared

    def __init__(
        self,
        ar: TokenAR,
        tokenizer: SpeechTokenizer,
        mine: Material,
        others: Material | None,
        work: Path,
        recipe: AdaptRecipe,
    ):
        section, self.recipe = recipe.ar, recipe
        self.base = weights_hash(ar)[:16]
        self.model = copy.deepcopy(ar)
        self.layers = attached(self.model, section, self.name, recipe.seed)
        self._tokenizer, self._batch_frames = tokenizer, section.batch_frames
        self._mine = self._batches(mels(mine, work / "mels.safetensors"))
        self._others = None
        if others is not None and others.speech is not None:
            self._others = self._batches(mels(others, work / "other-mels.safetensors"))
        held = mels(mine, work / "held-mels.safetensors", kept_apart=True)
        # Whoever has one sentence apart is heard in its own beginning.
        planner = Planner(held, self._said(held), replace(ALL_SHOWN, max_frames=1000))
        plans = planner.each(self._said(held), np.random.default_rng(recipe.seed))
        self._held = token_batch(plans, held, tokens_of(held, tokenizer))

    def _batches(self, speech: MelSet) -> tuple[Batches, MelSet, Tensor]:
        planner = Planner(speech, self._said(speech), EXAMPLES)
        batches = Batches(planner, self._batch_frames, self.recipe.seed, pool=8)
        return batches, speech, tokens_of(speech, self._tokenizer)

    @staticmethod
    def _said(speech: MelSet) -> Sequence[int]:
        """Utterances of which the text is known."""
        return [i for i in range(len(speech)) if speech.n_phones[i]]

    def loss(self, step: int) -> Tensor:
        self.model.train()
        batches, speech, tokens = self._mine
        if self._others is not None and from_others(self.recipe, True, step):
            batches, speech, tokens = self._others
        return self.model(token_batch(batches.batch(step), speech, tokens)).loss

    @torch.inference_mode()
    def held_loss(self) -> float:
        """Of the sentences kept apart."""
        self.model.eval()
        return float(self.model(self._held).loss)
