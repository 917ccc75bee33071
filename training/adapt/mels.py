"""A person's clips as mel spectrograms with timed phones, for what learns from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np

from ...data.files import atomic_output
from ...pretrained.ge2e import load_ge2e
from ..sets import extract_mels
from ..sets.extract_mels import FRAME, Utterance, spoken
from ..sets.extract_pitch import PitchSet
from ..sets.mel_set import MelSet, mel_set_bytes
from .material import Material

_SHORTEST = 50  # frames


def mels(material: Material, path: Path, kept_apart: bool = False) -> MelSet:
    """The clips of a material but those kept apart, or these alone, as the models of the flow path learn from them;
    made once."""
    if path.is_file():
        made_before = MelSet([path])
        if all((item.key in material.held) == kept_apart for item in made_before.items):
            return made_before
    corpus, speech = material.corpus, material.speech
    said = {one.key: i for i, one in enumerate(speech.items)} if speech is not None else {}
    found: list[Utterance] = []
    for item in material.person.items:
        if (item.key in material.held) != kept_apart:
            continue
        if speech is None:
            first, last = spoken(corpus.read(item, 0, item.length))
            found.append(Utterance(item, first, last, None))
        elif item.key in said:
            one = speech[said[item.key]]
            first = round(one.item.start * corpus.sample_rate / FRAME)
            found.append(Utterance(item, first, first + len(one.pointer), one))
    found = [one for one in found if one.last - one.first >= _SHORTEST]
    if material.whose is not None:  # else prompts would come from clips that were grouped together only
        found = [replace(one, item=replace(one.item, speaker=material.whose)) for one in found]
    pitches = _Unvoiced({one.item.key: one.item.length / corpus.sample_rate for one in found})
    made = extract_mels.Extractor(corpus, cast(PitchSet, pitches), load_ge2e()).all(found, 1.0, 1.0)
    with atomic_output(path, force=True) as file:
        file.write(mel_set_bytes(list(made)))
    return MelSet([path])


class _Unvoiced(Mapping[str, np.ndarray]):
    """In the place of a `PitchSet`: only the probe of speech tokens reads pitches, and it does not learn here."""

    def __init__(self, lengths: Mapping[str, float]):
        self._lengths = lengths

    def __getitem__(self, key: str) -> np.ndarray:
        return np.zeros(int(self._lengths[key] * 100) + 1, np.float32)

    def __iter__(self):
        return iter(self._lengths)

    def __len__(self) -> int:
        return len(self._lengths)
