"""Wyoming, the protocol of Home Assistant's voice services: describe, say and transcribe, on a port of its own.

client --> events, of bounded length --> a few that wait --> one after the other --> events
       '-- its end -----------------------------------------> ends what is under way
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

from wyoming.asr import Transcribe, Transcript
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.error import Error
from wyoming.event import Event
from wyoming.info import Describe
from wyoming.server import AsyncEventHandler, AsyncServer
from wyoming.tts import Synthesize, SynthesizeChunk, SynthesizeStart, SynthesizeStop, SynthesizeStopped

from ....asr.model.features import SAMPLE_RATE
from ....data.wav import to_int16
from ....errors import MynaError, UsageError
from ....marks.tags import SYNTHETIC
from ..deadlines import within
from ..house import House
from ..problems import ClosingError, InvalidError, ProblemError, TooLargeError, TooLateError, problem_of
from ..routes.speech import Utterance
from ..routes.speech_socket import complete
from ..schemas import SpeechRequest
from ..voices import MYNA
from .events import read_event
from .offer import offer
from .recording import Recording

T = TypeVar("T")
_WAITING = 4  # events of a client that have been read and not been looked at
_LINGER = 2.0  # seconds in which a client can read what was wrong before its connection is cut


@contextlib.asynccontextmanager
async def serving(uri: str, house: House) -> AsyncIterator[None]:
    """Serve at tcp://HOST:PORT while the block runs. Raises UsageError for another address, or one that is taken."""
    check_uri(uri)
    try:
        server = AsyncServer.from_uri(uri)
        await server.start(partial(_Handler, house=house))
    except (ValueError, OSError) as error:
        raise UsageError(f"cannot serve Wyoming at {uri} ({error}); give tcp://HOST:PORT") from None
    try:
        yield
    finally:
        await server.stop()


def check_uri(uri: str) -> None:
    """Raises UsageError."""
    parts = urlsplit(uri)
    try:
        good = parts.scheme == "tcp" and parts.hostname and parts.port
    except ValueError:
        good = False
    if not good:
        raise UsageError(f"--wyoming {uri} is no address; give tcp://127.0.0.1:10300")


class _Handler(AsyncEventHandler):
    """One connection. What a client does not do in a minute (read, or go on with its recording) ends it, and so does
    the end of what it sends: as over HTTP, it has gone then."""

    def __init__(self, *args: Any, house: House):
        super().__init__(*args)
        self.house = house
        self.client = f"address-{(self.writer.get_extra_info('peername') or ('local',))[0]}"
        self._task: asyncio.Task[Any] | None = None
        self._events: asyncio.Queue[Event | MynaError] = asyncio.Queue(_WAITING)
        self._asked = Transcribe()
        self._recording: Recording | None = None
        self._held = contextlib.AsyncExitStack()  # what it takes to hear it: its file, and a place
        self._speaking: _Streamed | None = None

    # ---- the connection

    async def run(self) -> None:
        self._task = asyncio.current_task()
        reading, working = asyncio.create_task(self._read()), asyncio.create_task(self._work())
        error: BaseException | None = None
        try:
            await asyncio.wait((reading, working), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:  # the server ends
            error = ClosingError()
        finally:
            is_over = working.done()
            for task in (reading, working):
                task.cancel()
            await asyncio.wait((reading, working))
            await self._held.aclose()
        if is_over:
            error = working.exception()
        elif not reading.cancelled() and error is None:
            error = reading.exception()
        # Without a reference: its traceback has the frames, and they the recording.
        reading = working = None
        await self._part(error)

    async def stop(self) -> None:
        """The server ends."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def _part(self, error: BaseException | None) -> None:
        """Say what was wrong, if anything, and close. A connection that is closed while its client still sends is cut,
        perhaps before it has read that: what it sends is thrown away for a while."""
        try:
            if error is not None and not isinstance(error, ConnectionError):
                problem = problem_of(error)
                with contextlib.suppress(OSError, ProblemError):
                    await self.write_event(Error(str(problem), problem.code).event())
                    if self.writer.can_write_eof() and not isinstance(problem, ClosingError):
                        self.writer.write_eof()
                        async with within(_LINGER):
                            await self._throw_away()
        except TimeoutError:
            pass
        finally:
            if self.writer.transport.get_write_buffer_size():  # it does not read: `close` would wait for it
                self.writer.transport.abort()
            self.writer.close()

    async def _throw_away(self) -> None:
        with contextlib.suppress(OSError):
            while await self.reader.read(1 << 16):
                pass

    async def _read(self) -> None:
        """Until the client goes."""
        try:
            while (event := await read_event(self.reader)) is not None:
                await self._events.put(event)
        except MynaError as error:
            await self._events.put(error)
            await self._throw_away()

    async def _work(self) -> None:
        while True:
            event = await self._next()
            if isinstance(event, MynaError):
                raise event
            await self.handle_event(event)

    async def _next(self) -> Event | MynaError:
        if self._recording is None:
            return await self._events.get()
        patience = self.house.options.limits.stall
        try:
            async with within(patience):
                return await self._events.get()
        except TimeoutError:
            raise TooLateError(f"nothing of the recording came for {patience:g} s") from None

    async def write_event(self, event: Event) -> None:
        """Raises TooLateError if the client takes nothing for too long."""
        try:
            async with within(self.house.options.limits.stall):
                await super().write_event(event)
        except TimeoutError:
            raise TooLateError("the client does not read what it has asked for") from None

    @contextlib.contextmanager
    def _counted(self, route: str) -> Iterator[None]:
        metrics, began, status = self.house.metrics, time.monotonic(), 200
        try:
            yield
        except (asyncio.CancelledError, ConnectionError):
            status = 499
            metrics.cancelled.labels(route).inc()
            raise
        except Exception as error:
            problem = problem_of(error)
            status = problem.status
            try:
                raise problem from None
            finally:
                del problem  # its traceback has this frame: a cycle, with all that was at work in it
        finally:
            metrics.requests.labels(route, str(status)).inc()
            metrics.seconds.labels(route).observe(time.monotonic() - began)

    # ---- events

    async def handle_event(self, event: Event) -> bool:
        """Raises MynaError."""
        kind = event.type
        if Describe.is_type(kind):
            await self.write_event((await offer(self.house)).event())
        elif Transcribe.is_type(kind):
            self._asked = _read_as(Transcribe.from_event, event)
        elif AudioStart.is_type(kind):
            start = _read_as(AudioStart.from_event, event)
            await self._begin(start.rate, start.width, start.channels)
        elif AudioChunk.is_type(kind):
            chunk = _read_as(AudioChunk.from_event, event)
            recording = self._recording or await self._begin(chunk.rate, chunk.width, chunk.channels)
            await recording.push(chunk.audio or b"")
        elif AudioStop.is_type(kind):
            with self._counted("wyoming-transcribe"):
                await self._transcribe()
        elif Synthesize.is_type(kind):
            # A client that streams its text sends the whole of it once more, for servers that do not.
            if self._speaking is None:
                synthesize = _read_as(Synthesize.from_event, event)
                await self._say(synthesize.text, synthesize.voice.name if synthesize.voice else None)
        elif SynthesizeStart.is_type(kind):
            start = _read_as(SynthesizeStart.from_event, event)
            self._speaking = _Streamed(start.voice.name if start.voice else None)
        elif SynthesizeChunk.is_type(kind) and self._speaking is not None:
            text = _read_as(SynthesizeChunk.from_event, event).text
            for sentence in self._speaking.add(text, self.house.options.limits.characters):
                await self._say(sentence, self._speaking.voice)
        elif SynthesizeStop.is_type(kind) and self._speaking is not None:
            speaking, self._speaking = self._speaking, None
            if speaking.text.strip():
                await self._say(speaking.text, speaking.voice)
            await self.write_event(SynthesizeStopped().event())
        return True

    # ---- hearing

    async def _begin(self, rate: int, width: int, channels: int) -> Recording:
        """Raises BusyError where as many listen as may. One that has begun is forgotten."""
        await self._held.aclose()
        recording = Recording(rate, width, channels, self.house.options.limits)
        self._held.callback(recording.close)
        await self._held.enter_async_context(self.house.admissions["session"].slot(self.client))
        self._recording = recording
        return recording

    async def _transcribe(self) -> None:
        recording, self._recording = self._recording, None
        if recording is None:
            raise UsageError("expected audio of 16-bit samples between audio-start and audio-stop")
        house, language = self.house, self._asked.language
        async with self._held:
            samples = await recording.finished()
            name = house.recognition.resolve(self._asked.name or "", language=language)
            async with (
                house.admitted("transcription", self.client),
                house.recognition.pool.use(name) as recogniser,
            ):
                house.metrics.transcribed.inc(len(samples) / SAMPLE_RATE)
                if language and not recogniser.transcriber.model.dims.is_multilingual:
                    language = None  # Home Assistant sends the language of the house, "en" or another
                options = recogniser.transcriber.options(language=language, beam_size=None)
                transcript = await recogniser.transcribe(samples, options)
        await self.write_event(Transcript(transcript.text.strip(), language=transcript.language).event())

    # ---- speaking

    async def _say(self, text: str, voice: str | None) -> None:
        model, _, name = (voice or "").rpartition("/")
        given = {"model": model or MYNA, "input": text, "voice": name or "alloy", "response_format": "pcm"}
        began = time.monotonic()
        with self._counted("wyoming-synthesize"):
            utterance = await Utterance.of(self.house, SpeechRequest.model_validate(given))
            async with (
                self.house.admitted(utterance.model.queue, self.client),
                aclosing(utterance.chunks()) as chunks,
            ):
                await self._send(utterance, chunks, began)
        await self.write_event(AudioStop().event())

    async def _send(self, utterance: Utterance, chunks: AsyncIterator[Any], began: float) -> None:
        rate, metrics = utterance.model.sample_rate, self.house.metrics
        form = {"rate": rate, "width": 2, "channels": 1}
        started = False
        async for chunk in chunks:
            if not started:
                metrics.first_audio.observe(time.monotonic() - began)
                start = AudioStart(**form).event()
                start.data["synthetic"] = SYNTHETIC  # raw samples have no place for a tag
                await self.write_event(start)
                started = True
            metrics.speech.inc(len(chunk.samples) / rate)
            if len(chunk.samples):
                await self.write_event(AudioChunk(audio=to_int16(chunk.samples).tobytes(), **form).event())


def _read_as(read: Callable[[Event], T], event: Event) -> T:
    """Raises InvalidError for an event that lacks something, or has what cannot be."""
    try:
        found = read(event)
        for name in ("text", "name", "language"):
            if not isinstance(getattr(found, name, None), str | None):
                raise TypeError(name)
        voice = getattr(found, "voice", None)
        if voice is not None and not isinstance(voice.name, str | None):
            raise TypeError("voice")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidError(
            f"the event {event.type[:64]} lacks something or has what cannot be: {error}"
        ) from None
    return found


class _Streamed:
    """A text that comes in pieces."""

    def __init__(self, voice: str | None):
        self.voice, self.text = voice, ""

    def add(self, text: str, most: int) -> list[str]:
        """What is complete by now. Raises TooLargeError for a sentence of more characters."""
        said, self.text = complete(self.text + text)
        if len(self.text) > most:
            raise TooLargeError(f"a sentence has more than {most} characters; send it in parts")
        return [said] if said.strip() else []
