"""`myna.say`, `myna.stream` and `myna.Speaker`: text in a voice, in a call.

Shapes: N samples of mono audio, n in a chunk.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from ..codec.checkpoint import codes_hash
from ..codec.registry import VOICE_CODEC, load_codec
from ..data.audio import Audio, write_audio
from ..errors import MissingModelError
from ..kernels.precision import choose
from ..marks.tags import synthetic_tags
from ..marks.watermark import WatermarkStream
from ..version import __version__
from .aligner import SHIPPED as SHIPPED_ALIGNER
from .aligner import load_aligner
from .finish.chain import Stage
from .presets import SpeechOptions
from .registry import (
    AR_FILE,
    FLOW_FILES,
    NAR_FILE,
    WEIGHTS,
    after_tokens,
    load_ar,
    load_decoders,
    weights_file,
)
from .scorers import shipped_scorers
from .synthesis import SpokenChunk, Synthesizer
from .text.lexicon import Lexicon
from .text.long_text import Sentence, split_text
from .text.phonemes import phonemize
from .valle import Valle
from .voices.library import find_voice
from .voices.voice import Voice

LexiconLike = Lexicon | Mapping[str, str] | str | Path
VoiceLike = Voice | str | Path | BinaryIO | Audio


@dataclass(frozen=True)
class Speech:
    """What was said: samples (N,) float32 in [-1, 1], watermarked, at `sample_rate` Hz.   voice: its name."""

    samples: np.ndarray
    sample_rate: int
    voice: str

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.sample_rate

    def save(self, path: str | Path, force: bool = False) -> None:
        """Write WAV, FLAC or MP3, by the suffix, tagged as synthetic. Raises UsageError if the file exists without
        `force` or for another suffix, OutputError if it cannot be written."""
        write_audio(path, self.samples, self.sample_rate, force, tags=synthetic_tags(self.voice))


class Speaker:
    """The models, loaded once, for any number of texts and voices; safe to use from several threads.

    models: None for those that ship.   device: where they run.   watermark: what puts the inaudible mark on one stretch
    of speech, given the sample rate and the samples said before it; speech is never given out without.   decoder: that
    will speak, where models are to be loaded for it.   precision: auto, float32, bf16 or int8, of models to be loaded.
    Raises MissingModelError when weights are not installed.

    >>> speaker = myna.Speaker()
    >>> voice = speaker.voice("me.wav", consent="I am the speaker and agree")
    >>> speaker.say("Hello.", voice).save("hello.wav")
    """

    def __init__(
        self,
        models: Valle | None = None,
        device: str | torch.device = "cpu",
        watermark: Callable[[int, int], Stage] = WatermarkStream,
        decoder: str | None = None,
        precision: str = "auto",
    ):
        self.models = load_models(device, decoder, precision) if models is None else models
        self.sample_rate = self.models.codec.sample_rate
        self._watermark = partial(watermark, self.sample_rate)
        self._watermark(0)  # fails here rather than in the middle of a sentence

    @property
    def precision(self) -> str:
        """Of the matrices of the model that speaks."""
        return self.models.precision

    def with_models(self, models: Valle) -> Speaker:
        """The same speaker with another view of its models: one that shares them with others, say."""
        other = Speaker.__new__(Speaker)
        other.__dict__.update(self.__dict__, models=models)
        return other

    def voice(
        self,
        source: VoiceLike,
        text: str | None = None,
        consent: str | None = None,
        language: str = "en-us",
        decoder: str | None = None,
    ) -> Voice:
        """A voice from a recording of 1 to 30 s (a path, an open file, samples), from a voice file, or from the library
        by its name.

        text: what is said in the recording, where it is known, in `language`.   consent: for a recording, a statement
        that its speaker agrees to being cloned.   decoder: that will speak in it; it reads the voice now rather
        than before the first word. Raises UsageError without one, InputError for what cannot be a voice.
        """
        codec, aligner = self.models.codec, self.models.aligner
        found = find_voice(source, codec, text, consent, aligner, language)
        self.models.hear(found.prompt(), decoder)
        return found

    def chunks(
        self,
        sentences: list[Sentence],
        voice: Voice,
        options: SpeechOptions | None = None,
        lexicon: LexiconLike | None = None,
        after: SpokenChunk | None = None,
        position: int = 0,
    ) -> Generator[SpokenChunk, None, None]:
        """Chunks of speech with where they are in the text.

        after: the chunk that ended the last sentence said, to go on behind it, `position` samples into the speech.
        """
        prompt = voice.prompt()
        words = _lexicon(lexicon)
        synthesizer = Synthesizer(
            self.models, lambda text, language: phonemize(text, language, words), self._watermark
        )
        start, level = 0, None
        if after is not None:
            start, level = after.sentence + 1, after.level
        yield from synthesizer.stream(
            sentences, prompt, level or self.models.level(prompt), options, start, position
        )

    def stream(
        self,
        text: str,
        voice: VoiceLike,
        voice_text: str | None = None,
        consent: str | None = None,
        *,
        lexicon: LexiconLike | None = None,
        options: SpeechOptions | None = None,
        **settings: Any,
    ) -> Iterator[np.ndarray]:
        """As `myna.stream`."""
        chosen = replace(options or SpeechOptions(), **settings)
        sentences = split_text(text, chosen.language)
        known = self.voice(voice, voice_text, consent, chosen.language, chosen.decoder)
        chunks = self.chunks(sentences, known, chosen, lexicon)
        return _samples(chunks)

    def say(
        self,
        text: str,
        voice: VoiceLike,
        voice_text: str | None = None,
        consent: str | None = None,
        *,
        lexicon: LexiconLike | None = None,
        options: SpeechOptions | None = None,
        **settings: Any,
    ) -> Speech:
        """As `myna.say`."""
        chosen = replace(options or SpeechOptions(), **settings).held()
        known = self.voice(voice, voice_text, consent, chosen.language, chosen.decoder)
        parts = list(self.stream(text, known, lexicon=lexicon, options=chosen))
        return Speech(np.concatenate([np.zeros(0, np.float32), *parts]), self.sample_rate, known.name)

    def fingerprint(
        self, sentences: list[Sentence], voice: Voice, options: SpeechOptions, lexicon: str
    ) -> str:
        """Stands for everything that shapes the audio: equal for equal samples."""
        digest = hashlib.sha256(f"{__version__} {self.models.fingerprint(options.decoder)}".encode())
        digest.update(f"{self.models.precision}\n".encode())
        for part in (options, [(s.text, s.ends_paragraph) for s in sentences], lexicon):
            digest.update(repr(part).encode() + b"\n")
        prompt = voice.prompt()
        digest.update(prompt.codes.cpu().numpy().tobytes())
        digest.update(repr(prompt.pointer.tolist() if prompt.pointer is not None else None).encode())
        for name, part in (("mel", prompt.mel), ("speaker", prompt.speaker)):
            if part is not None:
                digest.update(name.encode() + part.float().cpu().numpy().tobytes())
        for part, adapter in sorted(prompt.adapters.items()):
            digest.update(f"{part} {adapter.digest()}".encode())
        return digest.hexdigest()


def load_models(
    device: str | torch.device = "cpu", decoder: str | None = None, precision: str = "auto"
) -> Valle:
    """The models that ship, those that the decoder needs. precision: see `kernels.precision`. Raises MissingModelError,
    one line, if one of them is not installed."""
    if after_tokens(decoder):
        from .flow_speech import load_flow_speech

        aligner = load_aligner() if SHIPPED_ALIGNER.is_file() else None
        codec = load_codec(VOICE_CODEC, device)
        return load_flow_speech(codec, aligner, device, scorers=shipped_scorers, precision=precision)
    ar_file = weights_file(AR_FILE)
    if decoder in (None, "flow") and not ar_file.is_file():
        missing = FLOW_FILES["ar"]
        raise MissingModelError(
            f"{missing}, which should be part of the package, is missing in {WEIGHTS}; install myna again, or train "
            "it: myna train recipes/myna-token-ar-cpu.yaml"
        )
    if not ar_file.is_file():
        raise MissingModelError(
            f"the decoder {decoder} speaks after {ar_file.name}, and neither ships: train both (myna train "
            f"recipes/myna-ar-cpu.yaml, recipes/myna-nar-cpu.yaml), and put their best.safetensors at {ar_file} and "
            f"{weights_file(NAR_FILE)}"
        )
    codec = load_codec(VOICE_CODEC, device)
    ar = load_ar(ar_file, device, codes_hash(codec))
    aligner = load_aligner() if SHIPPED_ALIGNER.is_file() else None
    decoders = load_decoders(codec, ar, device, precision=precision)
    precise = choose(precision, "speech model", device)
    return Valle(codec, ar, decoders, aligner, precise, shipped_scorers)


_shared: dict[tuple[str, str], Speaker] = {}
_lock = threading.Lock()


def shared_speaker(device: str = "cpu", decoder: str | None = None) -> Speaker:
    """One speaker with the models that ship, for all who ask for a decoder of the same AR."""
    engine = "tokens" if after_tokens(decoder) else "codes"
    with _lock:
        if (device, engine) not in _shared:
            _shared[device, engine] = Speaker(device=device, decoder=decoder)
        return _shared[device, engine]


def say(
    text: str,
    voice: VoiceLike,
    voice_text: str | None = None,
    consent: str | None = None,
    *,
    lexicon: LexiconLike | None = None,
    options: SpeechOptions | None = None,
    **settings: Any,
) -> Speech:
    """Say a text in a voice.

    voice: a recording of 1 to 30 s (a path, an open file, an `Audio`), a saved voice's name or file, or a `Voice`.
    voice_text: what is said in the recording, where it is known.   consent: for a recording, a statement that its
    speaker agrees, which is kept with the voice.   lexicon: words and how to say them, a dict or a file.
    settings: those of `SpeechOptions`: preset="standard", seed=0, language="en-us", speed=1.0, temperature, ...
    Raises UsageError, InputError or MissingModelError, one line each.

    >>> speech = myna.say("Hello there.", "me.wav", consent="I am the speaker and agree")
    >>> speech.samples.shape, speech.sample_rate
    """
    return shared_speaker().say(
        text, voice, voice_text, consent, lexicon=lexicon, options=options, **settings
    )


def stream(
    text: str,
    voice: VoiceLike,
    voice_text: str | None = None,
    consent: str | None = None,
    *,
    lexicon: LexiconLike | None = None,
    options: SpeechOptions | None = None,
    **settings: Any,
) -> Iterator[np.ndarray]:
    """`say` while it is made: chunks (n,) of samples at 24 kHz, which together are those of `say`, but for sentences
    that `say` says again because words are missing (`redraws`: here, too, each is then heard when it is whole). In
    memory that does not grow with the text; closing the iterator stops the work.

    >>> for chunk in myna.stream("Hello there.", "my-voice"):
    ...     play(chunk)
    """
    return shared_speaker().stream(
        text, voice, voice_text, consent, lexicon=lexicon, options=options, **settings
    )


def _samples(chunks: Generator[SpokenChunk, None, None]) -> Iterator[np.ndarray]:
    with closing(chunks):
        for chunk in chunks:
            if len(chunk.samples):
                yield chunk.samples


def _lexicon(source: LexiconLike | None) -> Lexicon | None:
    if source is None or isinstance(source, Lexicon):
        return source
    return Lexicon.of(source) if isinstance(source, Mapping) else Lexicon.load(source)
