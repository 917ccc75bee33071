"""The mel vocoder: a stream equals itself however it is fed, looks ahead as far as it says, and learns."""

from __future__ import annotations

import pytest
import torch
from myna.codec.mel_vocoder import MelVocoder, MelVocoderConfig
from myna.codec.mel_vocoder_stream import MelVocoderStream

SMALL = MelVocoderConfig(mel_bands=20, width=16, depth=2, bands=12, look_ahead=3)


@pytest.fixture(scope="module")
def vocoder() -> MelVocoder:
    torch.manual_seed(0)
    vocoder = MelVocoder(SMALL).eval()
    for parameter in vocoder.net.parameters():  # what starts at zero would hide mistakes
        parameter.data.normal_(0, 0.2)
    return vocoder


def streamed(vocoder, mel, cuts, contrast=1.0):
    stream, parts, at = MelVocoderStream(vocoder, contrast, seed=3), [], 0
    for cut in cuts:
        parts.append(stream.push(mel[:, at : at + cut]))
        at += cut
    return torch.cat([*parts, stream.flush()])


@pytest.mark.parametrize("contrast", [1.0, 1.2])
def test_samples_are_the_same_however_the_stream_is_fed(vocoder, contrast):
    mel = torch.randn(20, 37, generator=torch.Generator().manual_seed(1)) - 5
    whole = streamed(vocoder, mel, [37], contrast)
    assert whole.shape == (37 * 240,)
    assert whole.abs().max() > 1e-4
    for cuts in ([1] * 37, [5, 0, 20, 12], [30, 7]):
        assert torch.allclose(streamed(vocoder, mel, cuts, contrast), whole, atol=1e-4)


def test_it_looks_ahead_as_far_as_it_says(vocoder):
    mel = torch.randn(1, 20, 40, generator=torch.Generator().manual_seed(1)) - 5
    changed = mel.clone()
    changed[..., 25:] += 1
    before, after = vocoder(mel), vocoder(changed)
    first = 25 - SMALL.look_ahead
    assert torch.allclose(before.harmonic[..., :first], after.harmonic[..., :first], atol=1e-5)
    assert not torch.allclose(before.harmonic[..., first:], after.harmonic[..., first:], atol=1e-3)


def test_a_stream_says_what_the_whole_says(vocoder):
    mel = torch.randn(1, 20, 30, generator=torch.Generator().manual_seed(1)) - 5
    sound = vocoder(mel)
    voiced = torch.ones(1, 30, dtype=torch.bool)
    noise = torch.zeros(1, 30 * 240)
    wav = vocoder.render(sound, torch.full((1, 30), 120.0), voiced, noise)
    assert wav.shape == (1, 7200)
    assert torch.isfinite(wav).all()


def test_a_flushed_stream_is_over(vocoder):
    stream = MelVocoderStream(vocoder)
    stream.flush()
    with pytest.raises(ValueError, match="flushed"):
        stream.push(torch.zeros(20, 1))
    with pytest.raises(ValueError, match="flushed"):
        stream.flush()
