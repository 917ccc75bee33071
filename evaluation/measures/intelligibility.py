"""Intelligibility: the word error rate of Whisper tiny.en."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from .normalizer import EnglishNormalizer
from .perceptual import WIDEBAND, at_rate

if TYPE_CHECKING:
    from ...asr.transcriber import Transcriber

LISTENER = "tiny.en"


def word_error_rate(text: str, wav: np.ndarray, sample_rate: int) -> float:
    """Errors by word of `text` in the transcript of wav (N,); 0 is perfect, above 1 is possible."""
    return word_errors(text, transcribe(wav, sample_rate)) / max(1, len(words(text)))


def word_errors(reference: str, hypothesis: str) -> int:
    """Insertions, deletions and substitutions of words."""
    return edit_distance(words(reference), words(hypothesis))


def edit_distance(said: Sequence[str], heard: Sequence[str]) -> int:
    """Insertions, deletions and substitutions that turn one into the other (Levenshtein 1966); of words, or of the
    characters of two strings."""
    from rapidfuzz.distance import Levenshtein

    return Levenshtein.distance(said, heard)


def words(text: str) -> list[str]:
    """Lower-case words without punctuation; apostrophes inside words stay."""
    return re.findall(r"[^\W_]+(?:'[^\W_]+)*", text.lower().replace("’", "'"))


@dataclass(frozen=True)
class Normalizer:
    """What two texts are brought to before they are compared.   name: for the report."""

    name: str
    apply: Callable[[str], str]


@lru_cache(maxsize=1)
def normalizer() -> Normalizer:
    """Whisper's for English (Radford et al. 2022, appendix C: digits for numbers, contractions and abbreviations
    written out); British and American spellings stay apart."""
    whole = EnglishNormalizer(spellings=False)
    # What is left of a row of dots or a lone apostrophe is no word.
    return Normalizer("Whisper's normaliser", lambda text: " ".join(words(whole(text))))


def transcribe(wav: np.ndarray, sample_rate: int) -> str:
    """English speech (N,) to text, greedily. Raises MissingModelError without the recogniser's weights."""
    if not len(wav):
        return ""
    transcript = _listener().transcribe(
        at_rate(wav, sample_rate, WIDEBAND),
        language="en",
        beam_size=None,
        best_of=None,
        temperature=0.0,
        condition_on_previous_text=False,
    )
    return " ".join(segment.text.strip() for segment in transcript.segments)


def can_listen() -> bool:
    """Whether the recogniser's weights are on this machine."""
    from ...asr.model.registry import find_weights

    return find_weights(LISTENER) is not None


@lru_cache(maxsize=1)
def _listener() -> Transcriber:
    from ...asr.transcriber import Transcriber

    return Transcriber(LISTENER, precision="float32")
