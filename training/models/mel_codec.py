"""Training `myna-mel`: mel spectrograms to themselves, by way of codes.

    crop -> MelCodec, of which each crop keeps 1 to K codebooks -> mel: L1 + L2, in the bands that the recording has

A new codec starts as the best linear one for the set (`MelCodec.init_from_data`). The vocoder stays as it is.

Shapes: B batch, T mel frames (100 Hz), S = T / 4 code frames, M mel bands, K codebooks.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ...codec.checkpoint import load_checkpoint as load_codec_checkpoint
from ...codec.checkpoint import save_checkpoint, weights_hash
from ...codec.mel.codec import MelCodec
from ...codec.mel.speech_tokens import SILENCE, STRIDE, SpeechTokenizer, SpeechTokensConfig
from ...codec.mel_vocoder import MelVocoder, MelVocoderConfig
from ...codec.quantizer import dropout_codebooks
from ...data.checkpoint import load_checkpoint
from ...errors import UsageError
from ...evaluation.measures.codebooks import codebook_use
from ...layers.mel import mel_centres
from ..engine import distributed
from ..engine.checkpoint import module_state
from ..engine.distributed import World
from ..engine.optimizer import make_optimizer
from ..engine.start import check_dimensions
from ..engine.trainer import Trainer, TrainingSummary, decayed_groups, run_recipe, seed_torch
from ..sets.examples import Batches, ExampleOptions, Planner, Plans, held_out, select
from ..sets.mel_set import MelSet
from .mel_codec_recipe import MelCodecHeldOut, MelCodecRecipe
from .token_ar import tokens_of

_PAD = 8  # frames of 50 Hz that lengths are multiples of
_DB = 20 / np.log(10)  # decibels in a nat of magnitude
# Fields of a model's configuration that say how it is trained, not what its weights are.
_OF_NO_WEIGHT = ("name", "dead_code_share")


def train(recipe: str | Path, overrides: Sequence[str] = (), quiet: bool = False) -> TrainingSummary:
    """Train by a recipe (a path or the name of one that ships), or continue the run in its output folder.

    Raises MynaError with one line for whatever the user can mend.
    """
    return run_recipe(MelCodecTrainer, MelCodecRecipe, recipe, overrides, quiet)


@dataclass(frozen=True)
class MelCrops:
    """mel (B, M, T) natural logarithms.   tokens (B, S).   weight (B, M, T): 1 where a loss may look, in the crop and
    below the recording's bandwidth."""

    mel: Tensor
    tokens: Tensor
    weight: Tensor


class MelCodecTrainer(Trainer[MelCodecRecipe, Plans]):
    """One run."""

    name = "myna-mel"

    def __init__(self, recipe: MelCodecRecipe, world: World, quiet: bool = False):
        super().__init__(recipe, world, quiet)
        data = recipe.data
        self.speech = MelSet(data.mel_sets, world.device)
        self.chosen = select(self.speech, "train", 0.0)
        model = self._start().to(world.device)
        self.tokens = tokens_of(self.speech, copy.deepcopy(model.tokenizer).eval()).clone()
        self.bandwidth = torch.tensor([item.bandwidth for item in self.speech.items], device=world.device)
        self.centres = mel_centres(model.sample_rate, model.config.vocoder.mel_bands).to(world.device)
        model.vocoder.requires_grad_(False)
        model.tokenizer.requires_grad_(recipe.train_tokens)
        groups = decayed_groups(model, recipe.optimizer.weight_decay, never=("quantizer", "table"))
        self._own(model, make_optimizer(groups, recipe.optimizer))
        self._resume()
        self.wrapped = distributed.wrap(model, world, partly_used=True)
        planner = Planner(self.speech, self.chosen, _crops_of(data.frames), data.sources)
        self.batches = Batches(planner, data.batch_frames, recipe.seed)
        self.held_out = self._held_out(data.held_out)
        voices = len({(i.source, i.speaker) for i in self.speech.items})
        self._begin(f"{self.speech.hours:.2f} h of {len(self.chosen)} utterances of {voices} speakers")

    @property
    def codec(self) -> MelCodec:
        assert isinstance(self.model, MelCodec)
        return self.model

    def _start(self) -> MelCodec:
        """A new codec around the tokenizer and the vocoder of the recipe, or one with the weights of `init_from`."""
        recipe = self.recipe
        tokenizer = load_checkpoint(SpeechTokenizer, SpeechTokensConfig, recipe.tokens, "tokens")
        vocoder = load_checkpoint(MelVocoder, MelVocoderConfig, recipe.vocoder, "mel-vocoder")
        try:
            config = dataclasses.replace(recipe.model, tokens=tokenizer.config, vocoder=vocoder.config)
        except ValueError as error:
            raise UsageError(f"model does not fit the tokenizer and the vocoder: {error}") from None
        model = MelCodec(config)
        if recipe.init_from is not None:
            given = load_codec_checkpoint(recipe.init_from)
            if not isinstance(given, MelCodec):
                raise UsageError(
                    f"init_from {recipe.init_from} is no codec of mel spectrograms; give another file"
                )
            check_dimensions(given.config, config, recipe.init_from, free=_OF_NO_WEIGHT)
            model.load_state_dict(given.state_dict(), strict=False)
        if recipe.init_from is None or not recipe.train_tokens:
            model.tokenizer.load_state_dict(tokenizer.state_dict())
        model.vocoder.load_state_dict(vocoder.state_dict())
        return model

    def _held_out(self, section: MelCodecHeldOut | None) -> list[Plans]:
        """Fixed stretches of dev, a few a batch."""
        if section is None:
            return []
        return held_out(self.speech, section.examples, _crops_of(section.frames))

    @property
    def validation(self) -> MelCodecHeldOut | None:
        return self.recipe.data.held_out

    @property
    def best_by(self) -> str:
        return "mel"

    def batch(self, step: int) -> Plans:
        return self.batches.batch(step, self.world.rank)

    def train_step(self, batch: Plans) -> dict[str, Tensor]:
        recipe = self.recipe
        if self.step == 0 and recipe.init_from is None:
            self._start_from_data()
        seed_torch(recipe.seed, self.step, self.world.rank)
        self.model.train()
        crops = self.read(batch)
        kept = dropout_codebooks(len(crops.mel), self.codec.n_codebooks, recipe.codebook_dropout)
        with self.autocast():
            result = self.wrapped(
                crops.mel, kept.to(self.world.device), None if recipe.train_tokens else crops.tokens
            )
        error = self.codec.normalized(result.mel) - self.codec.normalized(crops.mel)
        each = error.abs() + 0.5 * error.square()
        losses = {
            "mel": (each * crops.weight).sum() / crops.weight.sum().clamp(min=1),
            "said": result.said_loss,
            "commitment": result.quantizer.commitment_loss,
            "codebook": result.quantizer.codebook_loss,
        }
        total = torch.stack([getattr(recipe.losses, name) * value for name, value in losses.items()]).sum()
        norm = self.descend(total)
        named = {"loss": total, **losses}
        return {name: value.detach() for name, value in named.items()} | {"gradient_norm": norm}

    def read(self, plans: Plans) -> MelCrops:
        """The stretches of the plans' targets."""
        s, device = self.speech, self.world.device
        p = plans.to(device)
        t = -(-int(plans.frames.max()) // _PAD) * _PAD
        at = torch.arange(t, device=device)
        inside = at < p.frames[:, None]
        frame = torch.where(inside, p.start[:, None] + at, 0)
        bands = s.mel.shape[1]
        mel = s.mel.view(-1, 2 * bands)[frame].float()
        mel = torch.where(inside[..., None], mel, SILENCE).unflatten(-1, (2, bands)).flatten(1, 2)
        heard = self.centres <= self.bandwidth[p.utterance][:, None]
        weight = inside.repeat_interleave(2, 1)[:, None] & heard[..., None]
        return MelCrops(mel.transpose(1, 2), self.tokens[frame[:, ::2] // 2], weight.float())

    @torch.no_grad()
    def _start_from_data(self) -> None:
        """The best linear codec for code frames of the set, the same on every device."""
        codec, s = self.codec, self.speech
        codec.eval()
        rng = np.random.default_rng(self.recipe.seed)
        wide = np.array([i for i in self.chosen if s.items[i].bandwidth >= 11_000] or self.chosen)
        mean, deviation = s.band_statistics(rng.permutation(wide)[:2000])
        codec.mean.copy_(mean)
        codec.deviation.copy_(deviation)
        starts = (s.starts // 2).tolist()
        places = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in wide.tolist()])
        some = torch.from_numpy(np.sort(rng.permutation(places)[: self.recipe.start_frames]))
        some = some.to(self.world.device)
        patches = s.mel.view(-1, STRIDE, s.mel.shape[1])[some].float().transpose(1, 2)
        codec.init_from_data(patches, self.tokens[some])
        distributed.broadcast(module_state(codec).values())
        self.ema.restart(codec)

    def measure(self) -> dict[str, float]:
        """Held-out error of the mel in decibels, "mel_1" of the tokens alone to "mel_8" of all codebooks, their mean
        "mel", and how much of the codebooks is used."""
        codec = self.codec
        k = codec.n_codebooks
        total, count, seen = np.zeros(k), 0.0, []
        for plans in self.held_out:
            crops = self.read(plans)
            codes = codec.encode_mel(crops.mel)
            inside = crops.weight.any(1).view(len(codes), -1, STRIDE).any(-1)
            seen.append(codes.transpose(1, 2)[inside])
            for n in range(1, k + 1):
                error = (codec.decode_mel(codes[:, :n]) - crops.mel).abs()
                total[n - 1] += float((error * crops.weight).sum())
            count += float(crops.weight.sum())
        errors = _DB * total / max(1.0, count)
        use = codebook_use(torch.cat(seen).t()[None].cpu(), codec.codebook_size)
        values = {"mel": float(errors.mean())}
        values |= {f"mel_{n}": float(error) for n, error in enumerate(errors, 1)}
        values["codes_used"] = float(np.mean(use.used[1:]))
        return values | {f"perplexity_{n}": p for n, p in enumerate(use.perplexity, 1)}

    def shown(self, values: dict[str, float]) -> dict[str, float]:
        return {name: value for name, value in values.items() if not name.startswith("perplexity")}

    def export(self, model: nn.Module, path: Path, notes: dict[str, str]) -> None:
        assert isinstance(model, MelCodec)
        tokens_hash = weights_hash(copy.deepcopy(model.tokenizer).float())[:16]  # as it will be loaded
        save_checkpoint(model, path, notes={**notes, "tokens_hash": tokens_hash})


def _crops_of(frames: int) -> ExampleOptions:
    """Plans without a prompt that would matter, for the sake of their targets."""
    return ExampleOptions(prompt_frames=(2, 2), own_prompt=0, max_frames=frames)
