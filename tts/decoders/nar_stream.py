"""The NAR as a decoder, VALL-E as published: the AR's frames in as they come, all codebooks out whenever a chunk is
complete, and through the codec's decoder.

Shapes: P phones, K codebooks, N of them given (by the AR), T frames, H places of a frame, S samples of a prompt, n
samples of speech.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from ...codec import Codec
from ...codec.base import DecoderStream
from ...codec.checkpoint import weights_hash
from ...errors import InputError, MissingModelError
from ...kernels.precision import Precision
from ..lm.ar import ARModel
from ..lm.batch import Prompt
from ..lm.quantize import for_inference
from ..text.phones import Phones
from .base import Latents, to_samples
from .nar import NARModel, NAROptions, NARState, frames_in


class NARStream:
    """Fills the codebooks of one utterance. The chunks are cut at the same places however it is fed, so the codes are
    those of `fill`.

    phones: to be said, Phones or their tokens (3, P); the pointer counts from the first of them.
    voice: what `model.init_state(prompt)` gave, read before to spare the time; it stays as it is.

    >>> stream = NARStream(model, phones, prompt)
    >>> codes = [stream.push(first, pointer) for first, pointer in frames] + [stream.flush()]
    """

    def __init__(
        self,
        model: NARModel,
        phones: Phones | Tensor,
        prompt: Prompt | None = None,
        options: NAROptions | None = None,
        voice: NARState | None = None,
    ):
        self.model, self.options = model, options or NAROptions()
        self._device = model.no_phone.device
        tokens = (phones if isinstance(phones, Tensor) else phones.tokens).to(self._device)
        if tokens.shape[1] == 0:
            raise InputError("there are no phones to be said; give a text with letters or digits")
        self._n_phones = tokens.shape[1]
        with torch.inference_mode():
            self._encoded = [model.encode_phones(tokens, prompt)]
            self.states: tuple[NARState, ...] = (
                model.init_state(prompt) if voice is None else model.fork(voice),
            )
            if self.options.voice_guidance != 1 and prompt is not None:
                self._encoded.append(model.encode_phones(tokens))
                self.states += (model.init_state(),)
            self._frames = [frames_in(state) for state in self.states]
        self._generator = torch.Generator(self._device).manual_seed(self.options.seed)
        self._chunks = iter(self.options.chunks or model.config.chunks)
        self._size = next(self._chunks)
        self._first = torch.zeros(1, model.config.n_given, 0, dtype=torch.long, device=self._device)
        self._pointer = self._first[:, 0]
        self.finished = False

    @torch.inference_mode()
    def push(self, first: Tensor, pointer: Tensor) -> Tensor:
        """First codebooks (N, T) and pointer (T H,), any T including 0 -> codes (K, T') of the chunks now complete."""
        if self.finished:
            raise ValueError("this stream has been flushed; open a new one")
        given, places = self.model.config.n_given, self.model.config.places
        if pointer.ndim != 1 or first.shape != (given, len(pointer) // places) or len(pointer) % places:
            per = "" if places == 1 else f"{places} "
            raise ValueError(
                f"codes ({given}, T) and pointer ({per}T,) must be of the same length, got {tuple(first.shape)} and "
                f"{tuple(pointer.shape)}"
            )
        if len(pointer) and int(pointer.max()) >= self._n_phones:
            raise ValueError(f"the pointer is at phone {int(pointer.max())}, there are {self._n_phones}")
        self._first = torch.cat([self._first, first.to(self._device)[None]], dim=2)
        self._pointer = torch.cat([self._pointer, pointer.to(self._device)[None]], dim=1)
        done = []
        while self._first.shape[2] >= self._size:
            done.append(self._fill(self._size))
            self._size = next(self._chunks, self._size)
        return self._joined(done)

    @torch.inference_mode()
    def flush(self) -> Tensor:
        """The codes still owed, (K, T); the stream is over."""
        if self.finished:
            raise ValueError("this stream has been flushed; open a new one")
        self.finished = True
        n = self._first.shape[2]
        return self._joined([self._fill(n)] if n else [])

    def _fill(self, n: int) -> Tensor:
        first, self._first = self._first[..., :n], self._first[..., n:]
        m = n * self.model.config.places
        pointer, self._pointer = self._pointer[:, :m], self._pointer[:, m:]
        self._frames = [frames + n for frames in self._frames]
        codes, self.states = self.model.step(
            first, pointer, self._encoded, self.states, self.options, self._generator, self._frames
        )
        return codes[0]

    def _joined(self, parts: list[Tensor]) -> Tensor:
        if parts:
            return torch.cat(parts, dim=1)
        return torch.zeros(self.model.config.n_codebooks, 0, dtype=torch.long, device=self._device)


@torch.inference_mode()
def fill(
    model: NARModel,
    first: Tensor,
    pointer: Tensor,
    phones: Phones | Tensor,
    prompt: Prompt | None = None,
    options: NAROptions | None = None,
) -> Tensor:
    """A whole utterance: its first codebooks (N, T), pointer (T,) into its phones -> codes (K, T)."""
    stream = NARStream(model, phones, prompt, options)
    return torch.cat([stream.push(first, pointer), stream.flush()], dim=1)


@dataclass(frozen=True)
class NARVoice:
    """A prompt and the NAR's state after it."""

    prompt: Prompt
    state: NARState


class NARDecoder:
    """NAR and codec as a `SpeechDecoder`. precision: of the NAR's matrices on a CPU."""

    name = "nar"

    def __init__(self, nar: NARModel, codec: Codec, precision: Precision = "int8"):
        self.codec, self._original = codec, nar
        self.nar = cast(NARModel, for_inference(nar, precision))
        self.chunks = nar.config.chunks

    def check(self, ar: ARModel) -> None:
        says, reads = ar.config, self.nar.config
        if reads.n_given != says.n_coarse:
            raise MissingModelError(
                f"{says.name} says {says.n_coarse} codebooks, {reads.name} goes on from {reads.n_given}; use two "
                "models that belong together"
            )

    def read_voice(self, prompt: Prompt, wav: Tensor) -> NARVoice:
        return NARVoice(prompt, self.nar.init_state(prompt))

    def stream(self, phones: Phones, voice: NARVoice | None, seed: int) -> NARSound:
        """seed: nothing is drawn; the likeliest codes are taken."""
        prompt, state = (None, None) if voice is None else (voice.prompt, voice.state)
        return NARSound(NARStream(self.nar, phones, prompt, voice=state), self.codec.decoder_stream())

    def fingerprint(self) -> str:
        return weights_hash(self._original)


class NARSound:
    """The NAR's codes through the codec's decoder."""

    def __init__(self, filler: NARStream, decoder: DecoderStream):
        self.filler, self.decoder = filler, decoder

    def push(self, latents: Latents) -> np.ndarray:
        return self._decoded(self.filler.push(latents.codes, latents.pointer))

    def flush(self) -> np.ndarray:
        wav = self._decoded(self.filler.flush())
        return np.concatenate([wav, to_samples(self.decoder.flush()[0, 0])])

    def _decoded(self, codes: Tensor) -> np.ndarray:
        if codes.shape[-1] == 0:
            return np.zeros(0, np.float32)
        return to_samples(self.decoder.push(codes[None])[0, 0])
