"""What is said in pieces that have no text, and what is heard in those that have: Whisper, several pieces at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from ..errors import UsageError
from .options import PrepareOptions
from .records import Transcription


class BatchRecogniser(Protocol):
    """Speech to text."""

    def hear(self, audios: Sequence[np.ndarray], languages: Sequence[str | None]) -> list[Transcription]:
        """Pieces (N,) at 16 kHz, each of at most 30 s, to their transcripts; None: the language is to be found."""
        ...


class BatchedWhisper:
    """Ours. The pieces of one call are decoded side by side; their order and number are part of the result."""

    def __init__(self, model: str, device: str = "cpu", precision: str = "auto"):
        from ..asr.transcriber import Transcriber

        self.transcriber = Transcriber(model, device, precision)

    def hear(self, audios: Sequence[np.ndarray], languages: Sequence[str | None]) -> list[Transcription]:
        heard: dict[int, Transcription] = {}
        multilingual = self.transcriber.model.dims.is_multilingual
        for language in dict.fromkeys(languages):
            if language not in (None, "en") and not multilingual:
                name = self.transcriber.name
                raise UsageError(
                    f"{name} knows English only, not {language}; give a multilingual --model, such as small"
                )
            places = [i for i, one in enumerate(languages) if one == language]
            changes = {"language": language if multilingual else "en", "condition_on_previous_text": False}
            made = self.transcriber.transcribe_many(
                [np.asarray(audios[i], np.float32) for i in places], batch_size=len(places), **changes
            )
            for i, transcript in zip(places, made, strict=True):
                segments = transcript.segments
                n_tokens = sum(len(segment.tokens) for segment in segments)
                logprob = sum(len(segment.tokens) * segment.avg_logprob for segment in segments) / max(
                    1, n_tokens
                )
                compression = max((segment.compression_ratio for segment in segments), default=1.0)
                text = " ".join(transcript.text.split())
                heard[i] = Transcription(text, transcript.language, float(logprob), float(compression))
        return [heard[i] for i in range(len(audios))]


def whisper_recogniser(options: PrepareOptions) -> BatchRecogniser | None:
    """The recogniser the options ask for. Raises MissingModelError."""
    return BatchedWhisper(options.model, options.device, options.precision) if options.model else None
