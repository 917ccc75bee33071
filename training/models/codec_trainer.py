"""Training a codec: reconstruction, residual vector quantisation, and discriminators.

    step = 0, unquantized_steps = 0     the codec starts from data (`init_from_data`)
    step < unquantized_steps            or latents pass unquantised: they learn to carry information first
    step = unquantized_steps            codebooks start from the data (k-means)
    step > unquantized_steps            quantised, a share of the examples not; random numbers of codebooks
    step >= adversarial_from            discriminators learn, and the codec learns to pass them

Shapes: B batch, N samples, K codebooks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import Progress, TaskID
from torch import Tensor, nn

from ...codec.checkpoint import FAMILIES, codes_hash, load_checkpoint, save_checkpoint
from ...codec.myna import MynaCodec, MynaConfig
from ...codec.quantizer import dropout_codebooks
from ...codec.trainable import TrainableCodec
from ...data.corpus import Batch, Corpus, Crops, HeldOut, held_out, open_corpus
from ...discriminators import (
    Discriminator,
    Ensemble,
    MultiBandSTFTDiscriminator,
    MultiPeriodDiscriminator,
    MultiScaleSTFTDiscriminator,
)
from ...errors import UsageError
from ...evaluation.measures.codebooks import codebook_use
from ...evaluation.measures.spectral import SpectralLoss, SpectralLossOptions, band_limit, si_sdr
from ..engine import distributed
from ..engine.checkpoint import module_state
from ..engine.distributed import World
from ..engine.optimizer import make_optimizer
from ..engine.recipe import read_key
from ..engine.schedule import set_rate
from ..engine.start import check_dimensions
from ..engine.trainer import (
    SHIPPED_WEIGHTS,
    Trainer,
    TrainingSummary,
    decayed_groups,
    first_process_first,
    run_recipe,
    seed_torch,
)
from .adversarial import CriticStep, discriminator_loss, feature_matching_loss, generator_loss
from .balancer import Balancer
from .codec_recipe import (
    ON_THE_CODES,
    ON_THE_WAVEFORM,
    RECIPES,
    CodecRecipe,
    DiscriminatorSection,
    HeldOutSection,
    weight_at,
)
from .grow_codec import grown
from .perceptual import Intelligibility, Loudness


def train(recipe: str | Path, overrides: Sequence[str] = (), quiet: bool = False) -> TrainingSummary:
    """Train by a recipe (a path or the name of one that ships), or continue the run in its output folder.

    overrides: `key.subkey=value` each. Under torchrun, every process calls this. Raises MynaError with one
    line for whatever the user can mend.
    """
    return run_recipe(CodecTrainer, RECIPES[read_key(recipe, "kind", "codec")], recipe, overrides, quiet)


class CodecTrainer(Trainer[CodecRecipe, Batch]):
    """One run. Its state is the codec, the discriminators, and the balancer's averages."""

    name = "codec"
    higher_is_better = ("si_sdr", "pesq", "stoi")

    def __init__(self, recipe: CodecRecipe, world: World, quiet: bool = False):
        super().__init__(recipe, world, quiet)
        device = world.device
        self.codec = _start(recipe).to(device)
        if recipe.trained == "decoder":
            _keep_codes(self.codec, recipe)
        # Weights to start from have their codebooks placed.
        self.unquantized_steps = recipe.phases.unquantized_steps if recipe.init_from is None else 0
        # The quantizer has no part in the steps that bypass it.
        self.generator = distributed.wrap(self.codec, world, partly_used=self.unquantized_steps > 0)
        self.adversarial_from = recipe.phases.adversarial_from
        groups = decayed_groups(self.codec, recipe.optimizer.weight_decay, never=("quantizer",))
        optimizer = make_optimizer(groups, recipe.optimizer)
        self._own(self.codec, optimizer)
        if self.adversarial_from is not None:
            self.critic = _discriminators(recipe.discriminators).to(device)
            self.critic_trained = distributed.wrap(self.critic, world)
            d = recipe.discriminators
            self.critic_optimizer = torch.optim.AdamW(
                self.critic.parameters(), lr=d.lr, betas=d.betas, fused=True
            )
            self.modules["discriminators"] = self.critic
            self.optimizers["discriminators"] = self.critic_optimizer
        rate = self.codec.sample_rate
        self.spectral = SpectralLoss(rate, _needed(recipe)).to(device)
        # As they are heard: built where the recipe names them.
        heard = {"intelligibility": Intelligibility, "loudness": Loudness}
        self.heard = {name: kind(rate).to(device) for name, kind in heard.items() if name in recipe.losses}
        self.judge = SpectralLoss(rate).to(device)  # held-out distances do not change with the recipe
        b = recipe.balancer
        self.balancer = Balancer({}, b.total_norm, b.decay) if b else None
        self._resume()

        corpus = self._corpus(quiet)
        train_set = corpus.select(recipe.data.splits)
        self.crops = Crops(
            train_set,
            round(recipe.data.seconds * rate),
            recipe.data.batch_size,
            recipe.seed,
            recipe.data.sources,
            recipe.data.augment,
            recipe.data.min_rms,
        )
        self.held_out = self._held_out(corpus)
        self._begin(f"{train_set.hours:.2f} h")
        if corpus.skipped.items or corpus.skipped.shards:
            self.log.say(f"corpus: {corpus.skipped}")

    @property
    def validation(self) -> HeldOutSection | None:
        return self.recipe.data.held_out

    @property
    def best_by(self) -> str:
        assert self.validation is not None
        return self.validation.best_by

    def batch(self, step: int) -> Batch:
        return self.crops.batch(step, self.world.rank)

    # A step

    def train_step(self, batch: Batch) -> dict[str, Tensor]:
        """One step of the discriminators and one of the codec; the losses by name."""
        recipe, device = self.recipe, self.world.device
        rng = seed_torch(recipe.seed, self.step, self.world.rank)
        rate = self.rate_factor()
        batch = batch.to(device)
        real, unquantized = batch.wav, self._unquantized(len(batch.wav))
        if self.step == self.unquantized_steps and recipe.init_from is None:
            self._start_codebooks()
        elif self.step == 0 and recipe.init_from is not None:
            self._start_new_codebooks()
        self.codec.train()
        if recipe.trained == "decoder":  # codebooks that learn would follow the latents
            self.codec.quantizer.eval()

        with self.autocast():
            n_codebooks = dropout_codebooks(
                len(real), self.codec.n_codebooks, recipe.phases.quantizer_dropout
            )
            result = self.generator(real, n_codebooks.to(device), unquantized)
        fake = result.wav.float()
        heard = band_limit(fake, batch.bandwidth, self.codec.sample_rate) if recipe.own_band_only else fake
        losses: dict[str, Tensor] = {}

        adversarial = self.adversarial_from is not None and self.step >= self.adversarial_from
        if adversarial:
            real_part, fake_part = self._judged_part(real, heard, rng)
            if float(torch.rand((), generator=rng)) < recipe.discriminators.update_share:
                losses["discriminator"] = self._discriminator_step(real_part, fake_part.detach(), rate)
            losses |= self._adversarial_losses(real_part, fake_part)
        losses |= self.spectral(heard, real, rng)
        losses["waveform"] = F.l1_loss(heard, real)
        losses |= {name: measure(heard, real) for name, measure in self.heard.items()}
        if result.quantizer is not None:
            losses["commitment"] = result.quantizer.commitment_loss
            losses["codebook"] = result.quantizer.codebook_loss
        self._generator_step(losses, fake, rate)
        return losses

    def _discriminator_step(self, real: Tensor, fake: Tensor, rate: float) -> Tensor:
        section = self.recipe.discriminators
        with self.autocast():
            pairs = [judgement.split(len(real)) for judgement in self.critic_trained(torch.cat([real, fake]))]
        loss = discriminator_loss([r for r, _ in pairs], [f for _, f in pairs], section.loss)
        CriticStep(self.critic, self.critic_optimizer, section.lr * rate, section.clip)(loss)
        return loss.detach()

    def _adversarial_losses(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        section = self.recipe.discriminators
        self.critic.requires_grad_(False)
        with self.autocast():
            with torch.no_grad():
                on_real = self.critic(real)
            on_fake = self.critic(fake)
        self.critic.requires_grad_(True)
        return {
            "generator": generator_loss(on_fake, section.loss),
            "features": feature_matching_loss(on_real, on_fake, section.relative_features),
        }

    def _generator_step(self, losses: dict[str, Tensor], fake: Tensor, rate: float) -> None:
        section = self.recipe.optimizer
        weights = {name: weight_at(w, self.step) for name, w in self.recipe.losses.items()}
        # Of weight 0 or not, the quantizer's losses are in the sum: DDP waits for a gradient of every
        # codebook.
        weights = {**dict.fromkeys(ON_THE_CODES, 0.0), **weights}
        weights = {name: w for name, w in weights.items() if name in losses and (w or name in ON_THE_CODES)}
        self.optimizer.zero_grad()
        if self.balancer is None:
            torch.stack([w * losses[name] for name, w in weights.items()]).sum().backward()
        else:
            self.balancer.weights = weights
            balanced = {name: losses[name] for name in weights if name in ON_THE_WAVEFORM}
            gradient = self.balancer.gradient(balanced, fake)
            rest = [w * losses[name] for name, w in weights.items() if name not in ON_THE_WAVEFORM]
            # One backward pass for both, as DDP wants it: the first term's gradient at `fake` is the balanced
            # one.
            torch.stack([(fake * gradient).sum(), *rest]).sum().backward()
        norm = nn.utils.clip_grad_norm_(self.codec.parameters(), section.clip)
        losses["gradient_norm"] = norm.detach()
        if bool(torch.isfinite(norm)):  # one bad batch must not end a run of hours
            set_rate(self.optimizer, section.lr * rate)
            self.optimizer.step()
            self.ema.update(self.codec)

    # Parts of a step

    def _judged_part(self, real: Tensor, fake: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """The same random stretch of both, of the length that discriminators see."""
        seconds, n = self.recipe.discriminators.seconds, real.shape[-1]
        part = n if seconds is None else min(n, round(seconds * self.codec.sample_rate))
        start = int(torch.randint(n - part + 1, (), generator=rng))
        return real[..., start : start + part], fake[..., start : start + part]

    def _unquantized(self, batch: int) -> Tensor:
        phases = self.recipe.phases
        if self.step < self.unquantized_steps:
            return torch.ones(batch, dtype=torch.bool)
        chosen = torch.rand(batch) < phases.unquantized_share
        chosen[0] = False  # codebooks add up statistics over all devices: none may be without
        return chosen

    @torch.no_grad()
    def _start_codebooks(self) -> None:
        """Place all codebooks where the latents are; a codec that has not learned anything yet starts from data as it
        can."""
        self.codec.eval()
        device, n = self.world.device, self.recipe.phases.codebook_batches
        batches = (self.crops.batch(self.step + i, self.world.rank).wav for i in range(n))
        if self.step == 0:
            self.codec.init_from_data(torch.cat([wav.to(device) for wav in batches]))
        else:
            latents = torch.cat([self.codec.latents(wav.to(device)).float() for wav in batches])
            self.codec.quantizer.init_from(latents)
        distributed.broadcast(module_state(self.codec).values())
        self.ema.restart(self.codec)
        seed_torch(self.recipe.seed, self.step, self.world.rank)

    @torch.no_grad()
    def _start_new_codebooks(self) -> None:
        """Place the codebooks that `init_from` did not have where its own leave off."""
        if not self.codec.quantizer.unplaced:
            return
        self.codec.eval()
        batches = (
            self.crops.batch(i, self.world.rank).wav for i in range(self.recipe.phases.codebook_batches)
        )
        latents = torch.cat([self.codec.latents(wav.to(self.world.device)).float() for wav in batches])
        self.codec.quantizer.init_rest_from(latents)
        distributed.broadcast(module_state(self.codec).values())
        self.ema.restart(self.codec)
        seed_torch(self.recipe.seed, self.step, self.world.rank)

    # Around the steps

    @property
    def _quantised(self) -> bool:
        return self.step > self.unquantized_steps or self.recipe.init_from is not None

    def fit_to_be_best(self) -> bool:
        return self._quantised  # a codec without codes cannot be the best one

    def measure(self) -> dict[str, float]:
        """Distances on the held-out crops with all codebooks."""
        assert self.held_out is not None
        assert self.validation is not None
        real = self.held_out.batch.wav
        guesses, codes = [], []
        for wav in real.split(8):
            wav = wav.to(self.world.device)
            n = None if self._quantised else torch.ones(len(wav), dtype=torch.bool)
            result = self.codec(wav, unquantized=n)
            guesses.append(result.wav.float().cpu())
            if result.quantizer is not None:
                codes.append(result.quantizer.codes.cpu())
        fake = torch.cat(guesses)
        on_device = (fake.to(self.world.device), real.to(self.world.device))
        values = {name: float(value) for name, value in self.judge(*on_device).items()}
        values["si_sdr"] = float(si_sdr(fake, real).mean())
        if codes:
            use = codebook_use(torch.cat(codes), self.codec.codebook_size)
            values["codes_used"] = float(np.mean(use.used))
            values |= {f"perplexity_{k}": p for k, p in enumerate(use.perplexity)}
        if self.validation.perceptual:
            values |= _perceptual(fake, real, self.codec.sample_rate)
        for i in {0, len(fake) // 2, len(fake) - 1}:
            name = f"{i}-{self.held_out.sources[i]}"
            self.log.audio(self.step, f"{name}/decoded", fake[i], self.codec.sample_rate)
            if self.best is None:
                self.log.audio(self.step, f"{name}/original", real[i], self.codec.sample_rate)
        return values

    def shown(self, values: dict[str, float]) -> dict[str, float]:
        return {name: value for name, value in values.items() if not name.startswith("perplexity")}

    def export(self, model: nn.Module, path: Path, notes: dict[str, str]) -> None:
        save_checkpoint(model, path, notes=notes)

    def extra_state(self) -> dict[str, Any]:
        return {"balancer": self.balancer.state_dict() if self.balancer else None}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        if self.balancer and state["balancer"]:
            self.balancer.load_state_dict(state["balancer"])

    def _corpus(self, quiet: bool) -> Corpus:
        """The decoded corpus; the main process decodes it while the others wait."""
        data, rate = self.recipe.data, self.codec.sample_rate
        with _decoding_bar(quiet or not self.world.is_main) as advance:
            return first_process_first(
                self.world,
                lambda: open_corpus(data.corpus, rate, data.cache, advance),
                f"corpus {data.corpus}",
            )

    def _held_out(self, corpus: Corpus) -> HeldOut | None:
        section = self.recipe.data.held_out
        if section is None:
            return None
        chosen = corpus.select(section.splits, section.sources)
        return held_out(chosen, section.crops, round(section.seconds * self.codec.sample_rate))


# Fields of a model's configuration that say how it is used or trained, not what its weights are.
_OF_NO_WEIGHT = ("name", "dead_code_share", "n_paths", "rate_weight")


def _start(recipe: CodecRecipe) -> TrainableCodec:
    """A new codec, or one with the weights of `init_from`."""
    codec = next(f.build for f in FAMILIES.values() if isinstance(recipe.model, f.config))(recipe.model)
    assert isinstance(codec, TrainableCodec)
    if codec.channels != 1:
        raise UsageError(f"{codec.name} has {codec.channels} channels, a corpus one; train a mono model")
    if recipe.init_from is None:
        return codec
    shipped = SHIPPED_WEIGHTS / f"{recipe.model.name}.safetensors"
    path = shipped if recipe.init_from == "shipped" else Path(recipe.init_from)
    given = load_checkpoint(path)
    if not isinstance(given, type(codec)):
        raise UsageError(f"init_from {path} is not a model of this kind; give one that `myna train` wrote")
    if isinstance(given, MynaCodec) and isinstance(recipe.model, MynaConfig) and recipe.trained == "all":
        given = grown(given, recipe.model)
    check_dimensions(given.config, recipe.model, path, free=_OF_NO_WEIGHT)
    if recipe.trained == "decoder":
        codec.codes_of = codes_hash(given)
    own = module_state(codec)
    with torch.no_grad():
        for name, tensor in module_state(given).items():
            if name in own:  # counts of use are not there where dead codes are not replaced
                own[name].copy_(tensor)
    return codec


def _keep_codes(codec: TrainableCodec, recipe: CodecRecipe) -> None:
    """Freeze whatever makes codes. Raises UsageError where the exported file would not hold it exactly."""
    codec.requires_grad_(False)
    codec.decoder.requires_grad_(True)
    kept = {name: t for name, t in codec.state_dict().items() if not name.startswith("decoder.")}
    rounded = next(
        (
            name
            for name, t in kept.items()
            if t.is_floating_point() and not torch.equal(t, t.half().to(t.dtype))
        ),
        None,
    )
    if recipe.half_precision_export and rounded is not None:
        raise UsageError(
            f"init_from {recipe.init_from} has {rounded} in full precision, which half_precision_export would round, "
            "and its codes would be others; set half_precision_export=false"
        )


def _discriminators(section: DiscriminatorSection) -> Ensemble:
    members: list[Discriminator] = []
    if section.ms_stft:
        members.append(MultiScaleSTFTDiscriminator(section.ms_stft.n_ffts, section.ms_stft.width))
    if section.multi_period:
        members.append(MultiPeriodDiscriminator(section.multi_period.periods, section.multi_period.width))
    if section.multi_band_stft:
        members.append(
            MultiBandSTFTDiscriminator(section.multi_band_stft.n_ffts, section.multi_band_stft.width)
        )
    return Ensemble(*members)


def _needed(recipe: CodecRecipe) -> SpectralLossOptions:
    """Only the windows of losses that have a weight: transforms cost."""
    options = recipe.spectral
    if "mel" not in recipe.losses:
        options = replace(options, mel_windows=(), mel_bands=())
    if "stft" not in recipe.losses:
        options = replace(options, stft_windows=())
    return options if "complex" in recipe.losses else replace(options, complex_windows=())


def _perceptual(fake: Tensor, real: Tensor, sample_rate: int) -> dict[str, float]:
    """Mean PESQ and STOI over (B, 1, N), as far as their packages are installed."""
    from ...evaluation.measures.perceptual import pesq_wb, stoi

    values = {}
    for name, measure in (("pesq", pesq_wb), ("stoi", stoi)):
        with suppress(ImportError):
            scores = [
                measure(r.numpy(), f.numpy(), sample_rate)
                for r, f in zip(real[:, 0], fake[:, 0], strict=True)
            ]
            scores = [score for score in scores if score == score]  # nan: nothing to judge in that crop
            if scores:
                values[name] = float(np.mean(scores))
    return values


@contextmanager
def _decoding_bar(quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A progress bar that appears when decoding begins."""
    with Progress(console=Console(stderr=True), disable=quiet) as bar:
        task: TaskID | None = None

        def advance(done: int, total: int) -> None:
            nonlocal task
            task = bar.add_task("decoding the corpus (once)", total=total) if task is None else task
            bar.update(task, completed=done)

        yield advance
