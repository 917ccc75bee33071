"""The second judge of likeness, computed from voices that the test makes: it tells them apart, whatever they say."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from myna.data.checkpoint import load_checkpoint
from myna.errors import UsageError
from myna.evaluation.measures import speaker_judge
from myna.evaluation.measures.metrics import METRICS, choose_metrics
from myna.evaluation.measures.speaker_judge import (
    FILE,
    SpeakerJudge,
    SpeakerJudgeConfig,
    judged_voice,
    likeness_by_judge,
)
from myna.training.models.speaker_judge import discriminant, fit, main
from myna.training.sets.mel_set import MelItem, MelSet, MelUtterance, mel_set_bytes

ASSETS = Path(__file__).parents[2] / "assets"
SMALL = SpeakerJudgeConfig(gaussians=6, axes=12, dims=6)
N_SOUNDS = 4


def mel_of(speaker: int, rng: np.random.Generator, seconds: float = 2.0) -> np.ndarray:
    """(T, 80): sounds in random order, each with the colour of the speaker."""
    bands = np.arange(80)
    sounds = rng.integers(N_SOUNDS, size=round(seconds * 100) // 10).repeat(10)
    colour = np.random.default_rng(1000 + speaker).standard_normal(8)
    tilt = sum(a * np.cos(np.pi * k * bands / 80) for k, a in enumerate(colour, start=2))
    mel = -5 + 2 * np.cos(np.pi * (sounds[:, None] + 1) * bands / 20) + 0.6 * tilt
    return mel + 0.3 * rng.standard_normal(mel.shape)


def utterance(key: str, speaker: int, split: str, rng: np.random.Generator) -> MelUtterance:
    mel = mel_of(speaker, rng)
    half = len(mel) // 2
    item = MelItem(key, "synth", split, f"s{speaker}", 1.0, 1.0, 12_000.0, 0.0)
    none = np.full(half, -1), np.zeros((3, 0), int)
    return MelUtterance(item, mel, np.zeros(len(mel)), *none, np.zeros(256))


@pytest.fixture(scope="module")
def mels(tmp_path_factory) -> Path:
    rng = np.random.default_rng(0)
    said = [utterance(f"a{s}{i}", s, "train", rng) for s in range(12) for i in range(2)]
    said.append(utterance("d", 90, "dev", rng))
    path = tmp_path_factory.mktemp("mels") / "mels.safetensors"
    path.write_bytes(mel_set_bytes(said))
    return path


@pytest.fixture(scope="module")
def judge(mels) -> SpeakerJudge:
    return fit(MelSet([mels]), SMALL)


def test_it_tells_strangers_apart_whatever_they_say(judge):
    rng = np.random.default_rng(5)
    voices = [[torch.from_numpy(mel_of(s, rng)).t() for _ in range(2)] for s in range(50, 56)]
    vectors = torch.stack([torch.stack([judge.vector(mel) for mel in voice]) for voice in voices])
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(6, 2))
    cosines = vectors[:, 0] @ vectors[:, 1].t()
    same, others = cosines.diagonal(), cosines[~torch.eye(6, dtype=torch.bool)]
    assert float(same.mean()) > float(others.mean()) + 0.4
    assert (cosines.argmax(1) == torch.arange(6)).all()


def test_level_does_not_matter(judge):
    """A louder recording has every log-mel moved by as much; no cepstrum sees it."""
    mel = torch.from_numpy(mel_of(70, np.random.default_rng(1))).t().float()
    torch.testing.assert_close(judge.vector(mel), judge.vector(mel + 2), atol=1e-3, rtol=0)


def test_the_same_sets_give_the_same_judge(mels, judge):
    again = fit(MelSet([mels]), SMALL)
    for name, value in judge.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value)


def test_the_discriminant_leaves_out_what_varies_within_speakers():
    """Two directions: along the first speakers differ, along the second each varies as he pleases."""
    generator = torch.Generator().manual_seed(0)
    owners = torch.arange(20).repeat_interleave(10)
    vectors = torch.stack([owners.float(), 30 * torch.randn(200, generator=generator)], dim=1)
    vectors[:, 0] += 0.5 * torch.randn(200, generator=generator)
    direction = discriminant(vectors, owners, 1)[:, 0]
    assert abs(float(direction[0])) > 20 * abs(float(direction[1]))


def test_the_command_writes_what_the_report_reads(mels, judge, tmp_path, monkeypatch, capsys):
    out = tmp_path / FILE
    small = ["--axes", "12", "--dims", "6", "--gaussians", "6"]
    assert main([str(mels), "-o", str(out), *small]) == 0
    found = load_checkpoint(SpeakerJudge, SpeakerJudgeConfig, out, "speaker-judge")
    torch.testing.assert_close(found.axes, judge.axes, atol=1e-3, rtol=1e-2)
    assert main([str(mels), "-o", str(out), *small]) == 2  # the output exists
    assert main([str(tmp_path / "none"), "-o", str(tmp_path / "x"), *small]) != 0
    assert main([str(mels), "-o", str(tmp_path / "x")]) != 0  # too little for as many axes
    lines = capsys.readouterr().err.splitlines()
    assert sum(line.startswith("error: ") for line in lines) == 3

    monkeypatch.setattr(speaker_judge, "WEIGHTS", tmp_path)
    speaker_judge._judge.cache_clear()
    wav = np.random.default_rng(0).standard_normal(24_000).astype(np.float32)
    one = judged_voice(wav, 24_000)
    assert one is not None
    assert one.shape == (6,)
    assert likeness_by_judge(wav, wav, 24_000) == pytest.approx(1)
    assert judged_voice(np.zeros(24_000, np.float32), 24_000) is None
    assert judged_voice(wav[:2000], 24_000) is None
    assert math.isnan(likeness_by_judge(wav, wav[:100], 24_000))
    assert METRICS["judge"].missing() is None
    speaker_judge._judge.cache_clear()


def test_without_its_weights_it_is_left_out_with_a_line(tmp_path, monkeypatch):
    monkeypatch.setattr(speaker_judge, "WEIGHTS", tmp_path)
    usable, notes = choose_metrics(("judge",))
    assert not usable
    assert len(notes) == 1
    assert "speaker-judge.safetensors" in notes[0]


def test_too_few_people_are_refused(tmp_path):
    path = tmp_path / "one.safetensors"
    path.write_bytes(mel_set_bytes([utterance("a", 0, "train", np.random.default_rng(0))]))
    with pytest.raises(UsageError, match="too few"):
        fit(MelSet([path]), SMALL)
