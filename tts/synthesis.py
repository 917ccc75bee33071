"""Text in a voice, as a stream: what VALL-E's figure draws, one sentence after another.

    text -> sentences -> phones -> AR -> coarse codes and hidden states, frame by frame        (one thread)
        -> a decoder -> the best of the candidates -> level, ends, tempo, pause, watermark     (another)

The AR works ahead of the rest, so that sound leaves while it still runs. Every stage is a stream, and the chunks are
cut at the same places however they are asked for: a text said in one call has the samples of the same text
streamed. Sentences are independent but for the level, so that a long text can be continued after any of them.

Shapes: n samples of one channel at the codec's rate.
"""

from __future__ import annotations

import hashlib
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
from .candidates import Candidates
from .decoders.base import Latents, SoundStream
from .finish.chain import Finish, Stage
from .finish.level import LevelState
from .lm.batch import Prompt
from .lm.sampling import SamplingOptions
from .lm.step import Frame
from .presets import SpeechOptions
from .spoken_words import SpokenWord, spoken_words
from .text.long_text import Sentence
from .text.phones import Phones

PAUSE, PARAGRAPH_PAUSE = 0.25, 0.7  # seconds of silence after a sentence, besides its own short ends
_FRAMES_AHEAD = 12  # chunks of codes that the AR may be ahead: half a minute at most
_CHUNKS_AHEAD = 4  # chunks of samples that are ready before they are asked for
_NOTHING = np.zeros(0, np.float32)


class SpeechModels(Protocol):
    """What synthesis asks of the models."""

    codec: Codec

    def chunks(self, decoder: str | None) -> tuple[int, ...]:
        """Lengths in frames that are turned into sound at a time, the last repeats; empty: a sentence."""
        ...

    def first_codes(
        self, phones: Phones, prompt: Prompt | None, sampling: SamplingOptions
    ) -> Iterator[Frame]:
        """The AR, frame by frame until the phones are said."""
        ...

    def sound(self, phones: Phones, prompt: Prompt | None, decoder: str | None, seed: int) -> SoundStream: ...

    def score(self, samples: np.ndarray, phones: Phones) -> float:
        """How clearly (n,) samples say the phones: the higher the better."""
        ...


@dataclass(frozen=True)
class SpokenChunk:
    """A stretch of speech.

    samples: (n,) float32.   sentence: its index.   ends_sentence: nothing of it follows.   done: share of the text
    that is said by then, 0 to 1.   level: at the end of a sentence, what the next one begins with.   words: likewise,
    when each of it was said, in seconds of the speech.
    """

    samples: np.ndarray
    sentence: int
    ends_sentence: bool
    done: float
    level: LevelState | None = None
    words: tuple[SpokenWord, ...] = ()


@dataclass(frozen=True)
class _CodeChunk:
    """From the AR to the rest. phones: None for a sentence without a sound.   latents: None for no frames, as in the
    first of a sentence and perhaps in the last."""

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
        codes = ahead(self._codes(sentences, prompt, options, start), _FRAMES_AHEAD, "ar")
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
            for candidate in range(preset.n_candidates):
                seed = sentence_seed(options.seed, index, candidate)
                sampling = replace(preset.sampling, seed=seed)
                frames = self.models.first_codes(phones, prompt, sampling)
                yield from _chunked(frames, chunks, index, candidate, phones)
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
        n_candidates, text = options.resolved().n_candidates, _Text(sentences)
        finish, began, rate = self._finish(level, options, position), position, self.models.codec.sample_rate
        tries: list[_Utterance] = []
        with closing(chunks):
            for chunk in chunks:
                if chunk.first:
                    utterance = self._utterance(chunk, prompt, options)
                    if chunk.candidate == 0 or chunk.phones is None:
                        candidates = Candidates(1 if chunk.phones is None else n_candidates, utterance.score)
                        tries = []
                    tries.append(utterance)
                heard = candidates.push(utterance.push(chunk), chunk.last)
                if heard is None:
                    yield SpokenChunk(_NOTHING, chunk.sentence, False, text.done(chunk.sentence, 0.0))
                    continue
                samples = finish.push(heard)
                position += len(samples)
                if not chunk.last:
                    done = text.done(chunk.sentence, utterance.progress)
                    yield SpokenChunk(samples, chunk.sentence, False, done)
                    continue
                rest = finish.flush(0.0 if chunk.phones is None else text.pause(chunk.sentence))
                position += len(rest)
                samples, done = np.concatenate([samples, rest]), text.done(chunk.sentence, 1.0)
                words = tries[candidates.chosen].words(
                    sentences[chunk.sentence].text, rate, began / rate - finish.cut_seconds, options.speed
                )
                yield SpokenChunk(samples, chunk.sentence, True, done, finish.level, words)
                began = position
                # The pause has emptied the watermark's memory: a new one goes on as the old one would.
                finish = self._finish(finish.level, options, position)

    def _utterance(self, chunk: _CodeChunk, prompt: Prompt | None, options: SpeechOptions) -> _Utterance:
        if chunk.phones is None:
            return _Utterance(self.models)
        seed = sentence_seed(options.seed, chunk.sentence, chunk.candidate)
        sound = self.models.sound(chunk.phones, prompt, options.decoder, seed)
        return _Utterance(self.models, chunk.phones, sound)

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


class _Utterance:
    """The latents of one sentence, once said, to its waveform; nothing for one without a sound."""

    def __init__(self, models: SpeechModels, phones: Phones | None = None, sound: SoundStream | None = None):
        self.models, self.phones, self.sound, self.progress = models, phones, sound, 0.0
        self._pointers: list[Tensor] = []
        self._n_samples = 0

    def push(self, chunk: _CodeChunk) -> np.ndarray:
        """The samples (n,) that are certain now; at the last chunk, all that were owed."""
        if self.sound is None or self.phones is None:
            return _NOTHING
        wav = _NOTHING if chunk.latents is None else self.sound.push(chunk.latents)
        if chunk.latents is not None:
            self._pointers.append(chunk.latents.pointer.flatten())
            self.progress = min(1.0, (int(chunk.latents.pointer.flatten()[-1]) + 1) / len(self.phones))
        if chunk.last:
            self.progress = 1.0
            wav = np.concatenate([wav, self.sound.flush()])
        self._n_samples += len(wav)
        return wav

    def words(self, text: str, sample_rate: int, offset: float, speed: float) -> tuple[SpokenWord, ...]:
        """As `spoken_words`, after the last chunk."""
        if self.phones is None or not self._pointers:
            return ()
        pointer = torch.cat(self._pointers)
        frame_seconds = self._n_samples / sample_rate / len(pointer)
        return spoken_words(text, self.phones, pointer, frame_seconds, offset, speed)

    def score(self, samples: np.ndarray) -> float:
        return 0.0 if self.phones is None else self.models.score(samples, self.phones)


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
