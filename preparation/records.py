"""What the stages hand to each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Recording:
    """One file of the folder, and what its layout knows about it.

    path: relative to the folder, with slashes.   key: unique, fit for a tar of WebDataset (no dots, no slashes).
    text, speaker, language, split: None where they are not known.   extra: further fields of the corpus (gender, age).
    """

    path: str
    key: str
    text: str | None = None
    speaker: str | None = None
    language: str | None = None
    split: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Listing:
    """layout: its name.   recordings: in order of their paths.   dropped: what the layout names but is not there."""

    layout: str
    recordings: tuple[Recording, ...]
    dropped: tuple[Dropped, ...] = ()


@dataclass(frozen=True)
class Dropped:
    """Something that is not in the corpus.   reason: a word of the report;  detail: why, one line.

    start, end: seconds in the recording; None: all of it.
    """

    path: str
    reason: str
    detail: str = ""
    start: float | None = None
    end: float | None = None


@dataclass(frozen=True)
class Cut:
    """A stretch of speech of a recording, from `start` to `end` seconds.

    wav: (N,) float32 at the corpus's rate.   wav16: (N',) float32 at 16 kHz, for the models.
    """

    start: float
    end: float
    wav: np.ndarray
    wav16: np.ndarray


@dataclass(frozen=True)
class Transcription:
    """A transcript by a recogniser.   language: as Whisper names it (en).   logprob: mean of its tokens.

    compression: of the text by zlib, high for text that repeats itself.
    """

    text: str
    language: str
    logprob: float = 0.0
    compression: float = 1.0


@dataclass(frozen=True)
class Piece:
    """A cut with all that is known about it but its split and, often, its speaker; its audio lies in the unit's file.

    sample_rate: Hz of the recording;  rate: of the encoded audio.   text_from: given or heard.   logprob: of what was
    heard.   cer: of what was heard against the given text.   loudness: LUFS as recorded.   gain_db: what was applied
    since.   quality: DNSMOS.   audio_hash, fingerprint: to find duplicates.   embedding: of the voice, base64 of (256,)
    float32.   offset, size: bytes in the unit's file.   None: not known.
    """

    key: str
    path: str
    start: float
    end: float
    duration: float
    sample_rate: int
    rate: int
    text: str | None
    text_from: str | None
    language: str | None
    loudness: float
    gain_db: float
    audio_hash: str
    fingerprint: str
    offset: int
    size: int
    logprob: float | None = None
    cer: float | None = None
    quality: float | None = None
    phonemes: str | None = None
    embedding: str | None = None
    speaker: str | None = None
    split: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)
