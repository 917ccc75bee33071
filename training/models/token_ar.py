"""Training the token AR: what is said, and when, as speech tokens of the tokenizer that the flow decoder reads.

Shapes: B batch, S tokens, T = 2 S halves, P phones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ...codec.checkpoint import weights_hash
from ...codec.mel.speech_tokens import SpeechTokenizer, SpeechTokensConfig
from ...data.checkpoint import load_checkpoint, save_checkpoint
from ...errors import UsageError
from ...tts.lm.token_ar import TokenAR, TokenARConfig, TokenARResult, TokenBatch
from ..engine import distributed
from ..engine.distributed import World
from ..engine.optimizer import make_optimizer
from ..engine.start import check_dimensions
from ..engine.trainer import Trainer, TrainingSummary, decayed_groups, run_recipe, seed_torch
from ..engine.width_transfer import transfer
from ..sets.examples import Batches, Planner, Plans, held_out, select
from ..sets.mel_set import MelSet
from ..sets.token_places import read_tokens, whole_mels
from .token_ar_recipe import TokenARHeldOut, TokenARRecipe

# Of the model's configuration, what no weight depends on.
_FREE = ("name", "dropout", "noise", "masked", "prompt_weight", "advance_weight")


def train(recipe: str | Path, overrides: Sequence[str] = (), quiet: bool = False) -> TrainingSummary:
    """Train by a recipe (a path or the name of one that ships), or continue the run in its output folder.

    Raises MynaError with one line for whatever the user can mend.
    """
    return run_recipe(TokenARTrainer, TokenARRecipe, recipe, overrides, quiet)


def narrower(config: TokenARConfig, width: int) -> TokenARConfig:
    """The model at another width, its attention heads as wide as before. Raises UsageError where they do not fit."""
    head = config.width // config.n_heads
    if not head <= width <= config.width or width % head or (width // head) % config.n_kv_heads:
        raise UsageError(
            f"rates_of_width {width} does not fit a model {config.width} wide with heads of {head}; "
            f"give a multiple of {head * config.n_kv_heads} up to {config.width}"
        )
    hidden = max(1, config.hidden * width // config.width)
    return replace(config, width=width, n_heads=width // head, hidden=hidden)


@torch.inference_mode()
def tokens_of(speech: MelSet, tokenizer: SpeechTokenizer, batch: int = 128) -> Tensor:
    """The tokens of every utterance of a set, one after the other, (T / 2,) on the set's device."""
    tokens = torch.zeros(int(speech.starts[-1]) // 2, dtype=torch.long, device=speech.mel.device)
    for mel, places in whole_mels(speech, batch):
        for found, (place, count) in zip(tokenizer.tokens(mel), places, strict=True):
            tokens[place] = found[:count]
    return tokens


def token_batch(plans: Plans, speech: MelSet, tokens: Tensor) -> TokenBatch:
    """Plans to a batch; hidden prompts are left out. tokens: of `tokens_of`."""
    p, t = plans.to(speech.mel.device), read_tokens(plans, speech)
    return TokenBatch(
        phones=t.phones,
        n_phones=t.n_phones,
        tokens=tokens[t.place] * t.inside,
        pointer=t.pointer,
        n_prompt=t.n_prompt,
        n_tokens=t.n_tokens,
        speaker=speech.speakers[p.prompt_utterance].float() * ~p.hide_speaker[:, None],
        hide_text=p.hide_phones,
    )


class TokenARTrainer(Trainer[TokenARRecipe, Plans]):
    """One run."""

    name = "myna-token-ar"
    higher_is_better = ("token_right",)

    def __init__(self, recipe: TokenARRecipe, world: World, quiet: bool = False):
        super().__init__(recipe, world, quiet)
        data = recipe.data
        self.speech = MelSet(data.mel_sets, world.device)
        tokenizer = load_checkpoint(SpeechTokenizer, SpeechTokensConfig, data.tokens, "tokens", world.device)
        if tokenizer.config.levels != recipe.model.levels:
            raise UsageError(
                f"data.tokens has the levels {tokenizer.config.levels}, the recipe's model {recipe.model.levels}; "
                "make them equal"
            )
        self.tokens_hash = weights_hash(tokenizer)[:16]
        self.tokens = tokens_of(self.speech, tokenizer)
        chosen = [i for i in select(self.speech, "train", data.leave_out_worst) if self.speech.n_phones[i]]
        self.batches = Batches(
            Planner(self.speech, chosen, data.examples, data.sources), data.batch_frames, recipe.seed
        )
        model = self._start().to(world.device)
        groups = decayed_groups(model, recipe.optimizer.weight_decay, never=("extra",))
        if recipe.rates_of_width is not None:
            narrow = TokenAR(narrower(recipe.model, recipe.rates_of_width))
            groups = transfer(model, narrow, groups, begins=recipe.init_from is None)
        optimizer = make_optimizer(groups, recipe.optimizer)
        self._own(model, optimizer)
        self._resume()
        self.wrapped = distributed.wrap(model, world, partly_used=True)
        self.held_out = self._held_out(data.held_out)
        used = int(self.tokens.bincount(minlength=1).count_nonzero())
        self._begin(f"{self.speech.hours:.2f} h of {len(chosen)} utterances, {used} tokens in use")

    def _start(self) -> TokenAR:
        recipe = self.recipe
        model = TokenAR(recipe.model)
        if recipe.init_from is not None:
            given = load_checkpoint(TokenAR, TokenARConfig, recipe.init_from, "token-ar")
            check_dimensions(given.config, recipe.model, recipe.init_from, free=_FREE)
            model.load_state_dict(given.state_dict())
        return model

    def _held_out(self, section: TokenARHeldOut | None) -> list[Plans]:
        if section is None:
            return []
        return held_out(self.speech, section.examples, with_text=True)

    @property
    def validation(self) -> TokenARHeldOut | None:
        return self.recipe.data.held_out

    @property
    def best_by(self) -> str:
        return "loss"

    def batch(self, step: int) -> Plans:
        return self.batches.batch(step, self.world.rank)

    def train_step(self, batch: Plans) -> dict[str, Tensor]:
        seed_torch(self.recipe.seed, self.step, self.world.rank)
        self.model.train()
        read = self.read(batch)
        with self.autocast():
            result: TokenARResult = self.wrapped(read)
        norm = self.descend(result.loss)
        return {
            "loss": result.loss.detach(),
            "tokens": result.token_loss.detach(),
            "moves": result.advance_loss.detach(),
            "gradient_norm": norm,
        }

    def read(self, plans: Plans) -> TokenBatch:
        return token_batch(plans, self.speech, self.tokens)

    def measure(self) -> dict[str, float]:
        values: dict[str, list[float]] = {}
        for plans in self.held_out:
            with self.autocast():
                result: TokenARResult = self.model(self.read(plans))
            for name, value in (
                ("loss", result.loss),
                ("tokens", result.token_loss),
                ("moves", result.advance_loss),
                ("token_right", result.token_right),
            ):
                values.setdefault(name, []).append(float(value))
        return {name: float(np.mean(each)) for name, each in values.items()}

    def export(self, model: nn.Module, path: Path, notes: dict[str, str]) -> None:
        assert isinstance(model, TokenAR)
        save_checkpoint(model, model.config, path, "token-ar", {**notes, "tokens_hash": self.tokens_hash})
