"""`POST /v1/audio/speech`: a text to sound, sent while it is made."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request

from ....marks.tags import SYNTHETIC, synthetic_tags
from ....tts.synthesis import SpokenChunk
from ....tts.text.long_text import Sentence, split_text
from ....tts.voices.voice import Voice
from ..audio.encoders import find_format
from ..engines.pump import pumped
from ..engines.speech import SpeechEngine, Ticket
from ..house import SPEECH_MODELS, House
from ..live import STREAM_HEADERS, Answer, Head, Live
from ..problems import InvalidError, NotFoundError, TooLargeError, envelope, problem_of
from ..schemas import SpeechRequest

router = APIRouter()


@router.post("/v1/audio/speech", response_class=Live)
async def speech(request: Request, body: SpeechRequest) -> Any:
    """Say a text in a voice. The bytes come while it is said: of a file, or as server-sent events."""
    house: House = request.app.state.house
    return Live(house, "speech", _answer(house, body, request.scope["client_name"]))


async def _answer(house: House, body: SpeechRequest, client: str) -> Answer:
    began = time.monotonic()
    form = find_format(body.response_format)
    utterance = await Utterance.of(house, body)
    async with house.admitted("speech", client):
        encoder = form.encoder(utterance.engine.sample_rate, synthetic_tags(utterance.voice.name))
        headers = {
            **STREAM_HEADERS,
            "Content-Disposition": f'attachment; filename="speech.{body.response_format}"',
            "X-Synthetic-Speech": SYNTHETIC.replace("; ", ", "),
        }
        events = body.stream_format == "sse"
        head = Head("text/event-stream" if events else form.media_type, headers)
        waiting = True
        async with aclosing(utterance.chunks()) as chunks:
            try:
                async for chunk in chunks:
                    if (
                        waiting
                    ):  # not before there is sound: until then, what goes wrong has a status of its own
                        house.metrics.first_audio.observe(time.monotonic() - began)
                        waiting = False
                        yield head
                    house.metrics.speech.inc(len(chunk.samples) / utterance.engine.sample_rate)
                    data = encoder.push(chunk.samples)
                    if not events:
                        yield data
                        continue
                    if data:
                        yield _delta(data)
                    if chunk.words and "word" in body.timestamp_granularities:
                        yield event(
                            {"type": "speech.audio.words", "words": [w.to_dict() for w in chunk.words]}
                        )
            except Exception as error:
                if not events or waiting:
                    raise
                yield event(envelope(problem_of(error)))
                return
        last = encoder.flush()
        if not events:
            yield last
            return
        if last:
            yield _delta(last)
        yield event({"type": "speech.audio.done", "usage": utterance.usage()})


class Utterance:
    """A text that is going to be said: checked before it waits for its turn.

    >>> async for chunk in utterance.chunks(): ...
    """

    def __init__(self, engine: SpeechEngine, sentences: list[Sentence], voice: Voice, body: SpeechRequest):
        self.engine, self.sentences, self.voice = engine, sentences, voice
        self.options = body.options()
        self.ticket: Ticket = engine.ticket()

    @classmethod
    async def of(cls, house: House, body: SpeechRequest) -> Utterance:
        """Raises NotFoundError for a model or a voice that there is not, TooLargeError, UsageError."""
        if body.model not in SPEECH_MODELS:
            raise NotFoundError(
                f"no model named {body.model[:64]!r} speaks here; there is {', '.join(SPEECH_MODELS)}",
                param="model",
                code="model_not_found",
            )
        most = house.options.limits.characters
        if len(body.input) > most:
            raise TooLargeError(
                f"the text has {len(body.input)} characters; send at most {most} at a time", param="input"
            )
        if not body.input.strip():
            raise InvalidError("there is no text to be said; give at least one word", param="input")
        options = body.options()
        engine, voices = await house.speech(), await house.voices()
        sentences = await asyncio.to_thread(split_text, body.input, options.language)
        voice = await asyncio.to_thread(voices.find, body.voice)
        return cls(engine, sentences, voice, body)

    def chunks(self) -> AsyncGenerator[SpokenChunk, None]:
        """Chunks with samples, or with words. Closing it ends the work within a step."""
        ticket = self.ticket
        return pumped(
            lambda: self.engine.say(self.sentences, self.voice, self.options, ticket),
            depth=32,
            on_cancel=ticket.cancel,
            name="say",
        )

    def usage(self) -> dict[str, int]:
        """Tokens are characters that go in, and frames of the speech model that come out."""
        said = self.engine.said(self.sentences, self.ticket)
        return {
            "input_tokens": said.characters,
            "output_tokens": said.frames,
            "total_tokens": said.characters + said.frames,
        }


def event(content: dict[str, Any]) -> bytes:
    """A server-sent event."""
    return b"data: " + json.dumps(content).encode() + b"\n\n"


def _delta(data: bytes) -> bytes:
    return event({"type": "speech.audio.delta", "audio": base64.b64encode(data).decode()})
