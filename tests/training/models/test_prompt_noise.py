"""Prompts with noise and reverberation added: the target stays, what is added is as strong as it says."""

from __future__ import annotations

import torch
from myna.training.models import prompt_noise
from myna.training.models.prompt_noise import disturbed


def only_noise(monkeypatch, snr_db: float) -> None:
    monkeypatch.setattr(prompt_noise, "SNR_DB", (snr_db, snr_db))
    monkeypatch.setattr(prompt_noise, "ECHO_SHARE", 0.0)


def test_noise_has_the_power_that_is_asked_for(monkeypatch):
    torch.manual_seed(0)
    only_noise(monkeypatch, 10.0)
    mel, heard = torch.zeros(64, 80, 200), torch.ones(64, 200, dtype=torch.bool)
    mel[:, :, 100:] = -20.0  # half of it speaks, so the mean power is a half
    power = torch.exp(2 * disturbed(mel, heard))
    added = power[:, :, 100:].mean((1, 2)) / 0.5
    flicker = torch.exp(torch.tensor(2 * prompt_noise.FLICKER**2))  # the mean of what multiplies it
    torch.testing.assert_close(added.mean(), flicker * 0.1, rtol=0.03, atol=0)
    assert len(set(power[:, 0, 150].tolist())) == 64  # every prompt has noise of its own


def test_frames_that_are_no_prompt_change_nothing():
    mel, heard = torch.randn(2, 80, 60), torch.zeros(2, 60, dtype=torch.bool)
    heard[:, :40] = True
    louder = mel.clone()
    louder[:, :, 40:] += 5
    made = []
    for one in (mel, louder):
        torch.manual_seed(1)
        made.append(disturbed(one, heard)[:, :, :40])
    assert torch.equal(*made)


def test_an_echo_decays_and_comes_after(monkeypatch):
    torch.manual_seed(0)
    only_noise(monkeypatch, 200.0)
    monkeypatch.setattr(prompt_noise, "ECHO_SHARE", 1.0)
    monkeypatch.setattr(prompt_noise, "DIRECT_DB", (6.0, 6.0))
    mel, heard = torch.full((1, 80, 120), -30.0), torch.ones(1, 120, dtype=torch.bool)
    mel[:, :, 30] = 0.0  # a click
    power = torch.exp(2 * disturbed(mel, heard))[0, 7]
    assert float(power[:30].max()) < 1e-6
    torch.testing.assert_close(power[30], torch.tensor(1.0), rtol=1e-3, atol=0)
    assert (power[31:89].diff() < 0).all()
    torch.testing.assert_close(power[31:91].sum(), torch.tensor(10**-0.6), rtol=1e-2, atol=0)


def test_nothing_is_ever_quieter():
    torch.manual_seed(2)
    mel, heard = torch.randn(4, 80, 100) - 4, torch.ones(4, 100, dtype=torch.bool)
    assert (disturbed(mel, heard) >= mel - 1e-5).all()
