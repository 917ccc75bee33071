"""Whose voice it is: the cosine between the speaker vectors of a try and of the prompt (Wan et al. 2018).

Shapes: n samples, E speaker vector.
"""

from __future__ import annotations

import torch

from ...data.resample import resample
from ...pretrained.ge2e import RATE, load_ge2e
from .base import Attempt


class Likeness:
    """-1 to 1. Nothing for a voice of an earlier version, which has no speaker vector."""

    name = "likeness"

    def score(self, attempt: Attempt) -> float | None:
        if attempt.prompt is None or attempt.prompt.speaker is None or not len(attempt.samples):
            return None
        at_16k = resample(attempt.samples[None], attempt.sample_rate, RATE)[0]
        vector = load_ge2e().vector(torch.from_numpy(at_16k))
        return float(vector @ attempt.prompt.speaker.to(vector))
