"""Continuous batching of transcriptions: recordings of different requests share the rounds of the model, and join and
leave between them.

    recording 1 --> coroutine --.                        .--> encode, decode with fallback, windows together
    recording 2 --> coroutine --+--> requests of a round +--> align words
    recording 3 --> coroutine --'      (one thread)      '--> tell the language

The transcript of a recording is that of the sequential algorithm alone (`transcribe`).
"""

from __future__ import annotations

import atexit
import threading
import weakref
from concurrent.futures import Future
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch

from ..data.audio import Samples
from .decoding.fallback import FallbackOptions
from .model.whisper import Whisper
from .transcribe import TranscribeOptions, answered, sequential
from .transcript import OnSegment, Transcript

_PATIENCE = 10.0  # seconds for which the end of a program waits for a layer


class CancelledError(Exception):
    """The transcription was given up."""


class _GoneError(Exception):
    """Nobody waits for what is computed."""


# Of whoever computes with a shared model outside its rounds, as live transcription does: set, what is computed ends
# before the next layer, by CancelledError. `asyncio.to_thread` takes it along.
given_up: ContextVar[threading.Event | None] = ContextVar("given_up", default=None)


@dataclass(eq=False)
class Transcription:
    """One that is under way. result: of the whole.   cancel: it takes part in no further round; a round of which all
    are cancelled ends before its next layer."""

    job: Any
    fallback: FallbackOptions
    result: Future[Transcript] = field(default_factory=Future)
    asked: Any = None
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


class SharedTranscription:
    """Transcribes any number of recordings, up to `batch_size` windows of them at a time. Safe to use from several
    threads. Where the program ends, what is under way ends with it.

    >>> shared.submit(samples, options).result.result()
    """

    def __init__(self, model: Whisper, batch_size: int = 8):
        self.model, self.batch_size = model, batch_size
        self._changed = threading.Condition()
        self._waiting: list[Transcription] = []
        self._thread: threading.Thread | None = None
        self._computed: list[Transcription] = []  # whose requests the model answers now
        self._closed = False
        self.rounds = self.windows = 0
        decoders = [model.decoder, *filter(None, [model.draft])]
        asked = weakref.WeakMethod(
            self._go_on
        )  # the model may be another's, too, and is not to keep this alive
        for block in [*model.encoder.blocks, *(block for one in decoders for block in one.blocks)]:
            block.register_forward_pre_hook(lambda *_: (ask := asked()) and ask())

    def submit(
        self, samples: Samples, options: TranscribeOptions, on_segment: OnSegment | None = None
    ) -> Transcription:
        """samples (N,) at 16 kHz; if they are not an array, they are read while they are needed. on_segment: called in
        the computing thread, with every segment as it is settled.
        Errors are those of `transcribe`, in the result."""
        options.check()
        job = sequential(self.model, samples, options, on_segment)
        made = Transcription(job, options.fallback)
        # From now on only the computing thread ends it: who awaits it by asyncio cancels the future when it goes, and a
        # result for a future that is cancelled is an error, which would end the thread and every other transcription.
        made.result.set_running_or_notify_cancel()
        with self._changed:
            if self._closed:
                made.result.set_exception(CancelledError())
                return made
            self._waiting.append(made)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="shared-asr", daemon=True)
                self._thread.start()
                # A thread that comes out of torch's code while Python is being taken apart is ended in the middle of
                # C++, which aborts the program ("terminate called without an active exception").
                atexit.register(self.close)
            self._changed.notify_all()
        return made

    def close(self) -> None:
        """Cancel all, and wait until the computing thread has ended."""
        with self._changed:
            self._closed, thread = True, self._thread
            for one in self._waiting:
                one.cancel()
            self._changed.notify_all()
        if thread is not None:
            thread.join(_PATIENCE)

    @property
    def n_running(self) -> int:
        return len(self._waiting)

    def _work(self) -> None:
        while (members := self._next()) is not None:
            with torch.inference_mode():
                self._round(members)

    def _next(self) -> list[Transcription] | None:
        """Whose turn it is, those first that have waited longest; None after a minute without any, and when closed."""
        with self._changed:
            while True:
                for one in [one for one in self._waiting if one.cancelled]:
                    self._waiting.remove(one)
                    one.job.close()
                    one.result.set_exception(CancelledError())
                if self._waiting:
                    return self._waiting[: self.batch_size]
                if self._closed or (not self._changed.wait(timeout=60) and not self._waiting):
                    self._thread = None
                    atexit.unregister(self.close)
                    return None

    def _round(self, members: list[Transcription]) -> None:
        for one in members:
            if one.asked is None:
                self._advance(one, None)
        groups: dict[FallbackOptions, list[Transcription]] = {}
        for one in members:
            if not one.result.done():
                groups.setdefault(one.fallback, []).append(one)
        for fallback, group in groups.items():
            self._computed = group
            try:
                answers = answered(self.model, [one.asked for one in group], fallback)
            except _GoneError:  # `_next` tells them
                continue
            except Exception as error:
                for one in group:
                    one.result.set_exception(error)
                continue
            finally:
                self._computed = []
            self.windows += len(group)
            for one, given in zip(group, answers, strict=True):
                self._advance(one, given)
        self.rounds += 1
        with self._changed:
            for one in members:
                self._waiting.remove(one)
                if not one.result.done():
                    self._waiting.append(one)

    def _go_on(self) -> None:
        """Before every layer of the model. Raises _GoneError in the computing thread if all that it works for are
        cancelled, CancelledError in another one that is to give up."""
        gone = given_up.get()
        if gone is not None and gone.is_set():
            raise CancelledError
        group = self._computed
        if group and threading.current_thread() is self._thread and all(one.cancelled for one in group):
            raise _GoneError

    def _advance(self, one: Transcription, given: Any) -> None:
        try:
            one.asked = one.job.send(given)
        except StopIteration as stop:
            one.result.set_result(stop.value)
        except Exception as error:
            one.result.set_exception(error)
