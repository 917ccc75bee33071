"""TorToise as a model of the server, where its files are installed: loaded by the first who asks for it, let go when it
has been idle for a while.

    request -> its queue, one at a time -> networks loaded -> the voice's latents -> sentence by sentence -> chunks

Nothing of a request is a path: it names the model `tortoise` and a voice, and the files are those of the cache.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from torch import nn

from ....errors import InputError, MissingModelError
from ....tts.synthesis import SpokenChunk
from ....tts.text.long_text import Sentence
from ....tts.tortoise.conditioning import RATE
from ....tts.tortoise.files import FAMILY
from ....tts.tortoise.presets import TortoiseOptions
from ....tts.tortoise.registry import NEEDED, is_installed
from ....tts.tortoise.speaker import TortoiseSpeaker
from ....tts.tortoise.text.passages import split, spoken
from ....tts.tortoise.text.tokenizer import encode
from ....tts.tortoise.voices import RANDOM, TortoiseVoice
from ..problems import InvalidError, NotFoundError, ProblemError, log
from ..schemas import SpeechRequest
from ..voices import resolve, unusable
from .pool import Pool
from .pump import pumped
from .speech import Ticket

# The least work of those that choose among candidates: requests have a deadline, and most of them name no preset.
_PRESET = "ultra_fast"


@dataclass(frozen=True)
class KnownVoice:
    """A voice that there is; its latents are made when it speaks."""

    name: str


class TortoiseModel:
    """idle: seconds after which the networks are let go when nobody speaks with them.

    Meets `model.SpeechModel`; not bound to an event loop before it speaks.
    """

    name = queue = FAMILY
    sample_rate = RATE

    def __init__(self, idle: float):
        self.pool: Pool[TortoiseSpeaker] = Pool(_load, 1, idle)

    @property
    def is_installed(self) -> bool:
        return is_installed(FAMILY)

    def check_installed(self) -> None:
        """Raises NotFoundError."""
        if not self.is_installed:
            raise _missing()

    def options(self, body: SpeechRequest) -> TortoiseOptions:
        _refuse(body.decoder is not None, "decoder", "makes its sound as its preset says; leave decoder out")
        _refuse(body.language != "en-us", "language", "speaks English alone; leave language out")
        _refuse(
            bool(body.timestamp_granularities),
            "timestamp_granularities",
            "does not know when a word is said; leave timestamp_granularities out",
        )
        given: dict[str, Any] = {} if body.temperature is None else {"temperature": body.temperature}
        preset = body.preset if "preset" in body.model_fields_set else _PRESET
        return TortoiseOptions(preset, body.seed, speed=body.speed, **given)

    def split(self, text: str, options: TortoiseOptions) -> list[Sentence]:
        sentences = split(text)
        try:
            for sentence in sentences:
                encode(spoken(sentence.text))
        except InputError as error:
            raise InvalidError(str(error), param="input") from None
        return sentences

    def voice(self, name: str) -> KnownVoice:
        return KnownVoice(RANDOM if name == RANDOM else resolve(name))

    async def chunks(
        self,
        sentences: list[Sentence],
        voice: KnownVoice,
        options: TortoiseOptions,
        ticket: Ticket,
        after: SpokenChunk | None = None,
        position: int = 0,
    ) -> AsyncGenerator[SpokenChunk, None]:
        """Raises NotFoundError where the networks are gone, InvalidError for a voice that they cannot use."""
        async with self.pool.use(self.name) as speaker:

            def say() -> Generator[SpokenChunk, None, None]:
                return _say(speaker, sentences, voice, options, ticket, after, position)

            async with aclosing(pumped(say, depth=32, on_cancel=ticket.cancel, name=self.name)) as chunks:
                async for chunk in chunks:
                    yield chunk


def _say(
    speaker: TortoiseSpeaker,
    sentences: list[Sentence],
    voice: KnownVoice,
    options: TortoiseOptions,
    ticket: Ticket,
    after: SpokenChunk | None,
    position: int,
) -> Generator[SpokenChunk, None, None]:
    """In a thread. Raises CancelledError within a step of the networks after the ticket is."""

    def report(sentence: int, stage: str, done: int, of: int) -> None:
        ticket.check()
        ticket.n_frames += stage == "codes"

    ticket.check()
    known = _latents(speaker, voice.name, options.seed)
    for chunk in speaker.chunks(sentences, known, options, None, after, position, report=report):
        ticket.check()
        ticket.heard(len(chunk.samples))
        yield chunk


def _latents(speaker: TortoiseSpeaker, name: str, seed: int) -> TortoiseVoice:
    try:
        return speaker.known_voice(name, seed)
    except InputError as error:
        raise unusable(name, error) from None


def _load(name: str) -> TortoiseSpeaker:
    """All that speech takes, so that what is wrong with a file is found before anything is said."""
    speaker = TortoiseSpeaker()
    try:
        for network in NEEDED:
            speaker.networks.get(network, nn.Module)
    except MissingModelError:
        raise _missing() from None
    except InputError as error:
        log.error("%s: %s", name, error)
        raise ProblemError("the server cannot read its files of TorToise; its log says which") from None
    return speaker


def _missing() -> NotFoundError:
    return NotFoundError(
        f"TorToise is not installed on this server; `myna models download {FAMILY}` there installs it",
        param="model",
        code="model_not_found",
    )


def _refuse(given: bool, field: str, why: str) -> None:
    if given:
        raise InvalidError(f"TorToise {why}", param=field)
