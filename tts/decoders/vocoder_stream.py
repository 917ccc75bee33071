"""The vocoder as a decoder: the AR's frames in as they come, samples out as soon as they are certain.

Shapes: N coarse codebooks, T frames of codes, U frames of the vocoder, W the AR's width, S samples of a prompt, n
samples of speech.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from ...codec.checkpoint import weights_hash
from ...codec.precision import turn
from ...errors import MissingModelError
from ...kernels.precision import Precision
from ..lm.adapter import adapted_model
from ..lm.ar import ARModel
from ..lm.batch import Prompt
from ..lm.quantize import for_inference
from ..text.phones import Phones
from .base import Latents, to_samples
from .vocoder import KnownVoice, Vocoder


class VocoderStream:
    """Says one utterance. The samples are the same however it is fed.

    voice: one, of `Vocoder.voice`.   seed: of the noise.

    >>> stream = VocoderStream(vocoder, voice)
    >>> samples = [stream.push(codes, hidden) for codes, hidden in frames] + [stream.flush()]
    """

    def __init__(self, vocoder: Vocoder, voice: KnownVoice, seed: int = 0):
        self.vocoder, self._voice = vocoder, voice
        self.state = vocoder.init_state(1, next(vocoder.parameters()).detach())
        self._generator = torch.Generator().manual_seed(seed % 2**63)
        self.finished = False

    @torch.inference_mode()
    def push(self, codes: Tensor, hidden: Tensor) -> Tensor:
        """Codes (N, T) and hidden states (T, W), any T -> samples (n,)."""
        if self.finished:
            raise ValueError("this stream has been flushed; open a new one")
        if codes.shape[1] != hidden.shape[0] or codes.shape[0] != self.vocoder.config.n_coarse:
            raise ValueError(
                f"codes ({self.vocoder.config.n_coarse}, T) and hidden states (T, W) must be of the same length, got "
                f"{tuple(codes.shape)} and {tuple(hidden.shape)}"
            )
        if codes.shape[1] == 0:
            return hidden.new_zeros(0)
        return self._advance(self.vocoder.inputs(codes[None], hidden[None], self._voice.vector))

    @torch.inference_mode()
    def flush(self) -> Tensor:
        """The samples still owed (n,); the stream is over."""
        if self.finished:
            raise ValueError("this stream has been flushed; open a new one")
        nothing = self._voice.vector.new_zeros(
            1, self.vocoder.net.in_channels or 0, self.vocoder.config.look_ahead
        )
        last = self._advance(nothing, final=True)
        self.finished = True
        return torch.cat([last, self.vocoder.last_hop(self.state)[0]])

    def _advance(self, inputs: Tensor, final: bool = False) -> Tensor:
        out, self.state = self.vocoder.advance(inputs, self._voice, self.state, final)
        if not out.shape[-1]:
            return out.new_zeros(0)
        # Drawn hop by hop, so that chunks of any length get the same noise.
        hop = self.vocoder.config.hop
        drawn = [torch.randn(1, hop, generator=self._generator) for _ in range(out.shape[-1])]
        noise = torch.cat(drawn, dim=1)
        sound = self.vocoder.sound(out).sharpened()
        wav, self.state = self.vocoder.sounding(sound, noise.to(out), self.state)
        return wav[0]


@dataclass(frozen=True)
class AdaptedVoice(KnownVoice):
    """A voice with a vocoder of its own: that which all share, adapted to it."""

    vocoder: Vocoder


class VocoderDecoder:
    """The vocoder as a `SpeechDecoder`. precision: of its ConvNeXt blocks' products on a CPU."""

    name = "vocoder"
    chunks: tuple[int, ...] = (8, 12, 16)  # the first sound comes after these and the look-ahead

    def __init__(self, vocoder: Vocoder, precision: Precision = "float32"):
        self._original = vocoder
        self.vocoder = cast(Vocoder, for_inference(vocoder, "float32"))
        turn(self.vocoder, precision)

    def check(self, ar: ARModel) -> None:
        says, reads = ar.config, self.vocoder.config
        if (reads.n_coarse, reads.hidden) != (says.n_coarse, says.width):
            raise MissingModelError(
                f"{reads.name} reads {reads.n_coarse} codebooks and {reads.hidden} channels, {says.name} says "
                f"{says.n_coarse} and has {says.width}; use two models that belong together"
            )

    @torch.inference_mode()
    def read_voice(self, prompt: Prompt, wav: Tensor) -> KnownVoice:
        codes = prompt.codes[None].to(wav.device)
        vocoder = cast(Vocoder, adapted_model(prompt.adapters, self.name, self._original, self.vocoder))
        voice = vocoder.voice(codes, vocoder.mel(wav[None], codes.shape[2]))
        if vocoder is self.vocoder:
            return voice
        return AdaptedVoice(voice.vector, voice.keys, voice.values, vocoder)

    def stream(self, phones: Phones, voice: KnownVoice | None, seed: int) -> VocoderSound:
        """seed: not of the noise, which is the same in all that is said."""
        if voice is None:
            voice = self.vocoder.no_voice(1, next(self.vocoder.parameters()))
        vocoder = voice.vocoder if isinstance(voice, AdaptedVoice) else self.vocoder
        return VocoderSound(VocoderStream(vocoder, voice))

    def fingerprint(self) -> str:
        return weights_hash(self._original)


class VocoderSound:
    """The vocoder's samples."""

    def __init__(self, stream: VocoderStream):
        self.stream = stream

    def push(self, latents: Latents) -> np.ndarray:
        return to_samples(self.stream.push(latents.codes.to(latents.hidden.device), latents.hidden))

    def flush(self) -> np.ndarray:
        return to_samples(self.stream.flush())
