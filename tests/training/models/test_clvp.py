"""The trainer of CLVP, on a set that the test makes: it learns, goes on exactly, shares its gradients; and its weights
judge speech."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from myna.codec.checkpoint import weights_hash
from myna.codec.mel.speech_tokens import SpeechTokenizer, SpeechTokensConfig
from myna.data.checkpoint import load_checkpoint, read_safetensors, save_checkpoint
from myna.errors import InputError, MissingModelError, MynaError, UsageError
from myna.training.engine.distributed import World
from myna.training.engine.recipe import load_recipe
from myna.training.models.clvp import CLVPBatch, CLVPTrainer
from myna.training.models.clvp_recipe import CLVPRecipe
from myna.training.sets.mel_set import MelItem, MelUtterance, mel_set_bytes
from myna.training.train import train
from myna.tts.rerank.base import Attempt
from myna.tts.rerank.clvp import CLVP, CLVPConfig, CLVPScorer
from myna.tts.text.phones import Phones

N_TRAIN, N_DEV = 24, 8


def utterance(key: str, split: str, rng: np.random.Generator) -> MelUtterance:
    """A mel that follows from its phones, of few different ones, so that learning shows."""
    n_phones = 6
    lasts = 2 * rng.integers(2, 4, n_phones)
    pointer = np.repeat(np.arange(n_phones), lasts)
    symbols = rng.permutation(np.arange(14, 22))[:n_phones]
    mel = -5 + 2 * np.sin(np.arange(80) / 9 + symbols[pointer][:, None])
    item = MelItem(key, "synth", split, "s", 1.0, 1.0, 12_000.0, -float(rng.random()))
    phones = np.stack([symbols, np.zeros(n_phones, int), np.zeros(n_phones, int)])
    mel = np.repeat(mel, 2, 0) + 0.1 * rng.standard_normal((2 * len(pointer), 80))
    return MelUtterance(item, mel, np.full(len(mel), 110.0), pointer, phones, np.eye(256)[0])


@pytest.fixture(scope="module")
def mels(tmp_path_factory) -> Path:
    rng = np.random.default_rng(0)
    said = [utterance(f"a{i}", "train", rng) for i in range(N_TRAIN)]
    said += [utterance(f"d{i}", "dev", rng) for i in range(N_DEV)]
    path = tmp_path_factory.mktemp("mels") / "mels.safetensors"
    path.write_bytes(mel_set_bytes(said))
    return path


@pytest.fixture(scope="module")
def tokens(tmp_path_factory) -> Path:
    """A tokenizer that has learned nothing, whose tokens follow the mel all the same."""
    torch.manual_seed(0)
    tokenizer = SpeechTokenizer(
        SpeechTokensConfig(width=16, depth_before=1, depth=1, levels=(8, 8), look_ahead=1)
    )
    path = tmp_path_factory.mktemp("tokens") / "tokens.safetensors"
    save_checkpoint(tokenizer, tokenizer.config, path, "tokens")
    return path


def overrides(mels: Path, tokens: Path, out: Path, *more: str) -> list[str]:
    own = [f"data.mel_sets=[{mels}]", f"data.tokens={tokens}", f"output={out}", "model.n_tokens=64"]
    return [*own, "data.leave_out_worst=0", "data.damage=[2, 5]", *more]


def scalars(out: Path, kind: str, name: str) -> list[float]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row[name] for row in rows if row["kind"] == kind and name in row]


@pytest.fixture(scope="module")
def trained(mels, tokens, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("clvp") / "run"
    train(
        "myna-clvp-tiny",
        overrides(mels, tokens, out, "max_steps=120", "optimizer.lr=0.01", "data.token_noise=0"),
        quiet=True,
    )
    return out


def test_it_learns_which_speech_says_what(trained, tokens):
    losses, right = scalars(trained, "train", "loss"), scalars(trained, "train", "right")
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:5])
    assert np.mean(right[-10:]) > 3 / 8  # three times chance
    undamaged = scalars(trained, "train", "undamaged")
    assert np.mean(undamaged[-30:]) > np.mean(undamaged[:5])
    file = read_safetensors(trained / "last.safetensors")
    tokenizer = load_checkpoint(SpeechTokenizer, SpeechTokensConfig, tokens, "tokens")
    assert file.metadata["tokens_hash"] == weights_hash(tokenizer)[:16]
    load_checkpoint(CLVP, CLVPConfig, trained / "best.safetensors", "clvp")


def test_a_stopped_run_goes_on_exactly(mels, tokens, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    constant = "schedule.decay=constant"
    train("myna-clvp-tiny", overrides(mels, tokens, whole, "max_steps=6", constant), quiet=True)
    for steps in (3, 6):
        train("myna-clvp-tiny", overrides(mels, tokens, parts, f"max_steps={steps}", constant), quiet=True)
    one, other = (
        torch.load(p / "state.pt", weights_only=True)["modules"]["myna-clvp"] for p in (whole, parts)
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_two_processes_share_their_gradients(mels, tokens, tmp_path, two_processes):
    own = overrides(mels, tokens, tmp_path / "run", "max_steps=3", "data.held_out=null")
    assert two_processes(CLVPTrainer, CLVPRecipe, "myna-clvp-tiny", own) == [
        "batches differ 3",
        "myna-clvp same 3",
    ]


def test_batches_are_what_was_said(mels, tokens, tmp_path):
    recipe = load_recipe("myna-clvp-tiny", CLVPRecipe, overrides(mels, tokens, tmp_path / "run"))
    run = CLVPTrainer(recipe, World(0, 1, torch.device("cpu")), quiet=True)
    assert torch.equal(run.batch(3).utterance, run.batch(3).utterance)
    assert not torch.equal(run.batch(3).utterance, run.batch(4).utterance)
    twice = CLVPBatch(torch.tensor([4, 9, 9]))
    torch.manual_seed(0)
    phones, n_phones, found, n_tokens, same, damaged = run.read(twice, noise=0.0)
    assert same.tolist() == [[True, False, False], [False, True, True], [False, True, True]]
    for row, i in enumerate((4, 9, 9)):
        n = int(n_tokens[row])
        assert n == run.speech.n_frames[i] // 2
        first = run.speech.starts[i] // 2
        assert torch.equal(found[row, :n], run.tokens[first : first + n])
        own = slice(run.speech.phone_starts[i], run.speech.phone_starts[i + 1])
        assert torch.equal(phones[row, :, : n_phones[row]], run.speech.phones[:, own])
        changed = (damaged[row] != found[row]).nonzero().flatten()
        if len(changed):
            assert int(changed[-1]) < n
            assert int(changed[-1] - changed[0]) < 5
    assert not torch.equal(damaged[0], found[0])  # the next says something else


def test_padding_and_neighbours_do_not_matter():
    torch.manual_seed(0)
    model = CLVP(CLVPConfig(width=32, latent=16, depth=1, n_heads=2, n_kv_heads=1, hidden=32)).eval()
    phones, tokens = torch.randint(3, 50, (2, 3, 9)), torch.randint(0, 1000, (2, 20))
    phones[:, 1:] = 0
    n_phones, n_tokens = torch.tensor([9, 5]), torch.tensor([20, 12])
    with torch.inference_mode():
        texts, speech = model.texts(phones, n_phones), model.speeches(tokens, n_tokens)
        alone = model.texts(phones[1:, :, :5], n_phones[1:]), model.speeches(tokens[1:, :12], n_tokens[1:])
    torch.testing.assert_close(texts[1], alone[0][0])
    torch.testing.assert_close(speech[1], alone[1][0])
    torch.testing.assert_close(texts.norm(dim=1), torch.ones(2))


def test_what_says_the_same_is_no_negative():
    torch.manual_seed(0)
    model = CLVP(CLVPConfig(width=32, latent=16, depth=1, n_heads=2, n_kv_heads=1, hidden=32)).eval()
    phones, tokens = torch.randint(3, 50, (3, 3, 9)), torch.randint(0, 1000, (3, 20))
    phones[:, 1:] = 0
    phones[1], tokens[1] = phones[0], tokens[0]
    n_phones, n_tokens = torch.full((3,), 9), torch.full((3,), 20)
    same = torch.tensor([[True, True, False], [True, True, False], [False, False, True]])
    with torch.inference_mode():
        known = model(phones, n_phones, tokens, n_tokens, same)
        unknown = model(phones, n_phones, tokens, n_tokens, torch.eye(3, dtype=torch.bool))
    assert float(known.loss) < float(unknown.loss)
    assert torch.isnan(known.undamaged)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ("data.mel_sets=[nowhere.safetensors]", InputError, "extract_mels"),
        ("data.tokens=nowhere.safetensors", MynaError, "nowhere"),
        ("model.n_tokens=10", UsageError, "has 64 tokens, the recipe's model 10"),
        ("data.batch_size=100", UsageError, "24 utterances with a text, data.batch_size is 100"),
        ("init_from=nowhere.safetensors", MynaError, "nowhere"),
    ],
)
def test_mistakes_are_one_line(mels, tokens, tmp_path, change, error, message):
    own = [*overrides(mels, tokens, tmp_path / "run", "max_steps=1"), change]
    with pytest.raises(error, match=message) as caught:
        train("myna-clvp-tiny", own, quiet=True)
    assert "\n" not in str(caught.value)


def test_its_weights_score_tries(trained, tokens, tmp_path):
    scorer = CLVPScorer(trained / "best.safetensors", tokens)
    rng = np.random.default_rng(0)
    wav = (0.1 * rng.standard_normal(24_000)).astype(np.float32)
    one, other = Phones.from_ipa("hɛloʊ wɜld."), Phones.from_ipa("jɛs.")
    scores = [scorer.score(Attempt(wav, 24_000, phones)) for phones in (one, other)]
    assert scores[0] != scores[1]
    assert all(score is not None and -1 <= score <= 1 for score in scores)
    assert scorer.score(Attempt(wav[:500], 24_000, one)) is None
    half = Attempt(wav[::2].copy(), 12_000, one)
    assert scorer.score(half) is not None
    torch.manual_seed(1)
    tokenizer = SpeechTokenizer(
        SpeechTokensConfig(width=16, depth_before=1, depth=1, levels=(8, 8), look_ahead=1)
    )
    save_checkpoint(tokenizer, tokenizer.config, tmp_path / "other.safetensors", "tokens")
    with pytest.raises(MissingModelError, match="trained on the tokens of"):
        CLVPScorer(trained / "best.safetensors", tmp_path / "other.safetensors").score(
            Attempt(wav, 24_000, one)
        )


def test_it_is_taken_where_its_weights_are(trained, tokens, tmp_path, monkeypatch):
    from myna.tts import registry, scorers

    monkeypatch.setattr(registry, "WEIGHTS", tmp_path / "none")
    monkeypatch.setattr(registry, "NEXT", tmp_path)
    assert "clvp" not in [scorer.name for scorer in scorers.shipped_scorers()]
    (tmp_path / registry.CLVP_FILE).write_bytes((trained / "best.safetensors").read_bytes())
    (tmp_path / registry.FLOW_FILES["tokens"]).write_bytes(tokens.read_bytes())
    assert "clvp" in [scorer.name for scorer in scorers.shipped_scorers()]
