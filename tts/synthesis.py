"""Text in a voice, as a stream: what VALL-E's figure draws, one sentence after another.

    text -> sentences -> phones -> AR -> coarse codes and hidden states, frame by frame        (one thread)
        -> vocoder (or NAR and codec) -> level -> ends -> tempo -> watermark                   (another)

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
from .decoders.base import Latents, SoundStream
from .finish.level import Leveller, LevelState
from .finish.pauses import Trimmer
from .finish.tempo import Tempo
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


class Watermark(Protocol):
    """A watermark being put into one sentence: as many samples (n,) come out in all as went in."""

    def push(self, samples: np.ndarray) -> np.ndarray: ...

    def flush(self) -> np.ndarray: ...


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
        watermark: Callable[[int], Watermark],
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
        n_candidates, rate = options.resolved().n_candidates, self.models.codec.sample_rate
        length = max(1, sentences[-1].end) if sentences else 1
        before = sentences[start - 1].end / length if start else 0.0  # share of the text up to this sentence
        decoder, parts, best, nothing = None, [], None, np.zeros(0, np.float32)
        shaper = _Shaper(rate, level, options.speed, self.watermark(position))
        began, timed = position, None  # the sentence's first sample, and its decoder
        with closing(chunks):
            for chunk in chunks:
                sentence = sentences[chunk.sentence]
                after = sentence.end / length
                if chunk.first and chunk.phones is not None:
                    seed = sentence_seed(options.seed, chunk.sentence, chunk.candidate)
                    sound = self.models.sound(chunk.phones, prompt, options.decoder, seed)
                    decoder = _SentenceDecoder(sound, len(chunk.phones))
                wav, said = nothing, after
                if chunk.phones is not None and decoder is not None:
                    wav = decoder.push(chunk)
                    said = before + (after - before) * decoder.progress
                if n_candidates > 1 and chunk.phones is not None:
                    parts = [wav] if chunk.first else [*parts, wav]
                    if not chunk.last:
                        yield SpokenChunk(nothing, chunk.sentence, False, before)
                        continue
                    whole = np.concatenate(parts)
                    score = self.models.score(whole, chunk.phones)
                    if chunk.candidate == 0 or best is None or score > best[0]:
                        best, timed = (score, whole), decoder
                    if chunk.candidate < n_candidates - 1:
                        yield SpokenChunk(nothing, chunk.sentence, False, before)
                        continue
                    wav, best = best[1], None
                samples = shaper.push(wav)
                position += len(samples)
                if not chunk.last:
                    yield SpokenChunk(samples, chunk.sentence, False, said)
                    continue
                silent = chunk.phones is None
                final = chunk.sentence == len(sentences) - 1
                pause = 0.0 if silent or final else PARAGRAPH_PAUSE if sentence.ends_paragraph else PAUSE
                rest = shaper.flush(pause)
                position += len(rest)
                level, before = shaper.level, after
                samples = np.concatenate([samples, rest])
                timed = timed or decoder
                words = ()
                if timed is not None and chunk.phones is not None:
                    offset = (began - shaper.trimmer.n_cut / options.speed) / rate
                    words = timed.words(sentence.text, chunk.phones, rate, offset, options.speed)
                yield SpokenChunk(samples, chunk.sentence, True, 1.0 if final else after, level, words)
                began, timed = position, None
                # The pause has emptied the watermark's memory: a new one goes on as the old one would.
                shaper = _Shaper(rate, level, options.speed, self.watermark(position))


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


class _SentenceDecoder:
    """The frames of one sentence to its waveform."""

    def __init__(self, sound: SoundStream, n_phones: int):
        self.sound, self.n_phones, self.progress = sound, n_phones, 0.0
        self._pointers: list[Tensor] = []
        self._n_samples = 0

    def push(self, chunk: _CodeChunk) -> np.ndarray:
        """The samples (n,) that are certain now; at the last chunk, all that were owed."""
        wav = np.zeros(0, np.float32) if chunk.latents is None else self.sound.push(chunk.latents)
        if chunk.latents is not None:
            pointer = chunk.latents.pointer.flatten()
            self._pointers.append(pointer)
            self.progress = min(1.0, (int(pointer[-1]) + 1) / self.n_phones)
        if chunk.last:
            self.progress = 1.0
            wav = np.concatenate([wav, self.sound.flush()])
        self._n_samples += len(wav)
        return wav

    def words(
        self, text: str, phones: Phones, sample_rate: int, offset: float, speed: float
    ) -> tuple[SpokenWord, ...]:
        """As `spoken_words`, after the last chunk."""
        pointer = torch.cat([torch.zeros(0, dtype=torch.long), *self._pointers])
        frame_seconds = self._n_samples / sample_rate / max(1, len(pointer))
        return spoken_words(text, phones, pointer, frame_seconds, offset, speed)


class _Shaper:
    """From the decoder's samples of one sentence to those that are heard."""

    def __init__(self, sample_rate: int, level: LevelState, speed: float, watermark: Watermark):
        self.sample_rate, self.speed = sample_rate, speed
        self.leveller = Leveller(sample_rate, level)
        self.trimmer, self.tempo, self.watermark = Trimmer(sample_rate), Tempo(sample_rate, speed), watermark

    @property
    def level(self) -> LevelState:
        return self.leveller.state

    def push(self, x: np.ndarray) -> np.ndarray:
        return self.watermark.push(self.tempo.push(self.trimmer.push(self.leveller.push(x))))

    def flush(self, pause: float) -> np.ndarray:
        """What is still owed, and after it `pause` seconds of silence."""
        last = [self.tempo.push(self.trimmer.flush()), self.tempo.flush()]
        silence = np.zeros(round(pause / self.speed * self.sample_rate), np.float32)
        return np.concatenate([self.watermark.push(np.concatenate([*last, silence])), self.watermark.flush()])
