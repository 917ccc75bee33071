"""Training the flow decoder and its speech tokens together.

    mel of prompt and target -> tokens --------------------------.
    phones at the pointer, prompt, speaker vector (each hidden in a share of the examples)
        -> trunk -> mel: L1 + L2 -> head: noisy mel -> clean mel: weighted L2 (flow matching with the data as target)

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
from ...codec.mel.speech_tokens import SILENCE, SpeechTokenizer, SpeechTokensConfig, TokenProbe
from ...data.checkpoint import load_checkpoint, save_checkpoint
from ...errors import UsageError
from ...layers.dit import block_mask
from ...layers.mel import mel_centres
from ...tts.decoders.flow.decoder import FlowConfig, FlowDecoder, FlowInputs
from ...tts.decoders.flow.timing import timing
from ...tts.text.phones import N_SYMBOLS
from ..engine import distributed
from ..engine.distributed import World
from ..engine.optimizer import make_optimizer
from ..engine.trainer import Trainer, TrainingSummary, decayed_groups, run_recipe, seed_torch
from ..sets.examples import Batches, ExampleOptions, Planner, Plans, select
from ..sets.mel_set import MelSet
from .flow_recipe import FlowHeldOut, FlowRecipe

_NEVER = 1_000_000  # the block of what nobody may see
_HIGHS = 68  # the first mel band above 7.4 kHz
_PAD = 32  # lengths are multiples of it: fewer shapes, and fast attention


def train(recipe: str | Path, overrides: Sequence[str] = (), quiet: bool = False) -> TrainingSummary:
    """Train by a recipe (a path or the name of one that ships), or continue the run in its output folder.

    Raises MynaError with one line for whatever the user can mend.
    """
    return run_recipe(FlowTrainer, FlowRecipe, recipe, overrides, quiet)


class FlowTraining(nn.Module):
    """What is trained: the decoder, the tokenizer, and the probe that keeps tokens telling.

    content: mean and deviation (C,) of the states of a recogniser's encoder, which the tokens then learn from, too.
    """

    content_mean: Tensor
    content_deviation: Tensor

    def __init__(
        self, decoder: FlowDecoder, tokenizer: SpeechTokenizer, content: tuple[Tensor, Tensor] | None = None
    ):
        super().__init__()
        self.decoder, self.tokenizer = decoder, tokenizer
        channels = 0 if content is None else len(content[0])
        self.probe = TokenProbe(len(tokenizer.config.levels), N_SYMBOLS, content=channels)
        if content is not None:
            self.register_buffer("content_mean", content[0])
            self.register_buffer("content_deviation", content[1])

    def forward(self, batch: FlowBatch, noise: FlowNoise, with_flow: bool) -> dict[str, Tensor]:
        """The losses and how well tokens are read, scalars by name."""
        decoder, b = self.decoder, batch
        bounded = self.tokenizer(b.mel)
        levels = self.tokenizer.quantizer.rounded(bounded)
        read = torch.where(noise.unrounded[:, None, None], bounded, levels)
        read = torch.where(noise.wrong[..., None], noise.levels, read)
        clean = decoder.frames(b.mel)
        prompt = torch.where(b.prompted[..., None], clean, 0) * b.prompt_bands[:, None]
        mean, spread = decoder.statistics(prompt, b.prompted)
        shown = b.speaker.any(1, keepdim=True)
        condition = decoder.voice(F.normalize(b.speaker + noise.speaker * shown, dim=1), mean, spread)
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
        weight = (b.target[..., None] * b.bands[:, None]).float()
        count = weight.sum().clamp(min=1)
        error = regressed.float() - clean
        losses = {"mean": ((error.abs() + 0.5 * error.square()) * weight).sum() / count}
        losses["mean_l2"] = (error.detach().square() * weight).sum() / count
        if with_flow:
            t = noise.time[:, None, None]
            noisy = torch.where(b.prompted[..., None], 0, (1 - t) * noise.sample + t * clean)
            y = decoder.refine(
                noisy, noise.time, (regressed, hidden, prompt.to(hidden.dtype)), condition, mask
            )
            weights = (0.5 / (1 - t).clamp(min=0.1).square()).clamp(max=noise.weight_cap) * weight
            losses["flow"] = ((y.float() - clean).square() * weights).sum() / count
        return losses | self._probed(levels, b)

    def _probed(self, levels: Tensor, b: FlowBatch) -> dict[str, Tensor]:
        """What the tokens alone tell: the phone, pitch relative to the utterance's, voicing and loudness, and what a
        recogniser hears (mean squared error, 1 if they tell nothing)."""
        phones, others, content = self.probe(levels)
        others = others.float()
        known = b.symbols >= 0
        target = torch.where(known, b.symbols, -100)
        nats = F.cross_entropy(phones.float().transpose(1, 2), target, ignore_index=-100, reduction="sum")
        right = (phones.argmax(-1) == b.symbols) & known
        inside = b.inside.float()
        voiced = (b.pitch > 0) & b.inside
        log = b.pitch.clamp(min=1).log2()
        centre = (log * voiced).sum(1) / voiced.sum(1).clamp(min=1)
        octaves = ((others[..., 0] - (log - centre[:, None])).abs() * voiced).sum() / voiced.sum().clamp(
            min=1
        )
        voicing = F.binary_cross_entropy_with_logits(others[..., 1], voiced.float(), reduction="none")
        loud = (others[..., 2] - b.loudness).abs()
        n = known.sum().clamp(min=1)
        losses = {}
        if content is not None:
            heard = (b.content.float() - self.content_mean) / self.content_deviation
            error = (content.float() - heard).square().mean(-1)
            losses["content"] = (error * inside).sum() / inside.sum().clamp(min=1)
        return losses | {
            "phone": nats / n,
            "phone_right": right.sum() / n,
            "pitch": octaves + ((0.3 * voicing + 0.3 * loud) * inside).sum() / inside.sum().clamp(min=1),
        }


@dataclass(frozen=True)
class FlowBatch:
    """Examples as frames, the prompt's first.

    mel (B, M, 2 T).   pitch (B, T) Hz, loudness (B, T): of each frame.   phones (B, 3, P), n_phones (B,).
    pointer, visible, blocks (B, T).   symbols (B, T): the phone's symbol, -1 unknown.   speaker (B, E).
    prompted, target, inside (B, T) bool: frames of the prompt, the target, either.   knows_phone (B, T),
    knows_token (B, S) bool.   bands, prompt_bands (B, F): 1 where a loss may look, and what is seen of the prompt.
    content (B, T, C): states of a recogniser's encoder; C = 0 where the set has none.
    """

    mel: Tensor
    pitch: Tensor
    loudness: Tensor
    phones: Tensor
    n_phones: Tensor
    pointer: Tensor
    visible: Tensor
    blocks: Tensor
    symbols: Tensor
    speaker: Tensor
    prompted: Tensor
    target: Tensor
    inside: Tensor
    knows_phone: Tensor
    knows_token: Tensor
    bands: Tensor
    prompt_bands: Tensor
    content: Tensor


@dataclass(frozen=True)
class FlowNoise:
    """What is drawn for a step.

    time (B,), sample (B, T, F) normal: of the flow.   unrounded (B,) bool: examples that read tokens before rounding.
    wrong (B, S) bool, levels (B, S, D): tokens that are replaced, and by what.   speaker (B, E): added to its vector.
    """

    time: Tensor
    sample: Tensor
    unrounded: Tensor
    wrong: Tensor
    levels: Tensor
    speaker: Tensor
    weight_cap: float


class Reader:
    """Plans to batches, on the device of the mel set."""

    def __init__(self, speech: MelSet, config: FlowConfig):
        self.speech, self.config = speech, config
        device = speech.mel.device
        self.phone_starts = torch.from_numpy(speech.phone_starts).to(device)
        self.starts = torch.from_numpy(speech.starts).to(device)
        self.bandwidth = torch.tensor([item.bandwidth for item in speech.items], device=device)
        self.centres = mel_centres(24_000, config.mel_bands).to(device)

    def batch(self, plans: Plans, block: int, offset: int) -> FlowBatch:
        """block: frames of a block, the first shorter by `offset`, which is even."""
        s, device = self.speech, self.speech.mel.device
        p = plans.to(device)
        lengths = plans.prompt_frames + plans.frames
        t = -(-int(lengths.max()) // _PAD) * _PAD
        at = torch.arange(t, device=device)[None]
        n_prompt, n = p.prompt_frames[:, None], (p.prompt_frames + p.frames)[:, None]
        own, inside = at < n_prompt, at < n
        frame = torch.where(own, p.prompt_start[:, None] + at, p.start[:, None] + at - n_prompt)
        frame = torch.where(inside, frame, 0)
        bands = s.mel.shape[1]
        mel = s.mel.view(-1, 2 * bands)[frame].float()
        mel = (
            torch.where(inside[..., None], mel, SILENCE)
            .unflatten(-1, (2, bands))
            .flatten(1, 2)
            .transpose(1, 2)
        )
        pointer = torch.where(inside & ~own, s.pointer[frame], -1)
        phones, n_phones = self._phones(plans, p)
        symbols = phones[:, 0].gather(1, pointer.clamp(min=0))
        since = at - n_prompt + offset
        blocks = torch.where(own, 0, 1 + since.clamp(min=0) // block)
        ends = n_prompt + (since.clamp(min=0) // block + 1) * block - offset + self.config.look_ahead
        visible = torch.where(ends >= n, _NEVER, ends)
        hidden_prompt = own & p.hide_prompt[:, None]
        blocks = torch.where(inside & ~hidden_prompt, blocks, _NEVER)
        prompted = own & inside & ~p.hide_prompt[:, None]
        loudness = mel.unflatten(2, (t, 2)).mean((1, 3)) / 2.5 + 2
        even = inside[:, ::2]
        shown = torch.arange(bands, device=device) < _HIGHS
        return FlowBatch(
            mel=mel,
            pitch=s.pitch.view(-1, 2)[frame].float().amax(-1) * inside,
            loudness=loudness,
            phones=phones,
            n_phones=n_phones,
            pointer=pointer,
            visible=visible,
            blocks=blocks,
            symbols=torch.where(pointer >= 0, symbols, -1),
            speaker=s.speakers[p.prompt_utterance].float() * ~p.hide_speaker[:, None],
            prompted=prompted,
            target=inside & ~own,
            inside=inside & ~hidden_prompt,
            knows_phone=(pointer >= 0) & ~p.hide_phones[:, None],
            knows_token=even & ~p.hide_tokens[:, None] & ~hidden_prompt[:, ::2],
            bands=(self.centres <= self.bandwidth[p.utterance][:, None]).float().repeat(1, 2),
            prompt_bands=(shown | ~p.hide_highs[:, None]).float().repeat(1, 2),
            content=mel.new_zeros(*frame.shape, 0) if s.content is None else s.content[frame],
        )

    def _phones(self, plans: Plans, p: Plans) -> tuple[Tensor, Tensor]:
        """The phones of the targets (B, 3, P), and how many each has (at least 1)."""
        device, last = self.starts.device, self.speech.phones.shape[1] - 1
        if last < 0:  # no utterance of the set has a text
            n = len(plans.utterance)
            return torch.zeros(n, 3, 1, dtype=torch.long, device=device), torch.ones(
                n, dtype=torch.long, device=device
            )
        counts = torch.from_numpy(self.speech.n_phones)[plans.utterance]
        longest = max(1, int(counts.max()))
        place = torch.arange(longest, device=self.starts.device)[None]
        counts = counts.to(self.starts.device)[:, None]
        row = self.phone_starts[p.utterance][:, None] + torch.where(place < counts, place, 0)
        row = row.clamp(max=last)
        phones = self.speech.phones[:, row].transpose(0, 1) * (place < counts)[:, None]
        return phones, counts[:, 0].clamp(min=1)


def draw_noise(
    recipe: FlowRecipe, rows: Tensor, batch: FlowBatch, unrounded: bool = False, training: bool = True
) -> FlowNoise:
    """From torch's generator. rows (V, D): levels of all tokens.   unrounded: half of the examples read tokens before
    rounding.   training: tokens and speaker vectors are disturbed."""
    b, t = batch.pointer.shape
    device = batch.mel.device
    token = torch.randint(len(rows), (b, t // 2), device=device)
    return FlowNoise(
        time=torch.sigmoid(torch.randn(b, device=device) - 0.2),
        sample=torch.randn(b, t, recipe.model.frame, device=device),
        unrounded=(torch.rand(b, device=device) < 0.5) & unrounded,
        wrong=torch.rand(b, t // 2, device=device) < recipe.token_noise * training,
        levels=rows[token],
        speaker=torch.randn(b, recipe.model.speaker, device=device) * recipe.speaker_noise * training,
        weight_cap=recipe.weight_cap,
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
            Planner(self.speech, chosen, data.examples, data.sources), data.batch_frames, recipe.seed
        )
        self.reader = Reader(self.speech, recipe.model)
        content = self.speech.content_statistics() if recipe.losses.content else None
        model = FlowTraining(self._decoder(chosen), self._tokenizer(), content).to(world.device)
        self.quantizer = model.tokenizer.quantizer
        if not recipe.train_tokens:
            model.tokenizer.requires_grad_(False)
        trained = decayed_groups(model, recipe.optimizer.weight_decay, never=("embedding", "table"))
        optimizer = make_optimizer(trained, recipe.optimizer)
        self._own(model, optimizer)
        self._resume()
        self.wrapped = distributed.wrap(model, world, partly_used=True)
        self.held_out = self._held_out(data.held_out)
        voices = len({(i.source, i.speaker) for i in self.speech.items})
        self._begin(f"{self.speech.hours:.2f} h of {len(chosen)} utterances of {voices} speakers")

    def _decoder(self, chosen: Sequence[int]) -> FlowDecoder:
        recipe = self.recipe
        decoder = FlowDecoder(recipe.model)
        if recipe.init_from is not None:
            given = load_checkpoint(FlowDecoder, FlowConfig, recipe.init_from, "flow")
            if given.config != recipe.model:
                raise UsageError(
                    f"init_from {recipe.init_from} has other dimensions than the recipe's model; make them equal"
                )
            decoder.load_state_dict(given.state_dict())
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
        if recipe.init_tokens is None:
            if not recipe.train_tokens:
                raise UsageError("train_tokens is false, so init_tokens must name a tokenizer")
            return SpeechTokenizer(recipe.tokens)
        tokenizer = load_checkpoint(SpeechTokenizer, SpeechTokensConfig, recipe.init_tokens, "tokens")
        if tokenizer.config != recipe.tokens:
            raise UsageError(
                f"init_tokens {recipe.init_tokens} has other dimensions than tokens; make them equal"
            )
        return tokenizer

    def _held_out(self, section: FlowHeldOut | None) -> list[Plans]:
        """Fixed examples of dev, a few a batch: with phones and tokens, then with phones alone."""
        if section is None:
            return []
        options = ExampleOptions(
            own_prompt=0,
            hide_voice=0,
            hide_prompt=0,
            hide_speaker=0,
            hide_phones=0,
            hide_tokens=0,
            hide_highs=0,
        )
        plain = [i for i in select(self.speech, "dev", 0.0) if self.speech.items[i].scale == 1]
        plans = Planner(self.speech, plain, options).draw(np.random.default_rng(0), section.examples)
        return [plans.rows(range(i, min(i + 16, section.examples))) for i in range(0, section.examples, 16)]

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
        read = self.reader.batch(batch, block, offset)
        noise = self.noise(read, self.step < recipe.unrounded_until)
        with self.autocast():
            losses = self.wrapped(read, noise, self.step >= recipe.flow_from)
        losses["loss"] = self._total(losses)
        norm = self.descend(losses["loss"])
        return {name: value.detach() for name, value in losses.items()} | {"gradient_norm": norm}

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
                    losses = model(batch, noise, self.step >= self.recipe.flow_from)
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
