"""Speech from a pitch and two spectral envelopes: pulses and noise, each through a filter that changes every hop.

    pitch ---> band-limited pulses --|hop|hop|--> windows of two hops --> x harmonic envelope --.
    seed  ---> white noise ----------|hop|hop|--> windows of two hops --> x noise envelope -----+--> overlap-add

The filters have minimum phase, so that a pulse sounds when it comes and rings after it (Liu et al. 2020, "Neural
Homomorphic Vocoder", section 3; the source is theirs, too). The phase of the pulses runs on from sample to sample, so
harmonics stay in step however the envelopes were found. Differentiable in the envelopes.

Shapes: B batch, N samples, T hops, H hop, M bands, F frequencies.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .harmonic import Sound
from .spectral import Frames, OverlapAdd
from .streaming import State

_SILENCE = -20.0  # natural logarithm of the magnitude of an envelope that lets nothing through
_NYQUIST = 0.49  # share of the sample rate that the highest harmonic may reach


class Source(nn.Module):
    """The pitch's pulses, of unit power: the sum of all cosines of multiples of the pitch, in closed form."""

    def __init__(self, sample_rate: int, hop: int):
        super().__init__()
        self.sample_rate, self.hop = sample_rate, hop

    def init_state(self, batch: int, like: Tensor) -> State:
        """The phase in turns, and the pitch at the end of the hop before (0: none yet)."""
        return like.new_zeros(batch, 2, dtype=torch.float64)

    def step(self, pitch: Tensor, state: State) -> tuple[Tensor, State]:
        """pitch (B, T) in Hz at the end of every hop, between which it goes in a straight line -> (B, T * H)."""
        b, t = pitch.shape
        if t == 0:
            return pitch.new_zeros(b, 0), state
        end = pitch.double()
        before = torch.where(state[:, 1:] > 0, state[:, 1:], end[:, :1])
        start = torch.cat([before, end[:, :-1]], dim=1)
        along = torch.arange(1, self.hop + 1, device=pitch.device, dtype=torch.float64) / self.hop
        hz = (start[..., None] + (end - start)[..., None] * along).reshape(b, -1)
        turns = state[:, :1] + (hz / self.sample_rate).cumsum(1)
        turns = turns - turns.floor()
        following = torch.stack([turns[:, -1], end[:, -1]], dim=1)
        n = (_NYQUIST * self.sample_rate / hz).floor().clamp(min=1)
        half = math.pi * turns
        sine = half.sin()
        # Dirichlet's kernel; where its denominator vanishes all cosines are one.
        tiny = sine.abs() < 1e-7
        kernel = ((2 * n + 1) * half).sin() / (2 * sine.masked_fill(tiny, 1.0)) - 0.5
        pulses = torch.where(tiny, n, kernel) * (2 / n).sqrt()
        return pulses.to(pitch.dtype), following


class EnvelopeFilter(nn.Module):
    """A signal through filters that change every hop.

    Envelopes are natural logarithms of magnitudes at `bands` frequencies, evenly spaced in mel, straight in between.
    """

    window: Tensor
    spread: Tensor

    def __init__(self, sample_rate: int, hop: int, bands: int):
        super().__init__()
        self.hop = hop
        self.frames, self.add = Frames(2 * hop, hop), OverlapAdd(4 * hop, hop)
        self.n_fft = 1 << (4 * hop - 1).bit_length()  # two hops of signal, and at least two of ringing
        self.register_buffer("window", torch.hann_window(2 * hop)[:, None], persistent=False)
        frequencies = torch.arange(self.n_fft // 2 + 1, dtype=torch.float64) * sample_rate / self.n_fft
        place = _mel(frequencies) / _mel(torch.tensor(sample_rate / 2, dtype=torch.float64)) * (bands - 1)
        spread = (1 - (place[:, None] - torch.arange(bands)).abs()).clamp(min=0)
        self.register_buffer("spread", spread.float(), persistent=False)  # (F, M)

    def init_state(self, batch: int, like: Tensor, signals: int = 2) -> State:
        return self.frames.init_state(signals * batch, like), self.add.init_state(batch, like)

    def step(self, signals: list[Tensor], envelopes: list[Tensor], state: State) -> tuple[Tensor, State]:
        """Signals (B, T * H) and envelopes (B, M, T) of each, T alike -> their sum (B, T * H), one hop late."""
        frames_state, add_state = state
        cut, frames_state = self.frames.step(torch.cat(signals)[:, None], frames_state)
        if cut.shape[-1] == 0:
            return signals[0].new_zeros(signals[0].shape[0], 0), (frames_state, add_state)
        spectra = torch.fft.rfft((cut * self.window).transpose(1, 2), self.n_fft)  # (S B, T, F)
        heard = spectra * self.responses(torch.cat(envelopes))
        mixed = torch.stack(heard.chunk(len(signals))).sum(0)
        wav = torch.fft.irfft(mixed, self.n_fft)[..., : 4 * self.hop]
        out, add_state = self.add.step(wav.transpose(1, 2), add_state)
        return out[:, 0], (frames_state, add_state)

    def responses(self, envelopes: Tensor) -> Tensor:
        """(B, M, T) -> complex frequency responses (B, T, F) of minimum phase."""
        return minimum_phase(envelopes.transpose(1, 2).float() @ self.spread.t())


class SourceFilterState(NamedTuple):
    """source: (B, 2), phase and pitch.   filter: the samples that are not yet complete."""

    source: Tensor
    filter: State


class SourceFilter(nn.Module):
    """Both: what a network says of speech to samples."""

    def __init__(self, sample_rate: int, hop: int, bands: int):
        super().__init__()
        self.hop, self.bands = hop, bands
        self.source = Source(sample_rate, hop)
        self.filter = EnvelopeFilter(sample_rate, hop, bands)

    def init_state(self, batch: int, like: Tensor) -> SourceFilterState:
        return SourceFilterState(self.source.init_state(batch, like), self.filter.init_state(batch, like))

    def step(
        self, sound: Sound, pitch: Tensor, voiced: Tensor, noise: Tensor, state: SourceFilterState
    ) -> tuple[Tensor, SourceFilterState]:
        """Envelopes (B, M, T) of `sound`, pitch (B, T) Hz, voiced (B, T) bool, noise (B, T * H) white, of unit power
        -> (B, T * H), one hop late."""
        pulses, source = self.source.step(pitch, state.source)
        pulses = pulses * voiced.repeat_interleave(self.hop, dim=1)
        wav, filtered = self.filter.step([pulses, noise], [sound.harmonic, sound.noise], state.filter)
        return wav, SourceFilterState(source, filtered)

    def flush(self, state: SourceFilterState) -> Tensor:
        """The last hop, (B, H), which the filter gives when a silent one has followed."""
        silence = [state.source.new_zeros(len(state.source), self.hop, dtype=self.filter.window.dtype)] * 2
        none = silence[0].new_full((len(state.source), self.bands, 1), _SILENCE)
        return self.filter.step(silence, [none, none], state.filter)[0]

    def forward(self, sound: Sound, pitch: Tensor, voiced: Tensor, noise: Tensor) -> Tensor:
        """As `step`, all of an utterance or a stretch of one, on time: the last hop is only in part."""
        wav, _ = self.step(sound, pitch, voiced, noise, self.init_state(len(pitch), noise))
        return F.pad(wav[:, self.hop :], (0, self.hop))


def minimum_phase(log_magnitudes: Tensor) -> Tensor:
    """Natural logarithms of magnitudes (..., F) -> complex frequency responses (..., F), as early as they can be.

    By folding the cepstrum (Oppenheim and Schafer, Discrete-Time Signal Processing, on homomorphic processing).
    """
    n = 2 * (log_magnitudes.shape[-1] - 1)
    fold = log_magnitudes.new_zeros(n)
    fold[0] = fold[n // 2] = 1
    fold[1 : n // 2] = 2
    response = torch.fft.rfft(torch.fft.irfft(log_magnitudes, n) * fold)
    # Its `exp`, which torch computes number by number where it is complex: in parts it takes a seventh of the time.
    magnitude, phase = response.real.exp(), response.imag.contiguous()
    return torch.complex(magnitude * phase.cos(), magnitude * phase.sin())


def _mel(hz: Tensor) -> Tensor:
    return 2595 * torch.log10(1 + hz / 700)
