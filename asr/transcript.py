"""What a transcription returns: words, segments and the whole, with openai-whisper's fields."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Token:
    """A text token: its id, its bytes, and the natural logarithm of its probability among all text tokens."""

    id: int
    text: bytes
    logprob: float


@dataclass(frozen=True)
class Word:
    """A word with the space or punctuation that belongs to it. start, end: seconds; probability: 0 to 1.   tokens: it
    was written with; none where a recording is followed while it lasts.   speaker: who says it, where that was asked
    for."""

    word: str
    start: float
    end: float
    probability: float
    tokens: tuple[Token, ...] = ()
    speaker: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """openai-whisper's fields, and the speaker where there is one."""
        fields = {
            "word": self.word,
            "start": self.start,
            "end": self.end,
            "probability": self.probability,
        }
        return fields if self.speaker is None else {**fields, "speaker": self.speaker}


@dataclass(frozen=True)
class Segment:
    """What was said between two timestamps.

    id: from 0.   seek: mel frame (10 ms) at which the window of it began.   start, end: seconds.   text: begins with
    its space.   tokens: with the timestamps.   temperature, avg_logprob, compression_ratio, no_speech_prob: of the
    window.   words: None unless word times were asked for.   speaker: who says it, where that was asked for.
    """

    id: int
    seek: int
    start: float
    end: float
    text: str
    tokens: tuple[int, ...]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float
    words: tuple[Word, ...] | None = None
    speaker: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """openai-whisper's fields: words only where there are any, and so the speaker."""
        fields = {name: getattr(self, name) for name in _FIELDS}
        fields["tokens"] = list(self.tokens)
        if self.words is not None:
            fields["words"] = [word.to_dict() for word in self.words]
        if self.speaker is not None:
            fields["speaker"] = self.speaker
        return fields


_FIELDS = (
    "id",
    "seek",
    "start",
    "end",
    "text",
    "tokens",
    "temperature",
    "avg_logprob",
    "compression_ratio",
    "no_speech_prob",
)


@dataclass(frozen=True)
class Transcript:
    """A transcribed recording. language: its code ("en"); duration: seconds."""

    text: str
    segments: tuple[Segment, ...]
    language: str
    duration: float

    def to_dict(self) -> dict[str, Any]:
        """openai-whisper's result: text, segments and language."""
        return {
            "text": self.text,
            "segments": [segment.to_dict() for segment in self.segments],
            "language": self.language,
        }


OnSegment = Callable[[Segment], None]
OnProgress = Callable[[float, float], None]  # seconds done, seconds in all


def last_word_end(segments: Sequence[Segment]) -> float | None:
    """Where the last word of all ends; of the last segment where none has words; None of no segments. Seconds."""
    for segment in reversed(segments):
        if segment.words:
            return segment.words[-1].end
    return segments[-1].end if segments else None
