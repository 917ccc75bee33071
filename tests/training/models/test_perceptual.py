"""Losses of what is heard: they order damage as STOI and PESQ do, and teach."""

from pathlib import Path

import numpy as np
import pytest
import torch
from myna.data.audio import read_audio
from myna.evaluation.measures.perceptual import pesq_wb, stoi
from myna.training.models.perceptual import Intelligibility, Loudness

RATE = 24_000
SPEECH = Path(__file__).parents[2] / "assets" / "speech.wav"


@pytest.fixture(scope="module")
def speech() -> torch.Tensor:
    return torch.from_numpy(read_audio(SPEECH, RATE, mono=True).samples)[None]


def damaged(wav: torch.Tensor, decibels: float) -> torch.Tensor:
    noise = torch.randn(wav.shape, generator=torch.Generator().manual_seed(0))
    return wav + noise * wav.norm() / noise.norm() * 10 ** (-decibels / 20)


@pytest.mark.parametrize("kind", [Intelligibility, Loudness])
def test_nothing_is_lost_where_nothing_has_changed(kind, speech):
    assert float(kind(RATE)(speech, speech)) < 1e-3


@pytest.mark.parametrize("kind", [Intelligibility, Loudness])
def test_more_damage_is_worse(kind, speech):
    measure = kind(RATE)
    losses = [float(measure(damaged(speech, db), speech)) for db in (30, 15, 5, 0)]
    assert losses == sorted(losses)
    assert losses[0] < losses[-1] / 3


def test_intelligibility_is_stoi_within_a_few_hundredths(speech):
    pytest.importorskip("pystoi")
    for db in (20, 5, 0):
        other = damaged(speech, db)
        expected = stoi(speech[0, 0].numpy(), other[0, 0].numpy(), RATE)
        assert 1 - float(Intelligibility(RATE)(other, speech)) == pytest.approx(expected, abs=0.06)


def test_loudness_orders_as_pesq_does(speech):
    pytest.importorskip("pesq")
    others = [damaged(speech, db) for db in (40, 25, 15, 5)]
    others.append(torch.nn.functional.avg_pool1d(speech, 5, 1, 2))  # dull
    mos = [pesq_wb(speech[0, 0].numpy(), other[0, 0].numpy(), RATE) for other in others]
    losses = [float(Loudness(RATE)(other, speech)) for other in others]
    assert np.corrcoef(mos, losses)[0, 1] < -0.8


@pytest.mark.parametrize("kind", [Intelligibility, Loudness])
def test_a_step_along_the_gradient_helps_and_silence_is_no_accident(kind, speech):
    measure = kind(RATE)
    silence = torch.zeros(2, 1, RATE)
    one_second = speech[..., :RATE].expand(2, 1, -1)
    for wav, target in ((damaged(speech, 5), speech), (silence, silence), (silence, one_second)):
        wav = wav.clone().requires_grad_(True)
        loss = measure(wav, target)
        loss.backward()
        assert torch.isfinite(loss)
        assert bool(torch.isfinite(wav.grad).all())
    wav = damaged(speech, 5).requires_grad_(True)
    before = measure(wav, speech)
    (slope,) = torch.autograd.grad(before, wav)
    wav, before = wav.detach(), before.detach()
    after = measure(wav - 0.05 * wav.norm() * slope / slope.norm(), speech)
    assert float(after) < float(before)


def test_what_is_shorter_than_a_segment_says_nothing(speech):
    wav = speech[..., : RATE // 5].clone().requires_grad_(True)
    loss = Intelligibility(RATE)(wav, speech[..., : RATE // 5])
    loss.backward()
    assert float(loss) == 0.0
