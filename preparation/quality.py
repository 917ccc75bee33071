"""How good a piece sounds: DNSMOS P.835, overall quality from 1 to 5 (Reddy et al. 2022; model of speechmos).

The model is run here rather than by speechmos, which takes every core and computes three scores more: workers share
the cores, and one thread gives the same bits everywhere.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import MissingModelError

RATE = 16_000  # Hz
WINDOW = int(9.01 * RATE)  # samples the model hears; a shorter piece is repeated
_OVERALL = np.poly1d([-0.06766283, 1.11546468, 0.04602535])  # from the model's scale to that of listeners


def dnsmos(wav16: np.ndarray) -> float | None:
    """wav16 (N,) at 16 kHz to its score, the mean of as few windows as cover it; None for silence.

    The authors' own script moves by one second and costs several times as much for nearly the same mean.
    Raises MissingModelError without the packages speechmos and onnxruntime.
    """
    if not wav16.any():
        return None
    wav = np.clip(wav16, -1, 1).astype(np.float32)
    if len(wav) < WINDOW:
        wav = np.resize(wav, WINDOW)  # said again, until it is long enough
    scores = []
    for first in np.linspace(0, len(wav) - WINDOW, -(-len(wav) // WINDOW)).astype(int):
        overall = _session().run(None, {"input_1": wav[None, first : first + WINDOW]})[0][0][2]
        scores.append(_OVERALL(float(overall)))
    return float(np.mean(scores))


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
