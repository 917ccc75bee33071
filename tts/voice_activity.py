"""Where in a recording somebody speaks: Silero's voice activity detector (silero-vad, MIT), a probability every 32 ms.

The model is taken from the installed package without importing it, since `import silero_vad` limits torch to one
thread for the whole process.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import MissingModelError

RATE = 16_000  # Hz
FRAME = 512  # samples a frame, 32 ms


@torch.inference_mode()
def speech_probability(samples: np.ndarray) -> np.ndarray:
    """samples (N,) at 16 kHz -> (F,), the probability of speech in each 32 ms, the last filled up with silence.

    Raises MissingModelError where silero-vad is not installed.
    """
    if len(samples) == 0:
        return np.zeros(0, np.float32)
    wav = torch.from_numpy(np.ascontiguousarray(samples, np.float32))
    return _model().audio_forward(wav[None], RATE)[0].numpy()


@lru_cache(maxsize=1)
def _model() -> Any:
    spec = find_spec("silero_vad")
    if spec is None or not spec.submodule_search_locations:
        raise MissingModelError("finding the speech in a recording needs silero-vad; pip install silero-vad")
    path = Path(spec.submodule_search_locations[0]) / "data" / "silero_vad.jit"
    try:
        return torch.jit.load(str(path), map_location="cpu").eval()
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:80]
        raise MissingModelError(f"{path} cannot be read ({reason}); install silero-vad again") from None
