"""Speech tokens: content and prosody without the speaker, 25 a second.

    log-mel (100 Hz) -> stride 2 -> ConvNeXt (50 Hz) -> stride 2 -> ConvNeXt (25 Hz) -> 4 numbers -> rounded -> a token

Finite scalar quantisation (Mentzer et al. 2023): each number is bounded and rounded to one of a few levels; the
token is the place in the grid. The encoder learns with the decoder that reads its tokens beside a speaker vector,
so that they keep what the vector does not say, and from phones, pitch and loudness where these are known (as the
supervised tokens of CosyVoice, Du et al. 2024, section 2.1, do from a recogniser).

Shapes: B batch, M mel bands, T frames of 100 Hz, S = T / 4 tokens, D numbers of a token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...layers.conv import Conv1d
from ...layers.convnext import ConvNeXtBlock, Pointwise
from ...layers.streaming import Chain, Stream

STRIDE = 4  # mel frames in a token
SILENCE = -11.5  # natural log-mel of nothing: what follows the end of a recording
_MEAN, _SCALE = -5.0, 2.5  # of natural log-mels of speech, about


@dataclass(frozen=True)
class SpeechTokensConfig:
    """Dimensions; the defaults are `myna-tokens`."""

    name: str = "myna-tokens"
    mel_bands: int = 80
    width: int = 224
    depth_before: int = 2  # blocks at 50 Hz
    depth: int = 4  # blocks at 25 Hz
    levels: tuple[int, ...] = (8, 5, 5, 5)
    look_ahead: int = 3  # tokens that the encoder waits for

    @property
    def codebook_size(self) -> int:
        return math.prod(self.levels)


class FiniteScalarQuantizer(nn.Module):
    """Numbers to levels, levels to tokens, and back. Levels lie evenly in [-1, 1]."""

    levels: Tensor
    basis: Tensor

    def __init__(self, levels: tuple[int, ...]):
        super().__init__()
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        basis = [math.prod(levels[:i]) for i in range(len(levels))]
        self.register_buffer("basis", torch.tensor(basis), persistent=False)

    def bounded(self, z: Tensor) -> Tensor:
        """(..., D) any real numbers -> [-1, 1]."""
        return torch.tanh(z.float())

    def rounded(self, bounded: Tensor) -> Tensor:
        """The nearest level; its gradient is that of the identity (straight through)."""
        half = (self.levels - 1) / 2
        level = torch.round((bounded + 1) * half) / half - 1
        return bounded + (level - bounded).detach()

    def tokens(self, rounded: Tensor) -> Tensor:
        """Levels (..., D) -> (...) integers below the codebook size."""
        half = (self.levels - 1) / 2
        return (((rounded + 1) * half).round().long() * self.basis).sum(-1)

    def vectors(self, tokens: Tensor) -> Tensor:
        """(...) -> levels (..., D)."""
        digits = tokens[..., None] // self.basis % self.levels
        return digits / ((self.levels - 1) / 2) - 1

    @property
    def rows(self) -> Tensor:
        """(V, D) the levels of every token."""
        return self.vectors(torch.arange(int(self.levels.prod()), device=self.levels.device))


class SpeechTokenizer(nn.Module):
    """Mel spectrograms to tokens."""

    def __init__(self, config: SpeechTokensConfig | None = None):
        super().__init__()
        self.config = c = config or SpeechTokensConfig()
        self.net = Chain(
            Conv1d(c.mel_bands, c.width, 5, stride=2),
            *(ConvNeXtBlock(c.width, 3 * c.width, 7) for _ in range(c.depth_before)),
            Conv1d(c.width, c.width, 4, stride=2),
            *(ConvNeXtBlock(c.width, 3 * c.width, 5) for _ in range(c.depth)),
            Pointwise(c.width, len(c.levels)),
        )
        self.quantizer = FiniteScalarQuantizer(c.levels)

    def forward(self, mel: Tensor) -> Tensor:
        """Natural log-mel (B, M, T), T a multiple of 4 -> bounded numbers (B, S, D), not yet rounded."""
        ahead = self.config.look_ahead
        z = self.net(self.normalized(F.pad(mel, (0, ahead * STRIDE), value=SILENCE)))
        return self.quantizer.bounded(z[..., ahead:].transpose(1, 2))

    def normalized(self, mel: Tensor) -> Tensor:
        """About zero mean and unit variance."""
        return (mel - _MEAN) / _SCALE

    def tokens(self, mel: Tensor) -> Tensor:
        """Natural log-mel (B, M, T) -> tokens (B, S)."""
        return self.quantizer.tokens(self.quantizer.rounded(self(mel)))


class TokenStream:
    """The tokens of one recording as its mel comes; they are those of all of it at once.

    >>> stream = TokenStream(tokenizer)
    >>> tokens = [stream.push(mel) for mel in mels] + [stream.flush()]
    """

    def __init__(self, tokenizer: SpeechTokenizer):
        self.tokenizer = tokenizer
        self._net = Stream(tokenizer.net)
        self._early = tokenizer.config.look_ahead  # tokens of the net that come before the first

    @torch.inference_mode()
    def push(self, mel: Tensor) -> Tensor:
        """Natural log-mel (M, T), any T -> the tokens (S,) that are certain."""
        return self._tokens(self._net.push(self.tokenizer.normalized(mel[None])))

    @torch.inference_mode()
    def flush(self) -> Tensor:
        """The tokens (S,) still owed; of a last one that is not whole there is none."""
        bands, ahead = self.tokenizer.config.mel_bands, self.tokenizer.config.look_ahead
        like = next(self.tokenizer.parameters())
        silence = self.tokenizer.normalized(like.new_full((1, bands, ahead * STRIDE), SILENCE))
        return self._tokens(self._net.push(silence))

    def _tokens(self, z: Tensor) -> Tensor:
        dropped = min(self._early, z.shape[-1])
        self._early -= dropped
        quantizer = self.tokenizer.quantizer
        levels = quantizer.rounded(quantizer.bounded(z[0, :, dropped:].t()))
        return quantizer.tokens(levels)
