"""What the networks hear is what the published ones heard."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

import numpy as np
import pytest
import reference
import torch
from myna.data.audio import read_audio
from myna.tts.tortoise.conditioning import (
    autoregressive_mel,
    denormalise,
    diffusion_mel,
    mel_norms,
    resample,
)

SPEECH = Path(__file__).parents[2] / "assets" / "speech.wav"


@pytest.fixture(scope="module")
def clip() -> torch.Tensor:
    audio = read_audio(SPEECH)
    return resample(torch.from_numpy(audio.samples[0].copy()), audio.sample_rate, 22_050)


def test_the_norms_are_the_published_ones():
    reference.module("models.arch_util")
    path = importlib.resources.files("tortoise").joinpath("data/mel_norms.pth")
    assert torch.equal(mel_norms(), torch.load(str(path), weights_only=True))


def test_the_diffusions_mel(clip):
    theirs = reference.module("utils.audio")
    wav = resample(clip, 22_050, 24_000)
    wav = torch.nn.functional.pad(wav, (0, max(0, 102_400 - len(wav))))[:102_400]
    expected = theirs.wav_to_univnet_mel(wav[None], do_normalization=False, device="cpu")[0]
    mel = diffusion_mel(clip)
    assert mel.shape == expected.shape == (100, 401)
    assert float((mel - expected).abs().max()) < 1e-4


def test_the_autoregressive_networks_mel(clip):
    librosa = pytest.importorskip("librosa")  # torchaudio's transform, by another hand: the same filters
    wav = torch.nn.functional.pad(clip, (0, max(0, 132_300 - len(clip))))[:132_300].numpy()
    power = librosa.feature.melspectrogram(
        y=wav.astype(np.float64),
        sr=22_050,
        n_fft=1024,
        hop_length=256,
        n_mels=80,
        fmax=8000,
        htk=True,
        norm="slaney",
        pad_mode="reflect",
    )
    expected = np.log(np.maximum(power, 1e-5)) / mel_norms().numpy()[:, None]
    mel = autoregressive_mel(torch.from_numpy(wav))
    assert mel.shape == (80, 517)
    assert np.abs(mel.numpy() - expected).max() < 1e-4


def test_resampling_is_torchaudios():
    functional = pytest.importorskip("torchaudio.functional", exc_type=ImportError)
    wav = torch.randn(5000)
    for rates in ((22_050, 24_000), (44_100, 22_050), (16_000, 22_050)):
        assert torch.allclose(resample(wav, *rates), functional.resample(wav, *rates), atol=1e-6)


def test_resampling_keeps_a_tone():
    time = torch.arange(22_050) / 22_050
    out = resample(torch.sin(2 * torch.pi * 1000 * time), 22_050, 24_000)
    assert len(out) == 24_000
    expected = torch.sin(2 * torch.pi * 1000 * torch.arange(24_000) / 24_000)
    assert float((out - expected)[100:-100].abs().max()) < 2e-3


def test_a_long_clip_is_cut_to_its_middle_and_a_short_one_filled_up():
    long = torch.randn(200_000)
    assert torch.equal(autoregressive_mel(long), autoregressive_mel(long[33_850 : 33_850 + 132_300]))
    assert autoregressive_mel(torch.randn(30_000)).shape == (80, 517)


def test_the_diffusions_scale():
    assert denormalise(torch.tensor([-1.0, 1.0])).tolist() == pytest.approx([-11.512925, 2.314339], abs=1e-5)
