"""The entropy model's trainer: learns what there is to learn, and what it writes codes as well as trained."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from myna.codec.formats.context_model import ContextConfig, ContextModel
from myna.codec.formats.entropy import ContextCoder
from myna.errors import InputError, UsageError
from myna.training.models.context_model import (
    ContextNet,
    ContextTraining,
    _Frames,
    evaluate_context_model,
    main,
    train_context_model,
)
from myna.training.sets.code_set import CodeSet

CONFIG = ContextConfig(n_codebooks=2, codebook_size=16, embedding=8, hidden=32, past=2)
QUICK = ContextTraining(steps=400, batch=256, learning_rate=1e-2, packet_frames=10, dropout=0.0)


def predictable(n_utterances: int = 20, seed: int = 0) -> CodeSet:
    """Codebook 0 steps on by one, nine times in ten; codebook 1 is a function of it, so it costs nothing."""
    rng = np.random.default_rng(seed)
    codes, starts = [], [0]
    for _ in range(n_utterances):
        length = int(rng.integers(30, 60))
        steps = np.where(rng.random(length) < 0.9, 1, rng.integers(0, 16, length))
        first = np.cumsum(steps) % 16
        codes.append(np.stack([first, (5 * first + 3) % 16]).astype(np.int16))
        starts.append(starts[-1] + length)
    return CodeSet(np.concatenate(codes, axis=1), np.array(starts), 16, "toy", "00aa")


@pytest.fixture(scope="module")
def model() -> ContextModel:
    return train_context_model(predictable(), CONFIG, QUICK)


def test_it_learns_both_kinds_of_context(model):
    report = evaluate_context_model(model, predictable(seed=1), packet_frames=10)
    assert report.bits[0] < 1.9  # 0.9 bits a step, and four at each packet's beginning
    assert report.bits[1] < 0.3
    assert report.saving == 1 - sum(report.bits) / 8
    assert model.codec_hash == "00aa"


def test_bits_reported_are_bytes_written(model):
    codes = predictable(seed=2)
    report = evaluate_context_model(model, codes, packet_frames=1000)
    coder = ContextCoder(model)
    n_bytes = sum(len(b) for u in codes.utterances() for b in coder.encode(u[None].astype(np.int64)))
    predicted = sum(report.bits) * codes.n_frames / 8
    assert predicted <= n_bytes <= predicted + 2 * 20 * 1.0 + 8  # at most a byte a block for the ending


def test_the_same_steps_give_the_same_model():
    short = replace(QUICK, steps=20)
    one, two = (train_context_model(predictable(), CONFIG, short) for _ in range(2))
    assert one.hash == two.hash


def test_codes_that_sound_alike_begin_alike():
    """Rows in pairs: after starting from them each code's neighbour is its twin, "none" is at 0, and codebooks that
    the rows do not have stay as they were."""
    torch.manual_seed(0)
    net = ContextNet(CONFIG)
    before = net.embedding.detach().clone()
    pairs = 5 + torch.randn(8, 12).repeat_interleave(2, dim=0)  # far from 0: the mean does not count
    rows = (pairs + 0.01 * torch.randn(16, 12))[None]
    net.start_from_codebooks(rows)
    z = net.embedding.detach()[0]
    nearest = (torch.cdist(z[:16], z[:16]) + 1e9 * torch.eye(16)).argmin(1)
    assert nearest.tolist() == [i ^ 1 for i in range(16)]
    assert torch.equal(z[16], torch.zeros(CONFIG.embedding))
    assert torch.equal(net.embedding.detach()[1], before[1])
    # Axes in order, the widest first, at the scale of the random start.
    spread = z[:16].std(0)
    assert torch.equal(spread, spread.sort(descending=True).values)
    assert spread.mean() == pytest.approx(0.3)
    # Codebooks of fewer dimensions than the embedding fill what they have.
    net.start_from_codebooks(rows[..., :4])
    assert torch.equal(net.embedding.detach()[0, :16, 4:], z[:16, 4:])


def test_training_can_begin_at_the_codebooks():
    short = replace(QUICK, steps=20)
    rows = torch.randn(2, 16, 6)
    start = {"at random": None, "at the codebooks": rows}
    made = {name: train_context_model(predictable(), CONFIG, short, codebooks=r) for name, r in start.items()}
    tables = [made[name].tensors["embedding"] for name in start]
    assert not np.array_equal(*tables)


def test_rounding_in_training_is_that_of_the_integer_model():
    torch.manual_seed(0)
    net = ContextNet(CONFIG)
    frames = _Frames(predictable(), CONFIG, 10, "cpu").sample(64, torch.Generator().manual_seed(0))
    net.choose_exponents(frames)
    integer = net.integers("")
    logits = net(frames)
    for k in range(2):
        x = integer.embedding[np.arange(2)[:, None], frames.numpy()].reshape(64, -1)
        weights = integer._weights(k, x[:, : CONFIG.sources(k) * CONFIG.embedding])
        found = np.log2(weights / weights.max(axis=1, keepdims=True))
        expected = (logits[k] - logits[k].max(dim=1, keepdim=True).values).detach().numpy()
        assert np.abs(found - expected).max() < 0.15  # ties round differently, and the table has 1/64 bit


def test_context_never_crosses_a_beginning():
    codes = predictable()
    frames = _Frames(codes, CONFIG, 5, "cpu").sample(5000, torch.Generator().manual_seed(0))
    none = frames == CONFIG.codebook_size
    assert not none[:, :, -1].any()  # the present is always there
    assert (none[:, 0] == none[:, 1]).all()
    assert (none[:, 0, 1] | ~none[:, 0, 0]).all()  # without the latest frame there is none before it
    share = none[:, 0, 0].float().mean().item()
    assert 0.17 < share < 0.27  # a fifth of the frames begin a packet, and each utterance's first


def test_command_line(tmp_path, capsys):
    train, held_out, out = (tmp_path / name for name in ("train", "held", "x.entropy.safetensors"))
    train.write_bytes(predictable().to_bytes())
    held_out.write_bytes(predictable(seed=1).to_bytes())
    arguments = [str(train), str(held_out), str(out), "--minutes", "0.01", "--hidden", "16"]
    assert main(arguments) == 0
    assert "saves" in capsys.readouterr().out
    assert ContextModel.load(out).config.hidden == 16
    assert main(arguments) == UsageError.exit_code  # it exists
    held_out.write_bytes(b"no codes")
    assert main([*arguments, "--force"]) == InputError.exit_code
    assert "Traceback" not in capsys.readouterr().err


def test_code_sets_keep_their_utterances(tmp_path):
    codes, path = predictable(), tmp_path / "codes"
    path.write_bytes(codes.to_bytes())
    loaded = CodeSet.load(path)
    assert (loaded.codec, loaded.codec_hash, loaded.codebook_size) == ("toy", "00aa", 16)
    for ours, theirs in zip(loaded.utterances(), codes.utterances(), strict=True):
        assert np.array_equal(ours, theirs)


def test_codes_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="codebooks"):
        train_context_model(predictable(), ContextConfig(n_codebooks=3, codebook_size=16), QUICK)
