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
from ....tts.text.long_text import Sentence
from ..audio.encoders import find_format
from ..engines.model import SpeechModel
from ..engines.speech import Ticket
from ..house import House
from ..live import STREAM_HEADERS, Answer, Head, Live
from ..problems import InvalidError, TooLargeError, envelope, problem_of
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
    model = utterance.model
    async with house.admitted(model.queue, client):
        encoder = form.encoder(model.sample_rate, synthetic_tags(utterance.voice.name))
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
                    house.metrics.speech.inc(len(chunk.samples) / model.sample_rate)
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

    def __init__(self, model: SpeechModel, sentences: list[Sentence], voice: Any, options: Any):
        self.model, self.sentences, self.voice, self.options = model, sentences, voice, options
        self.ticket = Ticket(model.sample_rate)

    @classmethod
    async def of(cls, house: House, body: SpeechRequest) -> Utterance:
        """Raises NotFoundError for a model or a voice that there is not, TooLargeError, UsageError."""
        model = await house.speech_model(body.model)
        most = house.options.limits.characters
        if len(body.input) > most:
            raise TooLargeError(
                f"the text has {len(body.input)} characters; send at most {most} at a time", param="input"
            )
        if not body.input.strip():
            raise InvalidError("there is no text to be said; give at least one word", param="input")
        options = model.options(body)
        sentences = await asyncio.to_thread(model.split, body.input, options)
        voice = await asyncio.to_thread(model.voice, body.voice)
        return cls(model, sentences, voice, options)

    def chunks(self) -> AsyncGenerator[SpokenChunk, None]:
        """Chunks with samples, or with words. Closing it ends the work within a step."""
        return self.model.chunks(self.sentences, self.voice, self.options, self.ticket)

    def usage(self) -> dict[str, int]:
        """Tokens are characters of the text as it is said that go in, and frames of the AR that come out."""
        characters, frames = sum(len(one.text) for one in self.sentences), self.ticket.n_frames
        return {
            "input_tokens": characters,
            "output_tokens": frames,
            "total_tokens": characters + frames,
        }


def event(content: dict[str, Any]) -> bytes:
    """A server-sent event."""
    return b"data: " + json.dumps(content).encode() + b"\n\n"


def _delta(data: bytes) -> bytes:
    return event({"type": "speech.audio.delta", "audio": base64.b64encode(data).decode()})
