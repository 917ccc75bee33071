"""Scores of a clip of speech: word errors, speaker similarity, DNSMOS."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import MissingModelError, UsageError
from ..clips import Clip
from ..measures.intelligibility import LISTENER, edit_distance, normalizer, transcribe
from ..measures.metrics import METRICS, choose_metrics
from ..measures.perceptual import dnsmos, voice_embedding
from ..measures.speaker_judge import judged_voice

MEASURES = ("wer", "similarity", "judge", "dnsmos")
_SPELLED = 3  # single letters in a row are no words such as "a" and "I"
MOST_REFERENCES = 8  # recordings of a speaker that others are compared with


@dataclass(frozen=True)
class HeardText:
    """text: what the recogniser understood, None without one.   n_words, word_errors, n_characters, character_errors:
    counts, of the normalised texts."""

    text: str | None = None
    n_words: int = 0
    word_errors: int = 0
    n_characters: int = 0
    character_errors: int = 0


@dataclass(frozen=True)
class Likeness:
    """Mean cosine with other recordings of the speaker, and with those of other speakers; nan where there are none.
    judge, judge_different: the same by the second judge."""

    same: float = math.nan
    different: float = math.nan
    judge: float = math.nan
    judge_different: float = math.nan


class Judge:
    """The measures that can be taken here. notes: a line for each that cannot.

    needed: those that must not be left out. Raises UsageError for a name that is none of MEASURES, MissingModelError
    for one that is needed and cannot be taken.
    """

    def __init__(self, measures: Sequence[str] = MEASURES, needed: Sequence[str] = ()):
        for name in (*measures, *needed):
            if name not in MEASURES:
                raise UsageError(f"unknown measure {name!r}; expected {', '.join(MEASURES)}")
        for metric in (METRICS[name] for name in needed):
            if package := metric.missing():
                raise MissingModelError(
                    f"{metric.title} cannot be measured: it needs {package} ({metric.remedy})"
                )
        usable, self.notes = choose_metrics(measures)
        self.measures = tuple(metric.name for metric in usable)
        self._encoders = {
            name: encode
            for name, encode in (("similarity", voice_embedding), ("judge", judged_voice))
            if name in self.measures
        }
        # By encoder and id; the clip keeps it its own.
        self._embeddings: dict[tuple[str, int], tuple[Clip, np.ndarray | None]] = {}

    @property
    def recogniser(self) -> str | None:
        """How words were heard and compared."""
        if "wer" not in self.measures:
            return None
        return f"Whisper {LISTENER} (greedy), compared by {normalizer().name}"

    def hear(self, wav: np.ndarray, sample_rate: int, text: str, also: Sequence[str] = ()) -> HeardText:
        """Speech (N,) against the text it should say, or whichever of several writings of it fits best."""
        if "wer" not in self.measures:
            return HeardText()
        heard = transcribe(wav, sample_rate) if len(wav) else ""
        return min(
            (compare(writing, heard) for writing in (text, *also)),
            key=lambda h: (h.word_errors / max(1, h.n_words), h.character_errors),
        )

    def likeness(
        self, wav: np.ndarray, sample_rate: int, same: Sequence[Clip], different: Sequence[Clip]
    ) -> Likeness:
        """Of a voice (N,) to recordings of the speaker, and to those of others."""
        voices = {name: encode(wav, sample_rate) for name, encode in self._encoders.items()}
        return self._likeness(voices, same, different)

    def likeness_of(self, clip: Clip, same: Sequence[Clip], different: Sequence[Clip]) -> Likeness:
        """The same for a recording itself."""
        voices = {name: self._embedding(name, clip) for name in self._encoders}
        return self._likeness(voices, same, different)

    def quality(self, wav: np.ndarray, sample_rate: int) -> float:
        """DNSMOS P.835, overall, of speech (N,)."""
        return dnsmos(wav, sample_rate) if "dnsmos" in self.measures and len(wav) else math.nan

    def _likeness(
        self, voices: dict[str, np.ndarray | None], same: Sequence[Clip], different: Sequence[Clip]
    ) -> Likeness:
        found = (
            self._mean_cosine(name, voices.get(name), clips)
            for name in ("similarity", "judge")
            for clips in (same, different)
        )
        return Likeness(*found)

    def _mean_cosine(self, name: str, voice: np.ndarray | None, clips: Sequence[Clip]) -> float:
        if voice is None:
            return math.nan
        others = [e for clip in clips if (e := self._embedding(name, clip)) is not None]
        return float(np.mean([voice @ other for other in others])) if others else math.nan

    def _embedding(self, name: str, clip: Clip) -> np.ndarray | None:
        if (name, id(clip)) not in self._embeddings:
            self._embeddings[name, id(clip)] = clip, self._encoders[name](clip.wav, clip.sample_rate)
        return self._embeddings[name, id(clip)][1]


def compare(text: str, heard: str) -> HeardText:
    """Errors of what was heard, both texts normalised; spaces do not count as characters. Letters that are spelled out
    are words of their own however the recogniser joins them."""
    said, got = (normalizer().apply(t).split() for t in (text, heard))
    got = _letters_apart(said, got)
    letters, got_letters = "".join(said), "".join(got)
    return HeardText(
        heard, len(said), edit_distance(said, got), len(letters), edit_distance(letters, got_letters)
    )


def _letters_apart(said: Sequence[str], got: Sequence[str]) -> list[str]:
    """ "abcd efg" to single letters where `said` spells "a b c d e f g": at least three in a row, of which a word that
    was heard must be a part."""
    spelled, run = [], ""
    for word in (*said, ""):
        if len(word) == 1 and word.isalpha():
            run += word
        else:
            spelled += [run] * (len(run) >= _SPELLED)
            run = ""
    return [
        part
        for word in got
        for part in (word if word not in said and any(word in letters for letters in spelled) else [word])
    ]
