"""The trainer of `myna-mel`, on a set that the test makes: it learns, goes on exactly, shares its gradients, and leaves
alone what it should."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from myna.codec.checkpoint import weights_hash
from myna.codec.mel.codec import MelCodec
from myna.codec.mel.speech_tokens import SILENCE, SpeechTokenizer, SpeechTokensConfig
from myna.codec.mel_vocoder import MelVocoder, MelVocoderConfig
from myna.codec.registry import load_codec
from myna.data.checkpoint import read_safetensors, save_checkpoint
from myna.errors import MynaError, UsageError
from myna.training.engine.distributed import World
from myna.training.engine.recipe import load_recipe
from myna.training.models.mel_codec import MelCodecTrainer
from myna.training.models.mel_codec_recipe import MelCodecRecipe
from myna.training.sets.mel_set import MelItem, MelUtterance, mel_set_bytes
from myna.training.train import train

TINY = [
    "model={width: 16, fine_width: 80, encoder_depth: 1, decoder_depth: [1, 1], latent_dim: 12, n_codebooks: 4, "
    "codebook_dim: 4}",
    *("data.batch_frames=400", "data.frames=40", "start_frames=600", "log_every=1", "max_minutes=null"),
    *("schedule={over: steps, warmup_steps: 2}", "save_every_minutes=null", "optimizer.lr=0.003"),
]


def utterance(key: str, source: str, split: str, speaker: int, rng: np.random.Generator) -> MelUtterance:
    """Shapes that follow each other, as loud as they like, each with the voice's own tilt; above 6 kHz some have
    nothing."""
    lasts = 2 * rng.integers(2, 6, 8)
    symbols = np.repeat(rng.integers(0, 9, 8), 2 * lasts)
    loud = np.repeat(rng.normal(0, 1, 8), 2 * lasts)
    bands = np.arange(80)
    mel = -5 + 2 * np.sin(bands / 9 + symbols[:, None]) + loud[:, None] + 0.02 * (speaker - 2) * (bands - 40)
    narrow = source == "narrow"
    if narrow:
        mel[:, 60:] = SILENCE
    n = len(mel) // 2
    item = MelItem(key, source, split, f"s{speaker}", 1.0, 1.0, 6000.0 if narrow else 12_000.0, 0.0)
    mel = mel + 0.1 * rng.standard_normal(mel.shape)
    none = np.zeros((3, 0), int)
    return MelUtterance(item, mel, np.full(2 * n, 110.0), np.full(n, -1), none, np.eye(256)[speaker])


@pytest.fixture(scope="module")
def mels(tmp_path_factory) -> Path:
    rng = np.random.default_rng(0)
    said = [utterance(f"a{s}{i}", "synth", "train", s, rng) for s in range(5) for i in range(4)]
    said += [utterance(f"n{s}", "narrow", "train", s, rng) for s in range(3)]
    said += [utterance(f"d{s}{i}", "synth", "dev", s, rng) for s in range(2) for i in range(3)]
    path = tmp_path_factory.mktemp("mels") / "mels.safetensors"
    path.write_bytes(mel_set_bytes(said))
    return path


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> list[str]:
    """Overrides that name a tokenizer and a vocoder, random ones."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("parts")
    tokenizer = SpeechTokenizer(
        SpeechTokensConfig(width=16, depth_before=1, depth=1, levels=(6, 4), look_ahead=1)
    )
    tokenizer.net.layers[-1].linear.weight.data.mul_(8)
    vocoder = MelVocoder(MelVocoderConfig(width=12, depth=1, bands=24))
    save_checkpoint(tokenizer, tokenizer.config, folder / "tokens.safetensors", "tokens")
    save_checkpoint(vocoder, vocoder.config, folder / "vocoder.safetensors", "mel-vocoder")
    return [f"tokens={folder / 'tokens.safetensors'}", f"vocoder={folder / 'vocoder.safetensors'}"]


@pytest.fixture(scope="module")
def run(mels, parts):
    """The overrides of a run into a folder."""

    def overrides(out: Path, *more: str) -> list[str]:
        held = "data.held_out={examples: 4, every_steps: 30}"
        return [f"data.mel_sets=[{mels}]", f"output={out}", held, *parts, *TINY, *more]

    return overrides


def scalars(out: Path, kind: str, name: str) -> list[float]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row[name] for row in rows if row["kind"] == kind and name in row]


@pytest.fixture(scope="module")
def trained(run, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("codec") / "run"
    often = "data.held_out={examples: 4, every_steps: 10}"
    train("myna-mel-cpu", run(out, "max_steps=60", "half_precision_export=false", often), quiet=True)
    return out


def test_it_learns_and_every_codebook_more_says_more(trained):
    held = scalars(trained, "held-out", "mel")
    assert held[-1] < 0.85 * held[0]
    errors = [scalars(trained, "held-out", f"mel_{k}")[-1] for k in (1, 2, 3, 4)]
    assert errors == sorted(errors, reverse=True)
    assert errors[3] < 0.8 * errors[0]
    assert scalars(trained, "held-out", "mel")[-1] == pytest.approx(np.mean(errors))
    assert scalars(trained, "held-out", "codes_used")[-1] > 0.5


def test_what_is_exported_is_a_codec(trained, parts):
    codec = load_codec(trained / "best.safetensors")
    assert isinstance(codec, MelCodec)
    assert (codec.n_codebooks, codec.codebook_size) == (4, 24)
    wav = 0.1 * torch.randn(1, 1, 5000)
    assert codec.reconstruct(wav).shape == wav.shape
    file = read_safetensors(trained / "best.safetensors")
    assert file.metadata["tokens_hash"] == weights_hash(codec.tokenizer)[:16]
    for part, override in zip(("tokenizer", "vocoder"), parts, strict=True):
        given = read_safetensors(override.partition("=")[2]).weights
        assert all(torch.equal(file.weights[f"{part}.{name}"], value) for name, value in given.items())


def test_a_stopped_run_goes_on_exactly(run, tmp_path):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    constant = "schedule.decay=constant"
    train("myna-mel-cpu", run(whole, "max_steps=6", constant), quiet=True)
    for steps in (3, 6):
        train("myna-mel-cpu", run(halves, f"max_steps={steps}", constant), quiet=True)
    one, other = (
        torch.load(p / "state.pt", weights_only=True)["modules"]["myna-mel"] for p in (whole, halves)
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_tokens_learn_where_they_may(run, parts, tmp_path):
    more = ["train_tokens=true", "max_steps=3", "half_precision_export=false", "precision=bf16"]
    train("myna-mel-cpu", run(tmp_path / "run", *more), quiet=True)
    given = read_safetensors(parts[0].partition("=")[2]).weights
    after = read_safetensors(tmp_path / "run" / "last.safetensors").weights
    assert not all(torch.equal(after[f"tokenizer.{name}"], value) for name, value in given.items())


def test_it_starts_from_weights(run, trained, tmp_path):
    start = f"init_from={trained / 'best.safetensors'}"
    train("myna-mel-cpu", run(tmp_path / "run", start, "max_steps=2", "optimizer.lr=1e-6"), quiet=True)
    before, after = (scalars(out, "held-out", "mel")[-1] for out in (trained, tmp_path / "run"))
    assert after == pytest.approx(before, rel=0.05)
    with pytest.raises(UsageError, match="latent_dim"):
        train("myna-mel-cpu", run(tmp_path / "no", start, "max_steps=2", "model.latent_dim=8"), quiet=True)


def test_losses_look_where_there_is_something_to_hear(run, tmp_path):
    recipe = load_recipe("myna-mel-cpu", MelCodecRecipe, run(tmp_path / "run", "max_steps=1"))
    trainer = MelCodecTrainer(recipe, World(0, 1, torch.device("cpu")), quiet=True)
    narrow = [i for i, item in enumerate(trainer.speech.items) if item.source == "narrow"]
    for step in range(20):
        plans = trainer.batch(step)
        crops = trainer.read(plans)
        for row, (start, n) in enumerate(zip(plans.start.tolist(), plans.frames.tolist(), strict=True)):
            assert n <= 40
            known = trainer.speech.mel[2 * start : 2 * (start + n)].float().T
            assert torch.equal(crops.mel[row, :, : 2 * n], known)
            assert torch.equal(crops.tokens[row, : n // 2], trainer.tokens[start // 2 : (start + n) // 2])
            assert (crops.weight[row, :, 2 * n :] == 0).all()
            heard = 80
            if int(plans.utterance[row]) in narrow:
                heard = int((trainer.centres <= 6000).sum())
                assert heard < 70
            assert crops.weight[row, :, : 2 * n].sum(0).eq(heard).all()
    trainer.log.close()


@pytest.mark.parametrize("quantizer", ["factorized", "ema"])
def test_two_processes_share_their_gradients(run, tmp_path, two_processes, quantizer):
    more = ["max_steps=3", "data.held_out=null", f"model.quantizer={quantizer}"]
    found = two_processes(MelCodecTrainer, MelCodecRecipe, "myna-mel-cpu", run(tmp_path / "run", *more))
    assert found == ["batches differ 3", "myna-mel same 3"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ("data.mel_sets=[nowhere.safetensors]", MynaError, "extract_mels"),
        ("tokens=nowhere.safetensors", MynaError, "nowhere"),
        ("data.sources={nobody: 1}", UsageError, "'nobody' has a weight but no utterances"),
        ("model.n_codebooks=1", MynaError, "at least 2"),
        ("model.n_books=1", MynaError, "n_books"),
        ("codebook_dropout=2", MynaError, "codebook_dropout"),
    ],
)
def test_mistakes_are_one_line(run, tmp_path, change, error, message):
    with pytest.raises(error, match=message) as caught:
        train("myna-mel-cpu", [*run(tmp_path / "run", "max_steps=1"), change], quiet=True)
    assert "\n" not in str(caught.value)


def test_recipes_that_ship_are_read():
    for name in ("myna-mel", "myna-mel-cpu"):
        assert load_recipe(name, MelCodecRecipe).model.n_codebooks == 8
