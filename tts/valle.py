"""VALL-E put together: the codec, the AR, the NAR and the aligner, ready to speak (Wang et al. 2023, figure 1), and the
vocoder, which makes a clearer voice of the AR's frames than NAR and codec do."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from ..codec import Codec, Codes
from ..codec.checkpoint import weights_hash
from ..errors import MissingModelError, MynaError
from ..layers.streaming import State
from .aligner import Aligner
from .decoders.nar import NARModel
from .decoders.nar_stream import NARStream
from .decoders.sound_stream import CodecSound, SoundStream, VocoderSound
from .decoders.vocoder import KnownVoice, Vocoder
from .decoders.vocoder_stream import VocoderStream
from .finish.level import LevelState, active_level, start_state
from .lm.ar import ARModel
from .lm.batch import Prompt
from .lm.generate import ARGenerator, Frame
from .lm.quantize import prepare
from .lm.sampling import SamplingOptions
from .text.phones import Phones

_VOICES = 8  # prompts whose state is kept
_UNKNOWN = -100.0  # score of speech that cannot be aligned at all
_VOCODER_CHUNKS = 8, 12, 16  # frames: the first sound comes after these and the vocoder's look-ahead


@dataclass(frozen=True)
class _HeardVoice:
    """What need not be computed again for a prompt. It holds the prompt, so that its id stays its own."""

    prompt: Prompt
    nar_state: State
    voice: KnownVoice | None  # the vocoder's
    level: LevelState


class Valle:
    """The models, as `tts.synthesis.Synthesizer` asks for them. Safe to use from several threads.

    aligner: judges candidates (the preset "best"); without it all count the same.   vocoder: None where only the codec
    is to make sound.   int8: weights in 8 bits on a CPU.
    """

    def __init__(
        self,
        codec: Codec,
        ar: ARModel,
        nar: NARModel,
        aligner: Aligner | None = None,
        vocoder: Vocoder | None = None,
        int8: bool = True,
    ):
        self.codec, self.aligner = codec, aligner
        self._originals = (ar, nar) if vocoder is None else (ar, nar, vocoder)
        self.ar: ARModel = prepare(ar, int8)  # pyright: ignore[reportAttributeAccessIssue]
        self.nar: NARModel = prepare(nar, int8)  # pyright: ignore[reportAttributeAccessIssue]
        # In float32: its products are large enough, and too few to be worth rounding.
        self.vocoder: Vocoder | None = None if vocoder is None else prepare(vocoder, int8=False)  # pyright: ignore
        self.n_coarse = ar.config.n_coarse
        if nar.config.n_given != self.n_coarse:
            raise MissingModelError(
                f"{ar.config.name} says {self.n_coarse} codebooks, {nar.config.name} goes on from "
                f"{nar.config.n_given}; use two models that belong together"
            )
        if vocoder is not None and (vocoder.config.n_coarse, vocoder.config.hidden) != (
            self.n_coarse,
            ar.config.width,
        ):
            raise MissingModelError(
                f"{vocoder.config.name} reads {vocoder.config.n_coarse} codebooks and {vocoder.config.hidden} "
                f"channels, {ar.config.name} says {self.n_coarse} and has {ar.config.width}; use two models that "
                "belong together"
            )
        self._voices: OrderedDict[int, _HeardVoice] = OrderedDict()
        self._lock = threading.Lock()

    def chunks(self, decoder: str) -> tuple[int, ...]:
        return self.nar.config.chunks if self._uses_codec(decoder) else _VOCODER_CHUNKS

    def first_codes(
        self, phones: Phones, prompt: Prompt | None, sampling: SamplingOptions
    ) -> Iterator[Frame]:
        return iter(ARGenerator(self.ar, phones, prompt, sampling))

    def sound(self, phones: Phones, prompt: Prompt | None, decoder: str) -> SoundStream:
        """What makes sound of an utterance's frames."""
        if self._uses_codec(decoder):
            return CodecSound(self.filler(phones, prompt), self.codec.decoder_stream(), self.n_coarse)
        voice = None if prompt is None else self.hear(prompt).voice
        assert self.vocoder is not None
        if voice is None:
            voice = self.vocoder.no_voice(1, next(self.vocoder.parameters()))
        return VocoderSound(VocoderStream(self.vocoder, voice), self.n_coarse)

    def _uses_codec(self, decoder: str) -> bool:
        return decoder == "codec" or self.vocoder is None

    def filler(self, phones: Phones, prompt: Prompt | None) -> NARStream:
        voice = None if prompt is None else self.hear(prompt).nar_state
        return NARStream(self.nar, phones, prompt, voice=voice)

    def level(self, prompt: Prompt | None) -> LevelState:
        """How loud a voice begins."""
        return start_state(None) if prompt is None else self.hear(prompt).level

    def hear(self, prompt: Prompt) -> _HeardVoice:
        """Read a prompt, once: the first sentence in a voice then starts sooner."""
        with self._lock:
            found = self._voices.get(id(prompt))
            if found is None:
                with torch.inference_mode():
                    state = self.nar.init_state(prompt)
                    codes = prompt.codes[None].to(self._device)
                    n = prompt.codes.shape[1] * self.codec.frame_size
                    wav = self.codec.decode(Codes(codes, n))
                    vocoder = self.vocoder
                    voice = (
                        None
                        if vocoder is None
                        else vocoder.voice(codes, vocoder.mel(wav[:, 0], codes.shape[2]))
                    )
                level = start_state(active_level(wav[0, 0].cpu().numpy(), self.codec.sample_rate))
                found = self._voices[id(prompt)] = _HeardVoice(prompt, state, voice, level)
            self._voices.move_to_end(id(prompt))
            while len(self._voices) > _VOICES:
                self._voices.popitem(last=False)
            return found

    def fingerprint(self) -> str:
        """Stands for the weights."""
        return " ".join(weights_hash(model) for model in (self.codec, *self._originals))

    def score(self, samples: np.ndarray, phones: Phones) -> float:
        """The aligner's mean log-probability of the phones, the least sure half counting as much as all."""
        if self.aligner is None:
            return 0.0
        try:
            return self.aligner.align([torch.from_numpy(samples)], [phones])[0].score
        except (ValueError, RuntimeError, MynaError):  # fewer frames than phones
            return _UNKNOWN

    @property
    def _device(self) -> torch.device:
        return next(self.codec.parameters()).device
