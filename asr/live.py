"""Streaming transcription: words are final once they are stable, and never change after.

Every `step` seconds all audio that is kept is recognised again. What two recognitions in a row agree on is settled
(local agreement: Liu et al. 2020, "Low-latency sequence-to-sequence speech recognition and translation by partial
hypothesis selection", section 3; Machacek et al. 2023, "Turning Whisper into real-time transcription system", section
2), and so is everything when the speaker pauses. Settled words are given to the recogniser as the beginning of its
text, so that nothing is said twice, and audio is let go at the ends of settled sentences and in pauses.

    chunks -> [voice activity] -> audio kept -> recogniser -> hypothesis -+-> agreed with the last one -> stable words
                                      ^                                   +-> the rest -> tentative
                                      +------------- cut ------------- settled

Times are seconds since the first sample. Shapes: N samples at 16 kHz, F frames of 32 ms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ..errors import InputError, UsageError
from ..pretrained.silero import FRAME, RATE, VoiceActivity
from .vad import Span, VadOptions, at_level, find_spans, level_gain

if TYPE_CHECKING:
    from .model.whisper import Whisper
    from .transcribe import TranscribeOptions
    from .transcript import Word

_WINDOW = 30.0  # seconds that the recogniser sees
_CONTEXT = 600  # characters of settled text, before the audio kept, that the recogniser is told
_EDGE = 0.4  # seconds of silence kept before and after speech
_LONGEST_STEP = 5.0  # seconds between recognitions when catching up
_LATE = 0.5  # a word that begins so many seconds after all speech was not said
_MISSED = 1.0  # seconds of speech without a word that something was said in
_LEVEL_DECAY = 0.93  # a second: the loudest moment is forgotten by half in ten


@dataclass(frozen=True)
class LiveOptions:
    """step: seconds of audio from one recognition to the next.   silence: seconds of it that settle what was said.
    max_buffer: seconds of audio kept, at most.   vad: what counts as speech; its lengths and pads do not matter.
    """

    step: float = 1.0
    silence: float = 0.6
    max_buffer: float = 20.0
    vad: VadOptions = field(default_factory=VadOptions)

    def __post_init__(self) -> None:
        if not 0.1 <= self.step <= 10:
            raise UsageError(f"a step of {self.step:g} s between recognitions; expected 0.1 to 10")
        if not 0.1 <= self.silence <= 5:
            raise UsageError(f"a silence of {self.silence:g} s that settles; expected 0.1 to 5")
        if not 3 * self.step <= self.max_buffer < _WINDOW:
            raise UsageError(
                f"a buffer of {self.max_buffer:g} s; expected three steps ({3 * self.step:g} s) to {_WINDOW - 1:g} s"
            )


@dataclass(frozen=True)
class LiveUpdate:
    """words: those settled since the last update, each beginning with the space before it, with their times.
    tentative: what seems to follow, and may still change.   seconds: of audio heard so far.
    """

    words: tuple[Word, ...]
    tentative: str
    seconds: float

    @property
    def stable(self) -> str:
        """The text settled since the last update. All of them in a row are the transcript."""
        return "".join(word.word for word in self.words)


class Recogniser(Protocol):
    """What hears: a stretch of audio to words."""

    def __call__(self, audio: np.ndarray, begun: str, before: str) -> Sequence[Word]:
        """audio (N,), at most 30 s, whose text begins with `begun`, after a text `before` -> the words that follow,
        with times from the beginning of the audio."""
        ...


class LiveTranscriber:
    """Words of a stream of audio as they settle, in bounded memory, for hours.

    model: a Whisper, or any Recogniser.   options: as for files; what needs all of the audio has no effect.
    Given the same audio, the words are the same however it is cut into chunks (but for `catch_up`).
    Raises MissingModelError without silero-vad.

    >>> live = LiveTranscriber(load_whisper("tiny.en"))
    >>> for chunk in microphone:  # (n,) float32 at 16 kHz
    ...     print(live.push(chunk).stable, end="", flush=True)
    >>> print(live.flush().stable)
    """

    def __init__(
        self,
        model: Whisper | Recogniser,
        options: TranscribeOptions | None = None,
        live: LiveOptions | None = None,
    ):
        self.live = live or LiveOptions()
        self._recognise = _recogniser(model, options)
        self._step = round(self.live.step * RATE)
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._detector = VoiceActivity()
        self._level = 0.0
        self._waiting: list[np.ndarray] = []  # less than a step, not looked at yet
        self._n_waiting = 0  # samples of them
        self._audio = np.zeros(0, np.float32)  # kept
        self._first = 0  # sample of the stream at which it begins, a multiple of a frame
        self._looked = 0  # samples of the stream that were looked at
        self._recognised = 0  # of them, when there was a recognition last
        self._probabilities = np.zeros(0, np.float32)  # (F,) of the audio kept
        self._begun: list[Word] = []  # settled words in the audio kept
        self._before = ""  # the end of the settled text before it
        self._until = 0.0  # speech up to there is settled
        self._last: list[Word] = []  # the last hypothesis, after what is settled
        self._new: list[Word] = []  # settled, and not given out yet

    @property
    def delay(self) -> float:
        """Seconds of audio from the end of a word until it is settled, when both recognitions that hear all of it
        agree. Recognition itself comes on top."""
        return 2 * self.live.step

    @property
    def max_delay(self) -> float:
        """Seconds of audio until it is settled even when recognitions never agree."""
        return self.live.max_buffer

    def push(self, samples: np.ndarray, catch_up: bool = False) -> LiveUpdate:
        """The next samples (n,) float32 at 16 kHz, any number of them.

        catch_up: for audio that has waited: where it holds several steps, it is recognised at the end only, which is
        faster, and settles the same words mostly.
        Raises InputError for samples of another shape, or with NaN or infinity.
        """
        samples = np.asarray(samples, np.float32)
        if samples.ndim != 1 or not np.isfinite(samples).all():
            raise InputError(f"samples of shape {samples.shape}; expected (n,), none of them NaN or infinite")
        while len(samples):
            part = samples[: self._step - self._n_waiting]
            self._waiting.append(part.copy())
            self._n_waiting += len(part)
            samples = samples[len(part) :]
            if self._n_waiting < self._step:
                break
            self._look()
            kept, since = len(self._audio) / RATE, (self._looked - self._recognised) / RATE
            last, full = len(samples) < self._step, kept > self.live.max_buffer - self.live.step
            if not catch_up or last or full or since >= _LONGEST_STEP:
                self._tick()
        return self._update()

    def flush(self) -> LiveUpdate:
        """The recording is over: everything that is left is settled. The next push begins another recording."""
        self._look()
        rest = self._detector.flush()
        self._probabilities = np.concatenate([self._probabilities, rest])
        self._tick(over=True)
        update = self._update()
        self._begin_anew()
        return update

    def _update(self) -> LiveUpdate:
        words, self._new = tuple(self._new), []
        seconds = (self._looked + self._n_waiting) / RATE
        return LiveUpdate(words, "".join(word.word for word in self._last), seconds)

    # ---- one step

    def _look(self) -> None:
        """Voice activity of the samples that wait, at the level of the loudest moments of late."""
        samples = np.concatenate([np.zeros(0, np.float32), *self._waiting])
        self._waiting, self._n_waiting, n = [], 0, len(samples)
        self._audio = np.concatenate([self._audio, samples])
        here = 0.3 / level_gain(samples) if n else 0.0
        self._level = max(self._level * _LEVEL_DECAY ** (n / RATE), here)
        found = self._detector.push(at_level(samples, 0.3 / max(self._level, 1e-3)))
        self._probabilities = np.concatenate([self._probabilities, found])
        self._looked += n

    def _tick(self, over: bool = False) -> None:
        """A recognition of what is kept, if there is something new in it, and what follows from it."""
        spans, now = self._spans(), self._looked / RATE
        self._recognised = self._looked
        # The times of words are not exact: what was heard once and is not settled yet counts as new.
        if not spans or (not self._last and spans[-1].end <= self._until + FRAME / RATE / 2):
            self._last = []
            self._let_silence_go(spans, now)
            return
        pause = over or now - spans[-1].end >= self.live.silence
        words = self._hypothesis(spans, spans[-1].end if pause else now)
        if pause:
            while words:
                self._settle(words)
                words = self._hypothesis(spans, spans[-1].end) if self._unheard(spans) > _MISSED else []
            self._last, self._until = [], spans[-1].end
            return
        n = _agreement(self._last, words)
        self._settle(words[:n])
        self._last = words[n:]
        if now - self._first / RATE > self.live.max_buffer - self.live.step:
            self._shorten(now)

    def _spans(self) -> list[Span]:
        """Where somebody speaks in what is kept."""
        options = replace(self.live.vad, pad=0.0, min_silence=0.0, max_length=float("inf"))
        seconds = (self._looked - self._first) / RATE
        start = self._first / RATE
        found = find_spans(self._probabilities, seconds, options)
        return [Span(start + span.start, start + span.end) for span in found]

    def _hypothesis(self, spans: list[Span], end: float) -> list[Word]:
        """The words after those that are settled, in what is kept up to `end` and an edge more."""
        words = self._hear(end)
        if not words and self._begun and self._unheard(spans) > _MISSED:
            # The recogniser takes the sentence to be complete; without it, it hears what follows.
            self._cut(self._until)
            words = self._hear(end)
        made: list[Word] = []
        for word in words:
            start = max(word.start, made[-1].end if made else self._until)
            if start > spans[-1].end + _LATE:
                break
            made.append(_in_speech(replace(word, start=start, end=max(start, min(word.end, end))), spans))
        return made

    def _unheard(self, spans: list[Span]) -> float:
        """Seconds of speech after what is settled."""
        return sum(span.end - max(span.start, self._until) for span in spans if span.end > self._until)

    def _hear(self, end: float) -> list[Word]:
        start = self._first / RATE
        audio = self._audio[: round((end + _EDGE) * RATE) - self._first]
        begun = "".join(word.word for word in self._begun)
        found = self._recognise(audio, begun, self._before)
        return [replace(word, start=word.start + start, end=word.end + start) for word in found]

    def _settle(self, words: list[Word]) -> None:
        self._new += words
        self._begun += words
        if words:
            self._until = max(self._until, words[-1].end)

    # ---- what is let go

    def _let_silence_go(self, spans: list[Span], now: float) -> None:
        """After a long pause, all but its end."""
        if not spans or now - spans[-1].end >= 2 * self.live.silence + _EDGE:
            self._cut(now - _EDGE)

    def _shorten(self, now: float) -> None:
        """The audio kept is as long as it may be: it is cut at the end of a settled sentence, or in a pause."""
        start, third = self._first / RATE, self.live.max_buffer / 3
        if not self._begun or self._begun[-1].end < start + third:
            # No two recognitions agree: half of what the last one heard has to do.
            n = sum(word.end < start + 2 * third for word in self._last)
            self._settle(self._last[:n])
            self._last = self._last[n:]
        late = [i for i, word in enumerate(self._begun) if word.end >= start + third]
        if not late:
            self._until = max(self._until, start + 2 * third)
            self._cut(self._until)
            return
        follows = [word.start for word in (self._begun + self._last)[1:]] + [now]
        sentences = [
            i for i in late if self._begun[i].word.rstrip().endswith((".", "?", "!", "。", "？", "！"))
        ]
        last = max(sentences or late, key=lambda i: follows[i] - self._begun[i].end)
        self._cut(self._quietest(self._begun[last].end, follows[last]))

    def _quietest(self, end: float, start: float) -> float:
        """The moment between two words at which there is least speech; their times are not exact."""
        first = self._first // FRAME
        low = max(0, int((end - 0.2) * RATE / FRAME) - first)
        high = int((start + 0.2) * RATE / FRAME) - first + 1
        around = self._probabilities[low:high]
        if not len(around):
            return end
        # The middle of the silence, not its first frame.
        quiet = np.flatnonzero(around <= around.min() + 0.02)
        return (first + low + int(quiet[len(quiet) // 2]) + 0.5) * FRAME / RATE

    def _cut(self, at: float) -> None:
        """Let go the audio before `at`, and the settled words that end there or before."""
        frames = min(max(0, int(at * RATE) - self._first) // FRAME, len(self._probabilities))
        self._first += frames * FRAME
        self._audio = self._audio[frames * FRAME :].copy()
        self._probabilities = self._probabilities[frames:].copy()
        gone = sum((word.start + word.end) / 2 <= at for word in self._begun)
        text = self._before + "".join(word.word for word in self._begun[:gone])
        self._before = text if len(text) <= _CONTEXT else text[-_CONTEXT:].partition(" ")[2]
        self._begun = self._begun[gone:]


def _in_speech(word: Word, spans: Sequence[Span]) -> Word:
    """The word without the silence before and after it, over which the alignment may draw it out."""
    inside = [span for span in spans if span.end > word.start and span.start < word.end]
    if not inside:
        return word
    return replace(word, start=max(word.start, inside[0].start), end=min(word.end, inside[-1].end))


def _agreement(last: list[Word], words: list[Word]) -> int:
    """How many words both hypotheses begin with; capitals and punctuation may still change."""
    n = 0
    while n < min(len(last), len(words)) and _key(last[n].word) == _key(words[n].word):
        n += 1
    return n


def _key(word: str) -> str:
    return "".join(c for c in word.casefold() if c.isalnum()) or word.strip()


def _recogniser(model: Whisper | Recogniser, options: TranscribeOptions | None) -> Recogniser:
    from .model.whisper import Whisper

    if not isinstance(model, Whisper):
        return model
    from .live_recogniser import WhisperRecogniser

    return WhisperRecogniser(model, options)
