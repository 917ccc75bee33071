"""Text in a voice, as a stream: what VALL-E's figure draws, one sentence after another.

    text -> sentences -> phones -> AR -> coarse codebooks, frame by frame        (one thread)
                                          -> NAR -> all codebooks, chunk by chunk
                                          -> codec's decoder -> level -> ends -> tempo -> watermark   (another)

The AR works ahead of the rest, so that sound leaves while it still runs. Every stage is a stream, and the chunks are
cut at the same places however they are asked for: a text said in one call has the samples of the same text
streamed. Sentences are independent but for the level, so that a long text can be continued after any of them.

Shapes: K codebooks, T frames, n samples of one channel at the codec's rate.
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
from ..codec.base import DecoderStream
from ..errors import InputError, UsageError
from .ahead import ahead
from .batch import Prompt
from .long_text import Sentence
from .loudness import Leveller, LevelState
from .pauses import Trimmer
from .presets import SpeechOptions
from .sampling import SamplingOptions
from .tempo import Tempo
from .text.phones import Phones

PAUSE, PARAGRAPH_PAUSE = 0.25, 0.7  # seconds of silence after a sentence, besides its own short ends
_FRAMES_AHEAD = 12  # chunks of codes that the AR may be ahead: half a minute at most
_CHUNKS_AHEAD = 4  # chunks of samples that are ready before they are asked for


class CodeFiller(Protocol):
    """The NAR as a stream: first codes (N, t) and the pointer (t,) in, all codes (K, t') out as chunks complete."""

    def push(self, first: Tensor, pointer: Tensor) -> Tensor: ...

    def flush(self) -> Tensor: ...


class SpeechModels(Protocol):
    """What synthesis asks of the models. n_coarse: codebooks that the AR says.   chunks: lengths in frames after which
    the NAR has codes to give; the last repeats."""

    codec: Codec
    n_coarse: int
    chunks: tuple[int, ...]

    def first_codes(
        self, phones: Phones, prompt: Prompt | None, sampling: SamplingOptions
    ) -> Iterator[tuple[tuple[int, ...], int]]:
        """The AR: (N codes, pointer) frame by frame until the phones are said."""
        ...

    def filler(self, phones: Phones, prompt: Prompt | None) -> CodeFiller: ...

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
    that is said by then, 0 to 1.   level: at the end of a sentence, what the next one begins with.
    """

    samples: np.ndarray
    sentence: int
    ends_sentence: bool
    done: float
    level: LevelState | None = None


@dataclass(frozen=True)
class _CodeChunk:
    """From the AR to the rest. The first of a sentence and the last may be empty. phones: None for a sentence without
    a sound."""

    sentence: int
    candidate: int
    phones: Phones | None
    codes: Tensor  # (N, t) the AR's
    pointer: Tensor  # (t,)
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
        """The AR's part of every sentence, in the NAR's chunks."""
        spoken = start > 0
        none = torch.zeros(self.models.n_coarse, 0, dtype=torch.long)
        preset = options.resolved()
        for index in range(start, len(sentences)):
            phones = self._phones(sentences[index].text, options.language)
            if phones is None:
                yield _CodeChunk(index, preset.n_candidates - 1, None, none, none[0], True, True)
                continue
            spoken = True
            for candidate in range(preset.n_candidates):
                seed = sentence_seed(options.seed, index, candidate)
                sampling = replace(preset.sampling, seed=seed)
                frames = self.models.first_codes(phones, prompt, sampling)
                yield from self._chunked(frames, index, candidate, phones)
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

    def _chunked(
        self, frames: Iterator[tuple[tuple[int, ...], int]], index: int, candidate: int, phones: Phones
    ) -> Iterator[_CodeChunk]:
        none = torch.zeros(self.models.n_coarse, 0, dtype=torch.long)
        sizes = iter(self.models.chunks)
        size = next(sizes)
        codes: list[tuple[int, ...]] = []
        pointer: list[int] = []

        def chunk(first: bool = False, last: bool = False) -> _CodeChunk:
            return _CodeChunk(
                index,
                candidate,
                phones,
                torch.tensor(codes).long().t() if codes else none,
                torch.tensor(pointer).long(),
                first,
                last,
            )

        yield chunk(first=True)  # the other thread can get ready meanwhile
        for code, at in frames:
            codes.append(code)
            pointer.append(at)
            if len(codes) == size:
                yield chunk()
                codes, pointer, size = [], [], next(sizes, size)
        yield chunk(last=True)

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
        with closing(chunks):
            for chunk in chunks:
                sentence = sentences[chunk.sentence]
                after = sentence.end / length
                if chunk.first and chunk.phones is not None:
                    decoder = _SentenceDecoder(self.models, chunk.phones, prompt)
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
                        best = (score, whole)
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
                yield SpokenChunk(samples, chunk.sentence, True, 1.0 if final else after, level)
                # The pause has emptied the watermark's memory: a new one goes on as the old one would.
                shaper = _Shaper(rate, level, options.speed, self.watermark(position))


def sentence_seed(seed: int, index: int, candidate: int = 0) -> int:
    """A seed for every sentence and candidate of a text, whichever sentence one begins with."""
    digest = hashlib.sha256(f"{seed} {index} {candidate}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


class _SentenceDecoder:
    """The codes of one sentence to its waveform: the NAR, then the codec's decoder, both in a stream."""

    def __init__(self, models: SpeechModels, phones: Phones, prompt: Prompt | None):
        self.models, self.n_phones, self.progress = models, len(phones), 0.0
        self.filler = models.filler(phones, prompt)
        self.decoder: DecoderStream = models.codec.decoder_stream()

    def push(self, chunk: _CodeChunk) -> np.ndarray:
        """The samples (n,) that are certain now; at the last chunk, all that were owed."""
        codes = self.filler.push(chunk.codes, chunk.pointer)
        if chunk.last:
            codes = torch.cat([codes, self.filler.flush()], dim=-1)
        parts = [self.decoder.push(codes[None])] if codes.shape[-1] else []
        if chunk.last:
            parts.append(self.decoder.flush())
            self.progress = 1.0
        elif len(chunk.pointer):
            self.progress = min(1.0, (int(chunk.pointer[-1]) + 1) / self.n_phones)
        wav = [part[0, 0].float().cpu().numpy() for part in parts]
        return np.concatenate(wav) if wav else np.zeros(0, np.float32)


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
