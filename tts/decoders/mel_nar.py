"""The NAR over the mel codec as a decoder, VALL-E's second stage after an AR that says speech tokens.

    recording of the voice -> mel, codes of all codebooks -> NAR (kept)
    tokens, pointer -> NAR, codebook after codebook -> mel codec's decoder -> mel vocoder -> samples

Shapes: K codebooks, T frames of 25 Hz, M mel bands, S samples of a prompt at 24 kHz, n samples of speech.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import Tensor

from ...codec.checkpoint import weights_hash
from ...codec.mel.codec import MelCodec
from ...codec.mel.speech_tokens import STRIDE
from ...errors import InputError, MissingModelError
from ...kernels.precision import Precision
from ..lm.ar import ARModel
from ..lm.batch import Prompt
from ..lm.quantize import for_inference
from ..text.phones import Phones
from .base import Latents
from .nar import NARConfig, NARModel
from .nar_stream import NARSound, NARStream, NARVoice

PLACES = 2  # of a token, where an AR over tokens points
LONGEST_PROMPT = 100  # frames: what was trained


def frames_of(codec: MelCodec, mel: Tensor) -> Tensor:
    """Natural log-mel (B, M, 4 T) -> (B, T, 4 M) normalised, as the NAR reads a prompt."""
    return codec.normalized(mel).transpose(1, 2).unflatten(1, (-1, STRIDE)).flatten(2)


def check_fits(config: NARConfig, codec: MelCodec) -> None:
    """Raises MissingModelError for a NAR that does not fill this codec's codebooks from its tokens."""
    wanted = (
        codec.n_codebooks,
        codec.codebook_size,
        codec.rows().shape[2],
        STRIDE * codec.config.vocoder.mel_bands,
    )
    found = (config.n_codebooks, config.codebook_size, config.codebook_dim, config.mel)
    if found != wanted or (config.n_given, config.places) != (1, PLACES):
        raise MissingModelError(
            f"{config.name} does not fill the codebooks of {codec.name}: codebooks, size, channels and numbers of mel "
            f"are {found}, needed are {wanted}, after one codebook and {PLACES} places; use two models that belong "
            "together"
        )


class MelNARDecoder:
    """NAR and mel codec as a `SpeechDecoder`. precision: of the NAR's matrices on a CPU."""

    name = "nar"

    def __init__(self, nar: NARModel, codec: MelCodec, precision: Precision = "int8"):
        check_fits(nar.config, codec)
        self.codec, self._original = codec, nar
        self.nar = cast(NARModel, for_inference(nar, precision))
        self.chunks = nar.config.chunks

    def check(self, ar: ARModel) -> None:
        """That an AR says tokens, its levels tell; that they are this codec's, its file (`tts.flow_speech`)."""
        levels = getattr(ar.config, "levels", None)
        if levels != self.codec.config.tokens.levels:
            raise MissingModelError(
                f"the decoder nar over {self.codec.name} reads speech tokens of the levels "
                f"{self.codec.config.tokens.levels}, {ar.config.name} says {levels or 'codes of another codec'}; use "
                "models that belong together"
            )

    @torch.inference_mode()
    def read_voice(self, prompt: Prompt, wav: Tensor) -> NARVoice:
        """wav (S,): what stands for the recording in a voice that has no mel."""
        mel = self.codec.vocoder.mel(wav[None])[0] if prompt.mel is None else prompt.mel.to(wav)
        longest = min(LONGEST_PROMPT * STRIDE, mel.shape[1])
        mel = mel[None, :, : longest // STRIDE * STRIDE]
        if mel.shape[2] == 0:
            raise InputError(
                "the voice's prompt is shorter than 40 ms; make the voice from a longer recording"
            )
        codes = self.codec.encode_mel(mel)[0]
        own = Prompt(codes.cpu())
        return NARVoice(own, self.nar.init_state(own, frames_of(self.codec, mel)[0]))

    def stream(self, phones: Phones, voice: NARVoice | None, seed: int) -> MelNARSound:
        """seed: nothing is drawn; the likeliest codes are taken."""
        prompt, state = (None, None) if voice is None else (voice.prompt, voice.state)
        return MelNARSound(NARStream(self.nar, phones, prompt, voice=state), self.codec.decoder_stream())

    def fingerprint(self) -> str:
        return f"{weights_hash(self._original)} {weights_hash(self.codec)}"


class MelNARSound(NARSound):
    """As `NARSound`, of latents that point twice a frame."""

    def push(self, latents: Latents) -> np.ndarray:
        return self._decoded(self.filler.push(latents.codes, latents.pointer.flatten()))
