"""The flow decoder as a `SpeechDecoder`: latents to mel to sound.

    recording of the voice -> mel, speaker vector, tokens -> FlowVoice (kept)
    pointer, tokens -> FlowStream -> mel -> MelVocoderStream -> samples

It speaks after two kinds of AR: one that says speech tokens (`tts.flow_speech`), or one over a codec's codes, of
which it reads the pointer alone.

Shapes: S samples of a prompt at 24 kHz, T frames of 50 Hz, M mel bands, E speaker vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from ....codec.checkpoint import weights_hash
from ....codec.mel.speech_tokens import STRIDE, SpeechTokenizer
from ....codec.mel_vocoder import MelVocoder
from ....codec.mel_vocoder_stream import MelVocoderStream
from ....codec.precision import turn
from ....data.resample import resample
from ....kernels.precision import Precision
from ....pretrained.ge2e import GE2E
from ....pretrained.ge2e import RATE as SPEAKER_RATE
from ...lm.adapter import adapted_model, speaker_of
from ...lm.ar import ARModel
from ...lm.batch import Prompt
from ...lm.quantize import for_inference
from ...lm.token_generate import TokenPrompt
from ...text.phones import Phones
from ..base import Latents, to_samples
from .decoder import PATCH, FlowDecoder
from .stream import FlowOptions, FlowStream, FlowVoice, read_voice

LONGEST_PROMPT = 200  # frames: what was trained
# Nats from the bands of 3 to 6 kHz down to those above 9 kHz: 3 to 7 in recordings of 16 kHz, 0 to 3 in others.
_NARROW = 3.0


@dataclass(frozen=True, eq=False)
class ReadVoice:
    """What the flow path keeps of a prompt: for the decoder, and for an AR over tokens.   model: the decoder that all
    share, or that adapted to the voice."""

    flow: FlowVoice
    tokens: TokenPrompt | None
    model: FlowDecoder


class FlowSpeechDecoder:
    """Flow decoder and mel vocoder. tokenizer: of the AR's tokens; None where only its pointer is read.   precision: of
    large products on a CPU."""

    name = "flow"

    def __init__(
        self,
        flow: FlowDecoder,
        vocoder: MelVocoder,
        tokenizer: SpeechTokenizer | None,
        speakers: GE2E,
        options: FlowOptions | None = None,
        contrast: float = 1.0,
        precision: Precision = "float32",
    ):
        self.options = options or FlowOptions()
        self._originals = [model for model in (flow, vocoder, tokenizer) if model is not None]
        self._original = flow
        self.flow = cast(FlowDecoder, for_inference(flow, precision))
        turn(vocoder, precision)
        self.vocoder, self.tokenizer, self.speakers, self.contrast = vocoder, tokenizer, speakers, contrast
        # Frames of the AR a push: the first block and its look-ahead, then a block each.
        ahead, places = flow.config.look_ahead, 1 if tokenizer is None else PATCH
        first, *others = self.options.blocks
        self.chunks = ((first + ahead) // places, *(block // places for block in others or [first]))

    @torch.inference_mode()
    def read_voice(self, prompt: Prompt, wav: Tensor) -> ReadVoice:
        """wav (S,): what stands for the recording in a voice that has neither mel nor speaker vector."""
        mel = self.vocoder.mel(wav[None])[0] if prompt.mel is None else prompt.mel.to(wav)
        longest = LONGEST_PROMPT * PATCH
        mel = mel[:, : min(longest, mel.shape[1]) // STRIDE * STRIDE]
        speaker = self._speaker(wav) if prompt.speaker is None else prompt.speaker.to(wav)
        tokens, levels = None, None
        if self.tokenizer is not None:
            tokens = self.tokenizer.tokens(mel[None])[0]
            levels = self.tokenizer.quantizer.vectors(tokens) if self.options.tokens else None
        model = cast(FlowDecoder, adapted_model(prompt.adapters, self.name, self._original, self.flow))
        lasting = speaker_of(prompt.adapters, self.name, speaker)
        voice = read_voice(model, mel, lasting, levels, self.options, is_narrow(mel))
        return ReadVoice(voice, None if tokens is None else TokenPrompt(tokens, speaker), model)

    def _speaker(self, wav: Tensor) -> Tensor:
        """The speaker vector (E,) of a recording (S,)."""
        at_16k = resample(wav[None].cpu().numpy(), self.vocoder.config.sample_rate, SPEAKER_RATE)[0]
        return self.speakers.vector(torch.from_numpy(at_16k).to(wav.device))

    def check(self, ar: ARModel) -> None:
        """Any AR has the pointer. Whether one says this tokenizer's tokens, its file says (`tts.flow_speech`)."""

    def stream(self, phones: Phones, voice: ReadVoice | None, seed: int) -> FlowSound:
        flow, model = (None, self.flow) if voice is None else (voice.flow, voice.model)
        stream = FlowStream(model, phones.tokens, flow, self.options, seed)
        tokenizer = self.tokenizer if self.options.tokens else None
        return FlowSound(stream, MelVocoderStream(self.vocoder, self.contrast, seed), tokenizer)

    def fingerprint(self) -> str:
        return " ".join(weights_hash(model) for model in self._originals)


class FlowSound:
    """The samples of one utterance. tokenizer: None where latents come at the decoder's own rate and only their
    pointer is read."""

    def __init__(self, stream: FlowStream, vocoder: MelVocoderStream, tokenizer: SpeechTokenizer | None):
        self.stream, self.vocoder, self.tokenizer = stream, vocoder, tokenizer
        self._odd = torch.zeros(0, dtype=torch.long)  # a frame that waits for its other half

    def push(self, latents: Latents) -> np.ndarray:
        pointer = latents.pointer.flatten()
        pointer = torch.cat([self._odd.to(pointer), pointer])
        n = len(pointer) // PATCH * PATCH
        pointer, self._odd = pointer[:n], pointer[n:]
        if n == 0:
            return np.zeros(0, np.float32)
        levels = None if self.tokenizer is None else self.tokenizer.quantizer.vectors(latents.codes[0])
        return to_samples(self.vocoder.push(self.stream.push(pointer, levels)))

    def flush(self) -> np.ndarray:
        parts, half = [], len(self._odd)
        if half:  # the decoder reads whole patches; of the last, what belongs to no frame is not heard
            parts.append(self.vocoder.push(self.stream.push(self._odd.repeat(PATCH))))
        parts += [self.vocoder.push(self.stream.flush()), self.vocoder.flush()]
        wav = torch.cat(parts)
        return to_samples(wav[: len(wav) - half * PATCH * self.vocoder.vocoder.config.hop])


def is_narrow(mel: Tensor) -> bool:
    """Whether a recording (M, T) of 80 bands to 12 kHz has nothing above 8 kHz: it was of 16 kHz or less."""
    loud = mel[:, mel.mean(0) > mel.mean()]
    return bool(loud[48:62].mean() - loud[72:].mean() > _NARROW) if loud.shape[1] else False
