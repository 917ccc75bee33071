"""What is said in [brackets], cut out of the sound again, by the times of its sounds.

TorToise looks for them with wav2vec2 and a letter at a time; here the house's aligner finds phones.
"""

from __future__ import annotations

import numpy as np
import torch

from ....errors import InputError, MynaError
from ...aligner import Aligner, align, load_aligner
from ...text.phonemes import phonemize
from ...text.phones import Phones
from .passages import Passage
from .spelling import spell

_FADE = 0.005  # seconds at every cut
_FRAMES_A_SECOND = 50  # of the aligner


def redact(
    samples: np.ndarray, sample_rate: int, passages: list[Passage], aligner: Aligner | None = None
) -> np.ndarray:
    """(N,) without the passages that are not to be heard. Raises InputError where the words cannot be found."""
    if all(passage.heard for passage in passages):
        return samples
    aligner = load_aligner() if aligner is None else aligner
    parts = [(passage, phonemize(spell(passage.text), "en-us")) for passage in passages]
    phones = Phones(torch.cat([found.tokens for _, found in parts], dim=1))
    heard = torch.cat([torch.full((len(found),), passage.heard) for passage, found in parts])
    try:
        pointer = align(aligner, torch.from_numpy(samples), phones).pointer
    except (MynaError, RuntimeError, ValueError):
        raise InputError(
            "the words in [brackets] cannot be found in what was said; try another seed, or leave them out"
        ) from None
    kept = np.repeat(heard[pointer.long()].numpy(), sample_rate // _FRAMES_A_SECOND)[: len(samples)]
    kept = np.pad(kept, (0, len(samples) - len(kept)), mode="edge")
    edges = np.flatnonzero(np.diff(kept.astype(np.int8), prepend=0, append=0))
    if not len(edges):
        raise InputError(
            "nothing is left without the words in [brackets]; try another seed, or leave them out"
        )
    stretches = []
    for first, last in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        stretch = samples[first:last].copy()
        fade = np.linspace(0, 1, min(round(_FADE * sample_rate), len(stretch) // 2), dtype=np.float32)
        if first > 0:
            stretch[: len(fade)] *= fade
        if last < len(samples):
            stretch[len(stretch) - len(fade) :] *= fade[::-1]
        stretches.append(stretch)
    return np.concatenate(stretches)
