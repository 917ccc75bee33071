"""Text in a voice, as a stream: what VALL-E's figure draws, one sentence after another.

    text -> sentences -> phones -> AR -> coarse codes and the phone that is said, frame by frame        (one thread)
        -> a decoder -> the best of the candidates -> level, ends, tempo, pause, watermark     (another)

The AR works ahead of the rest, so that sound leaves while it still runs. Every stage is a stream, and the chunks are
cut at the same places however they are asked for: a text said in one call has the samples of the same text
streamed, but for sentences in which words were missing: where nobody hears a sentence while it is made, it is said
again. Sentences are independent but for the level, so that a long text can be continued after any of them.

Shapes: n samples of one channel at the codec's rate.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..codec import Codec
from ..errors import InputError, UsageError
from .ahead import ahead
from .candidates import Candidates, Tried
from .decoders.base import Latents, SoundStream
from .finish.chain import Finish, Stage
from .finish.level import LevelState
from .lm.batch import Prompt
from .lm.sampling import SamplingOptions
from .lm.step import Frame
from .presets import Preset, SpeechOptions
from .rerank.base import Attempt
from .rerank.ranking import Verdict
from .spoken_words import SpokenWord, spoken_words
from .text.long_text import Sentence
from .text.phones import Phones

PAUSE, PARAGRAPH_PAUSE = 0.25, 0.7  # seconds of silence after a sentence, besides its own short ends
_CHUNKS_AHEAD = 4  # chunks of samples that are ready before they are asked for
_STEPS = 12  # frames of several tries after which it is asked whether they are still wanted
_NOTHING = np.zeros(0, np.float32)


class SpeechModels(Protocol):
    """What synthesis asks of the models.   chunks_ahead: chunks of codes that the AR may be ahead of the decoder, at
    least 1."""

    codec: Codec

    @property
    def chunks_ahead(self) -> int: ...

    def chunks(self, decoder: str | None) -> tuple[int, ...]:
        """Lengths in frames that are turned into sound at a time, the last repeats; empty: a sentence."""
        ...

    def first_codes(
        self, phones: Phones, prompt: Prompt | None, sampling: SamplingOptions
    ) -> Iterator[Frame]:
        """The AR, frame by frame until the phones are said."""
        ...

    def several(
        self, phones: Phones, prompt: Prompt | None, sampling: SamplingOptions, seeds: Sequence[int]
    ) -> Iterator[Sequence[Frame | None]]:
        """The AR for several tries side by side: the next frame of the try with each seed, None of one that is over."""
        ...

    def sound(self, phones: Phones, prompt: Prompt | None, decoder: str | None, seed: int) -> SoundStream: ...

    def judge(self, attempt: Attempt, words_alone: bool) -> Verdict:
        """How good a try is.   words_alone: only whether the words are there, and how clearly."""
        ...


@dataclass(frozen=True)
class SpokenChunk:
    """A stretch of speech.

    samples: (n,) float32.   sentence: its index.   ends_sentence: nothing of it follows.   done: share of the text
    that is said by then, 0 to 1.   level: at the end of a sentence, what the next one begins with.   words: likewise,
    when each of it was said, in seconds of the speech.   tried: likewise, all tries that were judged.
    """

    samples: np.ndarray
    sentence: int
    ends_sentence: bool
    done: float
    level: LevelState | None = None
    words: tuple[SpokenWord, ...] = ()
    tried: tuple[Tried, ...] = ()


@dataclass(frozen=True)
class _CodeChunk:
    """From the AR to the rest. phones: None for a sentence without a sound.   latents: None for no frames, as in the
    first of a sentence, perhaps in the last, and while several tries are made."""

    sentence: int
    candidate: int
    phones: Phones | None
    latents: Latents | None
    first: bool
    last: bool


class Synthesizer:
    """Says sentences with loaded models.

    phonemize: (sentence, language) to phones, InputError where there are none.   watermark: a new one for each
    sentence, from the number of samples said before it; synthesis is impossible without.
    """

    def __init__(
        self,
        models: SpeechModels,
        phonemize: Callable[[str, str], Phones],
        watermark: Callable[[int], Stage],
    ):
        self.models, self.phonemize, self.watermark = models, phonemize, watermark

    def stream(
        self,
        sentences: Sequence[Sentence],
        prompt: Prompt | None,
        level: LevelState,
        options: SpeechOptions | None = None,
        start: int = 0,
        position: int = 0,
    ) -> Generator[SpokenChunk, None, None]:
        """The sentences from index `start`, chunk by chunk; every sentence ends with a chunk that says so.

        level: of `start_state` for the prompt. When a text is continued, level and position (samples said) are those
        after the sentence before. Closing the generator stops the work. Raises UsageError if there is nothing to say
        in any of them, and what the models raise.
        """
        options = options or SpeechOptions()
        codes = ahead(self._codes(sentences, prompt, options, start), self.models.chunks_ahead, "ar")
        chunks = ahead(
            self._speech(codes, sentences, prompt, level, options, start, position), _CHUNKS_AHEAD, "decoder"
        )
        with closing(chunks):
            yield from (chunk for chunk in chunks if len(chunk.samples) or chunk.ends_sentence)

    def _codes(
        self, sentences: Sequence[Sentence], prompt: Prompt | None, options: SpeechOptions, start: int
    ) -> Generator[_CodeChunk, None, None]:
        """The AR's part of every sentence, in chunks."""
        spoken = start > 0
        chunks = self.models.chunks(options.decoder)
        preset = options.resolved()
        for index in range(start, len(sentences)):
            phones = self._phones(sentences[index].text, options.language)
            if phones is None:
                yield _CodeChunk(index, preset.n_candidates - 1, None, None, True, True)
                continue
            spoken = True
            seeds = [sentence_seed(options.seed, index, i) for i in range(preset.n_candidates)]
            if len(seeds) == 1:
                frames = self.models.first_codes(phones, prompt, replace(preset.sampling, seed=seeds[0]))
                yield from _chunked(frames, chunks, index, 0, phones)
                continue
            tries: list[list[Frame]] = [[] for _ in seeds]
            steps = self.models.several(phones, prompt, preset.sampling, seeds)
            for n, step in enumerate(steps):
                for own, frame in zip(tries, step, strict=True):
                    if frame is not None:
                        own.append(frame)
                if n % _STEPS == 0:
                    yield _CodeChunk(index, 0, phones, None, False, False)
            for candidate, own in enumerate(tries):
                yield from _chunked(iter(own), chunks, index, candidate, phones)
        if not spoken:
            raise UsageError(
                "there is nothing to say: no sentence of the text has a sound; give at least one word"
            )

    def _phones(self, text: str, language: str) -> Phones | None:
        """None for a sentence without a sound, such as a row of dashes."""
        if not any(char.isalnum() for char in text):
            return None
        try:
            return self.phonemize(text, language)
        except InputError:
            return None

    def _speech(
        self,
        chunks: Generator[_CodeChunk, None, None],
        sentences: Sequence[Sentence],
        prompt: Prompt | None,
        level: LevelState,
        options: SpeechOptions,
        start: int,
        position: int,
    ) -> Generator[SpokenChunk, None, None]:
        """Everything after the AR. A chunk without samples says only that the work goes on (and finds out whether it
        still should)."""
        preset, text = options.resolved(), _Text(sentences)
        finish, began, rate = self._finish(level, options, position), position, self.models.codec.sample_rate
        sentence: _Tries | None = None
        with closing(chunks):
            for chunk in chunks:
                working = SpokenChunk(_NOTHING, chunk.sentence, False, text.done(chunk.sentence, 0.0))
                if sentence is None or sentence.index != chunk.sentence:
                    sentence = _Tries(self, sentences[chunk.sentence], chunk, prompt, options, preset)
                heard = sentence.push(chunk)
                ends = chunk.last and chunk.candidate == preset.n_candidates - 1
                if ends:
                    for _ in sentence.again():
                        yield working
                parts = [heard] if heard is not None else list(sentence.candidates.best) if ends else []
                if not parts:
                    yield working
                    continue
                samples = np.concatenate([finish.push(part) for part in parts])
                position += len(samples)
                if not ends:
                    yield SpokenChunk(
                        samples, chunk.sentence, False, text.done(chunk.sentence, sentence.progress)
                    )
                    continue
                rest = finish.flush(0.0 if chunk.phones is None else text.pause(chunk.sentence))
                position += len(rest)
                words = sentence.chosen.words(
                    sentence.text, rate, began / rate - finish.cut_seconds, options.speed
                )
                yield SpokenChunk(
                    np.concatenate([samples, rest]),
                    chunk.sentence,
                    True,
                    text.done(chunk.sentence, 1.0),
                    finish.level,
                    words,
                    sentence.candidates.tried(rate),
                )
                began = position
                # The pause has emptied the watermark's memory: a new one goes on as the old one would.
                finish = self._finish(finish.level, options, position)

    def utterance(
        self, phones: Phones | None, prompt: Prompt | None, options: SpeechOptions, seed: int
    ) -> _Utterance:
        if phones is None:
            return _Utterance()
        return _Utterance(phones, self.models.sound(phones, prompt, options.decoder, seed))

    def _finish(self, level: LevelState, options: SpeechOptions, position: int) -> Finish:
        rate = self.models.codec.sample_rate
        return Finish(rate, level, options.speed, self.watermark(position))


def sentence_seed(seed: int, index: int, candidate: int = 0) -> int:
    """A seed for every sentence and candidate of a text, whichever sentence one begins with."""
    digest = hashlib.sha256(f"{seed} {index} {candidate}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def _chunked(
    frames: Iterator[Frame], sizes: Sequence[int], index: int, candidate: int, phones: Phones
) -> Iterator[_CodeChunk]:
    coming = iter(sizes)
    size = next(coming, None)
    held: list[Frame] = []

    def chunk(first: bool = False, last: bool = False) -> _CodeChunk:
        latents = Latents.of(held) if held else None
        return _CodeChunk(index, candidate, phones, latents, first, last)

    yield chunk(first=True)  # the other thread can get ready meanwhile
    for frame in frames:
        held.append(frame)
        if len(held) == size:
            yield chunk()
            held, size = [], next(coming, size)
    yield chunk(last=True)


class _Tries:
    """One sentence: its tries, one after another, and which of them is heard."""

    def __init__(
        self,
        synthesizer: Synthesizer,
        sentence: Sentence,
        chunk: _CodeChunk,
        prompt: Prompt | None,
        options: SpeechOptions,
        preset: Preset,
    ):
        self._synthesizer, self._options, self._preset, self._prompt = synthesizer, options, preset, prompt
        self.index, self._phones, self.text = chunk.sentence, chunk.phones, sentence.text
        self._until = time.monotonic() + options.patience
        judged = chunk.phones is not None and (preset.n_candidates > 1 or preset.redraws > 0)
        self.candidates = Candidates(self._judge if judged else None)
        self._said: list[_Utterance] = []  # those that were judged, or the one that is heard while it is made
        self._utterance: _Utterance | None = None  # None: there is no time for it

    @property
    def progress(self) -> float:
        """Share of the phones that are said, 0 to 1."""
        return 1.0 if self._utterance is None else self._utterance.progress

    @property
    def chosen(self) -> _Utterance:
        return self._said[self.candidates.chosen]

    def push(self, chunk: _CodeChunk) -> np.ndarray | None:
        """What is to be heard of a chunk at once, None where tries are judged first."""
        if chunk.first:
            self._begin(chunk.candidate)
        if self._utterance is None:
            return None
        return self.candidates.push(self._utterance.push(chunk.latents, chunk.last), chunk.last)

    def again(self) -> Iterator[None]:
        """Further tries while words are missing; pauses now and then."""
        synthesizer, preset = self._synthesizer, self._preset
        for number in range(preset.n_candidates, preset.n_candidates + preset.redraws):
            if not self.candidates.failed or time.monotonic() > self._until or self._phones is None:
                return
            sampling = replace(preset.sampling, seed=self._seed(number))
            frames = synthesizer.models.first_codes(self._phones, self._prompt, sampling)
            for chunk in _chunked(
                frames,
                synthesizer.models.chunks(self._options.decoder),
                self.index,
                number,
                self._phones,
            ):
                self.push(chunk)
                yield

    def _begin(self, number: int) -> None:
        if self.candidates.verdicts and time.monotonic() > self._until:
            self._utterance = None
            return
        self._utterance = self._synthesizer.utterance(
            self._phones, self._prompt, self._options, self._seed(number)
        )
        self._said.append(self._utterance)

    def _seed(self, number: int) -> int:
        return sentence_seed(self._options.seed, self.index, number)

    def _judge(self, samples: np.ndarray) -> Verdict:
        assert self._phones is not None
        assert self._utterance is not None
        models = self._synthesizer.models
        attempt = Attempt(
            samples, models.codec.sample_rate, self._phones, self.text, self._prompt, self._utterance.codes
        )
        return models.judge(attempt, words_alone=self._preset.n_candidates == 1)


class _Utterance:
    """The latents of one sentence, once said, to its waveform; nothing for one without a sound."""

    def __init__(self, phones: Phones | None = None, sound: SoundStream | None = None):
        self.phones, self.sound, self.progress = phones, sound, 0.0
        self._pointers: list[Tensor] = []
        self._codes: list[Tensor] = []
        self._n_samples = 0

    def push(self, latents: Latents | None, last: bool) -> np.ndarray:
        """The samples (n,) that are certain now; at the last chunk, all that were owed."""
        if self.sound is None or self.phones is None:
            return _NOTHING
        wav = _NOTHING if latents is None else self.sound.push(latents)
        if latents is not None:
            self._pointers.append(latents.pointer.flatten())
            self._codes.append(latents.codes)
            self.progress = min(1.0, (int(latents.pointer.flatten()[-1]) + 1) / len(self.phones))
        if last:
            self.progress = 1.0
            wav = np.concatenate([wav, self.sound.flush()])
            self.sound = None  # megabytes of state: a text of many sentences is not to wait for a collection
        self._n_samples += len(wav)
        return wav

    @property
    def codes(self) -> Tensor | None:
        """(N, T) what the AR said; None for nothing."""
        return torch.cat(self._codes, dim=1) if self._codes else None

    def words(self, text: str, sample_rate: int, offset: float, speed: float) -> tuple[SpokenWord, ...]:
        """As `spoken_words`, after the last chunk."""
        if self.phones is None or not self._pointers:
            return ()
        pointer = torch.cat(self._pointers)
        frame_seconds = self._n_samples / sample_rate / len(pointer)
        return spoken_words(text, self.phones, pointer, frame_seconds, offset, speed)


class _Text:
    """Where in a text one is."""

    def __init__(self, sentences: Sequence[Sentence]):
        self.sentences = sentences
        length = max(1, sentences[-1].end) if sentences else 1
        self._ends = [sentence.end / length for sentence in sentences]

    def done(self, index: int, progress: float) -> float:
        """Share of the text that is said, `progress` of sentence `index` included."""
        before, after = self._ends[index - 1] if index else 0.0, self._ends[index]
        return 1.0 if self._is_last(index) and progress == 1 else before + (after - before) * progress

    def pause(self, index: int) -> float:
        """Seconds of silence after a sentence, besides its own short ends."""
        if self._is_last(index):
            return 0.0
        return PARAGRAPH_PAUSE if self.sentences[index].ends_paragraph else PAUSE

    def _is_last(self, index: int) -> bool:
        return index == len(self.sentences) - 1
