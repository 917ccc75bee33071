"""The mel vocoder as a stream: mel frames in as they come, samples out as soon as they are certain.

Shapes: M mel bands, T frames, n samples.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..layers.harmonic import Sound
from ..layers.streaming import Stream
from .mel_vocoder import MelVocoder

_SILENCE = -20.0  # natural logarithm of the magnitude of an envelope that lets nothing through


class MelVocoderStream:
    """Makes sound of one utterance. The samples are the same however it is fed.

    contrast: above 1 sharpens the envelopes (`Sound.sharpened`).   seed: of the noise.

    >>> stream = MelVocoderStream(vocoder)
    >>> samples = [stream.push(mel) for mel in mels] + [stream.flush()]
    """

    def __init__(self, vocoder: MelVocoder, contrast: float = 1.0, seed: int = 0):
        self.vocoder, self.contrast = vocoder, contrast
        like = next(vocoder.parameters()).detach()
        self._net = Stream(vocoder.net)
        self._source = vocoder.source.init_state(1, like)
        self._filter = vocoder.filter.init_state(1, like)
        self._early = vocoder.config.look_ahead  # frames of the net that come before the first
        self._lag = vocoder.config.hop  # samples, likewise
        self._pitch = like.new_zeros(1, 1)  # the last that was voiced
        self._generator = torch.Generator().manual_seed(seed % 2**63)
        self.finished = False

    @torch.inference_mode()
    def push(self, mel: Tensor) -> Tensor:
        """Natural log-mel (M, T), any T -> samples (n,)."""
        if self.finished:
            raise ValueError("this stream has been flushed; open a new one")
        if mel.shape[1] == 0:
            return mel.new_zeros(0)
        return self._render(self._net.push(self.vocoder.normalized(mel[None])))

    @torch.inference_mode()
    def flush(self) -> Tensor:
        """The samples still owed (n,); the stream is over."""
        if self.finished:
            raise ValueError("this stream has been flushed; open a new one")
        config = self.vocoder.config
        nothing = self._pitch.new_zeros(1, config.mel_bands, config.look_ahead)
        last = self._render(self._net.flush(nothing))
        self.finished = True
        # The filter gives each hop when the next has come.
        silence = [last.new_zeros(1, config.hop)] * 2
        none = last.new_full((1, config.bands, 1), _SILENCE)
        rest, self._filter = self.vocoder.filter.step(silence, [none, none], self._filter)
        return torch.cat([last, self._late(rest)])

    def _render(self, out: Tensor) -> Tensor:
        dropped = min(self._early, out.shape[-1])
        self._early -= dropped
        out = out[..., dropped:]
        t, hop = out.shape[-1], self.vocoder.config.hop
        if t == 0:
            return out.new_zeros(0)
        sound = self.vocoder.sound(out)
        if self.contrast != 1:
            sound = sound.sharpened(self.contrast)
        pitch, voiced = self._held(sound)
        pulses, self._source = self.vocoder.source.step(pitch, self._source)
        pulses = pulses * voiced.repeat_interleave(hop, dim=1)
        # Drawn hop by hop, so that chunks of any length get the same noise.
        noise = torch.cat([torch.randn(1, hop, generator=self._generator) for _ in range(t)], dim=1)
        signals, envelopes = [pulses, noise.to(pulses)], [sound.harmonic, sound.noise]
        wav, self._filter = self.vocoder.filter.step(signals, envelopes, self._filter)
        return self._late(wav)

    def _held(self, sound: Sound) -> tuple[Tensor, Tensor]:
        """The pitch (1, T), through unvoiced sounds that of the last voiced one, and where it is voiced."""
        voiced = sound.voicing > 0
        pitch = torch.cat([self._pitch, sound.pitch()], dim=1)
        known = torch.cat([self._pitch > 0, voiced], dim=1)
        at = torch.arange(pitch.shape[1], device=pitch.device)[None]
        last = torch.where(known, at, 0).cummax(1).values
        # Before the first voiced sound there is nothing to hold.
        held = torch.where(known[:, :1] | (last > 0), pitch.gather(1, last), pitch)
        self._pitch = torch.where(known[:, :1] | (last[:, -1:] > 0), held[:, -1:], self._pitch)
        return held[:, 1:], voiced

    def _late(self, wav: Tensor) -> Tensor:
        dropped = min(self._lag, wav.shape[-1])
        self._lag -= dropped
        return wav[0, dropped:]
