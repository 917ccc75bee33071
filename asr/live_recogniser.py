"""Whisper as the recogniser of a live transcription: the words after the final ones.

    before (text) -> prompt, begun (text) -> prefix, audio -> mel -> encode -> decode with fallback -> align -> words

Shapes: N samples at 16 kHz, M mels.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .decoding.fallback import decode_with_fallback
from .decoding.language_id import detect_language, likeliest
from .decoding.prompts import Context, text_tokens, tokenizer_of
from .model.features import FRAMES_PER_SECOND, log_mel, pad_or_trim
from .model.languages import find_language
from .model.tokenizer import Tokenizer
from .model.whisper import Whisper
from .timing import add_word_timestamps, find_alignment
from .transcribe import TranscribeOptions
from .transcript import Segment, Word

_MOST_BEGUN = 200  # tokens: more than anybody says in the audio kept


class WhisperRecogniser:
    """A `live.Recogniser`. Text is decoded without timestamps, since a text that is begun leaves no room for the first;
    times are those of the words. The language is told until something is settled, then it stays.

    Raises UsageError for options that cannot be used.
    """

    def __init__(self, model: Whisper, options: TranscribeOptions | None = None):
        self.model, self.options = model, options or TranscribeOptions()
        self.options.check()
        self.language = None if self.options.language is None else find_language(self.options.language)
        self._told = self.language is not None or not model.dims.is_multilingual

    @torch.inference_mode()
    def __call__(self, audio: np.ndarray, begun: str, before: str) -> list[Word]:
        """As `live.Recogniser` says; no words where nothing is said, or the model only guesses so."""
        mel = log_mel(audio, self.model.dims.n_mels)
        if mel.shape[1] < 2:
            return []
        features = self.model.encode(pad_or_trim(mel)[None])
        tokenizer = self._tokenizer(features, settled=bool(begun or before))
        said = text_tokens(tokenizer, begun)
        if len(said) > _MOST_BEGUN:
            return []
        options = self.options.decoding(
            language=self.language,
            without_timestamps=True,
            prompt=self._prompt(tokenizer, before),
            prefix=said,
            seed=self.options.seed,
        )
        fallback = self.options.fallback
        result = decode_with_fallback(self.model, features, [options], fallback)[0]
        if fallback.is_silence(result) or fallback.fails(result):
            return []
        tokens = [*said, *(token for token in result.tokens if token < tokenizer.eot)]
        words = self._words(tokenizer, tokens, features, mel.shape[1])
        return _after(words, len(tokenizer.decode(said)))

    def _tokenizer(self, features: Tensor, settled: bool) -> Tokenizer:
        if not self.model.dims.is_multilingual:
            return tokenizer_of(self.model)
        if not self._told:
            if self.language is None or not settled:
                found = detect_language(self.model, features)[0][1]
                self.language = likeliest(found, self.options.languages)
            else:
                self._told = True
        return tokenizer_of(self.model, self.language, self.options.task)

    def _prompt(self, tokenizer: Tokenizer, before: str) -> list[int]:
        options = self.options
        context = Context(
            tokenizer,
            self.model.dims.n_text_ctx,
            options.initial_prompt,
            options.carry_initial_prompt,
            options.hotwords,
        )
        if before and options.condition_on_previous_text:
            context.add(text_tokens(tokenizer, before))
        elif before:
            context.reset()
        return context.prompt()

    def _words(self, tokenizer: Tokenizer, tokens: list[int], features: Tensor, n_frames: int) -> list[Word]:
        n_frames = min(n_frames, self.model.dims.n_frames)
        timings = find_alignment(self.model, [tokenizer], [tokens], features, [n_frames])[0]
        whole = Segment(
            0, 0, 0.0, n_frames / FRAMES_PER_SECOND, "", tuple(tokens), 0.0, 0.0, 0.0, 0.0
        )  # of which only the tokens and the times count
        timed = add_word_timestamps(
            [whole],
            timings,
            tokenizer,
            last_speech=0.0,
            prepend_punctuations=self.options.prepend_punctuations,
            append_punctuations=self.options.append_punctuations,
        )
        return list(timed[0].words or ())


def _after(words: list[Word], n: int) -> list[Word]:
    """The words after the first n characters; of a word that these end in, what follows them."""
    made: list[Word] = []
    for word in words:
        if n < len(word.word):
            made.append(Word(word.word[n:], word.start, word.end, word.probability))
        n = max(0, n - len(word.word))
    return made
