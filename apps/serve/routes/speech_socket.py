"""`WebSocket /v1/audio/speech/stream`: text in pieces, as a language model writes it, and speech as it comes.

    client                                        server
    {"type": "session.config", "voice": ...}      {"type": "session.created", ...}
    {"type": "input.text", "text": "Hello. I"}    {"type": "audio.start", "sentence_index": 0, ...}, bytes, bytes, ...
    {"type": "input.text", "text": " am here."}   {"type": "audio.done", "sentence_index": 0}
    {"type": "input.done"}                        ... {"type": "session.done", "total_sentences": 2}

A sentence is said as soon as it is complete; `input.done` says what is left, and the connection stays for more.
`input.cancel` drops what has not been said. The config takes the fields of `/v1/audio/speech`; the audio is PCM (the
default), WAV or another of its formats, one file a connection for each `input.done`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from contextlib import aclosing
from typing import Any

import numpy as np
from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from pydantic import ValidationError

from ....errors import MynaError
from ....marks.tags import SYNTHETIC, synthetic_tags
from ....tts.synthesis import PAUSE, SpokenChunk
from ....tts.text.long_text import Sentence
from ..audio.encoders import Encoder, find_format
from ..deadlines import within
from ..engines.speech import Ticket
from ..house import House
from ..problems import (
    BusyError,
    InvalidError,
    ProblemError,
    TooLargeError,
    TooLateError,
    envelope,
    problem_of,
)
from ..schemas import SpeechRequest
from .speech import Utterance
from .transcriptions import invalid

router = APIRouter()
TRY_AGAIN, _INTERNAL_ERROR, _POLICY_VIOLATION = 1013, 1011, 1008
MOST_WAITING = 10_000  # events
# A sentence ends with its mark and the space behind it; "3.5" and "e.g." in the middle of a piece are not cut.
_END = re.compile(r"(?<=[.!?…。！？])[\"')\]]*\s+(?=[A-Z0-9\"'(\[¿¡]|$)|\n\s*\n")


@router.websocket("/v1/audio/speech/stream")
async def stream(socket: WebSocket) -> None:
    """One connection."""
    house: House = socket.app.state.house
    await socket.accept(subprotocol=accepted_protocol(socket))
    bound(socket, house.options.limits.stall)
    try:
        async with house.admissions["session"].slot(socket.scope["client_name"]):
            await _Session(socket, house).run()
    except WebSocketDisconnect:
        pass
    except Exception as error:
        problem = problem_of(error)
        await part(socket, {"type": "error", **envelope(problem)}, problem)


def bound(socket: WebSocket, seconds: float) -> None:
    """From now on its methods that send raise TooLateError where the client takes nothing for so long."""
    send = socket.send

    async def bounded(message: Any) -> None:
        try:
            async with within(seconds):
                await send(message)
        except TimeoutError:
            raise TooLateError("the client does not read what it has asked for") from None

    socket.send = bounded


async def part(socket: WebSocket, event: dict[str, Any], problem: ProblemError) -> None:
    """Say what is wrong, and close: in a second, since it may be that the client does not read."""
    if isinstance(problem, BusyError):
        code = TRY_AGAIN
    else:
        code = _INTERNAL_ERROR if problem.status >= 500 else _POLICY_VIOLATION
    with contextlib.suppress(Exception):  # it may have gone, too
        async with within(1.0):
            await socket.send_json(event)
            await socket.close(code, str(problem)[:120])


def accepted_protocol(socket: WebSocket) -> str | None:
    """OpenAI's browser clients offer "realtime" beside their key, and expect it back."""
    offered = [name.strip() for name in socket.headers.get("sec-websocket-protocol", "").split(",")]
    return "realtime" if "realtime" in offered else None


async def next_event(socket: WebSocket, most: int) -> dict[str, Any]:
    """The next message. Raises InvalidError for what is no event, TooLargeError."""
    message = await socket.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1000))
    text = message.get("text")
    if text is None:
        raise InvalidError("expected an event in JSON, not bytes")
    if len(text) > most:
        raise TooLargeError(f"the event has {len(text)} characters; send at most {most} at a time")
    try:
        event = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        event = None
    if not isinstance(event, dict) or not isinstance(event.get("type"), str):
        raise InvalidError('expected an event: a JSON object with a "type"')
    return event


def complete(text: str) -> tuple[str, str]:
    """The sentences that are complete, and what is not yet."""
    ends = [end.end() for end in _END.finditer(text)]
    return (text[: ends[-1]], text[ends[-1] :]) if ends else ("", text)


class _Session:
    def __init__(self, socket: WebSocket, house: House):
        self.socket, self.house = socket, house
        self.config = SpeechRequest.model_validate({"input": "One.", "response_format": "pcm"})
        self.text = ""  # of a sentence that is not complete
        self.pieces: asyncio.Queue[str | None] = asyncio.Queue()  # None: all that was sent is to be said
        self.n_waiting = 0  # characters in it
        self._begin_anew()

    def _begin_anew(self) -> None:
        self.utterance: Utterance | None = None
        self.encoder: Encoder | None = None
        self.sentences: list[Sentence] = []
        self.after: SpokenChunk | None = None
        self.position = 0

    async def run(self) -> None:
        speaking = asyncio.create_task(self._speak())
        try:
            while True:
                listening = asyncio.create_task(
                    next_event(self.socket, 4 * self.house.options.limits.characters)
                )
                await asyncio.wait((speaking, listening), return_when=asyncio.FIRST_COMPLETED)
                if speaking.done():
                    listening.cancel()
                    speaking.result()
                try:
                    event = await listening
                    if event["type"] == "input.cancel":
                        speaking.cancel()
                        with contextlib.suppress(asyncio.CancelledError):
                            await speaking
                        self._drop()
                        speaking = asyncio.create_task(self._speak())
                        await self.socket.send_json({"type": "input.cancelled"})
                    else:
                        await self._take(event)
                except WebSocketDisconnect:
                    raise
                except MynaError as error:
                    await self._complain(error)
        finally:
            speaking.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await speaking

    def _drop(self) -> None:
        self.text, self.pieces, self.n_waiting = "", asyncio.Queue(), 0
        self._begin_anew()

    async def _take(self, event: dict[str, Any]) -> None:
        kind = event["type"]
        if self.pieces.qsize() >= MOST_WAITING:
            raise TooLargeError("too many events wait; send the next when some have been answered")
        if kind == "session.config":
            await self._configure(event)
        elif kind == "input.text":
            text = event.get("text")
            if not isinstance(text, str):
                raise InvalidError('input.text needs a "text"', param="text")
            self._add(text)
        elif kind == "input.done":
            if self.text.strip():
                self._piece(self.text)
            self.text = ""
            self.pieces.put_nowait(None)
        else:
            raise InvalidError(
                f"no event {kind[:64]!r}; there are session.config, input.text, input.done and input.cancel"
            )

    async def _configure(self, event: dict[str, Any]) -> None:
        if self.n_waiting or self.text.strip():
            raise InvalidError("session.config comes before the text, or after input.done")
        fields = {name: value for name, value in event.items() if name not in ("type", "input")}
        try:
            config = SpeechRequest(**{"response_format": "pcm", **fields, "input": "One."})
        except ValidationError as error:
            raise invalid(error.errors()[0]) from None
        find_format(config.response_format)
        utterance = await Utterance.of(self.house, config)  # finds out what is wrong with it
        self.config = config
        await self.socket.send_json(
            {
                "type": "session.created",
                "voice": config.voice,
                "format": config.response_format,
                "sample_rate": utterance.model.sample_rate,
                "synthetic": SYNTHETIC,
            }
        )

    def _add(self, text: str) -> None:
        most = self.house.options.limits.characters
        if self.n_waiting + len(self.text) + len(text) > most:
            raise TooLargeError(
                f"more than {most} characters wait to be said; send the next when some have been"
            )
        said, self.text = complete(self.text + text)
        if said:
            self._piece(said)

    def _piece(self, text: str) -> None:
        self.n_waiting += len(text)
        self.pieces.put_nowait(text)

    # ---- saying

    async def _speak(self) -> None:
        while True:
            piece = await self.pieces.get()
            try:
                if piece is None:
                    await self._finish()
                    continue
                try:
                    utterance = self.utterance = self.utterance or await Utterance.of(self.house, self.config)
                    queue = utterance.model.queue
                    async with self.house.admitted(queue, self.socket.scope["client_name"]):
                        await self._say(utterance, piece)
                finally:
                    self.n_waiting -= len(piece)
            except MynaError as error:
                # What failed is not tried again with the next piece.
                del self.sentences[0 if self.after is None else self.after.sentence + 1 :]
                await self._complain(error)

    async def _say(self, utterance: Utterance, piece: str) -> None:
        model, voice, options = utterance.model, utterance.voice, utterance.options
        new = await asyncio.to_thread(model.split, piece, options)
        end = self.sentences[-1].end if self.sentences else 0
        first = len(self.sentences)
        self.sentences += [Sentence(one.text, one.ends_paragraph, one.end + end) for one in new]
        await self._send_silence()
        index, started = first, False
        ticket = Ticket(model.sample_rate)
        saying = model.chunks(self.sentences, voice, options, ticket, self.after, self.position)
        async with aclosing(saying) as chunks:
            async for chunk in chunks:
                if not started:
                    await self._tell("audio.start", index, sentence_text=self.sentences[index].text)
                    started = True
                await self._send(chunk.samples)
                if chunk.ends_sentence:
                    words = [word.to_dict() for word in chunk.words]
                    await self._tell("audio.done", index, words=words)
                    self.after, index, started = chunk, chunk.sentence + 1, False

    async def _send_silence(self) -> None:
        """Between a piece and the next: the last sentence of a text is said without a pause after it."""
        if self.after is not None and self.utterance is not None:
            rate = self.utterance.model.sample_rate
            await self._send(np.zeros(round(PAUSE / self.config.speed * rate), np.float32))

    async def _finish(self) -> None:
        if self.encoder is not None and (last := self.encoder.flush()):
            await self.socket.send_bytes(last)
        total = len(self.sentences)
        self._begin_anew()
        await self.socket.send_json({"type": "session.done", "total_sentences": total})

    async def _send(self, samples: np.ndarray) -> None:
        assert self.utterance is not None
        rate = self.utterance.model.sample_rate
        if self.encoder is None:
            tags = synthetic_tags(self.utterance.voice.name)
            self.encoder = find_format(self.config.response_format).encoder(rate, tags)
        self.position += len(samples)
        self.house.metrics.speech.inc(len(samples) / rate)
        if data := self.encoder.push(samples):
            await self.socket.send_bytes(data)

    async def _tell(self, kind: str, index: int, **more: Any) -> None:
        assert self.utterance is not None
        rate = self.utterance.model.sample_rate
        about = {"format": self.config.response_format, "sample_rate": rate}
        await self.socket.send_json({"type": kind, "sentence_index": index, **about, **more})

    async def _complain(self, error: MynaError) -> None:
        await self.socket.send_json({"type": "error", **envelope(problem_of(error))})
