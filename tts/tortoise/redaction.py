"""What is said in [brackets], cut out of the sound again, by the times of its sounds.

TorToise looks for them with wav2vec2 and a letter at a time; here the house's aligner finds phones.
"""

from __future__ import annotations

import numpy as np
import torch

from ...errors import InputError, MynaError
from ..aligner import Aligner, align, load_aligner
from ..text.phonemes import phonemize
from ..text.phones import Phones
from .spelling import spell
from .text import Passage

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
    stretches = [samples[a:b].copy() for a, b in zip(edges[::2], edges[1::2], strict=True)]
    if not stretches:
        raise InputError(
            "nothing is left without the words in [brackets]; try another seed, or leave them out"
        )
    fade = np.linspace(0, 1, round(_FADE * sample_rate), dtype=np.float32)
    for stretch in stretches:
        n = min(len(fade), len(stretch) // 2)
        stretch[:n] *= fade[:n]
        stretch[len(stretch) - n :] *= fade[:n][::-1]
    return np.concatenate(stretches)
