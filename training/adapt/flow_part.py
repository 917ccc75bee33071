"""The flow decoder on the person's recordings: by timed phones where there are texts, else by speech tokens."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...codec.checkpoint import weights_hash
from ...codec.mel.speech_tokens import SpeechTokenizer
from ...errors import MissingModelError
from ...tts.decoders.flow.decoder import FlowDecoder
from ..models.flow import FlowTraining, draw_noise
from ..models.flow_batch import Reader
from ..models.flow_recipe import FlowRecipe
from ..sets.examples import Batches, ExampleOptions, Planner
from .material import Material
from .mels import mels
from .parts import attached, from_others
from .recipe import AdaptRecipe


class FlowPart:
    """It reads one speaker vector for all of the person's clips, their mean, while it learns and when it speaks: a few
    seconds are a poorer estimate of a voice than minutes.

    tokenizer: of speech tokens; None: they are never known, and the clips must have texts.
    """

    name = "flow"

    def __init__(
        self,
        flow: FlowDecoder,
        tokenizer: SpeechTokenizer | None,
        with_tokens: bool,
        mine: Material,
        others: Material | None,
        work: Path,
        recipe: AdaptRecipe,
    ):
        section, self.recipe = recipe.flow, recipe
        if mine.speech is None and tokenizer is None:
            raise MissingModelError(
                "without texts the decoder flow learns from speech tokens, whose weights are not installed; give "
                "--texts, or install a Whisper (`myna models download tiny.en`)"
            )
        self.base = weights_hash(flow)[:16]
        self.speaker: Tensor | None = mine.speaker().half()
        decoder = copy.deepcopy(flow)
        self.layers = attached(decoder, section, self.name, recipe.seed)
        tokenizer = SpeechTokenizer() if tokenizer is None else copy.deepcopy(tokenizer)
        self._net = FlowTraining(decoder, tokenizer.requires_grad_(False))
        self._learns = FlowRecipe.model_validate(
            {
                "output": ".",
                "max_steps": 1,
                "model": flow.config,
                "tokens": tokenizer.config,
                "data": {"mel_sets": ()},
            }
        )
        # What is never known when it speaks is hidden while it learns.
        tokens = 0.35 if with_tokens else 1.0
        examples = ExampleOptions(
            hide_voice=section.unknown_voice,
            hide_phones=0.1 if with_tokens else 0.0,
            hide_tokens=tokens,
            hide_both=0.0 if mine.speech is None or with_tokens else 1.0,
            hide_clarity=1.0,
        )
        self._mine, self._mine_reader = self._batches(mine, work / "mels.safetensors", examples)
        self._others = None
        if others is not None:
            self._others = self._batches(others, work / "other-mels.safetensors", examples)

    def _batches(self, material: Material, path: Path, examples: ExampleOptions) -> tuple[Batches, Reader]:
        speech = mels(material, path)
        if material.whose is not None:
            speech.speakers[:] = material.speaker()
        planner = Planner(speech, range(len(speech)), examples)
        batches = Batches(planner, self.recipe.flow.batch_frames, self.recipe.seed, pool=8)
        return batches, Reader(speech, self._net.decoder.config)

    def loss(self, step: int) -> Tensor:
        self._net.train()
        batches, reader = self._mine, self._mine_reader
        if self._others is not None and from_others(self.recipe, True, step):
            batches, reader = self._others
        rng = np.random.default_rng([self.recipe.seed, step, 3])
        block = int(rng.choice(self._learns.blocks))
        offset = int(rng.integers(min(block, 100) // 2)) * 2
        batch = reader.batch(batches.batch(step), block, offset)
        with torch.no_grad():
            rows = self._net.tokenizer.quantizer.rows
        losses, _ = self._net(batch, draw_noise(self._learns, rows, batch), True)
        weights = self._learns.losses
        return weights.mean * losses["mean"] + weights.flow * losses["flow"]
