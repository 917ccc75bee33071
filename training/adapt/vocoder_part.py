"""The vocoder on what the AR, with what it has learned already, says in the place of the person's recordings."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...codec import Codec
from ...codec.checkpoint import weights_hash
from ...data.files import atomic_output
from ...errors import InputError
from ...evaluation.measures.spectral import SpectralLoss
from ...tts.decoders.vocoder import Vocoder
from ...tts.lm.ar import ARModel
from ..engine.trainer import mix
from ..models.vocoder_recipe import VocoderRecipe
from ..models.vocoder_trainer import Crops, Pass, spoken_losses
from ..sets.extract_hidden import HiddenOptions, Overhearing
from ..sets.extract_speech import Extractor
from ..sets.hidden_set import HiddenSet, hidden_set_bytes
from ..sets.lm_data import ExampleOptions, Planner
from .material import Material
from .parts import attached, from_others
from .recipe import AdaptRecipe

_PROMPTS = ExampleOptions(prompt_frames=(75, 200), prompt_text=0.3, join=0.0, drop_text=0.0, drop_voice=0.0)


def overheard(
    ar: ARModel,
    material: Material,
    codec: Codec,
    path: Path,
    hours: float,
    seed: int,
    progress: Callable[[float], None],
) -> HiddenSet:
    """What an AR says and knows in the place of the material's utterances, but those kept apart; made once.

    Raises InputError where no pitch is found in any.
    """
    here, own = weights_hash(ar)[:16], weights_hash(codec)[:16]
    if path.is_file():
        found = HiddenSet(path)
        apart = any(item.key in material.held for item in found.items)
        if (found.ar_hash, found.codec_hash) == (here, own) and not apart:
            return found
    assert material.speech is not None
    chosen = material.train()
    extractor = Extractor(codec, material.corpus)
    options = HiddenOptions(exchanged=0.0, seed=seed)
    hearing = Overhearing(ar, material.speech, extractor, options)
    planner = Planner(material.speech, chosen, _PROMPTS)
    made, frames = [], 0
    for done, index in enumerate(hearing.rng.permutation(chosen).tolist()):
        if frames / float(codec.frame_rate) > hours * 3600:
            break
        one = hearing.utterance(planner, index)
        if one is not None:
            made.append(one)
            frames += one.codes.shape[1]
        progress((done + 1) / len(chosen))
    if not made:
        raise InputError("no pitch was found in any of the recordings; give recordings of somebody speaking")
    with atomic_output(path, force=True) as file:
        file.write(hidden_set_bytes(made, codec.name, own, here))
    return HiddenSet(path)


class VocoderPart:
    """hidden, other_hidden: of `overheard`."""

    name = "vocoder"

    def __init__(
        self,
        vocoder: Vocoder,
        codec: Codec,
        mine: tuple[Material, HiddenSet],
        others: tuple[Material, HiddenSet] | None,
        recipe: AdaptRecipe,
    ):
        section, self.recipe = recipe.vocoder, recipe
        self.base = weights_hash(vocoder)[:16]
        self.model = copy.deepcopy(vocoder)
        self.layers = attached(self.model, section, self.name, recipe.seed)
        config = vocoder.config
        self._learns = VocoderRecipe.model_validate(
            {
                "output": ".",
                "max_steps": 1,
                "model": config,
                "data": {
                    "hidden_sets": (),
                    "corpus": ".",
                    "batch_size": section.batch_size,
                    "frames": section.frames,
                },
            }
        )
        self._spectral = SpectralLoss(config.sample_rate, self._learns.spectral)
        self._pass = Pass(self.model)
        self._mine, self._others = (
            None if one is None else Crops([one[1]], Extractor(codec, one[0].corpus), self._learns)
            for one in (mine, others)
        )

    def loss(self, step: int) -> Tensor:
        self.model.train()
        crops = self._mine
        if self._others is not None and from_others(self.recipe, True, step):
            crops = self._others
        assert crops is not None
        rng = np.random.default_rng([self.recipe.seed, step])
        batch = crops.batch(rng, self.recipe.vocoder.batch_size)
        windows = torch.Generator().manual_seed(mix(self.recipe.seed, step, 1))
        said = self._pass(batch)
        return spoken_losses(self.model, said, batch, self._learns, self._spectral, windows)[0]["loss"]
