"""How strongly a decoder is adapted at last: as much as the words bear.

A step of learning is judged by likeness first, and what makes a voice like the recordings may make it mumble. Between
the weights as they were and as they were adapted lies a line along which likeness grows and words fade (Wortsman et al.
2022, "Robust fine-tuning of zero-shot models"): an adapter's product at a share of its scale is a point on it.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

from ...tts.lm.adapter import Adapter
from .judge import Measured

# The weakest is the mean speaker vector alone, which lies in the adapter (training/adapt/flow_part.py).
STRENGTHS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def scaled(adapter: Adapter, strength: float) -> Adapter:
    """The adapter at a share of what it learned."""
    weights = dataclasses.replace(adapter.weights, scale=adapter.weights.scale * strength)
    return dataclasses.replace(adapter, weights=weights, facts={**adapter.facts, "strength": strength})


def as_strong_as_words_bear(
    adapter: Adapter,
    least_words: float,
    measure: Callable[[Adapter], Measured],
    enough: float = math.inf,
    strengths: Sequence[float] = STRENGTHS,
) -> tuple[Adapter, Measured] | None:
    """The adapter at the strongest of the `strengths` (rising) with which the words are `least_words` (nats a phone) or
    clearer, and how it is judged; None where they are not with any. Where that is more like the recordings than these
    are like each other (`enough`), the weakest that still is: what is more only costs words.

    Found by halving, four measurements of eleven strengths: words fade and likeness grows along the line."""

    @functools.cache
    def judged(at: int) -> tuple[Adapter, Measured]:
        weaker = scaled(adapter, strengths[at])
        return weaker, measure(weaker)

    # The first of all strengths that are too much for the words.
    bears = range(len(strengths))
    n = bisect.bisect_left(bears, True, key=lambda at: judged(at)[1].words < least_words)
    if not n:
        return None
    if judged(n - 1)[1].likeness < enough:
        return judged(n - 1)
    return judged(bisect.bisect_left(bears[:n], True, key=lambda at: judged(at)[1].likeness >= enough))
