"""Training the speech tokens by themselves: what a flow decoder reads later, and an AR says.

    mel -> tokens -> probe: phone, pitch, voicing, loudness, and what a recogniser hears

Beside a decoder they learn little: it is twenty times as long for each step, and does well with the phones that it is
given. Alone they learn in minutes what is said and how (docs/log.md). A decoder is then trained to read them
(`init_tokens`, `train_tokens: false` in its recipe).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ...codec.mel.speech_tokens import SpeechTokenizer, SpeechTokensConfig
from ...data.checkpoint import load_checkpoint, save_checkpoint
from ...tts.decoders.flow.decoder import FlowConfig
from ...tts.text.phones import N_SYMBOLS
from ..engine import distributed
from ..engine.distributed import World
from ..engine.optimizer import make_optimizer
from ..engine.start import check_dimensions
from ..engine.trainer import Trainer, TrainingSummary, decayed_groups, run_recipe, seed_torch
from ..sets.examples import Batches, ExampleOptions, Planner, Plans, held_out, select
from ..sets.mel_set import MelSet
from .flow_batch import FlowBatch, Reader
from .token_probe import TokenProbe, spread
from .tokens_recipe import TokensHeldOut, TokensRecipe


def train(recipe: str | Path, overrides: Sequence[str] = (), quiet: bool = False) -> TrainingSummary:
    """Train by a recipe (a path or the name of one that ships), or continue the run in its output folder.

    Raises MynaError with one line for whatever the user can mend.
    """
    return run_recipe(TokensTrainer, TokensRecipe, recipe, overrides, quiet)


def start_tokenizer(path: str | None, config: SpeechTokensConfig, key: str, section: str) -> SpeechTokenizer:
    """A new tokenizer, or that of the file which a recipe names by `key`; its dimensions have to be those of the
    recipe's `section`. Raises UsageError otherwise, and what `load_checkpoint` raises."""
    if path is None:
        return SpeechTokenizer(config)
    given = load_checkpoint(SpeechTokenizer, SpeechTokensConfig, path, "tokens")
    check_dimensions(given.config, config, path, key, section)
    return given


class TokensTraining(nn.Module):
    """The tokenizer, and the probe that it learns from."""

    def __init__(self, tokenizer: SpeechTokenizer, content: tuple[Tensor, Tensor] | None):
        super().__init__()
        self.tokenizer = tokenizer
        self.probe = TokenProbe(len(tokenizer.config.levels), N_SYMBOLS, content)

    def forward(
        self, batch: FlowBatch, rounded: Tensor, noise: Tensor | None = None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """rounded (B,) bool, noise (B, S, D) in [-1/2, 1/2): of a step between levels, where nothing is rounded -> the
        losses by name, and the levels (B, S, D)."""
        quantizer = self.tokenizer.quantizer
        bounded = self.tokenizer(batch.mel)
        levels = quantizer.rounded(bounded)
        if noise is not None:
            disturbed = bounded + noise * 2 / (quantizer.levels - 1)
            levels = torch.where(rounded[:, None, None], levels, disturbed)
        losses = {"spread": spread(bounded, batch.inside[:, ::2])}
        return losses | self.probe.losses(levels, batch), levels


class TokensTrainer(Trainer[TokensRecipe, Plans]):
    """One run."""

    name = "myna-tokens"
    higher_is_better = ("phone_right", "perplexity")

    def __init__(self, recipe: TokensRecipe, world: World, quiet: bool = False):
        super().__init__(recipe, world, quiet)
        data = recipe.data
        self.speech = MelSet(data.mel_sets, world.device)
        chosen = select(self.speech, "train", data.leave_out_worst)
        planner = Planner(self.speech, chosen, _whole(data.frames), data.sources)
        self.batches = Batches(planner, data.batch_frames, recipe.seed)
        self.reader = Reader(self.speech, FlowConfig(mel_bands=recipe.model.mel_bands))
        content = self.speech.content_whitening() if recipe.losses.content else None
        model = TokensTraining(
            start_tokenizer(recipe.init_from, recipe.model, "init_from", "model"), content
        ).to(world.device)
        self.training = model
        groups = decayed_groups(model, recipe.optimizer.weight_decay)
        self._own(model, make_optimizer(groups, recipe.optimizer))
        self._resume()
        self.wrapped = distributed.wrap(model, world)
        self.held_out = self._held_out(data.held_out)
        voices = len({(i.source, i.speaker) for i in self.speech.items})
        self._begin(f"{self.speech.hours:.2f} h of {len(chosen)} utterances of {voices} speakers")

    def _held_out(self, section: TokensHeldOut | None) -> list[Plans]:
        """Fixed utterances of dev, a few a batch."""
        if section is None:
            return []
        return [_targets(plans) for plans in held_out(self.speech, section.examples, _whole(600))]

    @property
    def validation(self) -> TokensHeldOut | None:
        return self.recipe.data.held_out

    @property
    def best_by(self) -> str:
        return "held_out"

    def batch(self, step: int) -> Plans:
        return _targets(self.batches.batch(step, self.world.rank))

    def train_step(self, batch: Plans) -> dict[str, Tensor]:
        recipe = self.recipe
        generator = seed_torch(recipe.seed, self.step, self.world.rank)
        self.model.train()
        read = self.reader.batch(batch, block=24, offset=0)
        b, t = read.pointer.shape
        device = self.world.device
        first, last = recipe.rounded
        share = 1.0 if self.step >= last else max(0.0, (self.step - first) / max(1, last - first))
        rounded = (torch.rand(b, generator=generator) < share).to(device)
        noise = None
        if share < 1:
            noise = torch.rand(b, t // 2, len(recipe.model.levels), device=device) - 0.5
        with self.autocast():
            losses, _ = self.wrapped(read, rounded, noise)
        losses["loss"] = torch.stack(
            [weight * losses[name] for name, weight in recipe.losses if name in losses]
        ).sum()
        norm = self.descend(losses["loss"])
        return {name: value.detach() for name, value in losses.items()} | {"gradient_norm": norm}

    def measure(self) -> dict[str, float]:
        """Held-out losses, all numbers rounded, their weighted sum "held_out", and the tokens' perplexity."""
        values: dict[str, list[float]] = {}
        seen = []
        for plans in self.held_out:
            batch = self.reader.batch(plans, block=24, offset=0)
            with self.autocast():
                losses, levels = self.training(batch, torch.ones(len(batch.mel), dtype=torch.bool))
            seen.append(self.training.tokenizer.quantizer.tokens(levels)[batch.inside[:, ::2]])
            for name, value in losses.items():
                values.setdefault(name, []).append(float(value))
        found = {name: float(np.mean(each)) for name, each in values.items()}
        counts = torch.bincount(torch.cat(seen)).double()
        share = counts[counts > 0] / counts.sum()
        found["perplexity"] = float((-(share * share.log()).sum()).exp())
        weights = self.recipe.losses
        return found | {"held_out": sum(weight * found[name] for name, weight in weights if name in found)}

    def export(self, model: nn.Module, path: Path, notes: dict[str, str]) -> None:
        assert isinstance(model, TokensTraining)
        save_checkpoint(model.tokenizer, model.tokenizer.config, path, "tokens", notes)


def _whole(frames: int) -> ExampleOptions:
    """Utterances up to so many frames, with nothing hidden."""
    return ExampleOptions(
        prompt_frames=(2, 2),
        own_prompt=0,
        max_frames=frames,
        hide_voice=0,
        hide_prompt=0,
        hide_speaker=0,
        hide_phones=0,
        hide_tokens=0,
    )


def _targets(plans: Plans) -> Plans:
    """Without the prompts: tokens know of none."""
    return dataclasses.replace(plans, prompt_frames=torch.zeros_like(plans.prompt_frames))
