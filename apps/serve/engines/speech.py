"""Speech for many requests at once, on the models of `tts.valle`.

    request -> sentences -> phones -> AR, its steps shared by all -> decoder, in turns -> watermark -> chunks

Each request is a `Speaker.chunks` with models of its own view: the same weights, its place among the others. Who has
heard nothing yet goes first, then who has the least sound in hand.

Shapes: n samples of one channel at the codec's rate.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np

from ....tts.decoders.base import Latents, SoundStream
from ....tts.lm.batch import Prompt
from ....tts.lm.sampling import SamplingOptions
from ....tts.lm.several import side_by_side
from ....tts.lm.shared import SharedAR
from ....tts.lm.step import Frame
from ....tts.presets import SpeechOptions
from ....tts.rerank.base import Attempt
from ....tts.rerank.ranking import Verdict
from ....tts.speaker import Speaker, shared_speaker
from ....tts.synthesis import SpokenChunk
from ....tts.text.long_text import Sentence
from ....tts.text.phones import Phones
from ....tts.valle import Valle
from ....tts.voices.voice import Voice
from .turns import Turns


class CancelledError(Exception):
    """Nobody listens any more."""


class Ticket:
    """One request among the others.   cancelled: set from any thread; the work ends within a step.

    n_frames: of the AR, so far.
    """

    def __init__(self, sample_rate: int):
        self.sample_rate, self.cancelled = sample_rate, threading.Event()
        self._heard_at: float | None = None
        self._n_samples = self.n_frames = 0

    def cancel(self) -> None:
        self.cancelled.set()

    def check(self) -> None:
        if self.cancelled.is_set():
            raise CancelledError

    def heard(self, n_samples: int) -> None:
        if n_samples and self._heard_at is None:
            self._heard_at = time.monotonic()
        self._n_samples += n_samples

    @property
    def opens(self) -> bool:
        """Whether nothing of it has been heard yet."""
        return self._heard_at is None

    @property
    def priority(self) -> tuple[float, float]:
        """The smaller, the sooner its turn: seconds of sound in hand, below all of them who have none."""
        if self._heard_at is None:
            return (0.0, 0.0)
        return (1.0, self._n_samples / self.sample_rate - (time.monotonic() - self._heard_at))


class _View:
    """The models as one request sees them. What is not here is `Valle`'s own."""

    def __init__(self, models: Valle, shared: SharedAR, turns: Turns, ticket: Ticket):
        self._models, self._shared, self._turns, self._ticket = models, shared, turns, ticket

    def __getattr__(self, name: str) -> Any:
        return getattr(self._models, name)

    @property
    def chunks_ahead(self) -> int:
        """Beside others one is decoded, one waits, one is filled: an AR that is further ahead of its decoder would not
        step together with those that are not (`SharedAR`)."""
        return 1 if self._shared.n_running else self._models.chunks_ahead

    def first_codes(
        self, phones: Phones, prompt: Prompt | None, sampling: SamplingOptions
    ) -> Iterator[Frame]:
        ticket = self._ticket
        ticket.check()
        with self._turns.turn(ticket.priority):  # phones and prompt are read alone
            adapter = self._models.ar_adapter(prompt)
            stopped = ticket.cancelled.is_set
            frames = self._shared.frames(phones, prompt, sampling, ticket.opens, adapter, stopped)
        try:
            for frame in frames:
                ticket.check()
                ticket.n_frames += 1
                yield frame
            ticket.check()  # perhaps it was stopped
        finally:
            frames.close()

    def several(
        self, phones: Phones, prompt: Prompt | None, sampling: SamplingOptions, seeds: Sequence[int]
    ) -> Iterator[Sequence[Frame | None]]:
        return side_by_side(
            [self.first_codes(phones, prompt, replace(sampling, seed=seed)) for seed in seeds]
        )

    def sound(
        self, phones: Phones, prompt: Prompt | None, decoder: str | None = None, seed: int = 0
    ) -> SoundStream:
        with self._turns.turn(self._ticket.priority):
            sound = self._models.sound(phones, prompt, decoder, seed)
        return _Sound(sound, self._turns, self._ticket)

    def judge(self, attempt: Attempt, words_alone: bool = False) -> Verdict:
        with self._turns.turn(self._ticket.priority):
            return self._models.judge(attempt, words_alone)


class _Sound:
    """A decoder's stream that waits for its turn."""

    def __init__(self, sound: SoundStream, turns: Turns, ticket: Ticket):
        self._sound, self._turns, self._ticket = sound, turns, ticket

    def push(self, latents: Latents) -> np.ndarray:
        return self._in_turn(lambda: self._sound.push(latents))

    def flush(self) -> np.ndarray:
        return self._in_turn(self._sound.flush)

    def _in_turn(self, work: Callable[[], np.ndarray]) -> np.ndarray:
        self._ticket.check()
        with self._turns.turn(self._ticket.priority):
            self._ticket.check()
            samples = work()
        self._ticket.heard(len(samples))
        return samples


class SpeechEngine:
    """The models of a speaker for any number of requests; safe to use from several threads."""

    def __init__(self, speaker: Speaker | None = None, device: str = "cpu", exact: bool = True):
        self.speaker = shared_speaker(device) if speaker is None else speaker
        self.sample_rate = self.speaker.sample_rate
        models = self.speaker.models
        self.shared = SharedAR(models.ar, exact, models.opening, models.utterance)
        # The AR has little to do where many share its steps, so that decoders may have every core.
        self._turns = Turns(n_cores())

    def ticket(self) -> Ticket:
        return Ticket(self.sample_rate)

    def say(
        self,
        sentences: list[Sentence],
        voice: Voice,
        options: SpeechOptions,
        ticket: Ticket,
        after: SpokenChunk | None = None,
        position: int = 0,
    ) -> Generator[SpokenChunk, None, None]:
        """As `Speaker.chunks`. Raises CancelledError soon after the ticket is."""
        view = cast(Valle, _View(self.speaker.models, self.shared, self._turns, ticket))
        speaker = self.speaker.with_models(view)
        for chunk in speaker.chunks(sentences, voice, options, None, after, position):
            ticket.check()
            yield chunk


def n_cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
