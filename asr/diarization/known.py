"""People whose names are given, each with a recording."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import InputError
from ...pretrained.ge2e import RATE
from ..vad import speech_spans
from .options import check_names
from .voices import SPEECH, find_voices, of_length_one

SHORTEST, LONGEST = 2.0, 10.0  # seconds of a reference, as OpenAI has it
ALIKE = 0.5  # cosine from which on somebody is taken for the person of a reference


@dataclass(frozen=True)
class KnownSpeaker:
    """voice (E,): of length one."""

    name: str
    voice: np.ndarray


def know(name: str, samples: np.ndarray) -> KnownSpeaker:
    """samples (N,) at 16 kHz, in which somebody speaks. Raises UsageError for a name that cannot be shown, InputError
    for a recording that is too short or too long, or without speech."""
    check_names([name])
    seconds = len(samples) / RATE
    if not SHORTEST <= round(seconds, 2) <= LONGEST:
        raise InputError(
            f"the reference of {name} lasts {seconds:.1f} s; give {SHORTEST:g} to {LONGEST:g} s of this speaker alone"
        )
    found = find_voices(samples, speech_spans(samples, SPEECH))
    if not len(found.vectors):
        raise InputError(f"nobody speaks in the reference of {name}; give a recording of this speaker alone")
    return KnownSpeaker(name, of_length_one((found.vectors * found.seconds[:, None]).sum(axis=0)))


def name_speakers(voices: np.ndarray, known: Sequence[KnownSpeaker]) -> list[str]:
    """The names of speakers with voices (K, E), in order of appearance: of those that are known, the most alike first
    and each once; A, B, C, ... for the others."""
    names: dict[int, str] = {}
    if known and len(voices):
        alike = voices @ np.stack([speaker.voice for speaker in known]).T
        while alike.max() >= ALIKE:
            i, j = np.unravel_index(int(alike.argmax()), alike.shape)
            names[int(i)] = known[int(j)].name
            alike[i, :] = alike[:, j] = -2
    taken = {speaker.name for speaker in known}
    letters = (letter for letter in map(letters_of, itertools.count()) if letter not in taken)
    return [names[i] if i in names else next(letters) for i in range(len(voices))]


def letters_of(number: int) -> str:
    """0 -> A, 25 -> Z, 26 -> AA."""
    letters = ""
    number += 1
    while number:
        number, letter = divmod(number - 1, 26)
        letters = chr(ord("A") + letter) + letters
    return letters
