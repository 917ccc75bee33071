"""A speaker-independent mel vocoder: a source and two filters.

    log-mel (80 bands, 100 Hz) -> ConvNeXt -> pitch, voicing, harmonic envelope, noise envelope
                                           -> pulses and noise through the envelopes -> wav

The network only says what is to be heard; phases come from a pitch that runs on (Liu et al. 2020, "Neural Homomorphic
Vocoder"; `layers.source_filter`). The backbone is Vocos' (Siuzdak 2023, figure 2), causal.

Shapes: B batch, M mel bands, T frames (hops), N = 240 T samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.conv import Conv1d
from ..layers.convnext import ConvNeXtBlock, Pointwise
from ..layers.harmonic import PITCHES, Sound
from ..layers.mel import MelFrames
from ..layers.source_filter import SourceFilter, SourceFilterState
from ..layers.streaming import Chain, State

_MEAN, _SCALE = -5.0, 2.5  # of natural log-mels of speech, about
_SILENT = -7.0  # natural logarithm of the magnitude from which envelopes start


@dataclass(frozen=True)
class MelVocoderConfig:
    """Dimensions; the defaults are `myna-mel-vocoder`, 3.4 million parameters."""

    name: str = "myna-mel-vocoder"
    sample_rate: int = 24_000
    n_fft: int = 1024
    hop: int = 240  # samples a frame
    mel_bands: int = 80
    width: int = 256
    depth: int = 8
    expansion: int = 3
    bands: int = 96  # of an envelope
    look_ahead: int = 8  # frames that the vocoder waits for


class MelVocoderState(NamedTuple):
    """What a running vocoder remembers. pitch (B, 1): the last that was voiced, 0 before the first.   early, lag:
    frames and samples that are still to be dropped, which come before the first; 0 once the stream runs."""

    net: State
    synthesis: SourceFilterState
    pitch: Tensor
    early: int
    lag: int


class MelVocoder(nn.Module):
    """Mel spectrograms in, sound out."""

    def __init__(self, config: MelVocoderConfig | None = None):
        super().__init__()
        self.config = c = config or MelVocoderConfig()
        self.mel = MelFrames(c.sample_rate, c.n_fft, c.hop, c.mel_bands)
        self.net = Chain(
            Conv1d(c.mel_bands, c.width, 7),
            *(ConvNeXtBlock(c.width, c.expansion * c.width, 7) for _ in range(c.depth)),
            Pointwise(c.width, PITCHES + 1 + 2 * c.bands),
        )
        self.synthesis = SourceFilter(c.sample_rate, c.hop, c.bands)

    def forward(self, mel: Tensor) -> Sound:
        """All of an utterance, or of a stretch of one: natural log-mel (B, M, T) -> T hops of sound."""
        ahead = self.config.look_ahead
        padded = F.pad(self.normalized(mel), (0, ahead))
        return self.sound(self.net(padded)[..., ahead:])

    def normalized(self, mel: Tensor) -> Tensor:
        """About zero mean and unit variance."""
        return (mel - _MEAN) / _SCALE

    def sound(self, out: Tensor) -> Sound:
        """What the network says (B, C, T), sorted."""
        bands = self.config.bands
        pitch, voicing, harmonic, noise = out.float().split([PITCHES, 1, bands, bands], dim=1)
        return Sound(pitch, voicing[:, 0], harmonic + _SILENT, noise + _SILENT)

    def render(self, sound: Sound, pitch: Tensor, voiced: Tensor, noise: Tensor) -> Tensor:
        """The waveform (B, T * hop), from the beginning; the last hop is only in part.

        pitch (B, T) Hz, voiced (B, T) bool, noise (B, T * hop) white, of unit power.
        """
        return self.synthesis(sound, pitch, voiced, noise)

    def init_state(self, batch: int, like: Tensor) -> MelVocoderState:
        """Before the first frame."""
        return MelVocoderState(
            self.net.init_state(batch, like),
            self.synthesis.init_state(batch, like),
            like.new_zeros(batch, 1),
            early=self.config.look_ahead,
            lag=self.config.hop,
        )

    def advance(
        self, x: Tensor, state: MelVocoderState, final: bool = False
    ) -> tuple[Tensor, MelVocoderState]:
        """Normalised frames (B, M, T) -> what the network says (B, C, T), as far as it is certain."""
        out, net = self.net.step(x, state.net, final)
        dropped = min(state.early, out.shape[-1])
        return out[..., dropped:], state._replace(net=net, early=state.early - dropped)

    def sounding(self, sound: Sound, noise: Tensor, state: MelVocoderState) -> tuple[Tensor, MelVocoderState]:
        """`sound` of T > 0 frames and white noise (B, T * hop) -> samples (B, n), one hop less in all. Through unvoiced
        sounds the pitch is that of the last voiced one."""
        voiced = sound.voicing > 0
        pitch = torch.cat([state.pitch, sound.pitch()], dim=1)
        known = torch.cat([state.pitch > 0, voiced], dim=1)
        at = torch.arange(pitch.shape[1], device=pitch.device)[None]
        last = torch.where(known, at, 0).cummax(1).values
        # Before the first voiced sound there is nothing to hold.
        held = torch.where(known[:, :1] | (last > 0), pitch.gather(1, last), pitch)
        following = torch.where(known[:, :1] | (last[:, -1:] > 0), held[:, -1:], state.pitch)
        wav, synthesis = self.synthesis.step(sound, held[:, 1:], voiced, noise, state.synthesis)
        dropped = min(state.lag, wav.shape[1])
        state = state._replace(synthesis=synthesis, pitch=following, lag=state.lag - dropped)
        return wav[:, dropped:], state

    def last_hop(self, state: MelVocoderState) -> Tensor:
        """The samples that `sounding` still owes, (B, hop)."""
        return self.synthesis.flush(state.synthesis)[:, state.lag :]

    def speak(self, mel: Tensor, contrast: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
        """mel (B, M, T) -> wav (B, T * hop). contrast: above 1 sharpens the envelopes (`Sound.sharpened`)."""
        sound = self(mel)
        if contrast != 1:
            sound = sound.sharpened(contrast)
        noise = torch.randn(len(mel), mel.shape[-1] * self.config.hop, generator=generator).to(mel.device)
        return self.render(sound, sound.pitch(), sound.voicing > 0, noise)
