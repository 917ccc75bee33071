"""Training CLVP: a text has to find its speech among that of the batch, and speech its text.

Shapes: B batch, P phones, S tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ...codec.checkpoint import weights_hash
from ...codec.mel.speech_tokens import SpeechTokenizer, SpeechTokensConfig
from ...data.checkpoint import load_checkpoint, save_checkpoint
from ...errors import UsageError
from ...tts.rerank.clvp import CLVP, CLVPConfig, CLVPResult
from ..engine import distributed
from ..engine.distributed import World
from ..engine.start import check_dimensions
from ..engine.trainer import Trainer, TrainingSummary, decayed_groups, run_recipe, seed_torch
from ..sets.examples import select
from ..sets.mel_set import MelSet
from .clvp_recipe import CLVPHeldOut, CLVPRecipe
from .token_ar import tokens_of

_PAD = 16  # lengths are multiples of it


def train(recipe: str | Path, overrides: Sequence[str] = (), quiet: bool = False) -> TrainingSummary:
    """Train by a recipe (a path or the name of one that ships), or continue the run in its output folder.

    Raises MynaError with one line for whatever the user can mend.
    """
    return run_recipe(CLVPTrainer, CLVPRecipe, recipe, overrides, quiet)


@dataclass(frozen=True)
class CLVPBatch:
    """utterance (B,): of the mel set."""

    utterance: Tensor


class CLVPTrainer(Trainer[CLVPRecipe, CLVPBatch]):
    """One run."""

    name = "myna-clvp"
    higher_is_better = ("right", "undamaged")

    def __init__(self, recipe: CLVPRecipe, world: World, quiet: bool = False):
        super().__init__(recipe, world, quiet)
        data = recipe.data
        self.speech = MelSet(data.mel_sets, world.device)
        tokenizer = load_checkpoint(SpeechTokenizer, SpeechTokensConfig, data.tokens, "tokens", world.device)
        if tokenizer.config.codebook_size != recipe.model.n_tokens:
            raise UsageError(
                f"data.tokens has {tokenizer.config.codebook_size} tokens, the recipe's model {recipe.model.n_tokens}; "
                "set model.n_tokens to as many"
            )
        self.tokens_hash = weights_hash(tokenizer)[:16]
        self.tokens = tokens_of(self.speech, tokenizer)
        self.chosen = self._usable("train", data.leave_out_worst)
        if len(self.chosen) < data.batch_size:
            raise UsageError(
                f"the mel sets have {len(self.chosen)} utterances with a text, data.batch_size is {data.batch_size}; "
                "make it smaller, or give more"
            )
        model = self._start().to(world.device)
        optimizer = torch.optim.AdamW(
            decayed_groups(model, recipe.optimizer.weight_decay, never=("temperature",)),
            lr=recipe.optimizer.lr,
            betas=recipe.optimizer.betas,
            fused=True,
        )
        self._own(model, optimizer)
        self._resume()
        self.wrapped = distributed.wrap(model, world)
        self.held_out = self._held_out(data.held_out)
        self._begin(f"{self.speech.hours:.2f} h, {len(self.chosen)} utterances with a text")

    def _start(self) -> CLVP:
        recipe = self.recipe
        model = CLVP(recipe.model)
        if recipe.init_from is not None:
            given = load_checkpoint(CLVP, CLVPConfig, recipe.init_from, "clvp")
            check_dimensions(given.config, recipe.model, recipe.init_from)
            model.load_state_dict(given.state_dict())
        return model

    def _usable(self, split: str, leave_out: float) -> np.ndarray:
        speech, longest = self.speech, self.recipe.data.max_frames
        found = [
            i
            for i in select(speech, split, leave_out)
            if speech.n_phones[i] and 2 <= speech.n_frames[i] <= longest
        ]
        return np.array(found, dtype=np.int64)

    def _held_out(self, section: CLVPHeldOut | None) -> list[CLVPBatch]:
        if section is None:
            return []
        usable = self._usable("dev", 0.0)
        if len(usable) < 2:
            raise UsageError("the mel sets have no two utterances of the split dev; set data.held_out: null")
        rng, size = np.random.default_rng(0), min(self.recipe.data.batch_size, len(usable))
        return [self._drawn(rng, usable, size) for _ in range(section.batches)]

    @staticmethod
    def _drawn(rng: np.random.Generator, usable: np.ndarray, size: int) -> CLVPBatch:
        return CLVPBatch(torch.from_numpy(np.sort(rng.choice(usable, size=size, replace=False))))

    @property
    def validation(self) -> CLVPHeldOut | None:
        return self.recipe.data.held_out

    @property
    def best_by(self) -> str:
        return "loss"

    def batch(self, step: int) -> CLVPBatch:
        rng = np.random.default_rng([self.recipe.seed, self.world.rank, step])
        return self._drawn(rng, self.chosen, self.recipe.data.batch_size)

    def train_step(self, batch: CLVPBatch) -> dict[str, Tensor]:
        seed_torch(self.recipe.seed, self.step, self.world.rank)
        self.model.train()
        inputs = self.read(batch, self.recipe.data.token_noise)
        with self.autocast():
            result: CLVPResult = self.wrapped(*inputs)
        norm = self.descend(result.loss)
        return {
            "loss": result.loss.detach(),
            "right": result.right,
            "undamaged": result.undamaged,
            "gradient_norm": norm,
        }

    def read(self, batch: CLVPBatch, noise: float) -> tuple[Tensor, ...]:
        """What `CLVP.forward` takes, drawn with torch's generator: the stretches that are another's, and the tokens
        that are replaced."""
        s, device, rows = self.speech, self.speech.mel.device, batch.utterance.numpy()
        phones, n_phones = self._phones(rows)
        n_tokens = torch.from_numpy(s.n_frames[rows] // 2).to(device)
        longest = -(-int(n_tokens.max()) // _PAD) * _PAD
        at = torch.arange(longest, device=device)
        first = torch.from_numpy(s.starts[rows] // 2).to(device)
        tokens = self.tokens[torch.where(at < n_tokens[:, None], first[:, None] + at, 0)]
        if noise:
            wrong = torch.rand(tokens.shape, device=device) < noise
            tokens = torch.where(wrong, torch.randint_like(tokens, self.recipe.model.n_tokens), tokens)
        padded = torch.nn.functional.pad(phones.flatten(1), (0, 1))
        padded[:, -1] = n_phones
        same = (padded[:, None] == padded[None]).all(-1)
        return phones, n_phones, tokens, n_tokens, same, self._damaged(tokens, n_tokens)

    def _damaged(self, tokens: Tensor, n_tokens: Tensor) -> Tensor:
        """The same with a stretch that is the next row's, wherever that has one."""
        low, high = self.recipe.data.damage
        b, device = len(tokens), tokens.device
        lasts = low + (torch.rand(b, device=device) * (high - low + 1)).long()
        lasts = torch.minimum(lasts, n_tokens)
        starts = (torch.rand(b, device=device) * (n_tokens - lasts + 1)).long()
        others = (torch.rand(b, device=device) * n_tokens.roll(-1)).long()
        at = torch.arange(tokens.shape[1], device=device)
        inside = (at >= starts[:, None]) & (at < (starts + lasts)[:, None])
        place = (others[:, None] + at - starts[:, None]) % n_tokens.roll(-1)[:, None]
        return torch.where(inside, tokens.roll(-1, 0).gather(1, place), tokens)

    def _phones(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Phones of utterances (B, 3, P), 0 behind them, and how many each has (B,)."""
        s, device = self.speech, self.speech.mel.device
        counts = torch.from_numpy(s.n_phones[rows]).to(device)
        at = torch.arange(int(counts.max()), device=device)
        inside = at < counts[:, None]
        first = torch.from_numpy(s.phone_starts[rows]).to(device)
        row = torch.where(inside, first[:, None] + at, 0)
        return s.phones[:, row].transpose(0, 1) * inside[:, None], counts

    def measure(self) -> dict[str, float]:
        values: dict[str, list[float]] = {}
        for number, batch in enumerate(self.held_out):
            seed_torch(self.recipe.seed, number, 0)
            with self.autocast():
                result: CLVPResult = self.model(*self.read(batch, 0.0))
            for name in ("loss", "right", "undamaged"):
                values.setdefault(name, []).append(float(getattr(result, name)))
        return {name: float(np.mean(each)) for name, each in values.items()}

    def export(self, model: nn.Module, path: Path, notes: dict[str, str]) -> None:
        assert isinstance(model, CLVP)
        save_checkpoint(model, model.config, path, "clvp", {**notes, "tokens_hash": self.tokens_hash})
