"""What is compared in an evaluation of cloned speech: Myna's models, with a watch on what they do and when."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...codec import Codec
from ...codec.checkpoint import codes_hash
from ...tts.aligner import SHIPPED as SHIPPED_ALIGNER
from ...tts.aligner import load_aligner
from ...tts.flow_speech import FlowSpeech, load_flow_speech
from ...tts.lm.batch import Prompt
from ...tts.lm.durations import longest
from ...tts.lm.sampling import SamplingOptions
from ...tts.lm.step import Frame
from ...tts.presets import SpeechOptions
from ...tts.registry import AR_FILE, DECODERS, after_tokens, load_ar, load_decoders, weights_file
from ...tts.scorers import shipped_scorers
from ...tts.speaker import Speaker
from ...tts.text.phones import Phones
from ...tts.valle import Valle
from ...tts.voices.voice import Voice


@dataclass(frozen=True)
class Said:
    """samples (N,) at the codec's rate.   elapsed: seconds it took.   first_audio: seconds until the first samples.
    hit_bound: the models would have gone on with a sound or a pause, and were stopped."""

    samples: np.ndarray
    elapsed: float
    first_audio: float
    hit_bound: bool


class Watched(Valle):
    """Models that note whether the AR was stopped at the longest that a sound or a pause may last."""

    stopped = False

    def first_codes(
        self, phones: Phones, prompt: Prompt | None, sampling: SamplingOptions
    ) -> Iterator[Frame]:
        watch = _Watch(phones, sampling)
        for frame in super().first_codes(phones, prompt, sampling):
            yield frame
            self.stopped |= watch(frame)

    def several(
        self, phones: Phones, prompt: Prompt | None, sampling: SamplingOptions, seeds: Sequence[int]
    ) -> Iterator[Sequence[Frame | None]]:
        watches = [_Watch(phones, sampling) for _ in seeds]
        for frames in super().several(phones, prompt, sampling, seeds):
            yield frames
            for watch, frame in zip(watches, frames, strict=True):
                self.stopped |= frame is not None and watch(frame)


class WatchedValle(Watched):
    """After the AR over a codec's codes."""


class WatchedFlow(Watched, FlowSpeech):
    """After the AR over speech tokens."""


class _Watch:
    """Whether a frame is the last that its sound or pause may have."""

    def __init__(self, phones: Phones, sampling: SamplingOptions):
        self._symbols: list[int] = phones.tokens[0].tolist()
        self._sampling, self._age, self._before = sampling, 0, -1

    def __call__(self, frame: Frame) -> bool:
        halves = [self._at(at) for at in frame.pointer.flatten().tolist()]  # of a token; a frame has one
        return any(halves)

    def _at(self, at: int) -> bool:
        if at >= len(self._symbols):  # the second half of a last token
            return False
        self._age, self._before = (self._age + 1 if at == self._before else 1), at
        return self._age >= longest(self._symbols[at], self._sampling)


def load_speaker(
    codec: Codec,
    ar: str | Path | None = None,
    decoder: str | None = None,
    weights: str | Path | None = None,
    device: str = "cpu",
) -> Speaker:
    """The models that ship, or checkpoints in the place of the AR and of a decoder (None: the preferred). An AR that is
    given says the codec's codes. Raises MissingModelError, InputError, one line each."""
    aligner = load_aligner(device=device) if SHIPPED_ALIGNER.is_file() else None
    if ar is None and (after_tokens(decoder) or not weights_file(AR_FILE).is_file()):
        flow = weights if decoder in (None, "flow") else None
        return Speaker(
            load_flow_speech(codec, aligner, device, scorers=shipped_scorers(), flow=flow, kind=WatchedFlow)
        )
    says = load_ar(ar, device, codes_hash(codec))
    given = {decoder or next(iter(DECODERS)): None if weights is None else Path(weights)}
    decoders = load_decoders(codec, says, device, given)
    models = WatchedValle(codec, says, decoders, aligner, scorers=shipped_scorers())
    models.decoder(decoder)  # an error now rather than in the middle
    return Speaker(models)


def say_timed(speaker: Speaker, text: str, voice: Voice, options: SpeechOptions) -> Said:
    """A text in a voice that has been heard before, as a user with a saved voice gets it, watermark included."""
    models = speaker.models
    models.hear(voice.prompt(), options.decoder)
    if isinstance(models, Watched):
        models.stopped = False
    parts: list[np.ndarray] = []
    start = time.perf_counter()
    first = 0.0
    for chunk in speaker.stream(text, voice, options=options):
        if not parts:
            first = time.perf_counter() - start
        parts.append(chunk)
    elapsed = time.perf_counter() - start
    samples = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    return Said(samples, elapsed, first or elapsed, isinstance(models, Watched) and models.stopped)
