"""Wyoming, the protocol of Home Assistant's voice services: describe, say and transcribe, on a port of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from wyoming.asr import Transcribe, Transcript
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.error import Error
from wyoming.event import Event
from wyoming.info import AsrModel, AsrProgram, Attribution, Describe, Info, TtsProgram, TtsVoice
from wyoming.server import AsyncEventHandler, AsyncServer
from wyoming.tts import Synthesize, SynthesizeChunk, SynthesizeStart, SynthesizeStop, SynthesizeStopped

from ...asr.model.features import SAMPLE_RATE
from ...asr.model.languages import LANGUAGES
from ...data.resample import resample
from ...data.wav import to_int16
from ...errors import MynaError, UsageError
from ...version import __version__
from .house import House
from .problems import TooLargeError, problem_of
from .routes.speech import Utterance
from .routes.speech_socket import complete
from .schemas import SpeechRequest
from .voices import MYNA, TORTOISE, VoiceEntry

_OURS = Attribution(name="Myna", url="")
_WHISPER = Attribution(name="OpenAI", url="https://github.com/openai/whisper")


@contextlib.asynccontextmanager
async def serving(uri: str, house: House) -> AsyncIterator[None]:
    """Serve at tcp://HOST:PORT while the block runs. Raises UsageError for another address, or one that is taken."""
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
    """One connection."""

    def __init__(self, *args: Any, house: House):
        super().__init__(*args)
        self.house = house
        self.client = f"address-{(self.writer.get_extra_info('peername') or ('local',))[0]}"
        self._audio: list[bytes] = []
        self._n_bytes = 0
        self._form: AudioStart | None = None
        self._asked = Transcribe()
        self._speaking: _Streamed | None = None

    async def handle_event(self, event: Event) -> bool:
        try:
            await self._handle(event)
        except MynaError as error:
            await self.write_event(Error(str(error), problem_of(error).code).event())
            return False
        return True

    async def _handle(self, event: Event) -> None:
        if Describe.is_type(event.type):
            await self.write_event((await self._info()).event())
        elif Transcribe.is_type(event.type):
            self._asked = Transcribe.from_event(event)
        elif AudioStart.is_type(event.type):
            self._form, self._audio, self._n_bytes = AudioStart.from_event(event), [], 0
        elif AudioChunk.is_type(event.type):
            self._hear(AudioChunk.from_event(event))
        elif AudioStop.is_type(event.type):
            await self._transcribe()
        elif Synthesize.is_type(event.type):
            # A client that streams its text sends the whole of it once more, for servers that do not.
            if self._speaking is None:
                synthesize = Synthesize.from_event(event)
                await self._say(synthesize.text, synthesize.voice.name if synthesize.voice else None)
        elif SynthesizeStart.is_type(event.type):
            start = SynthesizeStart.from_event(event)
            self._speaking = _Streamed(start.voice.name if start.voice else None)
        elif SynthesizeChunk.is_type(event.type) and self._speaking is not None:
            for sentence in self._speaking.add(SynthesizeChunk.from_event(event).text):
                await self._say(sentence, self._speaking.voice)
        elif SynthesizeStop.is_type(event.type) and self._speaking is not None:
            speaking, self._speaking = self._speaking, None
            if speaking.text.strip():
                await self._say(speaking.text, speaking.voice)
            await self.write_event(SynthesizeStopped().event())

    # ---- hearing

    def _hear(self, chunk: AudioChunk) -> None:
        self._form = self._form or AudioStart(chunk.rate, chunk.width, chunk.channels)
        self._n_bytes += len(chunk.audio)
        if self._n_bytes > self.house.options.limits.upload_bytes:
            raise TooLargeError("the recording is too long; send it in parts")
        self._audio.append(chunk.audio)

    async def _transcribe(self) -> None:
        samples = self._samples()
        self._audio, self._n_bytes = [], 0
        house = self.house
        name = house.recognition.resolve(self._asked.name or "", language=self._asked.language)
        async with (
            house.admitted("transcription", self.client),
            house.recognition.pool.use(name) as recogniser,
        ):
            language = self._asked.language
            if language and not recogniser.transcriber.model.dims.is_multilingual:
                language = None  # Home Assistant sends the language of the house, "en" or another
            options = recogniser.transcriber.options(language=language, beam_size=None)
            transcript = await recogniser.transcribe(samples, options)
        await self.write_event(Transcript(transcript.text.strip(), language=transcript.language).event())

    def _samples(self) -> np.ndarray:
        form = self._form
        if form is None or form.width != 2 or not self._n_bytes:
            raise UsageError("expected audio of 16-bit samples between audio-start and audio-stop")
        data = b"".join(self._audio)
        whole = len(data) // (2 * form.channels) * 2 * form.channels
        x = np.frombuffer(data[:whole], "<i2").astype(np.float32).reshape(-1, form.channels).T / 32768
        return resample(x.mean(axis=0, keepdims=True), form.rate, SAMPLE_RATE)[0]

    # ---- speaking

    async def _say(self, text: str, voice: str | None) -> None:
        model, _, name = (voice or "").rpartition("/")
        given = {"model": model or MYNA, "input": text, "voice": name or "alloy", "response_format": "pcm"}
        body = SpeechRequest.model_validate(given)
        utterance = await Utterance.of(self.house, body)
        form = {"rate": utterance.model.sample_rate, "width": 2, "channels": 1}
        started = False
        async with (
            self.house.admitted(utterance.model.queue, self.client),
            aclosing(utterance.chunks()) as chunks,
        ):
            async for chunk in chunks:
                if not started:
                    await self.write_event(AudioStart(**form).event())
                    started = True
                if len(chunk.samples):
                    await self.write_event(
                        AudioChunk(audio=to_int16(chunk.samples).tobytes(), **form).event()
                    )
        await self.write_event(AudioStop().event())

    async def _info(self) -> Info:
        house = self.house
        tts: list[TtsProgram] = []
        if voices := _voices(await house.voice_entries()):
            tts = [
                TtsProgram(
                    name="myna",
                    attribution=_OURS,
                    installed=True,
                    description="Cloned voices",
                    version=__version__,
                    voices=voices,
                    supports_synthesize_streaming=True,
                )
            ]
        models = [
            AsrModel(
                name=name,
                attribution=_WHISPER,
                installed=True,
                description=f"Whisper {name}",
                version=__version__,
                languages=["en"] if name.endswith(".en") else _languages(),
            )
            for name in await asyncio.to_thread(house.recognition.installed)
        ]
        asr = AsrProgram(
            name="myna",
            attribution=_WHISPER,
            installed=True,
            description="Whisper",
            version=__version__,
            models=models,
        )
        return Info(asr=[asr] if models else [], tts=tts)


def _voices(entries: list[VoiceEntry]) -> list[TtsVoice]:
    """Those of Myna's own models by their names, then those of TorToise as tortoise/NAME: Home Assistant looks at the
    first program alone, so that a second one for TorToise would not be seen."""
    said = {entry.name: entry.name for entry in entries if MYNA in entry.models}
    said |= {f"{TORTOISE}/{one.name}": f"{one.name} (TorToise)" for one in entries if TORTOISE in one.models}
    return [
        TtsVoice(
            name=name,
            attribution=_OURS,
            installed=True,
            description=description,
            version=__version__,
            languages=["en"],
        )
        for name, description in said.items()
    ]


class _Streamed:
    """A text that comes in pieces."""

    def __init__(self, voice: str | None):
        self.voice, self.text = voice, ""

    def add(self, text: str) -> list[str]:
        """What is complete by now."""
        said, self.text = complete(self.text + text)
        return [said] if said.strip() else []


def _languages() -> list[str]:
    return list(LANGUAGES)
