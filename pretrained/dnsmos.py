"""Speech quality: DNSMOS P.835, overall quality from 1 to 5 (Reddy et al. 2022; the model of speechmos).

The model is run here rather than by speechmos, which takes every core and computes three scores more: workers share
the cores, and one thread gives the same bits everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import MissingModelError

RATE = 16_000  # Hz
_SECONDS = 9.01
WINDOW = int(_SECONDS * RATE)  # samples the model is given; a shorter recording is repeated
_OVERALL = np.poly1d([-0.06766283, 1.11546468, 0.04602535])  # from the model's scale to that of listeners


def dnsmos(wav16: np.ndarray, every_second: bool = False) -> float | None:
    """wav16 (N,) at 16 kHz to its score, the mean over windows of 9 s; None for silence.

    every_second: windows as the authors' script takes them, one a second; otherwise as few as cover the recording,
    which costs a ninth and gives nearly the same mean.
    Raises MissingModelError without the packages speechmos and onnxruntime.
    """
    if not wav16.any():
        return None
    wav = np.clip(wav16, -1, 1).astype(np.float32)
    windows = _hops(wav) if every_second else _cover(wav)
    scores = [float(_session().run(None, {"input_1": window[None]})[0][0][2]) for window in windows]
    return float(np.mean([_OVERALL(score) for score in scores]))


def _cover(wav: np.ndarray) -> Iterator[np.ndarray]:
    """As few windows (WINDOW,) as cover wav (N,)."""
    if len(wav) < WINDOW:
        wav = np.resize(wav, WINDOW)
    for first in np.linspace(0, len(wav) - WINDOW, -(-len(wav) // WINDOW)).astype(int):
        yield wav[first : first + WINDOW]


def _hops(wav: np.ndarray) -> Iterator[np.ndarray]:
    """The windows (WINDOW,) of the authors' script, its rounding included; a short recording is doubled until it is
    long enough."""
    while len(wav) < WINDOW:
        wav = np.append(wav, wav)
    for second in range(int(len(wav) // RATE - _SECONDS) + 1):
        window = wav[second * RATE : int((second + _SECONDS) * RATE)]
        if len(window) >= WINDOW:
            yield window


def missing() -> str | None:
    """The first package that is not installed."""
    return next((name for name in ("speechmos", "onnxruntime") if find_spec(name) is None), None)


@lru_cache(maxsize=1)
def _session() -> Any:
    if name := missing():
        raise MissingModelError(
            f"the quality score needs {name}; pip install 'myna[prepare]', or give --no-quality"
        )
    import onnxruntime

    spec = find_spec("speechmos")
    assert spec is not None
    assert spec.submodule_search_locations
    path = Path(spec.submodule_search_locations[0]) / "dnsmos_models" / "sig_bak_ovr.onnx"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
