"""The discriminator of mel spectrograms and voices over waveforms: it makes their log-mel first.

Phases do not matter to it; on a CPU it is many times cheaper than one over waveforms.

Shapes: B batch, N samples, V channels of a voice.
"""

from __future__ import annotations

from torch import Tensor

from ..layers.mel import LogMel
from .base import Judgement
from .mel_voice import MelVoiceDiscriminator


class VoiceMelDiscriminator(MelVoiceDiscriminator):
    """Waveforms and voices to judgements. voice: channels of what voices are given as."""

    def __init__(
        self,
        sample_rate: int,
        voice: int,
        n_fft: int = 1024,
        hop: int = 240,
        bands: int = 80,
        width: int = 24,
        compared: int = 128,
    ):
        super().__init__(1, voice, bands, width, compared)
        self.mel = LogMel(sample_rate, n_fft, hop, bands)

    def read(self, x: Tensor) -> tuple[Judgement, Tensor]:
        """x (B, 1, N) samples -> whether it is speech, place by place, and what was heard of the voice (B, ...)."""
        return super().read(self.mel(x[:, 0])[:, None])
