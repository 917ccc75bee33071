"""Training a vocoder: what an AR knows, in the place of real speech, to that speech.

Magnitudes of spectrograms are all that is compared: which phase a harmonic has, the AR does not know. Pitch and
voicing learn from a tracker; while training, the pulses follow the tracker's pitch.

Shapes: B batch, N coarse codebooks, K codebooks, T frames, W the AR's width, P frames of prompts, U = 2 T.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...codec.checkpoint import weights_hash
from ...codec.registry import load_codec
from ...data.corpus import open_corpus
from ...discriminators import VoiceMelDiscriminator
from ...errors import InputError, UsageError
from ...evaluation.measures.spectral import SpectralLoss
from ...layers.harmonic import HIGHEST, LOWEST, PITCHES, Sound, pitch_place
from ...tts.decoders.vocoder import Vocoder
from ...tts.registry import load_vocoder, save_model
from ..engine import distributed
from ..engine.distributed import World
from ..engine.optimizer import make_optimizer
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
from ..sets.extract_speech import Extractor
from ..sets.hidden_set import HiddenItem, HiddenSet
from .adversarial import CriticStep
from .vocoder_recipe import VocoderAdversary, VocoderHeldOut, VocoderRecipe
from .voice_critic import Judged, Judging, heard_by, learn_to_tell

_RIGHT = 0.03  # a pitch that is nearer than this, relatively, counts as right
_WIDTH = 1.0  # of the bump around the true pitch, in pitches


def train(recipe: str | Path, overrides: Sequence[str] = (), quiet: bool = False) -> TrainingSummary:
    """Train by a recipe (a path or the name of one that ships), or continue the run in its output folder.

    Raises MynaError with one line for whatever the user can mend.
    """
    return run_recipe(VocoderTrainer, VocoderRecipe, recipe, overrides, quiet)


@dataclass(frozen=True)
class VocoderBatch:
    """codes (B, N, T), hidden (B, T, W), inside (B, T) bool: frames of the utterance; prompts (B, K, P) and how they
    sound, prompt_mels (B, M, P); hide_voice (B,) bool; alone (B,) bool: the AR has said it at a pitch of its own.

    What should be heard, without the frames that the vocoder looks ahead: wav (B, U * hop), pitch (B, U) Hz without
    gaps, voiced (B, U) bool.
    """

    codes: Tensor
    hidden: Tensor
    inside: Tensor
    prompts: Tensor
    prompt_mels: Tensor
    hide_voice: Tensor
    alone: Tensor
    wav: Tensor
    pitch: Tensor
    voiced: Tensor

    def to(self, device: torch.device) -> VocoderBatch:
        moved = {field.name: getattr(self, field.name).to(device) for field in dataclasses.fields(self)}
        return VocoderBatch(**moved)


class Crops:
    """Crops of hidden sets, and the recordings that belong to them. A step always has the same."""

    def __init__(self, sets: Sequence[Sequence[HiddenItem]], extractor: Extractor, recipe: VocoderRecipe):
        self.sets, self.extractor, self.recipe = sets, extractor, recipe
        self.places = [(i, j) for i, one in enumerate(sets) for j in range(len(one))]

    def batch(self, rng: np.random.Generator, size: int) -> VocoderBatch:
        data = self.recipe.data
        prompt = int(rng.integers(data.prompt_frames[0], data.prompt_frames[1] + 1))
        crops, alone = [], []
        for index in rng.integers(len(self.places), size=size):
            chosen, j = self.places[int(index)]
            one = self.sets[chosen][j]
            crops.append(self._crop(one, prompt, rng))
            alone.append(one.alone)
        codes, hidden, inside, prompts, mels, wav, pitch = (
            torch.from_numpy(np.stack(part)) for part in zip(*crops, strict=True)
        )
        hide = torch.from_numpy(rng.random(size) < data.drop_voice)
        held = torch.from_numpy(np.stack([without_gaps(row) for row in pitch.numpy()]))
        said = torch.tensor(alone)
        return VocoderBatch(
            *(codes.long(), hidden.float(), inside, prompts.long(), mels.float(), hide, said),
            *(wav, held, pitch > 0),
        )

    def _crop(self, one: HiddenItem, n_prompt: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        model, t = self.recipe.model, self.recipe.data.frames
        n, ahead = one.codes.shape[1], model.look_ahead
        start = int(rng.integers(max(1, n + ahead - t + 1)))
        end, heard = min(n, start + t), min(n, start + t - ahead)
        inside = np.arange(t) < end - start
        codes = np.pad(one.codes[:, start:end], ((0, 0), (0, t - (end - start))))
        hidden = np.pad(one.hidden[start:end], ((0, t - (end - start)), (0, 0)))
        missing = t - ahead - (heard - start)
        wav = self.extractor.read(one.item).numpy()[start * model.frame_size : heard * model.frame_size]
        wav = np.pad(wav, (0, (t - ahead) * model.frame_size - len(wav)))
        pitch = np.pad(one.pitch[2 * start : 2 * heard], (0, 2 * missing))
        first = int(rng.integers(max(1, one.prompt.shape[1] - n_prompt + 1)))
        sounds = np.concatenate([one.prompt, one.prompt_mel.T.astype(np.float32)])[
            :, first : first + n_prompt
        ]
        sounds = np.pad(sounds, ((0, 0), (0, n_prompt - sounds.shape[1])), mode="wrap")
        k = len(one.prompt)
        return codes, hidden, inside, sounds[:k].astype(np.int64), sounds[k:], wav, pitch


class Pass(nn.Module):
    """What a step asks of the vocoder, in one call: gradients are averaged over processes by module."""

    def __init__(self, vocoder: Vocoder):
        super().__init__()
        self.vocoder = vocoder

    def forward(self, batch: VocoderBatch) -> tuple[Tensor, Tensor]:
        """-> what the vocoder says (B, C', U), and the voice (B, V)."""
        model, ahead = self.vocoder, self.vocoder.config.look_ahead * self.vocoder.config.stride
        voice = model.voice(batch.prompts, batch.prompt_mels).hidden(batch.hide_voice)
        x = model.inputs(batch.codes, batch.hidden, voice.vector) * batch.inside[:, None]
        return model.out(x, voice)[..., ahead:], voice.vector


class VocoderTrainer(Trainer[VocoderRecipe, VocoderBatch]):
    """One run."""

    name = "myna-vocoder"
    higher_is_better = ("pitch_right", "voicing_right")

    def __init__(self, recipe: VocoderRecipe, world: World, quiet: bool = False):
        super().__init__(recipe, world, quiet)
        data, held = recipe.data, recipe.data.held_out
        codec = load_codec(data.codec)
        self.codec_name, self.codec_hash = codec.name, weights_hash(codec)[:16]
        paths = [*data.hidden_sets, *([held.hidden_set] if held else [])]
        if codec.frame_size != recipe.model.frame_size or codec.sample_rate != recipe.model.sample_rate:
            raise UsageError(
                f"the codec {codec.name} has frames of {codec.frame_size} samples at {codec.sample_rate} Hz, the "
                f"recipe's model {recipe.model.frame_size} at {recipe.model.sample_rate}; make them equal"
            )
        sets = [_hidden_set(path, self.codec_hash, data.codec) for path in paths]
        training = sets[: len(data.hidden_sets)]
        if not training:
            raise UsageError(
                "data.hidden_sets is empty; make one with `python -m myna.training.sets.extract_hidden`"
            )
        self.ar_hash = training[-1].ar_hash
        corpus = first_process_first(
            world, lambda: open_corpus(data.corpus, codec.sample_rate, data.cache), f"corpus {data.corpus}"
        )
        extractor = Extractor(codec, corpus)
        self.crops = Crops(training, extractor, recipe)
        self.held_out: list[VocoderBatch] = []
        if held is not None:
            own, rng = Crops(sets[-1:], extractor, recipe), np.random.default_rng(0)
            size = data.batch_size
            self.held_out = [own.batch(rng, size) for _ in range(-(-held.crops // size))]
        model = _start(recipe, codec.rows(), self.codec_hash).to(world.device)
        self.trained = distributed.wrap(Pass(model), world)
        self.spectral = SpectralLoss(recipe.model.sample_rate, recipe.spectral).to(world.device)
        groups = decayed_groups(model, recipe.optimizer.weight_decay)
        optimizer = make_optimizer(groups, recipe.optimizer)
        self._own(model, optimizer)
        if recipe.adversary is not None:
            self._own_critic(recipe.adversary)
        self._resume()
        frames = sum(int(one.n_frames.sum()) for one in training)
        hours = frames / float(codec.frame_rate) / 3600
        self._begin(f"{hours:.2f} h of {len(self.crops.places)} utterances")

    @property
    def validation(self) -> VocoderHeldOut | None:
        return self.recipe.data.held_out

    @property
    def best_by(self) -> str:
        return "loss"

    def batch(self, step: int) -> VocoderBatch:
        rng = np.random.default_rng([self.recipe.seed, step, self.world.rank])
        return self.crops.batch(rng, self.recipe.data.batch_size)

    def train_step(self, batch: VocoderBatch) -> dict[str, Tensor]:
        recipe = self.recipe
        generator = seed_torch(recipe.seed, self.step, self.world.rank)
        self.model.train()
        losses, said = self.losses(self.trained, batch.to(self.world.device), generator)
        if recipe.adversary is not None and self.step >= recipe.adversary.from_step:
            losses |= self._adversarial(recipe.adversary, *said, generator)
            if self.step >= recipe.adversary.heard_from:
                for name in ("generator", "features"):
                    losses["loss"] = losses["loss"] + getattr(recipe.adversary, name) * losses[name]
        norm = self.descend(losses["loss"])
        return {name: value.detach() for name, value in losses.items()} | {"gradient_norm": norm}

    def losses(
        self, run: nn.Module, batch: VocoderBatch, generator: torch.Generator | None = None
    ) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor, Tensor]]:
        """What a step learns from, "loss" being minimised; and what should be heard, what is heard (B, 1, N), and the
        voice (B, V). run: a `Pass`."""
        model = self.model
        assert isinstance(model, Vocoder)
        with self.autocast():
            said = run(batch)
        return spoken_losses(model, said, batch, self.recipe, self.spectral, generator)

    def _own_critic(self, section: VocoderAdversary) -> None:
        model = self.recipe.model
        self.critic = VoiceMelDiscriminator(model.sample_rate, model.voice, width=section.width)
        self.critic.to(self.world.device)
        self.critic_trained = distributed.wrap(Judging(self.critic), self.world)
        self.critic_optimizer = torch.optim.AdamW(
            self.critic.parameters(), lr=section.lr, betas=section.betas
        )
        self.modules["discriminator"], self.optimizers["discriminator"] = self.critic, self.critic_optimizer

    def _adversarial(
        self, section: VocoderAdversary, real: Tensor, fake: Tensor, voice: Tensor, rng: torch.Generator
    ) -> dict[str, Tensor]:
        """A step of the discriminator on a part of the crops, and what it says: least squares (Mao et al. 2017)."""
        n = min(section.frames * self.recipe.model.frame_size, real.shape[-1])
        start = int(torch.randint(real.shape[-1] - n + 1, (), generator=rng))
        real, fake, voice = real[..., start : start + n], fake[..., start : start + n], voice.detach()
        step = CriticStep(self.critic, self.critic_optimizer, section.lr * self.rate_factor(), section.clip)
        part = Judged(real, fake, voice)
        said = learn_to_tell(self.critic_trained, part, step, self.autocast())
        said |= heard_by(self.critic, part, self.autocast())
        of_voice = said.pop("voice")
        return said | {"generator": (said["generator"] + of_voice) / 2}

    def measure(self) -> dict[str, float]:
        assert isinstance(self.model, Vocoder)
        values: dict[str, list[float]] = {}
        passing = Pass(self.model)
        for number, batch in enumerate(self.held_out):
            seed_torch(self.recipe.seed, number, 0)
            generator = torch.Generator().manual_seed(number)
            for name, value in self.losses(passing, batch.to(self.world.device), generator)[0].items():
                values.setdefault(name, []).append(float(value))
        return {name: float(np.mean(found)) for name, found in values.items()}

    def export(self, model: nn.Module, path: Path, notes: dict[str, str]) -> None:
        assert isinstance(model, Vocoder)
        save_model(model, path, self.codec_hash, {**notes, "codec": self.codec_name, "ar_hash": self.ar_hash})


def spoken_losses(
    model: Vocoder,
    said: tuple[Tensor, Tensor],
    batch: VocoderBatch,
    recipe: VocoderRecipe,
    spectral: SpectralLoss,
    generator: torch.Generator | None = None,
) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor, Tensor]]:
    """What a vocoder learns from. said: by a `Pass`.   generator: of the windows that are looked through.

    -> losses by name, "loss" being minimised; and what should be heard, what is heard (B, 1, N), and the voice (B, V).
    """
    out, voice = said
    config, weights = model.config, recipe.losses
    sound = model.sound(out.float())
    wav = model.render(sound, batch.pitch, batch.voiced, torch.randn_like(batch.wav))
    first = recipe.data.skipped * config.stride
    cut = slice(first * config.hop, batch.wav.shape[1] - 2 * config.hop)  # the last hop is only in part
    real, fake = batch.wav[:, None, cut], wav[:, None, cut]
    losses = spectral(fake, real, generator)
    losses |= pitch_losses(sound, batch.pitch, batch.voiced, first, batch.alone)
    losses["loss"] = torch.stack(
        [getattr(weights, name) * value for name, value in losses.items() if hasattr(weights, name)]
    ).sum()
    return losses, (real, fake, voice)


def pitch_losses(sound: Sound, pitch: Tensor, voiced: Tensor, first: int, alone: Tensor) -> dict[str, Tensor]:
    """From frame `first` on: "pitch" and "voicing" in nats, and how often both are right. Where the AR has spoken
    alone, (B,) bool, its pitch is none of the recording's."""
    truth, on = pitch[:, first:].clamp(LOWEST, HIGHEST), voiced[:, first:].float()
    places = torch.arange(PITCHES, device=pitch.device)[:, None]
    bump = torch.softmax(-0.5 * ((places - pitch_place(truth)[:, None]) / _WIDTH).square(), dim=1)
    nats = -(bump * torch.log_softmax(sound.pitch_logits[..., first:], dim=1)).sum(1)
    known = on * ~alone[:, None]
    n = known.sum().clamp(min=1)
    guess = sound.voicing[:, first:]
    with torch.no_grad():
        near = ((sound.pitch()[:, first:] / truth).log().abs() < _RIGHT).float()
    return {
        "pitch": (nats * known).sum() / n,
        "voicing": F.binary_cross_entropy_with_logits(guess, on),
        "pitch_right": (near * known).sum() / n,
        "voicing_right": ((guess > 0) == (on > 0)).float().mean(),
    }


def without_gaps(pitch: np.ndarray) -> np.ndarray:
    """A pitch (U,) that is 0 where unvoiced, joined over the gaps in straight lines of its logarithm."""
    voiced = pitch > 0
    if not voiced.any():
        return np.full_like(pitch, (LOWEST * HIGHEST) ** 0.5)
    places = np.arange(len(pitch))
    return np.exp(np.interp(places, places[voiced], np.log(pitch[voiced]))).astype(np.float32)


def _hidden_set(path: Path, codec_hash: str, codec: str) -> HiddenSet:
    if not path.is_file():
        raise InputError(
            f"hidden set {path} is not there; make it with `python -m myna.training.sets.extract_hidden`, or set "
            "data.hidden_sets"
        )
    found = HiddenSet(path)
    if found.codec_hash != codec_hash:
        raise InputError(
            f"hidden set {path} has codes of the codec {found.codec} {found.codec_hash}, data.codec is {codec} "
            f"{codec_hash}; make it anew with `python -m myna.training.sets.extract_hidden`"
        )
    return found


def _start(recipe: VocoderRecipe, rows: Tensor, codec_hash: str) -> Vocoder:
    """A new vocoder, or one with the weights of `init_from`."""
    try:
        vocoder = Vocoder(recipe.model, rows)
    except ValueError as error:
        raise UsageError(f"the recipe's model does not fit the codec: {error}") from None
    if recipe.init_from is None:
        return vocoder
    shipped = SHIPPED_WEIGHTS / "myna-vocoder.safetensors"
    given = load_vocoder(
        shipped if recipe.init_from == "shipped" else recipe.init_from, codec_hash=codec_hash
    )
    check_dimensions(given.config, recipe.model, recipe.init_from)
    vocoder.load_state_dict(given.state_dict())
    return vocoder
