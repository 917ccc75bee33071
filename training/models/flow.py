"""Training the flow decoder and its speech tokens together.

    mel of prompt and target -> tokens --------------------------.
    phones at the pointer, prompt, speaker vector (each hidden in a share of the examples)
        -> trunk -> mel: L1 + L2 -> head: noisy mel -> clean mel: weighted L2 (flow matching with the data as target),
                                                                  and a discriminator, if the recipe has one

The loss of flow matching on the velocity is |x1 - y|^2 / (1 - t)^2, which weighs times near 1 a hundred times as
much as those where words are decided; the weight is capped. Losses leave out the bands above a recording's own.

Shapes: B batch, T frames of 50 Hz, F numbers of a frame, M mel bands, S = T / 2 tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...codec.checkpoint import weights_hash
from ...codec.mel.speech_tokens import SpeechTokenizer
from ...data.checkpoint import load_checkpoint, save_checkpoint
from ...discriminators import MelVoiceDiscriminator
from ...errors import UsageError
from ...layers.dit import block_mask
from ...tts.decoders.flow.decoder import FlowConfig, FlowDecoder, FlowInputs
from ...tts.decoders.flow.timing import timing
from ...tts.text.phones import N_SYMBOLS
from ..engine import distributed
from ..engine.distributed import World
from ..engine.optimizer import make_optimizer
from ..engine.start import check_dimensions
from ..engine.trainer import Trainer, TrainingSummary, decayed_groups, run_recipe, seed_torch
from ..sets.examples import Batches, Planner, Plans, held_out, select
from ..sets.mel_set import MelSet
from .adversarial import CriticStep
from .flow_adversary import Drawn, as_in_speaking, stretch
from .flow_batch import FlowBatch, Reader
from .flow_recipe import FlowAdversary, FlowHeldOut, FlowReading, FlowRecipe
from .phone_reader import PhoneReader, learn_to_read, read_by
from .token_probe import TokenProbe, spread
from .tokens import start_tokenizer
from .voice_critic import Judged, Judging, heard_by, learn_to_tell


def train(recipe: str | Path, overrides: Sequence[str] = (), quiet: bool = False) -> TrainingSummary:
    """Train by a recipe (a path or the name of one that ships), or continue the run in its output folder.

    Raises MynaError with one line for whatever the user can mend.
    """
    return run_recipe(FlowTrainer, FlowRecipe, recipe, overrides, quiet)


class FlowTraining(nn.Module):
    """What is trained: the decoder, the tokenizer, and the probe that keeps tokens telling.

    content: mean (C,) and whitening (C, N) of a recogniser's encoder, from which the tokens then learn, too.
    head_alone: everything before the head stays as it is.
    """

    def __init__(
        self,
        decoder: FlowDecoder,
        tokenizer: SpeechTokenizer,
        content: tuple[Tensor, Tensor] | None = None,
        head_alone: bool = False,
    ):
        super().__init__()
        self.decoder, self.tokenizer, self.head_alone = decoder, tokenizer, head_alone
        self.probe = TokenProbe(len(tokenizer.config.levels), N_SYMBOLS, content)

    def _trunk(self, b: FlowBatch, noise: FlowNoise) -> tuple[Tensor, ...]:
        """Tokens before and after rounding (B, S, D), the prompt's frames (B, T, F), the condition (B, C), the mask,
        the trunk's frames and states, the recording's frames."""
        decoder = self.decoder
        bounded = self.tokenizer(b.mel)
        levels = self.tokenizer.quantizer.rounded(bounded)
        read = torch.where(noise.unrounded[:, None, None], bounded, levels)
        read = torch.where(noise.wrong[..., None], noise.levels, read)
        clean = decoder.frames(b.mel)
        prompt = torch.where(b.prompted[..., None], clean, 0) * b.prompt_bands[:, None]
        mean, deviation = decoder.statistics(prompt, b.prompted)
        shown = b.speaker.any(1, keepdim=True)
        voice = decoder.voice(F.normalize(b.speaker + noise.speaker * shown, dim=1), mean, deviation)
        condition = decoder.told(voice, b.clarity)
        inputs = FlowInputs(
            text=decoder.text_encoder(b.phones, b.n_phones),
            pointer=b.pointer,
            timing=timing(b.pointer, b.visible),
            tokens=read,
            prompt=prompt,
            prompted=b.prompted,
            target=b.target,
            knows_phone=b.knows_phone,
            knows_token=b.knows_token,
        )
        x = decoder.embed(inputs)
        mask = block_mask(b.blocks, x.dtype)
        regressed, hidden = decoder.regress(x, condition, mask)
        return bounded, levels, prompt, condition, mask, regressed, hidden, clean

    def forward(
        self, batch: FlowBatch, noise: FlowNoise, with_flow: bool
    ) -> tuple[dict[str, Tensor], Drawn | None]:
        """The losses and how well tokens are read, scalars by name; what was drawn, None without flow."""
        decoder, b = self.decoder, batch
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.head_alone):
            bounded, levels, prompt, condition, mask, regressed, hidden, clean = self._trunk(b, noise)
        weight = (b.target[..., None] * b.bands[:, None]).float()
        count = weight.sum().clamp(min=1)
        error = regressed.float() - clean
        losses = {"mean": ((error.abs() + 0.5 * error.square()) * weight).sum() / count}
        drawn = None
        losses["mean_l2"] = (error.detach().square() * weight).sum() / count
        if with_flow:
            stage = regressed, hidden, prompt.to(hidden.dtype)
            t, data = noise.time[:, None, None], clean
            if bool(noise.second.any()):
                with torch.no_grad():
                    zero = torch.zeros_like(noise.time)
                    first = decoder.refine(_noisy(b, noise.sample), zero, stage, condition, mask)
                data = torch.where(noise.second[:, None, None], first.to(clean), clean)
            noisy = _noisy(b, (1 - t) * noise.sample + t * data)
            y = decoder.refine(noisy, noise.time, stage, condition, mask)
            weights = (0.5 / (1 - t).clamp(min=0.1).square()).clamp(max=noise.weight_cap)
            weights = torch.where(noise.spoken[:, None, None], noise.spoken_weight, weights) * weight
            drawn = Drawn(clean, regressed, y)
            losses["flow"] = ((y.float() - clean).square() * weights).sum() / count
        losses["spread"] = spread(bounded, b.inside[:, ::2])
        return losses | self.probe.losses(levels, b), drawn


@dataclass(frozen=True)
class FlowNoise:
    """What is drawn for a step.

    time (B,), sample (B, T, F) normal: of the flow.   unrounded (B,) bool: examples that read tokens before rounding.
    wrong (B, S) bool, levels (B, S, D): tokens that are replaced, and by what.   speaker (B, E): added to its vector.
    spoken, second (B,) bool: examples that are drawn as in speaking, and those of them whose data is what the head
    drew in a first step.
    """

    time: Tensor
    sample: Tensor
    unrounded: Tensor
    wrong: Tensor
    levels: Tensor
    speaker: Tensor
    spoken: Tensor
    second: Tensor
    weight_cap: float
    spoken_weight: float = 1.0  # of the squared error of those that are drawn as in speaking


def _noisy(batch: FlowBatch, frames: Tensor) -> Tensor:
    """What the head reads of frames (B, T, F): nothing where the prompt is."""
    return torch.where(batch.prompted[..., None], 0, frames)


def draw_noise(
    recipe: FlowRecipe, rows: Tensor, batch: FlowBatch, unrounded: bool = False, training: bool = True
) -> FlowNoise:
    """From torch's generator. rows (V, D): levels of all tokens.   unrounded: half of the examples read tokens before
    rounding.   training: tokens and speaker vectors are disturbed."""
    b, t = batch.pointer.shape
    device = batch.mel.device
    token = torch.randint(len(rows), (b, t // 2), device=device)
    time = torch.sigmoid(torch.randn(b, device=device) - 0.2)
    sample = torch.randn(b, t, recipe.model.frame, device=device)
    spoken = second = torch.zeros(b, dtype=torch.bool, device=device)
    if recipe.adversary is not None and training:
        time, sample, spoken, second = as_in_speaking(time, sample, recipe.adversary)
    return FlowNoise(
        time=time,
        sample=sample,
        unrounded=(torch.rand(b, device=device) < 0.5) & unrounded,
        wrong=torch.rand(b, t // 2, device=device) < recipe.token_noise * training,
        levels=rows[token],
        speaker=torch.randn(b, recipe.model.speaker, device=device) * recipe.speaker_noise * training,
        spoken=spoken,
        second=second,
        weight_cap=recipe.weight_cap,
        spoken_weight=1.0 if recipe.adversary is None else recipe.adversary.regression,
    )


class FlowTrainer(Trainer[FlowRecipe, Plans]):
    """One run."""

    name = "myna-flow"
    higher_is_better = ("phone_right",)

    def __init__(self, recipe: FlowRecipe, world: World, quiet: bool = False):
        super().__init__(recipe, world, quiet)
        data = recipe.data
        self.speech = MelSet(data.mel_sets, world.device)
        chosen = select(self.speech, "train", data.leave_out_worst)
        self.batches = Batches(
            Planner(self.speech, chosen, data.examples, data.sources, data.least_quality),
            data.batch_frames,
            recipe.seed,
        )
        self.reader = Reader(self.speech, recipe.model)
        content = self.speech.content_whitening() if recipe.losses.content else None
        model = FlowTraining(self._decoder(chosen), self._tokenizer(), content, recipe.head_alone)
        model.to(world.device)
        self.quantizer, self.decoder = model.tokenizer.quantizer, model.decoder
        if not recipe.train_tokens:
            model.tokenizer.requires_grad_(False)
        if recipe.head_alone:
            model.requires_grad_(False)
            for part in self._head_parts(model):
                part.requires_grad_(True)
        trained = decayed_groups(model, recipe.optimizer.weight_decay, never=("embedding", "table"))
        optimizer = make_optimizer(trained, recipe.optimizer)
        self._own(model, optimizer)
        if recipe.adversary is not None:
            self._own_critic(recipe.adversary)
        if recipe.reading is not None:
            self._own_phone_reader(recipe.reading)
        self._resume()
        self.wrapped = distributed.wrap(model, world, partly_used=True)
        self.held_out = self._held_out(data.held_out)
        voices = len({(i.source, i.speaker) for i in self.speech.items})
        self._begin(f"{self.speech.hours:.2f} h of {len(chosen)} utterances of {voices} speakers")

    @staticmethod
    def _head_parts(model: nn.Module) -> tuple[nn.Module, ...]:
        assert isinstance(model, FlowTraining)
        return model.decoder.head_parts()

    def _own_critic(self, section: FlowAdversary) -> None:
        model = self.recipe.model
        self.critic = MelVoiceDiscriminator(2, model.speaker, model.mel_bands, section.width)
        self.critic.to(self.world.device)
        self.judging = distributed.wrap(Judging(self.critic), self.world)
        self.critic_optimizer = torch.optim.AdamW(
            self.critic.parameters(), lr=section.lr, betas=section.betas, fused=True
        )
        self.modules["discriminator"], self.optimizers["discriminator"] = self.critic, self.critic_optimizer

    def _own_phone_reader(self, section: FlowReading) -> None:
        self.phone_reader = PhoneReader(self.recipe.model.mel_bands, section.width)
        self.phone_reader.to(self.world.device)
        self.reading = distributed.wrap(self.phone_reader, self.world)
        self.reading_optimizer = torch.optim.AdamW(
            self.phone_reader.parameters(), lr=section.lr, betas=section.betas, fused=True
        )
        self.more = Batches(self.batches.planner, self.recipe.data.batch_frames, self.recipe.seed + 1)
        self.modules["phone_reader"] = self.phone_reader
        self.optimizers["phone_reader"] = self.reading_optimizer

    def _decoder(self, chosen: Sequence[int]) -> FlowDecoder:
        recipe = self.recipe
        decoder = FlowDecoder(recipe.model)
        if recipe.init_from is not None:
            given = load_checkpoint(FlowDecoder, FlowConfig, recipe.init_from, "flow")
            # Weights that were not yet told how clearly a text is said may learn it.
            free = () if given.config.clarity else ("clarity",)
            check_dimensions(given.config, recipe.model, recipe.init_from, free=free)
            fresh = {k: v for k, v in decoder.state_dict().items() if k.startswith("clarity.")}
            decoder.load_state_dict(fresh | given.state_dict())
            return decoder
        wide = np.array([i for i in chosen if self.speech.items[i].bandwidth >= 11_000] or chosen)
        if len(wide) > 2000:
            wide = np.random.default_rng(0).choice(wide, 2000, replace=False)
        mean, deviation = self.speech.band_statistics(wide)
        decoder.mean.copy_(mean)
        decoder.deviation.copy_(deviation)
        return decoder

    def _tokenizer(self) -> SpeechTokenizer:
        recipe = self.recipe
        if recipe.init_tokens is None and not recipe.train_tokens:
            raise UsageError("train_tokens is false, so init_tokens must name a tokenizer")
        return start_tokenizer(recipe.init_tokens, recipe.tokens, "init_tokens", "tokens")

    def _held_out(self, section: FlowHeldOut | None) -> list[Plans]:
        """Fixed examples of dev, a few a batch: with phones and tokens, then with phones alone."""
        if section is None:
            return []
        return held_out(self.speech, section.examples)

    @property
    def validation(self) -> FlowHeldOut | None:
        return self.recipe.data.held_out

    @property
    def best_by(self) -> str:
        return "held_out"

    def batch(self, step: int) -> Plans:
        return self.batches.batch(step, self.world.rank)

    def train_step(self, batch: Plans) -> dict[str, Tensor]:
        recipe = self.recipe
        generator = seed_torch(recipe.seed, self.step, self.world.rank)
        block = recipe.blocks[int(torch.randint(len(recipe.blocks), (), generator=generator))]
        offset = int(torch.randint(min(block, 100) // 2, (), generator=generator)) * 2
        self.model.train()
        if recipe.head_alone:  # the trunk is as in speaking
            self.model.eval()
            for part in self._head_parts(self.model):
                part.train()
        read = self.reader.batch(batch, block, offset)
        noise = self.noise(read, self.step < recipe.unrounded_until)
        with self.autocast():
            losses, drawn = self.wrapped(read, noise, self.step >= recipe.flow_from)
        losses["loss"] = self._total(losses)
        section = recipe.adversary
        if section is not None and drawn is not None and self.step >= section.from_step:
            part = stretch(drawn, read, section.frames, generator).rows(noise.spoken)
            losses |= self._adversarial(section, part)
            if self.step >= section.heard_from:
                for name in ("generator", "voice", "features"):
                    losses["loss"] = losses["loss"] + getattr(section, name) * losses[name]
        reading = recipe.reading
        if reading is not None and drawn is not None:
            losses |= self._read(reading, drawn, read)
            if self.step >= reading.heard_from:
                losses["loss"] = losses["loss"] + reading.weight * losses["read"]
        norm = self.descend(losses["loss"])
        return {name: value.detach() for name, value in losses.items()} | {"gradient_norm": norm}

    def _adversarial(self, section: FlowAdversary, part: Judged) -> dict[str, Tensor]:
        """A step of the discriminator, and what it says."""
        step = CriticStep(self.critic, self.critic_optimizer, section.lr * self.rate_factor(), section.clip)
        learned = learn_to_tell(self.judging, part, step, self.autocast())
        return learned | heard_by(self.critic, part, self.autocast())

    def _read(self, section: FlowReading, drawn: Drawn, batch: FlowBatch) -> dict[str, Tensor]:
        """A step of the network that reads phones, and what it reads from what was drawn."""
        rate = section.lr * self.rate_factor()
        step = CriticStep(self.phone_reader, self.reading_optimizer, rate, section.clip)
        further = section.updates - 1
        for number in range(self.step * further, (self.step + 1) * further):
            other = self.reader.batch(self.more.batch(number, self.world.rank), 24, 0)
            learn_to_read(self.reading, self.decoder.frames(other.mel), other, step, self.autocast())
        learned = learn_to_read(self.reading, drawn.clean, batch, step, self.autocast())
        return learned | read_by(self.phone_reader, drawn.head, batch, self.autocast())

    def noise(self, batch: FlowBatch, unrounded: bool, training: bool = True) -> FlowNoise:
        return draw_noise(self.recipe, self.quantizer.rows, batch, unrounded, training)

    def _total(self, losses: dict[str, Tensor]) -> Tensor:
        weights = self.recipe.losses
        parts = [getattr(weights, name) * value for name, value in losses.items() if hasattr(weights, name)]
        return torch.stack(parts).sum()

    def measure(self) -> dict[str, float]:
        values: dict[str, list[float]] = {}
        model = self.model
        assert isinstance(model, FlowTraining)
        for number, plans in enumerate(self.held_out):
            for name, hide in (("", False), ("phones_", True)):
                seed_torch(self.recipe.seed, number, 0)
                plans.hide_tokens[:] = hide
                batch = self.reader.batch(plans, 24, 0)
                noise = self.noise(batch, unrounded=False, training=False)
                with self.autocast():
                    losses, _ = model(batch, noise, self.step >= self.recipe.flow_from)
                for key in (
                    "mean_l2",
                    "flow",
                    *(() if hide else ("phone", "phone_right", "pitch", "content")),
                ):
                    if key in losses:
                        values.setdefault(name + key, []).append(float(losses[key]))
        found = {name: float(np.mean(each)) for name, each in values.items()}
        names = ("mean_l2", "phones_mean_l2", "flow", "phones_flow")
        return found | {"held_out": sum(found[name] for name in names if name in found)}

    def export(self, model: nn.Module, path: Path, notes: dict[str, str]) -> None:
        """The decoder, and beside it NAME.tokens.safetensors."""
        assert isinstance(model, FlowTraining)
        tokens_hash = weights_hash(copy.deepcopy(model.tokenizer).float())[:16]  # as it will be loaded
        save_checkpoint(
            model.decoder, model.decoder.config, path, "flow", {**notes, "tokens_hash": tokens_hash}
        )
        beside = path.with_suffix(".tokens.safetensors")
        save_checkpoint(model.tokenizer, model.tokenizer.config, beside, "tokens", notes)
