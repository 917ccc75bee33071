"""Losses against straightforward references, and the properties they are chosen for."""

import librosa
import numpy as np
import pytest
import torch
from myna.discriminators import Judgement
from myna.evaluation.measures.spectral import SpectralLoss, SpectralLossOptions, band_limit, si_sdr
from myna.training.models.adversarial import discriminator_loss, feature_matching_loss, generator_loss

RATE = 24000
DEFAULT = SpectralLoss(RATE)


@pytest.fixture
def pair():
    torch.manual_seed(0)
    return 0.1 * torch.randn(2, 1, 6000), 0.1 * torch.randn(2, 1, 6000)


def test_mel_distance_is_dacs(pair):
    prediction, target = pair
    expected = []
    for n_fft, n_mels in zip((32, 64, 128, 256, 512, 1024, 2048), (5, 10, 20, 40, 80, 160, 320), strict=True):
        bank = librosa.filters.mel(sr=RATE, n_fft=n_fft, n_mels=n_mels)
        logs = []
        for wav in pair:
            spectrum = librosa.stft(
                wav[:, 0].numpy(), n_fft=n_fft, hop_length=n_fft // 4, pad_mode="reflect", window="hann"
            )
            logs.append(np.log10(np.maximum(bank @ np.abs(spectrum), 1e-5)))
        expected.append(np.abs(logs[0] - logs[1]).mean())
    got = DEFAULT(prediction, target)["mel"]
    assert float(got) == pytest.approx(np.mean(expected), rel=1e-3)


def test_magnitude_and_complex_distance_by_hand(pair):
    loss = SpectralLoss(RATE, SpectralLossOptions((), (), (512,), (512,)))
    s, t = (torch.stft(w[:, 0], 512, 128, window=torch.hann_window(512), return_complex=True) for w in pair)
    got = loss(*pair)
    stft = (s.abs().clamp(min=1e-5).square().log10() - t.abs().clamp(min=1e-5).square().log10()).abs().mean()
    stft = stft + (s.abs() - t.abs()).abs().mean()
    assert float(got["stft"]) == pytest.approx(float(stft), rel=1e-3)
    expected = ((s - t).abs().sum(dim=(1, 2)) / t.abs().sum(dim=(1, 2))).mean()
    assert float(got["complex"]) == pytest.approx(float(expected), rel=1e-3)


@pytest.mark.parametrize("power", [1.0, 0.3])
def test_only_the_complex_distance_hears_phase(pair, power):
    wav = pair[0]
    loss = SpectralLoss(RATE, SpectralLossOptions(complex_power=power))
    same, flipped, silence = loss(wav, wav), loss(-wav, wav), loss(torch.zeros_like(wav), wav)
    assert all(float(value) < 1e-4 for value in same.values())
    assert float(flipped["mel"]) < 1e-4
    assert float(flipped["stft"]) < 1e-4
    assert float(flipped["complex"]) == pytest.approx(2, rel=1e-3)
    assert float(silence["complex"]) == pytest.approx(1, rel=1e-3)


def test_a_silent_example_does_not_drown_the_others(pair):
    wav, other = pair[0].clone(), pair[1]
    wav[1] *= 1e-6
    assert float(DEFAULT(other, wav)["complex"]) < 30


def test_gradients_are_finite_at_silence():
    prediction = torch.zeros(1, 1, 3000, requires_grad=True)
    loss = SpectralLoss(RATE, SpectralLossOptions(complex_power=0.3, complex_magnitude=1.0))
    sum(loss(prediction, 0.1 * torch.randn(1, 1, 3000)).values()).backward()
    assert torch.isfinite(prediction.grad).all()


def test_drawn_windows_follow_the_generator_and_average_out(pair):
    few = SpectralLoss(RATE, SpectralLossOptions((128, 256, 512), (8, 8, 8), (), (), windows_per_step=1))
    alone = [
        float(SpectralLoss(RATE, SpectralLossOptions((w,), (8,), (), ()))(*pair)["mel"])
        for w in (128, 256, 512)
    ]
    drawn = [float(few(*pair, torch.Generator().manual_seed(i))["mel"]) for i in range(30)]
    again = [float(few(*pair, torch.Generator().manual_seed(i))["mel"]) for i in range(30)]
    assert drawn == again
    assert {round(value, 6) for value in drawn} == {round(value, 6) for value in alone}


def test_wrong_number_of_mel_bands_is_refused():
    with pytest.raises(ValueError, match="one number for each of the 2 mel_windows"):
        SpectralLossOptions(mel_windows=(64, 128), mel_bands=(5,))


@pytest.mark.parametrize("decibels", [0.0, 10.0, 30.0])
def test_si_sdr_is_the_level_of_orthogonal_noise_at_any_scale(decibels):
    t = torch.arange(24000) / RATE
    wav, noise = torch.sin(2 * np.pi * 200 * t), torch.sin(2 * np.pi * 300 * t)
    noisy = 3 * (wav + 10 ** (-decibels / 20) * noise)
    assert float(si_sdr(noisy[None, None], wav[None, None])) == pytest.approx(decibels, abs=0.01)


def test_band_limit_keeps_each_examples_own_band():
    t = torch.arange(2400) / RATE
    low, high = torch.sin(2 * np.pi * 1000 * t), torch.sin(2 * np.pi * 10000 * t)
    both = (low + high).expand(2, 1, -1)
    limited = band_limit(both, torch.tensor([8000.0, 12000.0]), RATE)
    torch.testing.assert_close(limited[0, 0], low, atol=1e-3, rtol=0)
    torch.testing.assert_close(limited[1, 0], low + high, atol=1e-3, rtol=0)


def judgement(value, features=(1.0,)):
    return Judgement(torch.full((2, 1, 3), value), tuple(torch.full((2, 4), f) for f in features))


def test_hinge_by_hand():
    real, fake = [judgement(0.5), judgement(2.0)], [judgement(-0.5), judgement(0.0)]
    assert float(discriminator_loss(real, fake, "hinge")) == pytest.approx(((0.5 + 0.5) + (0 + 1)) / 2)
    assert float(generator_loss(fake, "hinge")) == pytest.approx((1.5 + 1.0) / 2)


def test_least_squares_by_hand():
    real, fake = [judgement(0.5), judgement(2.0)], [judgement(-0.5), judgement(0.0)]
    assert float(discriminator_loss(real, fake, "least_squares")) == pytest.approx(
        ((0.25 + 0.25) + (1 + 0)) / 2
    )
    assert float(generator_loss(fake, "least_squares")) == pytest.approx((2.25 + 1.0) / 2)


def test_feature_matching_by_hand():
    real, fake = [judgement(0.0, (2.0, 10.0))], [judgement(0.0, (3.0, 5.0))]
    assert float(feature_matching_loss(real, fake, relative=False)) == pytest.approx((1 + 5) / 2)
    assert float(feature_matching_loss(real, fake)) == pytest.approx((0.5 + 0.5) / 2)


def test_feature_matching_teaches_the_generator_only():
    real, fake = torch.ones(1, 3, requires_grad=True), torch.zeros(1, 3, requires_grad=True)
    logits = torch.zeros(1, 1, 1)
    feature_matching_loss([Judgement(logits, (real,))], [Judgement(logits, (fake,))]).backward()
    assert real.grad is None
    assert fake.grad.abs().sum() > 0
