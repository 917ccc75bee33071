"""Biquads as products of spectra, beside scipy's recursion; K-weighting beside the standard's coefficients."""

from __future__ import annotations

import numpy as np
import pytest
from myna.data.filters import Biquad, butterworth_high_pass, filtered
from myna.data.loudness import k_weighting
from scipy import signal


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape)


@pytest.mark.parametrize("n", [1, 2, 999, 30_011])
@pytest.mark.parametrize(("frequency", "rate"), [(60.0, 24_000), (60.0, 4000), (38.0, 192_000)])
def test_high_pass_is_scipys_butterworth(n, frequency, rate):
    x = noise(2, n)
    expected = signal.sosfilt(signal.butter(4, frequency, "highpass", fs=rate, output="sos"), x)
    np.testing.assert_allclose(filtered(x, butterworth_high_pass(frequency, rate)), expected, atol=1e-9)


def test_sections_follow_each_other():
    sections = [Biquad((0.2, 0.1, 0.3), (1.0, -1.2, 0.5)), Biquad((1.0, 0.0, 0.0), (2.0, 0.5, -0.7))]
    x = noise(500)
    expected = x
    for section in sections:
        expected = signal.lfilter(section.b, section.a, expected)
    np.testing.assert_allclose(filtered(x, sections), expected, atol=1e-11)


def test_without_poles_there_is_no_tail_to_wait_for():
    x = noise(100)
    delayed = filtered(x, [Biquad((0.0, 0.0, 1.0), (1.0, 0.0, 0.0))])
    np.testing.assert_allclose(delayed, np.concatenate([[0, 0], x[:-2]]), atol=1e-12)


def test_k_weighting_is_the_standards_at_48_khz():
    """ITU-R BS.1770-4, tables 1 and 2."""
    x = noise(2, 4800).astype(np.float32)
    shelf = signal.lfilter(
        [1.53512485958697, -2.69169618940638, 1.19839281085285], [1, -1.69065929318241, 0.73248077421585], x
    )
    expected = signal.lfilter([1, -2, 1], [1, -1.99004745483398, 0.99007225036621], shelf)
    np.testing.assert_allclose(k_weighting(x, 48_000), expected, atol=1e-5)
