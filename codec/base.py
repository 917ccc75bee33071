"""The contract of every codec: waveform -> codes -> waveform.

Shapes: B batch, C audio channels, N samples, K codebooks, T frames, D latent channels.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import torch
from torch import Tensor, nn

from ..errors import UsageError


@dataclass(frozen=True)
class Codes:
    """What a codec makes of a waveform.

    codes: (B, K, T) integers in [0, codebook_size), time last. K may be fewer than the model has: a lower bitrate.
    n_samples: length of the waveform at the codec's sample rate, which decoding gives back exactly.
    scale: (B, segments), the loudness of each segment, for models that normalise it (EnCodec 48 kHz), else None.
    """

    codes: Tensor
    n_samples: int
    scale: Tensor | None = None

    def keep(self, n_codebooks: int) -> Codes:
        """The same with only the first `n_codebooks`: a lower bitrate without encoding again. (Encoding for fewer
        may choose them better where the codec searches over all its codebooks together.)"""
        return Codes(self.codes[:, :n_codebooks], self.n_samples, self.scale)


class EncoderStream(Protocol):
    """Waveform in, codes out, in chunks of any length. The concatenated codes are those of `encode`."""

    def push(self, wav: Tensor) -> Tensor:
        """wav (B, C, n), any n, to codes (B, K, t), t >= 0."""
        ...

    def flush(self) -> Tensor:
        """The codes still owed; the stream is over."""
        ...


class DecoderStream(Protocol):
    """Codes in, waveform out. The concatenated audio, cut to the true length, is that of `decode`."""

    def push(self, codes: Tensor) -> Tensor:
        """codes (B, K, t), any t, to wav (B, C, n), n >= 0."""
        ...

    def flush(self) -> Tensor:
        """The samples still owed; the stream is over."""
        ...


class Codec(nn.Module):
    """A neural audio codec.

    name: as in `myna models list`, for example "myna-24k".
    sample_rate: Hz.   channels: audio channels.   frame_size: samples a frame.   frame_rate: frames a second.
    n_codebooks, codebook_size: of the residual quantizer.
    delay: look-ahead of encoder and decoder together, in samples, beyond the frame itself.
    codes_of: hash (`checkpoint.weights_hash`) of the weights whose codes these are, where the decoder alone has been
    trained since: encoder and codebooks are the same. "" otherwise.
    """

    name: str
    sample_rate: int
    channels: int
    frame_size: int
    n_codebooks: int
    codebook_size: int
    delay: int = 0
    codes_of: str = ""
    fit_for_int8: tuple[str, ...] = ()

    @property
    def frame_rate(self) -> Fraction:
        return Fraction(self.sample_rate, self.frame_size)

    @property
    def packet_frames(self) -> int:
        """Frames of a `.myna` packet, by default: a second."""
        return max(1, round(self.frame_rate))

    @property
    def bitrates(self) -> tuple[float, ...]:
        """Bits a second before entropy coding, lowest first: entry k - 1 for k codebooks."""
        bits = (self.codebook_size - 1).bit_length()
        return tuple(float(k * bits * self.frame_rate) for k in range(1, self.n_codebooks + 1))

    def codebooks_for(self, bitrate: float | None) -> int:
        """The most codebooks that fit in `bitrate` (bits a second); all of them for None.

        Raises UsageError when not even one fits.
        """
        if bitrate is None:
            return self.n_codebooks
        fitting = sum(rate <= bitrate * (1 + 1e-9) for rate in self.bitrates)
        if fitting == 0:
            raise UsageError(
                f"bitrate {bitrate / 1000:g} kbps is below the lowest of {self.name}, {self.bitrates[0] / 1000:g} kbps"
            )
        return fitting

    @abstractmethod
    def encode(self, wav: Tensor, n_codebooks: int | None = None, search: bool = False) -> Codes:
        """wav (B, C, N) at `sample_rate`, nominal range [-1, 1], any N >= 1.

        search: take time to look for codes that are better together, where the codec can; without, each codebook
        takes its nearest row.
        """

    @abstractmethod
    def decode(self, codes: Codes) -> Tensor:
        """The waveform (B, C, N) with N = codes.n_samples."""

    @abstractmethod
    def latents(self, wav: Tensor) -> Tensor:
        """The encoder's output before quantisation, (B, D, T)."""

    @abstractmethod
    def rows(self) -> Tensor:
        """The codebooks' vectors (K, codebook_size, D), without gradients: what language models tie their embeddings
        to. D is the codebooks' own, which is not the latents' where they are factorized."""

    @abstractmethod
    def encoder_stream(
        self, batch: int = 1, n_codebooks: int | None = None, search: bool = False
    ) -> EncoderStream: ...

    @abstractmethod
    def decoder_stream(self, batch: int = 1) -> DecoderStream: ...

    def reconstruct(self, wav: Tensor, n_codebooks: int | None = None, search: bool = False) -> Tensor:
        """Encode and decode."""
        with torch.inference_mode():
            return self.decode(self.encode(wav, n_codebooks, search))
