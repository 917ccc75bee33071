"""Discriminators at tiny widths: shapes, gradients, and what each of them looks at."""

import pytest
import torch
from myna.discriminators import (
    Ensemble,
    MelVoiceDiscriminator,
    MultiBandSTFTDiscriminator,
    MultiPeriodDiscriminator,
    MultiScaleSTFTDiscriminator,
)
from myna.layers.mel import MelFrames

N = 1200

BUILD = {
    "ms_stft": lambda channels=1: MultiScaleSTFTDiscriminator((256, 128), width=4, channels=channels),
    "multi_period": lambda channels=1: MultiPeriodDiscriminator((2, 5), width=2, channels=channels),
    "multi_band_stft": lambda channels=1: MultiBandSTFTDiscriminator((256, 128), width=4, channels=channels),
}
LAYERS = {"ms_stft": 5, "multi_period": 5, "multi_band_stft": 25}


@pytest.mark.parametrize("name", BUILD)
@pytest.mark.parametrize("channels", [1, 2])
def test_each_sub_discriminator_judges_the_whole_batch(name, channels):
    torch.manual_seed(0)
    judgements = BUILD[name](channels)(torch.randn(3, channels, N))
    assert len(judgements) == 2
    for judgement in judgements:
        assert judgement.logits.shape[:2] == (3, 1)
        assert len(judgement.features) == LAYERS[name]
        assert all(len(f) == 3 and torch.isfinite(f).all() for f in judgement.features)


@pytest.mark.parametrize("name", BUILD)
def test_every_weight_and_the_waveform_get_a_gradient(name):
    torch.manual_seed(0)
    discriminator, wav = BUILD[name](), torch.randn(2, 1, N, requires_grad=True)
    sum(j.logits.square().mean() for j in discriminator(wav)).backward()
    for parameter in discriminator.parameters():
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all()
        assert parameter.grad.abs().sum() > 0
    assert wav.grad.abs().sum() > 0


@pytest.mark.parametrize("name", BUILD)
def test_examples_do_not_see_each_other(name):
    torch.manual_seed(0)
    discriminator, wav = BUILD[name](), torch.randn(2, 1, N)
    for both, alone in zip(discriminator(wav), discriminator(wav[:1]), strict=True):
        torch.testing.assert_close(both.split(1)[0].logits, alone.logits, rtol=1e-4, atol=1e-5)


def test_the_first_layer_of_a_period_sees_samples_one_period_apart():
    discriminator = MultiPeriodDiscriminator((5,), width=2)
    wav = torch.zeros(1, 1, 100)
    wav[0, 0, 52] = 1.0  # row 10, column 2
    silent = discriminator(torch.zeros(1, 1, 100))[0].features[0]
    changed = (discriminator(wav)[0].features[0] - silent).abs().sum(dim=(0, 1))
    assert changed.shape[-1] == 5
    assert changed[:, 2].sum() > 0
    assert changed[:, [0, 1, 3, 4]].sum() == 0


def test_periods_fold_lengths_that_they_do_not_divide():
    judgement = MultiPeriodDiscriminator((7,), width=2)(torch.randn(1, 1, 100))[0]
    assert judgement.features[0].shape[-2:] == (5, 7)  # ceil(ceil(100 / 7) / 3) rows


def test_bands_cover_every_bin_once():
    discriminator = MultiBandSTFTDiscriminator((256,), width=2).resolutions[0]
    edges = discriminator.edges
    assert edges[0] == 0
    assert edges[-1] == 129
    assert edges == sorted(set(edges))


def test_ensemble_lines_up_its_members():
    torch.manual_seed(0)
    members = [build() for build in BUILD.values()]
    wav = torch.randn(1, 1, N)
    expected = [j.logits for member in members for j in member(wav)]
    for got, want in zip(Ensemble(*members)(wav), expected, strict=True):
        torch.testing.assert_close(got.logits, want)


def test_widths_are_those_asked_for():
    def size(discriminator):
        return sum(p.numel() for p in discriminator.parameters())

    # Counted by hand from the figures, weight normalisation's lengths included.
    assert size(MultiPeriodDiscriminator(width=32)) == pytest.approx(41.1e6, rel=0.01)  # HiFi-GAN's
    assert size(MultiPeriodDiscriminator(width=8)) < size(MultiPeriodDiscriminator(width=32)) / 12


def test_a_voice_is_told_from_another_and_speech_from_noise():
    """Two "voices", a low and a high spectrum, and noise for what is not speech: learned in a few steps."""
    torch.manual_seed(0)
    net, frames = MelVoiceDiscriminator(1, voice=3, width=4, compared=8), MelFrames(16_000)

    def mel(wav: torch.Tensor) -> torch.Tensor:
        return frames(wav[:, 0])[:, None] / 5 + 1

    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    t = torch.arange(16_000) / 16_000

    def said(high: bool) -> torch.Tensor:
        partials = [f * (1 + 0.1 * float(torch.rand(()))) for f in ((3000, 5000) if high else (300, 500))]
        return sum((0.1 * (2 * torch.pi * f * t).sin() for f in partials), torch.zeros(16_000))[None]

    voices = torch.eye(3)[:2]
    for _ in range(30):
        real, noise = torch.stack([said(False), said(True)]), 0.1 * torch.randn(2, 1, 16_000)
        (speech, heard), (false, _) = net.read(mel(real)), net.read(mel(noise))
        same, other = net.compare(heard, voices), net.compare(heard, voices.flip(0))
        loss = (1 - speech.logits).square().mean() + false.logits.square().mean()
        loss = loss + (1 - same.logits).square().mean() + other.logits.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        real = torch.stack([said(False), said(True)])
        speech, voice = net(mel(real), voices)
        assert voice.logits.shape == (2, 1)
        assert speech.logits.shape[:2] == (2, 1)
        assert (voice.logits > net(mel(real), voices.flip(0))[1].logits + 0.3).all()
        assert speech.logits.mean() > net(mel(0.1 * torch.randn(2, 1, 16_000)), voices)[0].logits.mean() + 0.3
