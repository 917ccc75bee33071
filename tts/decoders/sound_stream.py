"""From the AR's frames to samples, in one of two ways, each a stream.

    "vocoder"   coarse codes and hidden states -> the vocoder            the default: clear voices
    "codec"     coarse codes -> NAR -> all codes -> the codec's decoder  VALL-E as published

Shapes: N coarse codebooks, T frames, W the AR's width, n samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ...codec.base import DecoderStream
from ..lm.generate import Frame
from .nar_stream import NARStream
from .vocoder_stream import VocoderStream

DECODERS = ("vocoder", "codec")


class SoundStream(Protocol):
    """One utterance. The samples are the same however it is fed."""

    def push(self, frames: Sequence[Frame]) -> np.ndarray:
        """The samples (n,) that are certain after these frames, too."""
        ...

    def flush(self) -> np.ndarray:
        """The samples that are still owed; the stream is over."""
        ...


class CodecSound:
    """The NAR's codes through the codec's decoder."""

    def __init__(self, filler: NARStream, decoder: DecoderStream, n_coarse: int):
        self.filler, self.decoder, self.n_coarse = filler, decoder, n_coarse

    def push(self, frames: Sequence[Frame]) -> np.ndarray:
        pointer = torch.tensor([frame.pointer for frame in frames]).long()
        return self._decoded(self.filler.push(coarse_codes(frames, self.n_coarse), pointer))

    def flush(self) -> np.ndarray:
        wav = self._decoded(self.filler.flush())
        return np.concatenate([wav, _samples(self.decoder.flush()[0, 0])])

    def _decoded(self, codes: Tensor) -> np.ndarray:
        if codes.shape[-1] == 0:
            return np.zeros(0, np.float32)
        return _samples(self.decoder.push(codes[None])[0, 0])


class VocoderSound:
    """The vocoder's samples."""

    def __init__(self, stream: VocoderStream, n_coarse: int):
        self.stream, self.n_coarse = stream, n_coarse

    def push(self, frames: Sequence[Frame]) -> np.ndarray:
        if not frames:
            return np.zeros(0, np.float32)
        hidden = torch.stack([frame.hidden for frame in frames])
        return _samples(self.stream.push(coarse_codes(frames, self.n_coarse).to(hidden.device), hidden))

    def flush(self) -> np.ndarray:
        return _samples(self.stream.flush())


def coarse_codes(frames: Sequence[Frame], n_coarse: int) -> Tensor:
    """(N, T) long."""
    if not frames:
        return torch.zeros(n_coarse, 0, dtype=torch.long)
    return torch.tensor([frame.codes for frame in frames]).long().t()


def _samples(wav: Tensor) -> np.ndarray:
    return wav.float().cpu().numpy()
