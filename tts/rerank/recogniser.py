"""How likely a recogniser finds the text: Whisper's posterior of it, where a Whisper is on this machine.

    samples -> encoder -> decoder, given the text -> mean log-probability of its tokens

One pass, without a search; numbers that a transcript would write in figures cost every try the same.

Shapes: T tokens, V of the vocabulary.
"""

from __future__ import annotations

import threading
from functools import cached_property

import torch

from ...asr.decoding.prompts import tokenizer_of
from ...asr.model.features import log_mel, pad_or_trim
from ...asr.model.registry import find_weights
from ...asr.model.whisper import Whisper
from ...asr.transcriber import Transcriber
from ...data.resample import resample
from .base import Attempt

_RATE = 16_000
_LONGEST = 30 * _RATE  # samples of its window


class WhisperScorer:
    """0 is certain. model: a Whisper's name or path, or one that is loaded."""

    name = "recogniser"

    def __init__(self, model: str | Whisper = "tiny.en", language: str = "en"):
        self._source, self.language = model, language
        self._lock = threading.Lock()

    @staticmethod
    def is_installed(model: str = "tiny.en") -> bool:
        return find_weights(model) is not None

    @cached_property
    def _model(self) -> Whisper:
        return Transcriber(self._source, precision="float32").model

    @torch.inference_mode()
    def score(self, attempt: Attempt) -> float | None:
        """None without a text, for a longer sentence than its window, and for silence."""
        text = attempt.text.strip()
        if not text or not len(attempt.samples):
            return None
        at_16k = resample(attempt.samples[None], attempt.sample_rate, _RATE)[0]
        if len(at_16k) > _LONGEST or not at_16k.any():
            return None
        with self._lock:
            model = self._model
            tokenizer = tokenizer_of(model, self.language, "transcribe")
            said = tokenizer.encode(" " + text)
            given = [*tokenizer.sot_sequence_including_notimestamps, *said]
            if len(given) > model.dims.n_text_ctx:
                return None
            mel = pad_or_trim(log_mel(at_16k, model.dims.n_mels, padding=_LONGEST))
            features = model.encode(mel[None])
            tokens = torch.tensor([given], device=features.device)
            logits = model.all_logits(tokens[:, :-1], model.init_state(features))[0, -len(said) :]
            each = logits.float().log_softmax(-1).gather(1, tokens[0, -len(said) :, None])
        return float(each.mean())
