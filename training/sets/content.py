"""What is said in a recording, as a recogniser's encoder represents it: the teacher of the speech tokens.

Speech tokens that are distilled from a recogniser keep phones that tokens learnt from sound alone lose
(SpeechTokenizer, Zhang et al. 2024, section 3.2; CosyVoice, Du et al. 2024, section 2.1), also of recordings that have
no text.

Shapes: N samples at 16 kHz, T frames of 50 Hz, C channels of the encoder.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...asr.model.features import HOP_LENGTH, N_SAMPLES, SAMPLE_RATE, log_mel
from ...asr.model.whisper import Whisper

RATE = SAMPLE_RATE
STEP = 2 * HOP_LENGTH  # samples of a frame
_GAP = 20 * STEP  # 0.4 s of silence between recordings that share a window


@dataclass(frozen=True)
class _Piece:
    """Samples [first, stop) of a recording, at `start` in a window."""

    recording: int
    first: int
    stop: int
    start: int


class Content:
    """States of Whisper's encoder.

    Its window is 30 seconds whatever is in it, so recordings share one, with silence between them.
    """

    def __init__(self, whisper: Whisper):
        self.whisper = whisper

    @property
    def channels(self) -> int:
        return self.whisper.dims.n_audio_state

    @torch.inference_mode()
    def __call__(self, wavs: Sequence[Tensor]) -> list[Tensor]:
        """wavs: each (N,) -> each (T, C), T = ceil(N / 320). Longer ones than 30 s are read in pieces."""
        found: list[list[Tensor]] = [[] for _ in wavs]
        for window in _windows([len(wav) for wav in wavs]):
            audio = torch.zeros(N_SAMPLES)
            for piece in window:
                wav = wavs[piece.recording][piece.first : piece.stop]
                audio[piece.start : piece.start + len(wav)] = wav.cpu()
            mel = log_mel(audio, self.whisper.dims.n_mels)
            states = self.whisper.encode(mel[None])[0].float().cpu()
            for piece in window:
                n = -(-(piece.stop - piece.first) // STEP)
                found[piece.recording].append(states[piece.start // STEP :][:n])
        empty = torch.zeros(0, self.channels)
        return [torch.cat(parts) if parts else empty for parts in found]


def _windows(lengths: Sequence[int]) -> Iterator[list[_Piece]]:
    """Recordings of `lengths` samples laid into windows, in order; every piece starts at a frame."""
    window: list[_Piece] = []
    start = 0
    for recording, length in enumerate(lengths):
        for first in range(0, length, N_SAMPLES):
            stop = min(first + N_SAMPLES, length)
            if start + stop - first > N_SAMPLES:
                yield window
                window, start = [], 0
            window.append(_Piece(recording, first, stop, start))
            start += -(-(stop - first) // STEP) * STEP + _GAP
    if window:
        yield window
