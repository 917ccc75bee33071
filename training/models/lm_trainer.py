"""Training the codec language models: the autoregressive one (tts/lm/ar.py) and the other (tts/decoders/nar.py).

    myna train recipes/myna-ar-cpu.yaml

Both learn from a file of codes with aligned phones (training/sets/speech_set.py); training/sets/lm_data.py says how
its utterances become batches.

Shapes: B batch, K codebooks, V codebook_size, d channels of the codec's vectors, T frames.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar, cast

import numpy as np
from torch import Tensor, nn

from ...codec.checkpoint import codes_hash
from ...codec.registry import load_codec
from ...errors import InputError, UsageError
from ...tts.decoders.nar import NARModel
from ...tts.lm.ar import ARModel, ARResult
from ...tts.lm.batch import SpeechBatch
from ...tts.registry import load_ar, load_nar, save_model, weights_file
from ..engine import distributed
from ..engine.distributed import World
from ..engine.optimizer import make_optimizer
from ..engine.recipe import read_key
from ..engine.start import check_dimensions
from ..engine.trainer import Trainer, TrainingSummary, decayed_groups, run_recipe, seed_torch
from ..sets.lm_data import Batches, Planner, collate, select
from ..sets.speech_set import SpeechSet
from .lm_recipe import ARRecipe, LMHeldOutSection, LMRecipe, NARRecipe
from .nar_losses import nar_losses, nar_values

HASH_DIGITS = 16  # of the codec's hash, as a speech set has it
# Tables of which a step touches a few rows only, and the learned channels of codes: no decay.
_NOT_DECAYED = ("symbol", "stress", "long", "age", "segment", "extra")
_ROWS = 8  # of a held-out batch
# Of a model's config, what weights to start from need not agree in.
_FREE = {"name", "dropout", "code_noise", "prompt_weight", "advance_weight", "chunks"}

R = TypeVar("R", ARRecipe, NARRecipe)


@dataclass(frozen=True)
class CodecBasis:
    """What a language model takes from its codec. rows: (K, V, d)."""

    name: str
    hash: str
    frame_rate: float
    rows: Tensor


@dataclass(frozen=True)
class HeldOutBatch:
    """group: source and split, "synth-test"."""

    group: str
    batch: SpeechBatch
    n_target: int  # frames


def train(recipe: str | Path, overrides: Sequence[str] = (), quiet: bool = False) -> TrainingSummary:
    """Train by a recipe of kind `ar` or `nar`, or continue the run in its output folder; as `training.train`."""
    if read_key(recipe, "kind") == "nar":
        return run_recipe(NARTrainer, NARRecipe, recipe, overrides, quiet)
    return run_recipe(ARTrainer, ARRecipe, recipe, overrides, quiet)


class LMTrainer(Trainer[R, SpeechBatch], Generic[R]):
    """What both have in common; its state is the model."""

    shards = True

    def __init__(self, recipe: R, world: World, quiet: bool = False):
        super().__init__(recipe, world, quiet)
        self.codec = _codec_basis(recipe)
        speech = _speech_set(recipe, self.codec)
        seed_torch(recipe.seed, 0, 0)
        model = self._sharded(self._start().to(world.device))
        in_shards = recipe.parallel == "fsdp"
        self.trained = model if in_shards else distributed.wrap(model, world, partly_used=True)
        o = recipe.optimizer
        self._own(model, make_optimizer(decayed_groups(model, o.weight_decay, _NOT_DECAYED), o))
        self._resume()
        data = recipe.data
        chosen = select(
            speech, data.splits, None, data.speeds, data.examples.max_frames, data.leave_out_worst
        )
        self.batches = Batches(speech, chosen, data.examples, data.batch_frames, recipe.seed, data.sources)
        self.held_out = _held_out(speech, recipe)
        used = self.batches.used
        hours = speech.n_frames[used].sum() / self.codec.frame_rate / 3600
        self._begin(f"{hours:.2f} h of {len(used)} utterances")

    # What the two kinds are

    @abstractmethod
    def build(self) -> nn.Module:
        """A new model."""

    @abstractmethod
    def load(self, path: Path) -> nn.Module:
        """The model of a checkpoint. Raises MynaError."""

    @abstractmethod
    def losses(self, batch: SpeechBatch) -> dict[str, Tensor]:
        """What a step learns from; "loss" is minimised."""

    @abstractmethod
    def judge(self, batch: SpeechBatch) -> dict[str, float]:
        """Held-out values of one batch, "loss" among them."""

    # The trainer

    @property
    def validation(self) -> LMHeldOutSection | None:
        return self.recipe.data.held_out

    @property
    def best_by(self) -> str:
        return "loss"

    def batch(self, step: int) -> SpeechBatch:
        return self.batches.batch(step, self.world.rank)

    def train_step(self, batch: SpeechBatch) -> dict[str, Tensor]:
        recipe = self.recipe
        seed_torch(recipe.seed, self.step, self.world.rank)
        batch = batch.to(self.world.device)
        self.model.train()
        with self.autocast():
            losses = self.losses(batch)
        return {**losses, "gradient_norm": self.descend(losses["loss"])}

    def measure(self) -> dict[str, float]:
        """Every group's values and, in front, their mean over the groups: each source and split counts alike."""
        seed_torch(self.recipe.seed, 0, 0)
        groups: dict[str, list[tuple[int, dict[str, float]]]] = {}
        for held in self.held_out:
            with self.autocast():
                values = self.judge(held.batch.to(self.world.device))
            groups.setdefault(held.group, []).append((held.n_target, values))
        means: dict[str, dict[str, float]] = {}
        for group, parts in groups.items():
            n = sum(frames for frames, _ in parts)
            means[group] = {name: sum(f * v[name] for f, v in parts) / n for name in parts[0][1]}
        names = next(iter(means.values()))
        overall = {name: sum(values[name] for values in means.values()) / len(means) for name in names}
        named = {f"{group}/{name}": v for group, values in means.items() for name, v in values.items()}
        return {**overall, **named}

    def shown(self, values: dict[str, float]) -> dict[str, float]:
        return {name: value for name, value in values.items() if "/" not in name}

    def export(self, model: nn.Module, path: Path, notes: dict[str, str]) -> None:
        both = cast("ARModel | NARModel", model)
        save_model(both, path, self.codec.hash, {**notes, "codec": self.codec.name})

    def _start(self) -> nn.Module:
        """A new model, or one with the weights of `init_from`."""
        given, config = self.recipe.init_from, self.recipe.model
        shape = (config.n_codebooks, config.codebook_size, config.codebook_dim)
        if tuple(self.codec.rows.shape) != shape:
            raise UsageError(
                f"the codec {self.codec.name} has codebooks of the shape {tuple(self.codec.rows.shape)}, the "
                f"recipe's model {shape}; set model.n_codebooks, codebook_size and codebook_dim to the codec's"
            )
        model = self.build()
        if given is None:
            return model
        path = weights_file(f"{self.name}.safetensors") if given == "shipped" else Path(given)
        weights = self.load(path)
        check_dimensions(weights.config, config, path, free=_FREE)
        model.load_state_dict(weights.state_dict())
        return model


class ARTrainer(LMTrainer[ARRecipe]):
    """The coarse codebooks and the pointer."""

    name = "myna-ar"

    def build(self) -> ARModel:
        return ARModel(self.recipe.model, self.codec.rows)

    def load(self, path: Path) -> ARModel:
        return load_ar(path, codec_hash=self.codec.hash)

    def losses(self, batch: SpeechBatch) -> dict[str, Tensor]:
        return _tensors(self.trained(batch))

    def judge(self, batch: SpeechBatch) -> dict[str, float]:
        return {name: float(value) for name, value in _tensors(self.model(batch)).items()}


class NARTrainer(LMTrainer[NARRecipe]):
    """The other codebooks, a group of them for each example of a batch."""

    name = "myna-nar"

    def build(self) -> NARModel:
        return NARModel(self.recipe.model, self.codec.rows)

    def load(self, path: Path) -> NARModel:
        return load_nar(path, codec_hash=self.codec.hash)

    def losses(self, batch: SpeechBatch) -> dict[str, Tensor]:
        return nar_losses(self.trained, batch, self.recipe.model.groups, self.recipe.group_weights)

    def judge(self, batch: SpeechBatch) -> dict[str, float]:
        return nar_values(self.model, batch, self.recipe.model.groups)


def _tensors(result: ARResult) -> dict[str, Tensor]:
    """Scalars; the losses of single codebooks as "code_loss_1" and so on where there are several."""
    named = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    each = named.pop("code_losses")
    if len(each) > 1:
        named |= {f"code_loss_{k}": loss for k, loss in enumerate(each, 1)}
    return named


def _codec_basis(recipe: LMRecipe) -> CodecBasis:
    codec = load_codec(recipe.data.codec)
    return CodecBasis(
        recipe.data.codec, codes_hash(codec)[:HASH_DIGITS], float(codec.frame_rate), codec.rows()
    )


def _speech_set(recipe: LMRecipe, codec: CodecBasis) -> SpeechSet:
    path = recipe.data.speech_set
    if not path.is_file():
        raise InputError(
            f"speech set {path} is not there; make it with `python -m myna.training.sets.extract_speech`, or set "
            "data.speech_set"
        )
    speech = SpeechSet(path)
    if speech.codec_hash != codec.hash:
        raise InputError(
            f"speech set {path} has codes of the codec {speech.codec} {speech.codec_hash}, data.codec is "
            f"{codec.name} {codec.hash}; make it anew with `python -m myna.training.sets.extract_speech`"
        )
    return speech


def _held_out(speech: SpeechSet, recipe: LMRecipe) -> list[HeldOutBatch]:
    """The same sequences in every run: each utterance once, after a prompt, every other prompt with its text."""
    section = recipe.data.held_out
    if section is None:
        return []
    o = recipe.data.examples
    chosen = select(speech, section.splits, section.sources, section.speeds, o.max_frames)
    whole = dataclasses.replace(o, prompt_text=0.0, join=0.0, drop_text=0.0, drop_voice=0.0)
    planner = Planner(speech, chosen, whole)
    by_group: dict[str, list[int]] = {}
    for i in chosen:
        by_group.setdefault(f"{speech.items[i].source}-{speech.items[i].split}", []).append(i)
    rng = np.random.default_rng(0)
    batches = []
    for group, its in sorted(by_group.items()):
        picked = rng.permutation(its)[: section.utterances].tolist()
        plans = [
            dataclasses.replace(planner.plan(i, rng), prompt_text=n % 2 == 0) for n, i in enumerate(picked)
        ]
        plans.sort(key=lambda plan: plan.n_frames)
        for start in range(0, len(plans), _ROWS):
            batch = collate([planner.read(plan) for plan in plans[start : start + _ROWS]])
            batches.append(HeldOutBatch(group, batch, int((batch.n_frames - batch.n_prompt).sum())))
    return batches
