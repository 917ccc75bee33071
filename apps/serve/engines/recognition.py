"""Transcription for many requests at once, with any of the Whispers of this machine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from ....asr.model.registry import ALIASES, find_weights, is_known, list_models
from ....asr.shared import SharedTranscription, Transcription
from ....asr.transcribe import TranscribeOptions
from ....asr.transcriber import Transcriber, default_model
from ....asr.transcript import Segment, Transcript
from ....data.audio import Samples
from ....errors import MissingModelError, MynaError
from ..problems import NotFoundError
from .pool import Pool
from .speech import n_cores

# What clients of OpenAI's ask for when nobody told them a name.
OPENAI = (
    "whisper-1",
    "gpt-4o-transcribe",
    "gpt-4o-mini-transcribe",
    "gpt-4o-transcribe-diarize",
    "gpt-realtime-whisper",
)


class SharedWhisper:
    """A Whisper whose windows are shared."""

    def __init__(self, transcriber: Transcriber):
        self.transcriber = transcriber
        self.shared = SharedTranscription(transcriber.model, windows_at_once(transcriber.model.device.type))

    async def transcribe(self, samples: Samples, options: TranscribeOptions) -> Transcript:
        """samples (N,) at 16 kHz. A cancelled request takes part in no further round."""
        running = self.shared.submit(samples, options)
        try:
            return await asyncio.wrap_future(running.result)
        finally:
            running.cancel()

    async def stream(
        self, samples: Samples, options: TranscribeOptions
    ) -> AsyncIterator[Segment | Transcript]:
        """Segments as they are settled, and last of all the transcript."""
        loop = asyncio.get_running_loop()
        made: asyncio.Queue[Any] = asyncio.Queue()

        def settled(segment: Segment) -> None:
            loop.call_soon_threadsafe(made.put_nowait, segment)

        running = self.shared.submit(samples, options, settled)
        running.result.add_done_callback(lambda _: _tell(loop, made, running))
        try:
            while (item := await made.get()) is not running:
                yield item
            yield running.result.result()
        finally:
            running.cancel()


def windows_at_once(device: str) -> int:
    """Windows of different recordings that share a round; nobody of a round has an answer before all of it is done. On
    one core eight together take almost eight times as long as one (docs/log.md): there, rounds are short."""
    return max(2, min(8, n_cores())) if device == "cpu" else 8


def _tell(loop: asyncio.AbstractEventLoop, made: asyncio.Queue[Any], running: Transcription) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(made.put_nowait, running)


class Recognition:
    """The Whispers by name.   default: for OpenAI's names, None: the best that is on this machine."""

    def __init__(self, default: str | None = None, size: int = 2, device: str = "cpu"):
        self.default = default
        self.pool: Pool[SharedWhisper] = Pool(lambda name: SharedWhisper(Transcriber(name, device)), size)

    def resolve(
        self,
        name: str,
        task: str = "transcribe",
        language: str | None = None,
        languages: Sequence[str] = (),
    ) -> str:
        """The name of a model on this machine. Never a path: a request has no say over which files are opened.
        Raises NotFoundError."""
        if name in OPENAI or not name:
            try:
                return self.default or default_model(language or None, task, languages)
            except MissingModelError as error:
                raise NotFoundError(str(error), param="model", code="model_not_found") from None
        if name == self.default:
            return name
        if not is_known(name) or find_weights(name) is None:
            raise NotFoundError(
                f"no model named {name!r} is on this server; there are {', '.join(self.installed()) or 'none'}",
                param="model",
                code="model_not_found",
            )
        return ALIASES.get(name, name)

    def installed(self) -> list[str]:
        """Names of the models on this machine."""
        names = [entry.name for entry in list_models() if not entry.name.startswith("faster-")]
        found = [name for name in names if _is_here(name)]
        return found if self.default in (None, *found) else [str(self.default), *found]


def _is_here(name: str) -> bool:
    try:
        return find_weights(name) is not None
    except MynaError:
        return False
