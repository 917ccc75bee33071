"""All that the routes share: engines, voices, admission, counters. One for a server."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections.abc import AsyncIterator

from ...errors import MissingModelError, MynaError
from ...tts.presets import SpeechOptions
from ...tts.text.long_text import split_text
from ...tts.voices.voice import codec_hash
from .admission import Admission
from .audio.decoding import Decoders, DecodingLimits
from .deadlines import within
from .engines.model import MynaModel, SpeechModel
from .engines.recognition import Recognition
from .engines.speech import SpeechEngine
from .engines.tortoise import TortoiseModel
from .memory import GivingBack
from .metrics import Metrics
from .options import ServeOptions
from .problems import NotFoundError, TooLateError
from .voices import MYNA, VoiceEntry, Voices, entries

# OpenAI's names and ours for our own speech.
SPEECH_MODELS = (MYNA, "tts-1", "tts-1-hd", "gpt-4o-mini-tts")


class House:
    """Belongs to one event loop.

    speech: None loads the models that ship when the server starts.   recognition: None for this machine's Whispers.
    """

    def __init__(
        self,
        options: ServeOptions | None = None,
        speech: SpeechEngine | None = None,
        recognition: Recognition | None = None,
    ):
        self.options = options or ServeOptions()
        self._speech, self._voices = speech, None
        self.recognition = recognition or Recognition(self.options.default_model, self.options.models)
        self.tortoise = TortoiseModel(self.options.idle)
        self.metrics, self.memory = Metrics(), GivingBack()
        self.decoders = Decoders(DecodingLimits(seconds=self.options.limits.seconds))
        slots, places = self.options.max_concurrency, self.options.queue
        self.admissions = {
            MynaModel.queue: Admission(slots, places),
            # One at a time: its networks are large, and it keeps a processor for minutes. A queue of its own, so that
            # nobody else waits for it.
            TortoiseModel.queue: Admission(1, places),
            "transcription": Admission(slots, places),
            # Connections that stay: one client leaves a quarter of them to the others.
            "session": Admission(4 * slots, 0, most=3 * slots),
            # What comes at a time, on the disk: no more than can then be worked on or wait.
            "upload": Admission(slots + places, 0),
        }
        self.listening = asyncio.Semaphore(2)  # live recognitions at a time
        self.started = int(time.time())
        self._loading = asyncio.Lock()
        self.problem: MynaError | None = None  # why speech is not there

    async def start(self) -> None:
        """Load what is needed first. A server without speech models still transcribes."""
        await self.decoders.start()
        try:
            await self.speech()
        except MynaError as error:
            self.problem = error
        # The start of the program has put the first look for cycles off (`myna.__main__`): after it what is there is
        # left alone, and what comes is looked through more often.
        gc.collect()

    def refuse(self) -> None:
        """The end is near: whoever waits is turned away."""
        for admission in self.admissions.values():
            admission.close()

    async def close(self) -> None:
        await self.memory.close()
        await self.decoders.close()

    async def speech(self) -> SpeechEngine:
        """Raises MissingModelError while the models are not installed."""
        async with self._loading:
            if self._speech is None:
                self._speech = await asyncio.to_thread(_warm_engine)
        return self._speech

    async def speech_model(self, name: str) -> SpeechModel:
        """By the name that a request gives, never a path. Raises NotFoundError, MissingModelError."""
        if name in SPEECH_MODELS:
            return MynaModel(await self.speech(), await self.voices())
        if name == self.tortoise.name:
            self.tortoise.check_installed()
            return self.tortoise
        names = [*SPEECH_MODELS, *([self.tortoise.name] if self.tortoise.is_installed else [])]
        raise NotFoundError(
            f"no model named {name[:64]!r} speaks here; there is {', '.join(names)}",
            param="model",
            code="model_not_found",
        )

    async def voices(self) -> Voices:
        engine = await self.speech()
        if self._voices is None:
            self._voices = Voices(engine.speaker, self.options.limits.voices)
        return self._voices

    async def voice_entries(self) -> list[VoiceEntry]:
        """All voices, and which of the models here can say each of them."""
        codec = None
        with contextlib.suppress(MissingModelError):
            codec = codec_hash((await self.speech()).speaker.models.codec)
        return await asyncio.to_thread(entries, codec, self.tortoise.is_installed)

    @contextlib.asynccontextmanager
    async def admitted(self, kind: str, client: str) -> AsyncIterator[None]:
        """A slot, and the deadline of the request. Raises BusyError, TooLateError."""
        admission = self.admissions[kind]
        deadline = self.options.limits.deadline
        try:
            async with within(deadline), admission.slot(client):
                yield
        except TimeoutError:
            raise TooLateError(f"the request took longer than {deadline:g} s; send less at a time") from None
        finally:
            self.memory.ended()

    def measure(self) -> None:
        """The counters that are read from elsewhere."""
        for kind, admission in self.admissions.items():
            self.metrics.active.labels(kind).set(admission.n_active)
            self.metrics.waiting.labels(kind).set(admission.n_waiting)
        if self._speech is not None:
            self.metrics.ar_steps.set(self._speech.shared.steps)
            self.metrics.ar_frames.set(self._speech.shared.frames_made)


def _warm_engine() -> SpeechEngine:
    """With the models that ship, one word said, so that the first client does not wait for what is read only once."""
    engine = SpeechEngine()
    voices = Voices(engine.speaker)
    sentences, options = split_text("Yes."), SpeechOptions()
    for _ in engine.say(sentences, voices.find("alloy"), options, engine.ticket()):
        pass
    return engine
