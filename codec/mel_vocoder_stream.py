"""The mel vocoder as a stream: mel frames in as they come, samples out as soon as they are certain.

Shapes: M mel bands, T frames, n samples.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .mel_vocoder import MelVocoder


class MelVocoderStream:
    """Makes sound of one utterance. The samples are the same however it is fed.

    contrast: above 1 sharpens the envelopes (`Sound.sharpened`).   seed: of the noise.

    >>> stream = MelVocoderStream(vocoder)
    >>> samples = [stream.push(mel) for mel in mels] + [stream.flush()]
    """

    def __init__(self, vocoder: MelVocoder, contrast: float = 1.0, seed: int = 0):
        self.vocoder, self.contrast = vocoder, contrast
        self.state = vocoder.init_state(1, next(vocoder.parameters()).detach())
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
        out, self.state = self.vocoder.advance(x, self.state, final)
        if not out.shape[-1]:
            return out.new_zeros(0)
        sound = self.vocoder.sound(out)
        if self.contrast != 1:
            sound = sound.sharpened(self.contrast)
        # Drawn hop by hop, so that chunks of any length get the same noise.
        hop = self.vocoder.config.hop
        drawn = [torch.randn(1, hop, generator=self._generator) for _ in range(out.shape[-1])]
        noise = torch.cat(drawn, dim=1)
        wav, self.state = self.vocoder.sounding(sound, noise.to(out), self.state)
        return wav[0]
