"""The mel vocoder as a stream: mel frames in as they come, samples out as soon as they are certain.

Shapes: M mel bands, T frames, n samples.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ..layers.steady import SteadyStep
from .mel_vocoder import MelVocoder, MelVocoderState


class MelVocoderStream:
    """Makes sound of one utterance. The samples are the same however it is fed.

    contrast: above 1 sharpens the envelopes (`Sound.sharpened`).   seed: of the noise.

    >>> stream = MelVocoderStream(vocoder)
    >>> samples = [stream.push(mel) for mel in mels] + [stream.flush()]
    """

    def __init__(self, vocoder: MelVocoder, contrast: float = 1.0, seed: int = 0):
        self.vocoder, self.contrast = vocoder, contrast
        self.state = vocoder.init_state(1, next(vocoder.parameters()).detach())
        self._steps = SteadyStep(vocoder, partial(_step, contrast=contrast), ("vocoder", contrast))
        self._generator = torch.Generator().manual_seed(seed % 2**63)
        self.finished = False

    @torch.inference_mode()
    def push(self, mel: Tensor) -> Tensor:
        """Natural log-mel (M, T), any T -> samples (n,)."""
        if self.finished:
            raise ValueError("this stream has been flushed; open a new one")
        if mel.shape[1] == 0:
            return mel.new_zeros(0)
        return self._advance(self.vocoder.normalized(mel[None]))

    @torch.inference_mode()
    def flush(self) -> Tensor:
        """The samples still owed (n,); the stream is over."""
        if self.finished:
            raise ValueError("this stream has been flushed; open a new one")
        config = self.vocoder.config
        nothing = self.state.pitch.new_zeros(1, config.mel_bands, config.look_ahead)
        last = self._advance(nothing, final=True)
        self.finished = True
        return torch.cat([last, self.vocoder.last_hop(self.state)[0]])

    def _advance(self, x: Tensor, final: bool = False) -> Tensor:
        n = x.shape[-1] - self.state.early  # frames that are heard
        if n <= 0:
            _, self.state = self.vocoder.advance(x, self.state, final)
            return x.new_zeros(0)
        # Drawn hop by hop, so that chunks of any length get the same noise.
        hop = self.vocoder.config.hop
        drawn = [torch.randn(1, hop, generator=self._generator) for _ in range(n)]
        inputs = x, torch.cat(drawn, dim=1).to(x)
        if final:
            wav, self.state = _step(self.vocoder, inputs, self.state, self.contrast, final)
        else:
            wav, self.state = self._steps(inputs, self.state)
        return wav[0]


def _step(
    vocoder: MelVocoder,
    inputs: tuple[Tensor, Tensor],
    state: MelVocoderState,
    contrast: float,
    final: bool = False,
) -> tuple[Tensor, MelVocoderState]:
    """Normalised frames (B, M, T), and white noise for those that are heard, to samples (B, n)."""
    x, noise = inputs
    out, state = vocoder.advance(x, state, final)
    sound = vocoder.sound(out)
    if contrast != 1:
        sound = sound.sharpened(contrast)
    return vocoder.sounding(sound, noise.to(out), state)
