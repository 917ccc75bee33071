"""Whether a recording holds two people, by Resemblyzer's speaker embeddings where that package is installed.

The speech is embedded in windows of 1.6 s (Wan et al. 2018, GE2E); two people are two groups of windows, one before
and one after some moment, whose mean embeddings differ more than one person's ever do.
"""

from __future__ import annotations

import contextlib
import io
from functools import lru_cache
from typing import Any

import numpy as np

from .voice_activity import RATE

_WINDOW, _HOP = int(1.6 * RATE), RATE // 2
_SHORTEST = 2 * RATE  # of speech: two windows that do not see nearly the same
# Of 51 recordings and rows of recordings of one person the least alike gave 0.72; of 30 of two people, 22 gave less than 0.70.
_SAME = 0.70


def holds_two_voices(speech: np.ndarray) -> bool:
    """speech (N,) at 16 kHz without its pauses. False as well where it cannot be told: without Resemblyzer, or with
    less than two seconds."""
    encoder = _encoder()
    if encoder is None or len(speech) < _SHORTEST:
        return False
    level = np.sqrt(np.mean(np.square(speech, dtype=np.float64)))
    speech = (speech * (0.07 / max(level, 1e-6))).astype(np.float32)  # what the embeddings were trained at
    starts = [*range(0, len(speech) - _WINDOW, _HOP), len(speech) - _WINDOW]
    voices = np.stack([encoder.embed_utterance(speech[start : start + _WINDOW]) for start in starts])
    return likeness(voices) < _SAME


def likeness(voices: np.ndarray) -> float:
    """Cosine between the mean embeddings before and after the moment that divides them (W, D) best; 1 for one."""
    pairs = ((voices[:i].mean(0), voices[i:].mean(0)) for i in range(1, len(voices)))
    return min((float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b))) for a, b in pairs), default=1.0)


@lru_cache(maxsize=1)
def _encoder() -> Any:
    """The encoder, None where it is not installed or does not run (it needs pkg_resources)."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            from resemblyzer import VoiceEncoder

            return VoiceEncoder("cpu", verbose=False)
    except ImportError:
        return None
