"""VALL-E put together (Wang et al. 2023, figure 1): the codec, the AR, the decoders and the aligner, ready to speak."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from torch import Tensor

from ..codec import Codec, Codes
from ..codec.checkpoint import weights_hash
from ..errors import MissingModelError, MynaError
from ..kernels.precision import Precision
from .aligner import Aligner
from .decoders.base import SoundStream, SpeechDecoder, VoiceState
from .finish.level import LevelState, active_level, start_state
from .lm.ar import ARModel
from .lm.batch import Prompt
from .lm.generate import ARGenerator
from .lm.quantize import prepare
from .lm.sampling import SamplingOptions
from .lm.step import Frame
from .text.phones import Phones

_VOICES = 8  # prompts of which is kept what was read
_UNKNOWN = -100.0  # score of speech that cannot be aligned at all


@dataclass(frozen=True)
class _ReadPrompt:
    """What need not be computed again for a prompt. It holds the prompt, so that its id stays its own."""

    prompt: Prompt
    wav: Tensor  # (S,) at the codec's rate
    level: LevelState
    voices: dict[str, VoiceState] = field(default_factory=dict)  # by decoder


class Valle:
    """The models, as `tts.synthesis.Synthesizer` asks for them. Safe to use from several threads.

    decoders: by name, the preferred first; a mapping that loads one when it is asked for will do.   aligner: judges
    candidates (the preset "best"); without it all count the same.   precision: of the AR's matrices on a CPU.
    """

    def __init__(
        self,
        codec: Codec,
        ar: ARModel,
        decoders: Mapping[str, SpeechDecoder],
        aligner: Aligner | None = None,
        precision: Precision = "int8",
    ):
        if not decoders:
            raise MissingModelError(
                "no decoder is installed, so that nothing makes sound; install myna again"
            )
        self.codec, self.aligner, self.decoders = codec, aligner, decoders
        self._original, self.precision = ar, precision
        self.ar = cast(ARModel, prepare(ar, precision))
        self._checked: dict[str, SpeechDecoder] = {}
        self._prompts: OrderedDict[int, _ReadPrompt] = OrderedDict()
        self._lock = threading.RLock()

    def decoder(self, name: str | None = None) -> SpeechDecoder:
        """A decoder that reads this AR; None: the preferred one. Raises MissingModelError, one line."""
        name = next(iter(self.decoders)) if name is None else name
        with self._lock:
            if name not in self._checked:
                if name not in self.decoders:
                    raise MissingModelError(
                        f"the decoder {name!r} is not installed; there is {', '.join(self.decoders)}"
                    )
                self.decoders[name].check(self._original)
                self._checked[name] = self.decoders[name]
            return self._checked[name]

    def chunks(self, decoder: str | None) -> tuple[int, ...]:
        return self.decoder(decoder).chunks

    def first_codes(
        self, phones: Phones, prompt: Prompt | None, sampling: SamplingOptions
    ) -> Iterator[Frame]:
        return iter(ARGenerator(self.ar, phones, prompt, sampling))

    def sound(
        self, phones: Phones, prompt: Prompt | None, decoder: str | None = None, seed: int = 0
    ) -> SoundStream:
        """What makes sound of an utterance's latents."""
        chosen = self.decoder(decoder)
        voice = None if prompt is None else self._read(prompt, chosen).voices[chosen.name]
        return chosen.stream(phones, voice, seed)

    def level(self, prompt: Prompt | None) -> LevelState:
        """How loud a voice begins."""
        return start_state(None) if prompt is None else self._read(prompt).level

    def hear(self, prompt: Prompt, decoder: str | None = None) -> None:
        """Read a prompt, once: the first sentence in a voice then starts sooner."""
        self._read(prompt, self.decoder(decoder))

    def _read(self, prompt: Prompt, decoder: SpeechDecoder | None = None) -> _ReadPrompt:
        with self._lock:
            found = self._prompts.get(id(prompt))
            if found is None:
                wav = self._decoded(prompt)
                level = start_state(active_level(wav.cpu().numpy(), self.codec.sample_rate))
                found = self._prompts[id(prompt)] = _ReadPrompt(prompt, wav, level)
            if decoder is not None and decoder.name not in found.voices:
                found.voices[decoder.name] = decoder.read_voice(prompt, found.wav)
            self._prompts.move_to_end(id(prompt))
            while len(self._prompts) > _VOICES:
                self._prompts.popitem(last=False)
            return found

    @torch.inference_mode()
    def _decoded(self, prompt: Prompt) -> Tensor:
        """How a prompt sounds, (S,)."""
        codes = prompt.codes[None].to(next(self.codec.parameters()).device)
        return self.codec.decode(Codes(codes, codes.shape[2] * self.codec.frame_size))[0, 0]

    def fingerprint(self, decoder: str | None = None) -> str:
        """Stands for the weights that make the sound."""
        return " ".join(
            [weights_hash(self.codec), weights_hash(self._original), self.decoder(decoder).fingerprint()]
        )

    def score(self, samples: np.ndarray, phones: Phones) -> float:
        """The aligner's mean log-probability of the phones, the least sure half counting as much as all."""
        if self.aligner is None:
            return 0.0
        try:
            return self.aligner.align([torch.from_numpy(samples)], [phones])[0].score
        except (ValueError, RuntimeError, MynaError):  # fewer frames than phones
            return _UNKNOWN
