"""Praat's pitch, hop by hop."""

from __future__ import annotations

import numpy as np
from myna.training.sets.extract_pitch import track_pitch

RATE = 24_000


def test_the_pitch_is_tracked_where_there_is_one():
    t = np.arange(RATE // 2) / RATE
    vowel = sum(0.2 / h * np.sin(2 * np.pi * 150 * h * t) for h in range(1, 9))
    wav = np.concatenate([np.zeros(RATE // 2), vowel, np.zeros(RATE // 2)]).astype(np.float32)
    pitch = track_pitch(wav, RATE, 150)
    assert pitch.shape == (150,)
    assert not pitch[:40].any()
    assert not pitch[110:].any()
    np.testing.assert_allclose(pitch[60:90], 150, rtol=0.01)
