"""Whose voice is in the recordings: one person's, and what is somebody else's is left out.

Shapes: E speaker vector.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor

from ...data.checkpoint import read_safetensors
from ...data.corpus import Corpus, Item
from ...data.files import atomic_output
from ...data.resample import resample
from ...errors import InputError
from ...pretrained.ge2e import GE2E, LEVEL, RATE, load_ge2e

# A clip of the same person has a cosine of .7 or more with the mean of the others, of another person .6 or less; clips
# of a second are told less surely.
SAME = 0.65
_EQUAL = 0.5  # of the first person's seconds, from which a second one is as much meant as the first
_SHORTEST = 2 * RATE  # samples that the network is given, at least


@dataclass(frozen=True)
class Person:
    """items: of the person who speaks most.   others: what somebody else says.   vectors: (E,) of every item, by
    key."""

    items: tuple[Item, ...]
    others: tuple[Item, ...]
    vectors: Mapping[str, Tensor]


def one_person(corpus: Corpus, items: Sequence[Item], kept: Path | None = None) -> Person:
    """kept: file of the vectors, which are made once. Raises InputError where two people speak about as much."""
    rate = corpus.sample_rate
    vectors = _vectors(corpus, items, kept)
    seconds: dict[str, float] = defaultdict(float)
    for item in items:
        seconds[item.speaker or ""] += item.length / rate
    first = max(seconds, key=lambda name: (seconds[name], name))
    theirs = [vectors[item.key] for item in items if (item.speaker or "") == first]
    centre = F.normalize(torch.stack(theirs).mean(0), dim=0)
    # What was grouped apart may be the same voice in another mood.
    same = [item for item in items if float(vectors[item.key] @ centre) >= SAME]
    others = [item for item in items if float(vectors[item.key] @ centre) < SAME]
    mine, rest = (sum(item.length for item in part) / rate for part in (same, others))
    if rest > _EQUAL * mine:
        raise InputError(
            f"more than one person speaks: {mine:.0f} s are of one voice, {rest:.0f} s of others; give recordings of "
            "one person"
        )
    return Person(tuple(same), tuple(others), vectors)


def _vectors(corpus: Corpus, items: Sequence[Item], kept: Path | None) -> dict[str, Tensor]:
    if kept is not None and kept.is_file():
        found = read_safetensors(kept).weights
        if set(found) == {item.key for item in items}:
            return {key: vector.float() for key, vector in found.items()}
    network, rate = load_ge2e(), corpus.sample_rate
    vectors = {i.key: speaker_vector(network, corpus.read(i, 0, i.length), rate) for i in items}
    if kept is not None:
        with atomic_output(kept, force=True) as file:
            file.write(save(vectors))
    return vectors


@torch.inference_mode()
def speaker_vector(network: GE2E, wav: np.ndarray, sample_rate: int) -> Tensor:
    """The speaker vector (E,) of speech (N,)."""
    at_16k = resample(wav[None], sample_rate, RATE)[0]
    level = float(np.sqrt(np.mean(np.square(at_16k, dtype=np.float64)))) if len(at_16k) else 0.0
    if level < 1e-6:
        return torch.zeros(256)
    speech = torch.from_numpy((at_16k * (LEVEL / level)).astype(np.float32))
    if len(speech) < _SHORTEST:
        speech = speech.repeat(-(-_SHORTEST // len(speech)))[
            :_SHORTEST
        ]  # said again, until it fills a window
    return F.normalize(network.windows(speech, hop=80).mean(0), dim=0).clone()
