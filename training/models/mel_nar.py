"""Training VALL-E's second stage over the mel codec: speech tokens, phones at the pointer and a prompt (its codes and
its mel) to the residual codebooks.

Shapes: B batch, K codebooks, S code frames (25 Hz), P phones, M mel bands.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ...codec.checkpoint import codes_hash
from ...codec.mel.codec import MelCodec
from ...codec.mel.speech_tokens import STRIDE
from ...codec.registry import load_codec
from ...errors import UsageError
from ...tts.decoders.mel_nar import check_fits, frames_of
from ...tts.decoders.nar import NARModel
from ...tts.lm.batch import SpeechBatch
from ...tts.registry import load_nar, save_model
from ..engine import distributed
from ..engine.distributed import World
from ..engine.optimizer import make_optimizer
from ..engine.start import check_dimensions
from ..engine.trainer import Trainer, TrainingSummary, decayed_groups, run_recipe, seed_torch
from ..sets.examples import Batches, Planner, Plans, held_out, select
from ..sets.mel_set import MelSet
from ..sets.token_places import read_tokens, whole_mels
from .mel_nar_recipe import MelNARHeldOut, MelNARRecipe
from .nar_losses import nar_losses, nar_values

_NOT_DECAYED = ("symbol", "stress", "long", "age", "segment", "extra")


def train(recipe: str | Path, overrides: Sequence[str] = (), quiet: bool = False) -> TrainingSummary:
    """Train by a recipe (a path or the name of one that ships), or continue the run in its output folder.

    Raises MynaError with one line for whatever the user can mend.
    """
    return run_recipe(MelNARTrainer, MelNARRecipe, recipe, overrides, quiet)


@torch.no_grad()
def codes_of(speech: MelSet, codec: MelCodec, batch: int = 64) -> Tensor:
    """The codes of every utterance of a set, one after the other, (K, S) on the set's device."""
    n_tokens, device = int(speech.starts[-1]) // 2, speech.mel.device
    codes = torch.zeros(codec.n_codebooks, n_tokens, dtype=torch.long, device=device)
    for mel, places in whole_mels(speech, batch):
        for found, (place, count) in zip(codec.encode_mel(mel), places, strict=True):
            codes[:, place] = found[:, :count]
    return codes


class MelNARTrainer(Trainer[MelNARRecipe, Plans]):
    """One run."""

    name = "myna-mel-nar"

    def __init__(self, recipe: MelNARRecipe, world: World, quiet: bool = False):
        super().__init__(recipe, world, quiet)
        data = recipe.data
        codec = load_codec(data.codec, world.device)
        if not isinstance(codec, MelCodec):
            raise UsageError(f"data.codec {data.codec} is {codec.name}; give a codec of mel spectrograms")
        check_fits(recipe.model, codec)
        self.mel_codec, self.codec_hash = codec, codes_hash(codec)[:16]
        self.speech = MelSet(data.mel_sets, world.device)
        self.codes = codes_of(self.speech, codec)
        chosen = [i for i in select(self.speech, "train", data.leave_out_worst) if self.speech.n_phones[i]]
        self.batches = Batches(
            Planner(self.speech, chosen, data.examples, data.sources), data.batch_frames, recipe.seed
        )
        model = self._start().to(world.device)
        groups = decayed_groups(model, recipe.optimizer.weight_decay, never=_NOT_DECAYED)
        self._own(model, make_optimizer(groups, recipe.optimizer))
        self._resume()
        self.wrapped = distributed.wrap(model, world, partly_used=True)
        self.held_out = self._held_out(data.held_out)
        self._begin(f"{self.speech.hours:.2f} h of {len(chosen)} utterances")

    def _start(self) -> NARModel:
        recipe = self.recipe
        seed_torch(recipe.seed, 0, 0)
        model = NARModel(recipe.model, self.mel_codec.rows().cpu())
        if recipe.init_from is not None:
            given = load_nar(recipe.init_from, codec_hash=self.codec_hash)
            check_dimensions(given.config, recipe.model, recipe.init_from)
            model.load_state_dict(given.state_dict())
        return model

    def _held_out(self, section: MelNARHeldOut | None) -> list[Plans]:
        if section is None:
            return []
        return held_out(self.speech, section.examples, with_text=True)

    @property
    def validation(self) -> MelNARHeldOut | None:
        return self.recipe.data.held_out

    @property
    def best_by(self) -> str:
        return "loss"

    def batch(self, step: int) -> Plans:
        return self.batches.batch(step, self.world.rank)

    def train_step(self, batch: Plans) -> dict[str, Tensor]:
        recipe = self.recipe
        seed_torch(recipe.seed, self.step, self.world.rank)
        self.model.train()
        read = self.read(batch)
        with self.autocast():
            losses = nar_losses(self.wrapped, read, recipe.model.groups, recipe.group_weights)
        return {**losses, "gradient_norm": self.descend(losses["loss"])}

    def read(self, plans: Plans) -> SpeechBatch:
        """Plans to a batch; hidden prompts are left out, and phones are the targets' alone."""
        s, t = self.speech, read_tokens(plans, self.speech)
        hide_phones = plans.hide_phones.to(s.mel.device)
        reach, bands = int(t.n_prompt.max()), s.mel.shape[1]
        mel = s.mel.view(-1, STRIDE, bands)[t.place[:, :reach]].float().flatten(1, 2).transpose(1, 2)
        return SpeechBatch(
            phones=t.phones,
            n_phones=t.n_phones,
            codes=self.codes[:, t.place].transpose(0, 1) * t.inside[:, None],
            pointer=t.pointer,
            n_prompt=t.n_prompt,
            n_frames=t.n_tokens,
            drop_text=hide_phones,
            drop_voice=torch.zeros_like(hide_phones),
            mel=frames_of(self.mel_codec, mel),
        )

    def measure(self) -> dict[str, float]:
        values: dict[str, list[float]] = {}
        for number, plans in enumerate(self.held_out):
            seed_torch(self.recipe.seed, number, 0)
            with self.autocast():
                found = nar_values(self.model, self.read(plans), self.recipe.model.groups)
            for name, value in found.items():
                values.setdefault(name, []).append(value)
        return {name: float(np.mean(each)) for name, each in values.items()}

    def export(self, model: nn.Module, path: Path, notes: dict[str, str]) -> None:
        assert isinstance(model, NARModel)
        save_model(model, path, self.codec_hash, {**notes, "codec": self.mel_codec.name})
