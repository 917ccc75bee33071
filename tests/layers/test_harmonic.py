"""Speech as a pitch and two envelopes: a pitch is read between its classes, and peaks are raised when asked for."""

from __future__ import annotations

import pytest
import torch
from myna.layers.harmonic import HIGHEST, LOWEST, PITCHES, Sound, pitch_place


def test_sharpening_keeps_the_slope_and_raises_the_peaks():
    bands = torch.arange(96) / 96
    slope, peaks = -3 * bands, torch.sin(2 * torch.pi * 6 * bands)
    envelope = (slope + peaks)[None, :, None]
    sound = Sound(torch.zeros(1, PITCHES, 1), torch.zeros(1, 1), envelope, envelope + 1)
    sharp = sound.sharpened(1.5)
    inner = slice(25, 70)  # where the means have all their bands
    expected = (slope + 1.5 * peaks)[inner]
    torch.testing.assert_close(sharp.harmonic[0, inner, 0], expected, atol=0.15, rtol=0)
    torch.testing.assert_close(sharp.noise, sharp.harmonic + 1)
    assert sharp.pitch_logits is sound.pitch_logits
    torch.testing.assert_close(sound.sharpened(1.0).harmonic, envelope)


@pytest.mark.parametrize("hz", [61.0, 110.0, 243.0, 540.0])
def test_a_pitch_is_read_between_its_classes(hz):
    places = torch.arange(PITCHES, dtype=torch.float32)
    logits = -0.5 * (places - pitch_place(torch.tensor(hz))).square()
    found = Sound(
        logits[None, :, None], torch.zeros(1, 1), torch.zeros(1, 1, 1), torch.zeros(1, 1, 1)
    ).pitch()
    assert float(found) == pytest.approx(hz, rel=0.004)
    assert float(pitch_place(torch.tensor(LOWEST))) == pytest.approx(0, abs=1e-3)
    assert float(pitch_place(torch.tensor(HIGHEST))) == pytest.approx(PITCHES - 1, abs=1e-2)
