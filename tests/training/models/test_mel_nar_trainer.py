"""The trainer of the NAR over the mel codec, on a set that the test makes: it learns, goes on exactly, and shares its
gradients."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from myna.codec.checkpoint import save_checkpoint, weights_hash
from myna.codec.mel.codec import MelCodec, MelCodecConfig
from myna.codec.mel.speech_tokens import SpeechTokensConfig
from myna.codec.mel_vocoder import MelVocoderConfig
from myna.codec.registry import load_codec
from myna.data.checkpoint import read_safetensors
from myna.errors import MissingModelError, MynaError, UsageError
from myna.training.engine.distributed import World
from myna.training.engine.recipe import load_recipe
from myna.training.models.mel_nar import MelNARTrainer
from myna.training.models.mel_nar_recipe import MelNARRecipe
from myna.training.sets.mel_set import MelItem, MelUtterance, mel_set_bytes
from myna.training.train import train
from myna.tts.registry import load_nar

TINY = [
    "model={n_codebooks: 3, codebook_size: 12, codebook_dim: 4, groups: [[1], [2]], chunks: [3, 5], width: 32, "
    "depth: 1, n_heads: 2, n_kv_heads: 1, hidden: 48, text_depth: 1, condition: 8, context: 256, extra: 4, places: 2, "
    "mel: 320}",
    "data.examples.prompt_frames=[10, 20]",
    *("data.batch_frames=400", "log_every=1", "max_minutes=null", "save_every_minutes=null"),
    *("schedule={over: steps, warmup_steps: 2}", "optimizer.lr=0.003"),
]


def utterance(key: str, split: str, speaker: int, rng: np.random.Generator) -> MelUtterance:
    """A mel that follows from phones and speaker, so that learning shows."""
    n_phones = int(rng.integers(6, 10))
    lasts = 2 * rng.integers(2, 4, n_phones)
    pointer = np.repeat(np.arange(n_phones), lasts)
    symbols = rng.integers(14, 22, n_phones)
    mel = -5 + 2 * np.sin(np.arange(80) / 9 + symbols[pointer][:, None]) + 0.5 * speaker
    item = MelItem(key, "synth", split, f"s{speaker}", 1.0, 1.0, 12_000.0, 0.0)
    mel = np.repeat(mel, 2, 0) + 0.05 * rng.standard_normal((2 * len(pointer), 80))
    phones = np.stack([symbols, np.zeros(n_phones, int), np.zeros(n_phones, int)])
    return MelUtterance(item, mel, np.full(len(mel), 110.0), pointer, phones, np.eye(256)[speaker])


@pytest.fixture(scope="module")
def mels(tmp_path_factory) -> Path:
    rng = np.random.default_rng(0)
    said = [utterance(f"a{s}{i}", "train", s, rng) for s in range(3) for i in range(5)]
    said += [utterance(f"d{s}{i}", "dev", s, rng) for s in range(2) for i in range(3)]
    path = tmp_path_factory.mktemp("mels") / "mels.safetensors"
    path.write_bytes(mel_set_bytes(said))
    return path


@pytest.fixture(scope="module")
def codec(tmp_path_factory) -> Path:
    """A mel codec that has learned nothing, whose codes follow the mel all the same."""
    torch.manual_seed(0)
    config = MelCodecConfig(
        tokens=SpeechTokensConfig(width=12, depth_before=1, depth=1, levels=(4, 3), look_ahead=1),
        vocoder=MelVocoderConfig(width=12, depth=1, bands=24),
        width=16, fine_width=80, encoder_depth=1, decoder_depth=(1, 1), latent_dim=8, n_codebooks=3, codebook_dim=4,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("codec") / "codec.safetensors"
    save_checkpoint(MelCodec(config), path)
    return path


@pytest.fixture(scope="module")
def run(mels, codec):
    """The overrides of a run into a folder."""

    def overrides(out: Path, *more: str) -> list[str]:
        held = "data.held_out={examples: 4, every_steps: 30}"
        return [f"data.mel_sets=[{mels}]", f"data.codec={codec}", f"output={out}", held, *TINY, *more]

    return overrides


def scalars(out: Path, kind: str, name: str) -> list[float]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row[name] for row in rows if row["kind"] == kind and name in row]


def test_it_learns_and_is_exported_for_its_codec(run, codec, tmp_path):
    train("myna-mel-nar-cpu", run(tmp_path, "max_steps=60"), quiet=True)
    losses = scalars(tmp_path, "train", "loss")
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:3])
    assert scalars(tmp_path, "held-out", "loss")[-1] < scalars(tmp_path, "train", "loss")[0]
    assert scalars(tmp_path, "held-out", "accuracy_3")
    here = weights_hash(load_codec(codec))
    assert load_nar(tmp_path / "best.safetensors", codec_hash=here).config.places == 2
    assert read_safetensors(tmp_path / "best.safetensors").metadata["codec"] == "myna-mel"
    with pytest.raises(MissingModelError, match="trained together"):
        load_nar(tmp_path / "best.safetensors", codec_hash="0" * 64)


def test_a_stopped_run_goes_on_exactly(run, tmp_path):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    train("myna-mel-nar-cpu", run(whole, "max_steps=4", "schedule.decay=constant"), quiet=True)
    for steps in (2, 4):
        train("myna-mel-nar-cpu", run(halves, f"max_steps={steps}", "schedule.decay=constant"), quiet=True)
    one, other = (
        torch.load(p / "state.pt", weights_only=True)["modules"]["myna-mel-nar"] for p in (whole, halves)
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_examples_hold_the_frames_that_were_planned(run, codec, tmp_path):
    recipe = load_recipe("myna-mel-nar-cpu", MelNARRecipe, run(tmp_path / "run", "max_steps=1"))
    trainer = MelNARTrainer(recipe, World(0, 1, torch.device("cpu")), quiet=True)
    mel_codec, speech = load_codec(codec), trainer.speech
    assert isinstance(mel_codec, MelCodec)
    alone = mel_codec.encode_mel(speech.mel[: 2 * speech.starts[1]].float().T[None])[0]
    assert torch.equal(trainer.codes[:, : alone.shape[1]], alone)
    assert len(alone[0].unique()) > 1
    plans = trainer.batch(0)
    batch = trainer.read(plans)
    for row in range(len(plans.start)):
        n = 0 if plans.hide_prompt[row] else int(plans.prompt_frames[row]) // 2
        m, start, before = int(plans.frames[row]), int(plans.start[row]), int(plans.prompt_start[row])
        assert (int(batch.n_prompt[row]), int(batch.n_frames[row])) == (n, n + m // 2)
        assert torch.equal(batch.codes[row, :, :n], trainer.codes[:, before // 2 : before // 2 + n])
        assert torch.equal(
            batch.codes[row, :, n : n + m // 2], trainer.codes[:, start // 2 : (start + m) // 2]
        )
        assert torch.equal(batch.pointer[row, 2 * n : 2 * n + m], speech.pointer[start : start + m])
        assert (batch.pointer[row, : 2 * n] == -1).all()
        own = mel_codec.normalized(speech.mel[2 * before : 2 * before + 4 * n].float().T[None])[0].T
        assert batch.mel is not None
        torch.testing.assert_close(batch.mel[row, :n].reshape(-1, 80), own)
    trainer.log.close()


def test_two_processes_share_their_gradients(run, tmp_path, two_processes):
    more = ["max_steps=2", "data.held_out=null"]
    found = two_processes(MelNARTrainer, MelNARRecipe, "myna-mel-nar-cpu", run(tmp_path / "run", *more))
    assert found == ["batches differ 2", "myna-mel-nar same 2"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ("data.codec=myna-24k", UsageError, "give a codec of mel spectrograms"),
        ("model.codebook_dim=6", MissingModelError, "does not fill the codebooks"),
        ("group_weights=[1]", MynaError, "group_weights must be 2 numbers"),
        ("data.mel_sets=[nowhere.safetensors]", MynaError, "extract_mels"),
        ("init_from=nowhere.safetensors", MynaError, "nowhere"),
    ],
)
def test_mistakes_are_one_line(run, tmp_path, change, error, message):
    with pytest.raises(error, match=message) as caught:
        train("myna-mel-nar-cpu", [*run(tmp_path / "run", "max_steps=1"), change], quiet=True)
    assert "\n" not in str(caught.value)


def test_recipes_that_ship_are_read():
    for name in ("myna-mel-nar", "myna-mel-nar-cpu"):
        assert load_recipe(name, MelNARRecipe).model.codebook_size == 1000
