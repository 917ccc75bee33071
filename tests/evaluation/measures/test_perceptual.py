"""The published measures, run as their authors do."""

from __future__ import annotations

import numpy as np
import pytest
from myna.evaluation.measures import perceptual

speechmos = pytest.importorskip("speechmos")


def test_dnsmos_is_what_speechmos_says():
    from speechmos import dnsmos

    rng = np.random.default_rng(0)
    t = np.arange(3 * 16_000) / 16_000
    tone = 0.2 * np.sin(2 * np.pi * 150 * t) * (1 + np.sin(2 * np.pi * 4 * t)) + 0.01 * rng.standard_normal(
        len(t)
    )
    wav = tone.astype(np.float32)
    expected = dnsmos.run(wav, 16_000)["ovrl_mos"]
    assert perceptual.dnsmos(wav, 16_000) == pytest.approx(float(expected), abs=1e-4)
    assert np.isnan(perceptual.dnsmos(np.zeros(16_000, np.float32), 16_000))
