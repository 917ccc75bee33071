"""Word times of a sentence, from the AR's pointer, which gives the phone of every frame.

Shapes: P phones, T frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from .text.phones import PUNCTUATION, SPACE, SYMBOLS, Phones

_PAUSES = frozenset(SYMBOLS.index(symbol) for symbol in (SPACE, *PUNCTUATION))


@dataclass(frozen=True)
class SpokenWord:
    """A word as it is said (numbers in letters). start, end: seconds of the speech, from its first sample."""

    word: str
    start: float
    end: float

    def to_dict(self) -> dict[str, Any]:
        return {"word": self.word, "start": self.start, "end": self.end}


def spoken_words(
    text: str, phones: Phones, pointer: Tensor, frame_seconds: float, offset: float, speed: float = 1.0
) -> tuple[SpokenWord, ...]:
    """The words of a sentence with their times.

    pointer: (T,), -1 where there is none: then there are no words.   offset: seconds of the speech at which its first
    frame would begin, below 0 where silence was cut.   Where espeak-ng joins or parts words, the times of the sentence
    are shared out by letters.
    """
    words = [word for word in text.split() if any(char.isalnum() for char in word)]
    if not words or not len(pointer) or int(pointer.min()) < 0:
        return ()
    spans = _word_phones(phones)
    if len(spans) != len(words):
        spans = _shared_out(words, spans)
    made, before = [], max(0.0, offset)
    for word, (first, last) in zip(words, spans, strict=True):
        # The frames of a phone are those at which the pointer is on it; one that was passed over has none.
        begin = int(torch.searchsorted(pointer, first))
        end = int(torch.searchsorted(pointer, last, right=True))
        start = max(before, offset + begin * frame_seconds / speed)
        before = max(start, offset + end * frame_seconds / speed)
        made.append(SpokenWord(word, round(start, 3), round(before, 3)))
    return tuple(made)


def _word_phones(phones: Phones) -> list[tuple[int, int]]:
    """First and last phone of every run without a pause."""
    symbols = list(enumerate(phones.tokens[0].tolist()))
    runs = [list(run) for pause, run in groupby(symbols, lambda item: item[1] in _PAUSES) if not pause]
    return [(run[0][0], run[-1][0]) for run in runs]


def _shared_out(words: list[str], spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """As many spans as words, each as long as its share of the letters."""
    sounds = [phone for first, last in spans for phone in range(first, last + 1)]
    if not sounds:
        return [(0, 0)] * len(words)
    total, done, made = sum(map(len, words)), 0, []
    for word in words:
        first = sounds[min(len(sounds) - 1, done * len(sounds) // total)]
        done += len(word)
        made.append((first, max(first, sounds[max(0, done * len(sounds) // total - 1)])))
    return made
