"""Training the token AR: what is said, and when, as speech tokens of the tokenizer that the flow decoder reads.

Shapes: B batch, S tokens, T = 2 S halves, P phones.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ...codec.checkpoint import weights_hash
from ...codec.mel.speech_tokens import SILENCE, SpeechTokenizer, SpeechTokensConfig
from ...data.checkpoint import load_checkpoint, save_checkpoint
from ...errors import UsageError
from ...tts.lm.token_ar import TokenAR, TokenARConfig, TokenARResult, TokenBatch
from ..engine import distributed
from ..engine.distributed import World
from ..engine.optimizer import make_optimizer
from ..engine.trainer import Trainer, TrainingSummary, decayed_groups, run_recipe, seed_torch
from ..sets.examples import Batches, ExampleOptions, Planner, Plans, select
from ..sets.mel_set import MelSet
from .token_ar_recipe import TokenARHeldOut, TokenARRecipe

_PAD = 16  # lengths are multiples of it


def train(recipe: str | Path, overrides: Sequence[str] = (), quiet: bool = False) -> TrainingSummary:
    """Train by a recipe (a path or the name of one that ships), or continue the run in its output folder.

    Raises MynaError with one line for whatever the user can mend.
    """
    return run_recipe(TokenARTrainer, TokenARRecipe, recipe, overrides, quiet)


@torch.inference_mode()
def tokens_of(speech: MelSet, tokenizer: SpeechTokenizer, batch: int = 128) -> Tensor:
    """The tokens of every utterance of a set, one after the other, (T / 2,) on the set's device."""
    device = speech.mel.device
    tokens = torch.zeros(int(speech.starts[-1]) // 2, dtype=torch.long, device=device)
    order = np.argsort(speech.n_frames, kind="stable")
    for first in range(0, len(order), batch):
        rows = order[first : first + batch]
        starts, n = torch.from_numpy(speech.starts[rows]).to(device), torch.from_numpy(speech.n_frames[rows])
        at = torch.arange(int(n.max()) * 2, device=device)
        inside = at < 2 * n.to(device)[:, None]
        frame = torch.where(inside, 2 * starts[:, None] + at, 0)
        mel = torch.where(inside[..., None], speech.mel[frame].float(), SILENCE).transpose(1, 2)
        for row, found, count in zip(starts.tolist(), tokenizer.tokens(mel), n.tolist(), strict=True):
            tokens[row // 2 : (row + count) // 2] = found[: count // 2]
    return tokens


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
            if given.config != recipe.model:
                raise UsageError(
                    f"init_from {recipe.init_from} has other dimensions than the recipe's model; make them equal"
                )
            model.load_state_dict(given.state_dict())
        return model

    def _held_out(self, section: TokenARHeldOut | None) -> list[Plans]:
        if section is None:
            return []
        options = ExampleOptions(
            own_prompt=0, hide_voice=0, hide_prompt=0, hide_speaker=0, hide_phones=0, hide_tokens=0
        )
        plain = [
            i
            for i in select(self.speech, "dev", 0.0)
            if self.speech.items[i].scale == 1 and self.speech.n_phones[i]
        ]
        plans = Planner(self.speech, plain, options).draw(np.random.default_rng(0), section.examples)
        return [plans.rows(range(i, min(i + 16, section.examples))) for i in range(0, section.examples, 16)]

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
        """Plans to a batch; hidden prompts are left out."""
        s, device = self.speech, self.speech.mel.device
        n_prompt = torch.where(plans.hide_prompt, 0, plans.prompt_frames) // 2
        n_tokens = n_prompt + plans.frames // 2
        p = plans.to(device)
        longest = -(-int(n_tokens.max()) // _PAD) * _PAD
        prompt, n = n_prompt.to(device)[:, None], n_tokens.to(device)[:, None]
        at = torch.arange(longest, device=device)
        own, inside = at < prompt, at < n
        place = torch.where(own, p.prompt_start[:, None] // 2 + at, p.start[:, None] // 2 + at - prompt)
        place = torch.where(inside, place, 0)
        halves = (2 * place[..., None] + torch.arange(2, device=device)).flatten(1)
        spoken = (inside & ~own).repeat_interleave(2, 1)
        counts = torch.from_numpy(s.n_phones)[plans.utterance]
        phones_at = torch.arange(int(counts.max()), device=device)
        counts = counts.to(device)
        first = torch.from_numpy(s.phone_starts).to(device)[p.utterance]
        row = first[:, None] + torch.where(phones_at < counts[:, None], phones_at, 0)
        phones = s.phones[:, row].transpose(0, 1) * (phones_at < counts[:, None])[:, None]
        # Targets that were cut begin and end within their text.
        pointer = torch.where(spoken, s.pointer[halves], -1)
        return TokenBatch(
            phones=phones,
            n_phones=counts,
            tokens=self.tokens[place] * inside,
            pointer=pointer,
            n_prompt=prompt[:, 0],
            n_tokens=n[:, 0],
            speaker=s.speakers[p.prompt_utterance].float() * ~p.hide_speaker[:, None],
            hide_text=p.hide_phones,
        )

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
