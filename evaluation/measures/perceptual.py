"""Perceptual measures by their published implementations, each in a package of its own.

Waveforms are (N,) float32 at one sample rate. A clip that cannot be judged (too short, silent) gives nan.
"""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import Any

import numpy as np

from ...data.resample import resample
from ...pretrained.dnsmos import dnsmos as published_dnsmos

WIDEBAND = 16000


def pesq_wb(reference: np.ndarray, estimate: np.ndarray, sample_rate: int) -> float:
    """PESQ wideband, MOS-LQO from 1.04 to 4.64 (ITU-T P.862.2), at 16 kHz; higher is better."""
    from pesq import PesqError, pesq

    x, y = at_rate(reference, sample_rate, WIDEBAND), at_rate(estimate, sample_rate, WIDEBAND)
    n = min(len(x), len(y))
    if n < WIDEBAND // 4 or not x[:n].any() or not y[:n].any():  # P.862 needs a quarter of a second of sound
        return float("nan")
    score = pesq(WIDEBAND, x[:n], y[:n], "wb", on_error=PesqError.RETURN_VALUES)
    return float(score) if score > 0 else float("nan")


def stoi(reference: np.ndarray, estimate: np.ndarray, sample_rate: int) -> float:
    """Short-time objective intelligibility, 0 to 1 (Taal et al. 2011); higher is better."""
    from pystoi import stoi as score

    n = min(len(reference), len(estimate))
    if not reference[:n].any():
        return float("nan")
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # its way of saying that too little speech is left
        try:
            return float(score(reference[:n], estimate[:n], sample_rate))
        except (RuntimeWarning, ValueError):
            return float("nan")


def dnsmos(estimate: np.ndarray, sample_rate: int) -> float:
    """DNSMOS P.835 overall quality, 1 to 5 (Reddy et al. 2022), without a reference; higher is better."""
    score = published_dnsmos(at_rate(estimate, sample_rate, WIDEBAND), every_second=True)
    return float("nan") if score is None else score


def speaker_similarity(reference: np.ndarray, estimate: np.ndarray, sample_rate: int) -> float:
    """Cosine between Resemblyzer's speaker embeddings (Wan et al. 2018, GE2E), -1 to 1; higher is better."""
    one, other = (voice_embedding(wav, sample_rate) for wav in (reference, estimate))
    return float("nan") if one is None or other is None else float(one @ other)


def voice_embedding(wav: np.ndarray, sample_rate: int) -> np.ndarray | None:
    """Resemblyzer's speaker embedding (256,) of length one; None where there is no speech."""
    from resemblyzer import preprocess_wav

    if not wav.any():
        return None
    speech = preprocess_wav(at_rate(wav, sample_rate, WIDEBAND), source_sr=WIDEBAND)
    # It cuts pauses, and perhaps nothing else was there.
    return _voice_encoder().embed_utterance(speech) if len(speech) else None


def at_rate(wav: np.ndarray, rate_in: int, rate_out: int) -> np.ndarray:
    """(N,) at another sample rate."""
    return resample(np.asarray(wav, np.float32)[None], rate_in, rate_out)[0]


@lru_cache(maxsize=1)
def _voice_encoder() -> Any:
    from resemblyzer import VoiceEncoder

    return VoiceEncoder("cpu", verbose=False)
