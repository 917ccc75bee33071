"""Training the mel vocoder: recordings to themselves, by way of their mel spectrograms.

Only magnitudes are compared: phases are the vocoder's own. Pitch and voicing learn from a tracker, whose pitch the
pulses follow in training.

Shapes: B batch, N samples, T hops.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...codec.mel_vocoder import MelVocoder, MelVocoderConfig
from ...data.checkpoint import load_checkpoint, save_checkpoint
from ...discriminators import MultiResolutionDiscriminator
from ...evaluation.measures.spectral import SpectralLoss
from ...layers.harmonic import HIGHEST, LOWEST, PITCHES, Sound, pitch_place
from ..engine import distributed
from ..engine.distributed import World
from ..engine.optimizer import make_optimizer
from ..engine.start import check_dimensions
from ..engine.trainer import Trainer, TrainingSummary, decayed_groups, run_recipe, seed_torch
from ..sets.sounds import SoundBatch, Sounds
from .adversarial import CriticStep, discriminator_loss, feature_matching_loss, generator_loss
from .mel_vocoder_recipe import MelVocoderAdversary, MelVocoderHeldOut, MelVocoderRecipe

_RIGHT = 0.03  # a pitch that is nearer than this, relatively, counts as right
_WIDTH = 1.0  # of the bump around the true pitch, in classes


def train(recipe: str | Path, overrides: Sequence[str] = (), quiet: bool = False) -> TrainingSummary:
    """Train by a recipe (a path or the name of one that ships), or continue the run in its output folder.

    Raises MynaError with one line for whatever the user can mend.
    """
    return run_recipe(MelVocoderTrainer, MelVocoderRecipe, recipe, overrides, quiet)


class MelVocoderTrainer(Trainer[MelVocoderRecipe, SoundBatch]):
    """One run."""

    name = "myna-mel-vocoder"
    higher_is_better = ("pitch_right", "voicing_right")

    def __init__(self, recipe: MelVocoderRecipe, world: World, quiet: bool = False):
        super().__init__(recipe, world, quiet)
        data = recipe.data
        self.sounds = self._sounds("train", data.sources)
        model = self._start().to(world.device)
        self.spectral = SpectralLoss(recipe.model.sample_rate, recipe.spectral).to(world.device)
        groups = decayed_groups(model, recipe.optimizer.weight_decay)
        optimizer = make_optimizer(groups, recipe.optimizer)
        self._own(model, optimizer)
        if recipe.adversary is not None:
            self._own_critic(recipe.adversary)
        self._resume()
        self.wrapped = distributed.wrap(model, world)
        self.held_out: list[SoundBatch] = []
        if data.held_out is not None:
            rng, held = np.random.default_rng(0), self._sounds("dev", None)
            for first in range(0, data.held_out.crops, 16):
                size = min(16, data.held_out.crops - first)
                self.held_out.append(held.crops(rng, size, data.frames, 1.0, (0.0, 0.0)))
        hours = len(self.sounds.wav) / recipe.model.sample_rate / 3600
        self._begin(f"{hours:.2f} h of {len(self.sounds.items)} recordings")

    def _sounds(self, split: str, weights: dict[str, float] | None) -> Sounds:
        data = self.recipe.data
        return Sounds(
            data.corpora,
            data.pitches,
            split,
            data.cache,
            weights,
            self.world.device,
            data.shortest,
            data.drawn,
        )

    def _start(self) -> MelVocoder:
        recipe = self.recipe
        if recipe.init_from is None:
            return MelVocoder(recipe.model)
        given = load_checkpoint(MelVocoder, MelVocoderConfig, recipe.init_from, "mel-vocoder")
        check_dimensions(given.config, recipe.model, recipe.init_from)
        return given.train()

    def _own_critic(self, section: MelVocoderAdversary) -> None:
        self.critic = MultiResolutionDiscriminator(section.n_ffts, section.width).to(self.world.device)
        self.critic_optimizer = torch.optim.AdamW(
            self.critic.parameters(), lr=section.lr, betas=section.betas, fused=True
        )
        self.modules["discriminator"], self.optimizers["discriminator"] = self.critic, self.critic_optimizer
        self.wrapped_critic = distributed.wrap(self.critic, self.world)

    @property
    def validation(self) -> MelVocoderHeldOut | None:
        return self.recipe.data.held_out

    @property
    def best_by(self) -> str:
        return "loss"

    def batch(self, step: int) -> SoundBatch:
        recipe, data = self.recipe, self.recipe.data
        rng = np.random.default_rng([recipe.seed, step, self.world.rank])
        scale = round(float(rng.uniform(*data.scale)), 2) if rng.random() < data.scaled else 1.0
        share = data.drawn_share if data.drawn else 0.0
        return self.sounds.crops(rng, data.batch_size, data.frames, scale, data.gain_db, share)

    def train_step(self, batch: SoundBatch) -> dict[str, Tensor]:
        recipe = self.recipe
        generator = seed_torch(recipe.seed, self.step, self.world.rank)
        self.model.train()
        losses, real, fake = self.losses(batch, generator)
        if recipe.adversary is not None and self.step >= recipe.adversary.from_step:
            losses |= self._adversarial(recipe.adversary, real, fake, generator)
            if self.step >= recipe.adversary.heard_from:
                for name in ("generator", "features"):
                    losses["loss"] = losses["loss"] + getattr(recipe.adversary, name) * losses[name]
        norm = self.descend(losses["loss"])
        return {name: value.detach() for name, value in losses.items()} | {"gradient_norm": norm}

    def losses(
        self, crops: SoundBatch, generator: torch.Generator | None = None
    ) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """What a step learns from, "loss" being minimised; what should be heard and what is, (B, 1, N)."""
        recipe, model = self.recipe, self.model
        assert isinstance(model, MelVocoder)
        mel = model.mel(crops.wav)
        if crops.mel is not None and crops.drawn is not None:
            mel = torch.where(crops.drawn[:, None], crops.mel, mel)
        with self.autocast():
            sound = self.wrapped(mel)
        wav = model.render(sound, crops.pitch, crops.voiced, torch.randn_like(crops.wav))
        first, hop = recipe.data.skipped, recipe.model.hop
        # The last frames lack what follows them, and the last hop is only in part.
        last = crops.pitch.shape[1] - recipe.model.look_ahead
        cut = slice(first * hop, last * hop)
        real, fake = crops.wav[:, None, cut], wav[:, None, cut]
        losses = self.spectral(fake, real, generator)
        losses |= pitch_losses(sound, crops.pitch, crops.voiced, slice(first, last), crops.drawn)
        weights = recipe.losses
        losses["loss"] = torch.stack(
            [getattr(weights, name) * value for name, value in losses.items() if hasattr(weights, name)]
        ).sum()
        return losses, real, fake

    def _adversarial(
        self, section: MelVocoderAdversary, real: Tensor, fake: Tensor, rng: torch.Generator
    ) -> dict[str, Tensor]:
        """A step of the discriminators on a part of the crops, and what they say: least squares (Mao et al. 2017)."""
        n = min(section.samples, real.shape[-1])
        start = int(torch.randint(real.shape[-1] - n + 1, (), generator=rng))
        real, fake = real[..., start : start + n], fake[..., start : start + n]
        with self.autocast():
            judged = [j.split(len(real)) for j in self.wrapped_critic(torch.cat([real, fake.detach()]))]
        learned = discriminator_loss([r for r, _ in judged], [f for _, f in judged], "least_squares")
        CriticStep(self.critic, self.critic_optimizer, section.lr * self.rate_factor(), section.clip)(learned)
        self.critic.requires_grad_(False)
        with self.autocast():
            with torch.no_grad():
                on_real = self.critic(real)
            on_fake = self.critic(fake)
        self.critic.requires_grad_(True)
        return {
            "discriminator": learned.detach(),
            "generator": generator_loss(on_fake, "least_squares"),
            "features": feature_matching_loss(on_real, on_fake),
        }

    def measure(self) -> dict[str, float]:
        values: dict[str, list[float]] = {}
        for number, crops in enumerate(self.held_out):
            seed_torch(self.recipe.seed, number, 0)
            for name, value in self.losses(crops, torch.Generator().manual_seed(number))[0].items():
                values.setdefault(name, []).append(float(value))
        return {name: float(np.mean(found)) for name, found in values.items()}

    def export(self, model: nn.Module, path: Path, notes: dict[str, str]) -> None:
        assert isinstance(model, MelVocoder)
        save_checkpoint(model, model.config, path, "mel-vocoder", notes)


def pitch_losses(
    sound: Sound, pitch: Tensor, voiced: Tensor, part: slice, drawn: Tensor | None = None
) -> dict[str, Tensor]:
    """Over a part of the hops: "pitch" and "voicing" in nats, and how often both are right.

    drawn (B, T) bool: where the mel is a decoder's, whose pitch is its own, so that the recording's says nothing.
    """
    truth, on = pitch[:, part].clamp(LOWEST, HIGHEST), voiced[:, part].float()
    told = torch.ones_like(on) if drawn is None else (~drawn[:, part]).float()
    places = torch.arange(PITCHES, device=pitch.device)[:, None]
    bump = torch.softmax(-0.5 * ((places - pitch_place(truth)[:, None]) / _WIDTH).square(), dim=1)
    nats = -(bump * torch.log_softmax(sound.pitch_logits[..., part], dim=1)).sum(1)
    n, n_told = (on * told).sum().clamp(min=1), told.sum().clamp(min=1)
    guess = sound.voicing[:, part]
    with torch.no_grad():
        near = ((sound.pitch()[:, part] / truth).log().abs() < _RIGHT).float()
    return {
        "pitch": (nats * on * told).sum() / n,
        "voicing": F.binary_cross_entropy_with_logits(guess, on, told, reduction="sum") / n_told,
        "pitch_right": (near * on * told).sum() / n,
        "voicing_right": (((guess > 0) == (on > 0)) * told).sum() / n_told,
    }
