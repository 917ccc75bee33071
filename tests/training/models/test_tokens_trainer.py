"""The trainer of speech tokens alone: they come to tell phones, use their levels, go on exactly, and fit a decoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from myna.codec.mel.speech_tokens import SpeechTokenizer, SpeechTokensConfig
from myna.data.checkpoint import load_checkpoint
from myna.errors import InputError, MynaError
from myna.training.models.token_probe import spread
from myna.training.models.tokens import TokensTrainer
from myna.training.models.tokens_recipe import TokensRecipe
from myna.training.sets.mel_set import MelSet, mel_set_bytes
from myna.training.train import train

from .test_flow_path import flow_run, heard, scalars, utterance

TINY = "model={width: 16, depth_before: 1, depth: 1, levels: [4, 3], look_ahead: 1}"


@pytest.fixture(scope="module")
def mels(tmp_path_factory) -> Path:
    rng = np.random.default_rng(0)
    said = [heard(utterance(f"a{s}{i}", "synth", "train", s, rng)) for s in range(3) for i in range(4)]
    said += [heard(utterance(f"b{s}", "cvx", "train", s, rng, text=False)) for s in range(3, 6)]
    said += [heard(utterance(f"d{s}{i}", "synth", "dev", s, rng)) for s in range(2) for i in range(3)]
    path = tmp_path_factory.mktemp("mels") / "mels.safetensors"
    path.write_bytes(mel_set_bytes(said))
    return path


def run(mels: Path, out: Path, steps: int, *more: str) -> list[str]:
    return [
        *(f"data.mel_sets=[{mels}]", f"output={out}", TINY, "rounded=[10, 30]", "data.batch_frames=400"),
        *("log_every=1", "schedule={over: steps, warmup_steps: 2, decay: constant}", "optimizer.lr=0.01"),
        *("max_minutes=null", "save_every_minutes=null", f"max_steps={steps}"),
        *("data.held_out={examples: 6, every_steps: 40}", *more),
    ]


@pytest.fixture(scope="module")
def trained(mels, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("tokens") / "run"
    train("myna-tokens-cpu", run(mels, out, 80), quiet=True)
    return out


def test_tokens_learn_phones_and_what_a_recogniser_hears(trained):
    for name in ("phone", "content"):
        errors = scalars(trained, "train", name)
        assert np.mean(errors[-5:]) < 0.8 * np.mean(errors[:3])
    right, perplexity = (scalars(trained, "held-out", name) for name in ("phone_right", "perplexity"))
    assert right[-1] > 0.2  # one of 16 by chance
    assert perplexity[-1] > 3


def test_a_decoder_reads_them(trained, mels, tmp_path):
    tokens = trained / "best.safetensors"
    given = load_checkpoint(SpeechTokenizer, SpeechTokensConfig, tokens, "tokens")
    train(
        "myna-flow-cpu",
        flow_run(mels, tmp_path / "flow", "max_steps=2", f"init_tokens={tokens}", "train_tokens=false"),
        quiet=True,
    )
    kept = load_checkpoint(
        SpeechTokenizer, SpeechTokensConfig, tmp_path / "flow" / "last.tokens.safetensors", "tokens"
    )
    assert all(torch.equal(a, b) for a, b in zip(given.parameters(), kept.parameters(), strict=True))


def test_a_stopped_run_goes_on_exactly(mels, tmp_path):
    train("myna-tokens-cpu", run(mels, tmp_path / "whole", 12), quiet=True)
    for steps in (5, 12):
        train("myna-tokens-cpu", run(mels, tmp_path / "parts", steps), quiet=True)
    one, other = (
        torch.load(tmp_path / name / "state.pt", weights_only=True)["modules"]["myna-tokens"]
        for name in ("whole", "parts")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_what_does_not_fit_is_refused(mels, trained, tmp_path):
    with pytest.raises(MynaError, match="rounded must rise"):
        train("myna-tokens-cpu", run(mels, tmp_path / "a", 1, "rounded=[5, 2]"), quiet=True)
    other = ["model.width=24", f"init_from={trained / 'best.safetensors'}"]
    with pytest.raises(MynaError, match="make them equal"):
        train("myna-tokens-cpu", run(mels, tmp_path / "b", 1, *other), quiet=True)
    rng = np.random.default_rng(0)
    plain = tmp_path / "plain.safetensors"
    plain.write_bytes(mel_set_bytes([utterance("a", "synth", "train", 0, rng)]))
    with pytest.raises(InputError, match="--content"):
        train("myna-tokens-cpu", run(plain, tmp_path / "c", 1), quiet=True)


def test_spread_is_least_for_a_full_grid():
    inside = torch.ones(4, 4096, dtype=torch.bool)
    inside[:, 4000:] = False
    rng = torch.Generator().manual_seed(0)
    even = 2 * torch.rand(4, 4096, 3, generator=rng) - 1
    even[:, 4000:] = 1.0  # what is outside does not count
    assert float(spread(even, inside)) < 0.01
    assert float(spread(0.2 * even, inside)) > 1
    assert float(spread(even + 0.5, inside)) > 0.5
    assert float(spread(even[..., :1].expand(-1, -1, 3), inside)) > 1


def test_content_is_whitened(mels):
    speech = MelSet([mels])
    mean, whitening = speech.content_whitening(4)
    assert speech.content is not None
    components = (speech.content.float() - mean) @ whitening
    covariance = components.t() @ components / len(components)
    torch.testing.assert_close(covariance, torch.eye(4), atol=0.01, rtol=0)


def test_two_processes_share_their_gradients(mels, tmp_path, two_processes):
    own = run(mels, tmp_path / "run", 2)
    assert two_processes(TokensTrainer, TokensRecipe, "myna-tokens-cpu", [*own, "data.held_out=null"]) == [
        "batches differ 2",
        "myna-tokens same 2",
    ]
