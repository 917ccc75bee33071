"""What every model that speaks here does, so that the routes need not know which of them it is; and Myna's own."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Protocol

from ....tts.presets import SpeechOptions
from ....tts.synthesis import SpokenChunk
from ....tts.text.long_text import Sentence, split_text
from ....tts.voices.voice import Voice
from ..schemas import SpeechRequest
from ..voices import Voices
from .pump import pumped
from .speech import SpeechEngine, Ticket


class SpeechModel(Protocol):
    """Its options and voices go from one of its methods to another, and mean nothing to anybody else.

    sample_rate: in Hz.   queue: the admission that its requests go through, of `House.admissions`.
    """

    @property
    def sample_rate(self) -> int: ...

    @property
    def queue(self) -> str: ...

    def options(self, body: SpeechRequest) -> Any:
        """How a text is to be said. Raises UsageError, and InvalidError for fields that the model does not know."""
        ...

    def split(self, text: str, options: Any) -> list[Sentence]:
        """Raises UsageError where there is nothing to say."""
        ...

    def voice(self, name: str) -> Any:
        """What has a `name`. Raises NotFoundError: of a name that could be a path, too."""
        ...

    def chunks(
        self,
        sentences: list[Sentence],
        voice: Any,
        options: Any,
        ticket: Ticket,
        after: SpokenChunk | None = None,
        position: int = 0,
    ) -> AsyncGenerator[SpokenChunk, None]:
        """As `Speaker.chunks`, watermarked. Closing it ends the work within a step, and waits until it has ended."""
        ...


class MynaModel:
    """The house's own."""

    queue = "speech"

    def __init__(self, engine: SpeechEngine, voices: Voices):
        self.engine, self.voices = engine, voices
        self.sample_rate = engine.sample_rate

    def options(self, body: SpeechRequest) -> SpeechOptions:
        return SpeechOptions(
            preset=body.preset,
            seed=body.seed,
            language=body.language,
            temperature=body.temperature,
            speed=body.speed,
            decoder=body.decoder,
        )

    def split(self, text: str, options: SpeechOptions) -> list[Sentence]:
        return split_text(text, options.language)

    def voice(self, name: str) -> Voice:
        return self.voices.find(name)

    def chunks(
        self,
        sentences: list[Sentence],
        voice: Voice,
        options: SpeechOptions,
        ticket: Ticket,
        after: SpokenChunk | None = None,
        position: int = 0,
    ) -> AsyncGenerator[SpokenChunk, None]:
        return pumped(
            lambda: self.engine.say(sentences, voice, options, ticket, after, position),
            depth=32,
            on_cancel=ticket.cancel,
            name="say",
        )
