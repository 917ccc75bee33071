"""`WebSocket /v1/realtime`: OpenAI's transcription sessions, of today's interface and of the one before.

    input_audio_buffer.append --> [voice activity] --> turns --> live recogniser --> deltas while somebody speaks,
                                                                                     the transcript when they stop

Shapes: n samples at the session's rate, then at 16 kHz.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import secrets
import threading
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from fastapi import APIRouter, WebSocket, WebSocketDisconnect

from ....asr.live import LiveTranscriber
from ....asr.live_recogniser import WhisperRecogniser
from ....asr.model.features import SAMPLE_RATE
from ....asr.shared import given_up
from ....asr.transcribe import TranscribeOptions
from ....data.resample import Resampler
from ....errors import MynaError
from ....pretrained.silero import FRAME, VoiceActivity
from ..engines.recognition import SharedWhisper
from ..house import House
from ..problems import InvalidError, TooLargeError, envelope, problem_of
from .speech_socket import MOST_WAITING, accepted_protocol, bound, next_event, part

router = APIRouter()
_MOST_EVENT = 1 << 20  # characters: 16 s of audio
_MOST_WAITING = 60.0  # seconds of audio that have not been listened to
_MOST_TURN = 600.0  # seconds


@router.websocket("/v1/realtime")
async def realtime(socket: WebSocket) -> None:
    """One connection."""
    house: House = socket.app.state.house
    await socket.accept(subprotocol=accepted_protocol(socket))
    bound(socket, house.options.limits.stall)
    try:
        name = house.recognition.resolve(socket.query_params.get("model", ""))
        async with (
            house.admissions["session"].slot(socket.scope["client_name"]),
            house.recognition.pool.use(name) as recogniser,
        ):
            await _Session(socket, house, recogniser, name).run()
    except WebSocketDisconnect:
        pass
    except Exception as error:
        problem = problem_of(error)
        await part(socket, _error(problem), problem)


@dataclass(frozen=True)
class SessionOptions:
    """What `session.update` sets. detects_turns: else the client commits.   padding, silence: seconds."""

    rate: int = 24_000
    language: str | None = None
    prompt: str | None = None
    detects_turns: bool = True
    threshold: float = 0.5
    padding: float = 0.3
    silence: float = 0.5


class _Session:
    def __init__(self, socket: WebSocket, house: House, recogniser: SharedWhisper, model: str):
        self.socket, self.house, self.recogniser, self.model = socket, house, recogniser, model
        self.id = "sess_" + secrets.token_hex(12)
        self.options = SessionOptions()
        self.heard: asyncio.Queue[np.ndarray | str] = asyncio.Queue()  # audio, "commit", "clear"
        self.n_waiting = 0  # samples in it
        self.previous: str | None = None
        self.gone = threading.Event()  # the window under way ends
        self._begin_anew()

    def _begin_anew(self) -> None:
        self.resampler = Resampler(self.options.rate, SAMPLE_RATE, 1)
        self.detector = VoiceActivity()
        self.past = np.zeros(0, np.float32)  # before somebody speaks: as much as belongs to what they say
        self.rest = np.zeros(0, np.float32)  # less than a frame of the detector
        self.seconds = self.quiet = 0.0
        self.turn: _Turn | None = None

    async def run(self) -> None:
        await self._send("session.created", session=self._described())
        working = asyncio.create_task(self._work())
        try:
            while True:
                listening = asyncio.create_task(next_event(self.socket, _MOST_EVENT))
                await asyncio.wait((working, listening), return_when=asyncio.FIRST_COMPLETED)
                if working.done():
                    listening.cancel()
                    working.result()
                try:
                    await self._take(await listening)
                except WebSocketDisconnect:
                    raise
                except MynaError as error:
                    await self.socket.send_json(_error(error))
        finally:
            self.gone.set()
            working.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await working

    # ---- events of the client

    async def _take(self, event: dict[str, Any]) -> None:
        kind = event["type"]
        if self.heard.qsize() >= MOST_WAITING:
            raise TooLargeError("too many events wait; send more audio in each, as it is recorded")
        if kind in ("session.update", "transcription_session.update"):
            await self._update(event.get("session"), kind)
        elif kind == "input_audio_buffer.append":
            self._append(event.get("audio"))
        elif kind == "input_audio_buffer.commit":
            self.heard.put_nowait("commit")
        elif kind == "input_audio_buffer.clear":
            self.heard.put_nowait("clear")
        else:
            raise InvalidError(
                f"no event {kind[:64]!r} here: sessions of this server transcribe; there are session.update and "
                "input_audio_buffer.append, .commit and .clear"
            )

    async def _update(self, session: Any, kind: str) -> None:
        if not isinstance(session, dict):
            raise InvalidError('session.update needs a "session"', param="session")
        options = _updated(self.options, session)
        rate_changed = options.rate != self.options.rate
        transcription = _transcription(session)
        if name := transcription.get("model"):
            resolved = self.house.recognition.resolve(str(name))
            if resolved != self.model:
                raise InvalidError(
                    f"this session listens with {self.model}; connect with ?model={name} for another",
                    param="model",
                )
        self.recogniser.transcriber.options(language=options.language)  # refused here where it cannot be
        self.options = options
        if rate_changed:
            self._begin_anew()
        answer = "transcription_session.updated" if kind.startswith("transcription") else "session.updated"
        await self._send(answer, session=self._described())

    def _append(self, audio: Any) -> None:
        try:
            data = base64.b64decode(audio, validate=True)
        except (binascii.Error, TypeError, ValueError):
            raise InvalidError("audio is not base64 of 16-bit samples", param="audio") from None
        samples = np.frombuffer(data[: len(data) // 2 * 2], "<i2").astype(np.float32) / 32768
        if (self.n_waiting + len(samples)) > _MOST_WAITING * self.options.rate:
            raise TooLargeError(
                "more audio waits than this server can listen to in a minute; send it as it is recorded"
            )
        self.n_waiting += len(samples)
        self.heard.put_nowait(samples)

    # ---- what becomes of the audio

    async def _work(self) -> None:
        given_up.set(self.gone)
        while True:
            item = await self.heard.get()
            try:
                if isinstance(item, np.ndarray):
                    self.n_waiting -= len(item)
                    await self._listen(self.resampler.push(item[None])[0])
                elif item == "commit":
                    await self._commit()
                else:
                    self._begin_anew()
                    await self._send("input_audio_buffer.cleared")
            except MynaError as error:
                await self.socket.send_json(_error(error))

    async def _listen(self, samples: np.ndarray) -> None:
        """Samples (n,) at 16 kHz, frame by frame of the detector: turns begin and end at frames."""
        if not self.options.detects_turns:
            turn = self.turn or await self._start_turn(announced=False)
            await self._say(turn, samples)
            return
        x = np.concatenate([self.rest, samples])
        whole = len(x) // FRAME * FRAME
        self.rest = x[whole:]
        if not whole:
            return
        probabilities = await asyncio.to_thread(self.detector.push, x[:whole])
        begun = 0  # what of x belongs to the turn and has not been given to it
        for i in range(len(probabilities)):
            frame = x[i * FRAME : (i + 1) * FRAME]
            speaks = probabilities[i] >= self.options.threshold
            self.seconds += FRAME / SAMPLE_RATE
            if self.turn is None:
                keep = int((self.options.padding + 0.1) * SAMPLE_RATE)
                self.past = np.concatenate([self.past, frame])[-keep:]
                if speaks:
                    turn = await self._start_turn(announced=True)
                    await self._say(turn, self.past)
                    self.past, self.quiet, begun = self.past[:0], 0.0, (i + 1) * FRAME
                continue
            self.quiet = 0.0 if speaks else self.quiet + FRAME / SAMPLE_RATE
            too_long = self.turn.seconds + len(x) / SAMPLE_RATE > _MOST_TURN
            if self.quiet >= self.options.silence or too_long:
                await self._say(self.turn, x[begun : (i + 1) * FRAME])
                begun = (i + 1) * FRAME
                await self._send(
                    "input_audio_buffer.speech_stopped",
                    item_id=self.turn.id,
                    audio_end_ms=self._ms(-self.quiet),
                )
                await self._end_turn()
        if self.turn is not None:
            await self._say(self.turn, x[begun:whole])

    async def _start_turn(self, announced: bool) -> _Turn:
        options = TranscribeOptions(
            language=self.options.language, initial_prompt=self.options.prompt, beam_size=None, best_of=None
        )
        self.turn = _Turn("item_" + secrets.token_hex(10), self.recogniser, options)
        if announced:
            await self._send(
                "input_audio_buffer.speech_started",
                item_id=self.turn.id,
                audio_start_ms=self._ms(-self.options.padding),
            )
        return self.turn

    async def _commit(self) -> None:
        if self.options.detects_turns and self.turn is None and len(self.past):
            turn = await self._start_turn(announced=False)
            await self._say(turn, np.concatenate([self.past, self.rest]))
            self.past, self.rest = self.past[:0], self.rest[:0]
        if self.turn is None or not self.turn.seconds:
            raise InvalidError(
                "there is no audio to commit; append some first", code="input_audio_buffer_commit_empty"
            )
        await self._end_turn()

    async def _say(self, turn: _Turn, samples: np.ndarray) -> None:
        if not len(samples):
            return
        async with self.house.listening:
            words = await asyncio.to_thread(turn.push, samples)
        self.house.metrics.transcribed.inc(len(samples) / SAMPLE_RATE)
        await self._delta(turn, words)

    async def _end_turn(self) -> None:
        turn, self.turn = self.turn, None
        assert turn is not None
        await self._send("input_audio_buffer.committed", item_id=turn.id, previous_item_id=self.previous)
        item = {"id": turn.id, "type": "message", "object": "realtime.item", "role": "user"}
        item |= {"status": "completed", "content": [{"type": "input_audio", "transcript": None}]}
        for kind in ("added", "created"):  # of today's interface, and of the one before
            await self._send(f"conversation.item.{kind}", item=item, previous_item_id=self.previous)
        self.previous = turn.id
        event = "conversation.item.input_audio_transcription."
        try:
            async with self.house.listening:
                words = await asyncio.to_thread(turn.flush)
        except Exception as error:
            await self._send(
                event + "failed", item_id=turn.id, content_index=0, **envelope(problem_of(error))
            )
            return
        await self._delta(turn, words)
        usage = {"type": "duration", "seconds": round(turn.seconds, 2)}
        await self._send(
            event + "completed", item_id=turn.id, content_index=0, transcript=turn.text, usage=usage
        )

    async def _delta(self, turn: _Turn, words: str) -> None:
        if words:
            event = "conversation.item.input_audio_transcription.delta"
            await self._send(event, item_id=turn.id, content_index=0, delta=words)

    def _ms(self, before: float) -> int:
        return max(0, round(1000 * (self.seconds + before)))

    async def _send(self, kind: str, **fields: Any) -> None:
        await self.socket.send_json({"type": kind, "event_id": "event_" + secrets.token_hex(10), **fields})

    def _described(self) -> dict[str, Any]:
        o = self.options
        detection = None
        if o.detects_turns:
            detection = {
                "type": "server_vad",
                "threshold": o.threshold,
                "prefix_padding_ms": round(1000 * o.padding),
                "silence_duration_ms": round(1000 * o.silence),
            }
        transcription = {"model": self.model, "language": o.language, "prompt": o.prompt}
        given = {"format": {"type": "audio/pcm", "rate": o.rate}, "transcription": transcription}
        return {
            "id": self.id,
            "object": "realtime.transcription_session",
            "type": "transcription",
            "audio": {"input": {**given, "turn_detection": detection}},
        }


class _Turn:
    """What somebody says from a pause to the next. All deltas in a row are the text."""

    def __init__(self, item_id: str, recogniser: SharedWhisper, options: TranscribeOptions):
        self.id, self.text, self.seconds = item_id, "", 0.0
        self._live = LiveTranscriber(WhisperRecogniser(recogniser.transcriber.model, options))

    def push(self, samples: np.ndarray) -> str:
        self.seconds += len(samples) / SAMPLE_RATE
        return self._more(self._live.push(samples, catch_up=True).stable)

    def flush(self) -> str:
        return self._more(self._live.flush().stable)

    def _more(self, words: str) -> str:
        words = words if self.text else words.lstrip()
        self.text += words
        return words


def _updated(options: SessionOptions, session: dict[str, Any]) -> SessionOptions:
    """Raises InvalidError for a value that cannot be."""
    given = _part(_part(session, "audio"), "input") or session
    transcription = _transcription(session)
    form = given.get("format", session.get("input_audio_format"))
    if isinstance(form, dict):
        kind, rate = form.get("type", "audio/pcm"), form.get("rate", 24_000)
    else:
        kind, rate = ("audio/pcm" if form in (None, "pcm16") else form), options.rate
    if kind != "audio/pcm" or not isinstance(rate, int) or not 8_000 <= rate <= 48_000:
        raise InvalidError(
            f"the format {form!r} is not taken; send audio/pcm of 8000 to 48000 Hz", param="format"
        )
    made = replace(options, rate=rate)
    for name in ("language", "prompt"):
        if name in transcription:
            value = transcription[name]
            made = replace(made, **{name: None if not value else str(value)[:4096]})
    if "turn_detection" not in given:
        return made
    detection = given["turn_detection"]
    if detection is None:
        return replace(made, detects_turns=False)
    if not isinstance(detection, dict):
        raise InvalidError("turn_detection is neither an object nor null", param="turn_detection")
    try:
        threshold = float(detection.get("threshold", made.threshold))
        padding = float(detection.get("prefix_padding_ms", 1000 * made.padding)) / 1000
        silence = float(detection.get("silence_duration_ms", 1000 * made.silence)) / 1000
    except (TypeError, ValueError):
        raise InvalidError("turn_detection holds what is no number", param="turn_detection") from None
    if not (0 < threshold < 1 and 0 <= padding <= 5 and 0.1 <= silence <= 10):
        raise InvalidError(
            "turn_detection is out of range; threshold is 0 to 1, prefix_padding_ms 0 to 5000, silence_duration_ms 100 "
            "to 10000",
            param="turn_detection",
        )
    return replace(made, detects_turns=True, threshold=threshold, padding=padding, silence=silence)


def _transcription(session: dict[str, Any]) -> dict[str, Any]:
    given = _part(_part(session, "audio"), "input")
    return _part(given, "transcription") or _part(session, "input_audio_transcription")


def _part(whole: dict[str, Any], name: str) -> dict[str, Any]:
    part = whole.get(name)
    return part if isinstance(part, dict) else {}


def _error(error: MynaError) -> dict[str, Any]:
    return {"type": "error", "event_id": "event_" + secrets.token_hex(10), **envelope(problem_of(error))}
