"""The house's one filter bank, beside librosa's, openai-whisper's, and torchaudio's formula in float32."""

from __future__ import annotations

import math
from pathlib import Path

import librosa
import numpy as np
import pytest
import torch
import whisper
from myna.asr.model.features import mel_filters
from myna.layers.mel import mel_filterbank


@pytest.mark.parametrize("scale", ["slaney", "htk"])
@pytest.mark.parametrize("norm", ["slaney", None])
@pytest.mark.parametrize(
    ("rate", "n_fft", "n_mels", "f_min", "f_max"),
    [(24_000, 1024, 80, 0.0, None), (16_000, 400, 40, 0.0, None), (24_000, 1024, 64, 50.0, 8000.0)],
)
def test_equals_librosas(rate, n_fft, n_mels, f_min, f_max, scale, norm):
    expected = librosa.filters.mel(
        sr=rate, n_fft=n_fft, n_mels=n_mels, fmin=f_min, fmax=f_max, htk=scale == "htk", norm=norm
    )
    bank = mel_filterbank(rate, n_fft, n_mels, f_min=f_min, f_max=f_max, scale=scale, norm=norm)
    np.testing.assert_allclose(bank.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("n_mels", [80, 128])
def test_equals_whispers(n_mels):
    with np.load(Path(whisper.__file__).parent / "assets" / "mel_filters.npz") as banks:
        np.testing.assert_allclose(mel_filters(n_mels).numpy(), banks[f"mel_{n_mels}"], atol=1e-8)


def test_is_what_torchaudio_gave_the_aligner():
    """The models have learned from torchaudio's bank, which is computed in float32."""
    hertz = torch.linspace(0, 12_000, 513)
    low, high = (2595 * math.log10(1 + f / 700) for f in (50.0, 8000.0))
    edges = 700 * (10 ** (torch.linspace(low, high, 66) / 2595) - 1)
    slopes = edges[None] - hertz[:, None]
    down, up = -slopes[:, :-2] / edges.diff()[:-1], slopes[:, 2:] / edges.diff()[1:]
    expected = torch.minimum(down, up).clamp(min=0) * (2 / (edges[2:] - edges[:-2]))
    bank = mel_filterbank(24_000, 1024, 64, f_min=50.0, f_max=8000.0, scale="htk")
    torch.testing.assert_close(bank, expected.T, atol=1e-6, rtol=0)


def test_narrow_triangles_may_be_empty():
    bank = mel_filterbank(24_000, 64, 40)
    assert bank.shape == (40, 33)
    assert (bank.sum(1) == 0).any()
    assert torch.isfinite(bank).all()


@pytest.mark.parametrize(("f_min", "f_max"), [(-1.0, None), (0.0, 8001.0), (4000.0, 4000.0)])
def test_bands_outside_of_the_spectrum_are_refused(f_min, f_max):
    with pytest.raises(ValueError, match="within 0 and 8000 Hz"):
        mel_filterbank(16_000, 400, 40, f_min=f_min, f_max=f_max)
