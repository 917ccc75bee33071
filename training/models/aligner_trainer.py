"""Training an aligner: frame by frame from the times that a part of the corpus has, then from its own alignments.

    step < realign_at[0]    utterances with times
    at each realign_at      align the others (and those whose times are approximate), drop what does not fit
    after it                all of them

Shapes: B batch, M mel bands, T codec frames, P phones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...data.augment import change_speed
from ...data.corpus import Corpus, open_corpus
from ...errors import InputError
from ...tts.aligner import Aligner, Alignment, MelSpectrogram, fits, is_pause, load_aligner, save_aligner
from ...tts.text.phones import SYMBOLS
from ..engine import distributed
from ..engine.checkpoint import module_state
from ..engine.distributed import World
from ..engine.optimizer import make_optimizer
from ..engine.trainer import (
    SHIPPED_WEIGHTS,
    Trainer,
    TrainingSummary,
    decayed_groups,
    first_process_first,
    run_recipe,
    seed_torch,
)
from ..sets.utterances import Utterance, read_utterances
from .aligner_recipe import AlignerAugment, AlignerHeldOut, AlignerRecipe


def train(recipe: str | Path, overrides: Sequence[str] = (), quiet: bool = False) -> TrainingSummary:
    """Train by a recipe (a path or the name of one that ships), or continue the run in its output folder.

    Raises MynaError with one line for whatever the user can mend.
    """
    return run_recipe(AlignerTrainer, AlignerRecipe, recipe, overrides, quiet)


@dataclass(frozen=True)
class AlignerBatch:
    """features (B, 2 M, T), n_frames (B,), labels (B, T): classes, -100 where there is none."""

    features: Tensor
    n_frames: Tensor
    labels: Tensor


class AlignerTrainer(Trainer[AlignerRecipe, AlignerBatch | None]):
    """One run. Its state is the network, and when each phone of each utterance begins by its own alignments."""

    name = "aligner"
    higher_is_better = ("within_50_ms", "accuracy")

    def __init__(self, recipe: AlignerRecipe, world: World, quiet: bool = False):
        super().__init__(recipe, world, quiet)
        device = world.device
        self.aligner = _start(recipe).to(device)
        self.trained = distributed.wrap(self.aligner, world)
        groups = decayed_groups(self.aligner, recipe.optimizer.weight_decay)
        optimizer = make_optimizer(groups, recipe.optimizer)
        self._own(self.aligner, optimizer)
        self.mel = MelSpectrogram(recipe.model)  # of its own: batches are made on the CPU, by a thread
        self.rate = recipe.model.sample_rate / recipe.model.frame_size  # frames a second
        self._starts: dict[str, Tensor] = {}  # by own alignment: key -> (P,) s
        self._resume()

        data = recipe.data
        rate = recipe.model.sample_rate
        corpus = first_process_first(
            world, lambda: open_corpus(data.corpus, rate, data.cache), f"corpus {data.corpus}"
        )
        self.corpus: Corpus = corpus.select(data.splits)
        self.utterances = read_utterances(data.corpus, self.corpus, data.language)
        if not any(u.times is not None for u in self.utterances):
            raise InputError(
                f"no recording of {data.corpus} has phone times to begin with; its .json needs `phones`, a list "
                "of [symbol, start, end]"
            )
        self.held_out: list[Utterance] = []
        if data.held_out is not None:
            chosen = read_utterances(data.corpus, corpus.select(data.held_out.splits), data.language)
            self.held_out = _first_of_each_source(chosen, data.held_out.utterances)
        self._take_up(self._starts, self.step)
        self._begin(f"{len(self.utterances)} utterances, {self.corpus.hours:.2f} h")

    @property
    def validation(self) -> AlignerHeldOut | None:
        return self.recipe.data.held_out

    @property
    def best_by(self) -> str:
        return "boundary_ms"

    # Batches

    def _round_at(self, step: int) -> int:
        return sum(step >= at for at in self.recipe.realign_at)

    def _take_up(self, starts: dict[str, Tensor], step: int) -> None:
        """Choose what to learn from, from `step` on, given the alignments of its round."""
        pool = []
        for utterance in self.utterances:
            own = starts.get(utterance.item.key)
            if utterance.exact or (own is None and utterance.times is not None and not starts):
                assert utterance.times is not None
                pool.append((utterance, utterance.times[:, 0]))
            elif own is not None:
                pool.append((utterance, own))
        self._starts, self._pool = starts, (self._round_at(step), pool)
        prior = log_prior(self.aligner, pool, self.corpus.sample_rate)
        self.aligner.log_prior.copy_(prior)
        self.ema.shadow["log_prior"].copy_(prior)  # at once: it is no average over steps

    def batch(self, step: int) -> AlignerBatch | None:
        """None for a step whose alignments are not made yet: batches are asked for ahead."""
        round_at, pool = self._pool
        if round_at != self._round_at(step):
            return None
        rng = np.random.default_rng([self.recipe.seed, step, self.world.rank])
        features, labels, seconds = [], [], 0.0
        while seconds < self.recipe.data.seconds:
            utterance, starts = pool[rng.integers(len(pool))]
            x, y = self._example(utterance, starts, rng)
            features.append(x)
            labels.append(y)
            seconds += len(y) / self.rate
        n_frames = torch.tensor([len(y) for y in labels])
        t = int(n_frames.max())
        return AlignerBatch(
            torch.stack([F.pad(x, (0, t - x.shape[-1])) for x in features]),
            n_frames,
            torch.stack([F.pad(y, (0, t - len(y)), value=-100) for y in labels]),
        )

    def _example(
        self, utterance: Utterance, starts: Tensor, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Features (2 M, T) and classes (T,) of an utterance as augmentation would have it."""
        augment, item = self.recipe.data.augment, utterance.item
        wav, speed = self.corpus.read(item, 0, item.length), 1.0
        if rng.random() < augment.speed_share:
            speed = float(np.exp(rng.uniform(*np.log(augment.speed))))
            wav = change_speed(wav, speed)
        power = augment_power(self.mel.power(torch.from_numpy(wav)), augment, rng, self.recipe.model.f_max)
        features = self.mel.normalized(power)
        middle = (torch.arange(features.shape[-1]) + 0.5) / self.rate * speed
        phone = (torch.searchsorted(starts.contiguous(), middle, right=True) - 1).clamp(min=0)
        return features, self.aligner.symbol_classes(utterance.phones).cpu()[phone]

    # A step

    def train_step(self, batch: AlignerBatch | None) -> dict[str, Tensor]:
        batch = batch or self.batch(self.step)
        assert batch is not None
        recipe, device = self.recipe, self.world.device
        seed_torch(recipe.seed, self.step, self.world.rank)
        self.aligner.train()
        with self.autocast():
            logits = self.trained(batch.features.to(device), batch.n_frames.to(device))
        labels = batch.labels.to(device)
        loss = F.cross_entropy(logits.float().transpose(1, 2), labels)
        norm = self.descend(loss)
        right = (logits.detach().argmax(-1) == labels).sum() / (labels >= 0).sum()
        if self.step + 1 in recipe.realign_at:
            self._realign()
        return {"loss": loss.detach(), "accuracy": right, "gradient_norm": norm}

    def _realign(self) -> None:
        """Align what has no exact times, with the averaged weights; forget what does not fit its text."""
        chosen = _hours_of_each_source(
            [u for u in self.utterances if not u.exact], self.recipe.realign_hours, self.corpus.sample_rate
        )
        with self.ema.swapped_in(self.aligner):
            self.aligner.eval()
            aligned = align_utterances(self.aligner, self.corpus, chosen)
        kept = {
            utterance.item.key: found.starts(len(utterance.phones)) / self.rate
            for utterance, found in zip(chosen, aligned, strict=True)
            if found is not None and found.plausible
        }
        self.log.say(
            f"step {self.step + 1}: aligned {len(chosen)} utterances, {len(chosen) - len(kept)} of them do not fit"
        )
        self._take_up(kept, self.step + 1)

    # Around the steps

    def measure(self) -> dict[str, float]:
        """Boundaries against the given times (ms, share within 50 ms), and the mean score of every source."""
        aligned = align_utterances(self.aligner, self.corpus, self.held_out)
        values: dict[str, float] = {}
        errors, exact_errors = [], []
        by_source: dict[str, list[float]] = {}
        for utterance, found in zip(self.held_out, aligned, strict=True):
            if found is None:
                continue
            by_source.setdefault(utterance.item.source, []).append(found.score)
            if utterance.times is not None:
                off = boundary_errors(utterance, found.starts(len(utterance.phones)) / self.rate)
                errors.append(off)
                if utterance.exact:
                    exact_errors.append(off)
        for name, offs in (("boundary_ms", errors), ("exact_boundary_ms", exact_errors)):
            if offs:
                values[name] = float(torch.cat(offs).mean()) * 1000
        if errors:
            values["within_50_ms"] = float((torch.cat(errors) <= 0.05).float().mean())
        return values | {f"score_{source}": float(np.mean(s)) for source, s in by_source.items()}

    def export(self, model: nn.Module, path: Path, notes: dict[str, str]) -> None:
        assert isinstance(model, Aligner)
        save_aligner(model, path, notes)

    def extra_state(self) -> dict[str, Any]:
        return {"starts": dict(self._starts)}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        self._starts = {key: starts.cpu() for key, starts in state["starts"].items()}


def log_prior(aligner: Aligner, timed: Sequence[tuple[Utterance, Tensor]], sample_rate: int) -> Tensor:
    """(C,) logarithm of the share of each class in the frames of utterances whose phones begin at (P,) s."""
    seconds = torch.zeros(len(aligner.config.symbols))
    for utterance, starts in timed:
        end = starts.new_tensor([utterance.item.length / sample_rate])
        lengths = torch.cat([starts, end]).diff().clamp(min=0).float()
        seconds.index_add_(0, aligner.symbol_classes(utterance.phones).cpu(), lengths)
    return (seconds / seconds.sum()).clamp(min=1e-4).log()


def augment_power(power: Tensor, options: AlignerAugment, rng: np.random.Generator, f_max: float) -> Tensor:
    """Rooms, noises and narrow bands, as they look in mel power (M, 2 T) at 100 Hz: a thousand times cheaper than
    in the waveform."""
    n_mels, n = power.shape
    if rng.random() < options.room_share:
        seconds = rng.uniform(*options.room_seconds)
        decay = torch.from_numpy(10 ** (-6 * np.arange(1, 40) * 0.01 / seconds)).float()
        tail = F.conv1d(F.pad(power[:, None], (39, 0))[..., :-1], decay.flip(0)[None, None])[:, 0]
        power = power + tail * float(rng.uniform(0.05, 0.5))
    if rng.random() < options.noise_share:
        level = float(power.mean()) * 10 ** (-rng.uniform(*options.noise_db) / 10)
        # Any colour: a slope and a bend over the bands, 20 dB at most.
        x = np.linspace(-1, 1, n_mels)
        colour = 10 ** (rng.uniform(-1, 1) * x + rng.uniform(-0.5, 0.5) * (2 * x**2 - 1))
        noise = rng.gamma(2.0, 0.5, (n_mels, n)) * (colour / colour.mean())[:, None]
        power = power + torch.from_numpy(noise * level).float()
    if rng.random() < options.band_share:
        mel_max, top = _mel(f_max), _mel(float(rng.uniform(*options.band_hz)))
        bottom = _mel(float(rng.uniform(50, 350)))
        centre = np.linspace(_mel(50.0), mel_max, n_mels)
        inside = (centre <= top) & (centre >= bottom)
        # Not to nothing, which no recording has.
        gain = torch.from_numpy(np.where(inside, 1.0, 10 ** rng.uniform(-5, -3))).float()
        power = power * gain[:, None]
    return power


def align_utterances(
    aligner: Aligner, corpus: Corpus, utterances: Sequence[Utterance], batch: int = 16
) -> list[Alignment | None]:
    """The alignment of each utterance; None where the text does not fit in."""
    device = next(aligner.parameters()).device
    found: list[Alignment | None] = [None] * len(utterances)
    order = sorted(range(len(utterances)), key=lambda i: utterances[i].item.length)
    for first in range(0, len(order), batch):
        chosen = order[first : first + batch]
        wavs = [
            torch.from_numpy(corpus.read(utterances[i].item, 0, utterances[i].item.length)) for i in chosen
        ]
        log_probs = aligner.log_probs([wav.to(device) for wav in wavs])
        pairs = [
            (i, lp) for i, lp in zip(chosen, log_probs, strict=True) if fits(len(lp), utterances[i].phones)
        ]
        if not pairs:
            continue
        alignments = aligner.align_log_probs(
            [lp for _, lp in pairs], [utterances[i].phones for i, _ in pairs]
        )
        for (i, _), alignment in zip(pairs, alignments, strict=True):
            found[i] = alignment
    return found


def boundary_errors(utterance: Utterance, starts: Tensor) -> Tensor:
    """Seconds between the given and the found beginnings of the sounds."""
    assert utterance.times is not None
    sounds = torch.tensor([not is_pause(SYMBOLS[t]) for t in utterance.phones.tokens[0].tolist()])
    return (starts - utterance.times[:, 0]).abs()[sounds]


def _mel(hz: float) -> float:
    return 2595 * float(np.log10(1 + hz / 700))


def _start(recipe: AlignerRecipe) -> Aligner:
    """A new aligner, or one with the weights of `init_from`."""
    aligner = Aligner(recipe.model)
    if recipe.init_from is None:
        return aligner
    shipped = SHIPPED_WEIGHTS / "myna-aligner.safetensors"
    given = load_aligner(shipped if recipe.init_from == "shipped" else recipe.init_from)
    own = module_state(aligner)
    with torch.no_grad():
        for name, tensor in module_state(given).items():
            if own[name].shape != tensor.shape:
                raise InputError(
                    f"init_from {recipe.init_from}: {name} has another shape than the recipe's model; make their "
                    "dimensions equal"
                )
            own[name].copy_(tensor)
    return aligner


def _first_of_each_source(utterances: Sequence[Utterance], n: int) -> list[Utterance]:
    """The first `n` of every source and split of times (given or not)."""
    counts: dict[str, int] = {}
    kept = []
    for utterance in utterances:
        source = utterance.item.source
        counts[source] = counts.get(source, 0) + 1
        if counts[source] <= n:
            kept.append(utterance)
    return kept


def _hours_of_each_source(utterances: Sequence[Utterance], hours: float, sample_rate: int) -> list[Utterance]:
    """Utterances spread evenly over each source, `hours` of it at most."""
    kept = []
    for source in sorted({u.item.source for u in utterances}):
        of_it = [u for u in utterances if u.item.source == source]
        total = sum(u.item.length for u in of_it) / sample_rate / 3600
        every = max(1.0, total / hours)
        kept += [of_it[int(i * every)] for i in range(int(len(of_it) / every))]
    return kept
