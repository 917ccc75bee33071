"""What EnCodec, DAC and Myna share: an encoder, a residual quantizer and a decoder, run whole or as streams.

Shapes: B batch, C audio channels, N samples, K codebooks, T frames, D latent channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction

import torch
from torch import Tensor

from ..errors import InputError, UsageError
from ..layers import Chain, Stream
from ..layers.lstm import LSTM
from ..layers.steady import SteadyStream
from ..layers.streaming import State, Streamable, join_all, step_layers
from .base import Codec, Codes
from .trainable import TrainableCodec

# Frames that encode and decode hand through the convolutions at a time when nothing is learned, so that
# activations stay in the cache; and through the whole network, so that memory does not grow with the length
# of the input. The second is longer because an LSTM has a fixed cost a call.
BLOCK_FRAMES = 40
LONG_BLOCK_FRAMES = 600


class ConvolutionalCodec(TrainableCodec):
    """A codec whose encoder (rate 1 / frame_size) and decoder (rate frame_size) are Chains around a
    ResidualVQ.

    whole_frames: the end of the input is filled with zeros to a whole frame before it is encoded (DAC);
    otherwise
        the encoder fills it by its own rule (EnCodec).
    """

    encoder: Chain
    decoder: Chain
    decoder_channels: int  # D
    whole_frames: bool = False

    def encode(self, wav: Tensor, n_codebooks: int | None = None, search: bool = False) -> Codes:
        check_wav(self, wav)
        k = check_n_codebooks(self, n_codebooks)
        with torch.no_grad():
            codes = [self.quantizer.encode(z, k, search) for z in self._latents(wav)]
            return Codes(torch.cat(codes, dim=-1), wav.shape[-1])

    def decode(self, codes: Codes) -> Tensor:
        check_codes(self, codes.codes)

        def latents(start: int, end: int) -> Tensor:
            return self.quantizer.decode(codes.codes[..., start:end])

        with torch.no_grad():
            wav = blocks(self.decoder, codes.codes.shape[-1], 1, latents, step_in_blocks)
            return fit(torch.cat(list(wav), dim=-1), codes.n_samples)

    def latents(self, wav: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return self.encoder(fit(wav, self._length(wav)))
        return torch.cat(list(self._latents(wav)), dim=-1)

    def _latents(self, wav: Tensor) -> Iterator[Tensor]:
        """The latents block by block."""

        def samples(start: int, end: int) -> Tensor:
            return fit(wav[..., start:end], end - start)

        return blocks(self.encoder, self._length(wav), self.frame_size, samples, step_in_blocks)

    def _length(self, wav: Tensor) -> int:
        """Samples that are encoded."""
        whole = -(-wav.shape[-1] // self.frame_size) * self.frame_size
        return whole if self.whole_frames else wav.shape[-1]

    def synthesize(self, latents: Tensor, n_samples: int) -> Tensor:
        return fit(self.decoder(latents), n_samples)

    def encoder_stream(
        self, batch: int = 1, n_codebooks: int | None = None, search: bool = False
    ) -> ConvolutionalEncoderStream:
        return ConvolutionalEncoderStream(self, batch, check_n_codebooks(self, n_codebooks), search)

    def decoder_stream(self, batch: int = 1) -> ConvolutionalDecoderStream:
        return ConvolutionalDecoderStream(self, batch)


Step = Callable[[Chain, Tensor, State, bool, int], tuple[Tensor, State]]


def step_whole(network: Chain, x: Tensor, state: State, final: bool, frame: int) -> tuple[Tensor, State]:
    """`network.step`, as a Step."""
    return network.step(x, state, final)


def blocks(
    network: Chain, length: int, frame: int, take: Callable[[int, int], Tensor], step: Step = step_whole
) -> Iterator[Tensor]:
    """The network's output on an input that is made (and forgotten) in blocks of LONG_BLOCK_FRAMES.

    take: gives entries `start` to `end` of the input (B, C, length).   frame: so many of them are one frame.
    """
    state, block = None, LONG_BLOCK_FRAMES * frame
    for start in range(0, length, block):
        x = take(start, min(start + block, length))
        if state is None:
            state = network.init_state(x.shape[0], like=x)
        y, state = step(network, x, state, start + block >= length, frame)
        yield y


def step_in_blocks(network: Chain, x: Tensor, state: State, final: bool, frame: int) -> tuple[Tensor, State]:
    """`network.step`, each run of layers between LSTMs in blocks of BLOCK_FRAMES; `frame` entries of x are
    one frame."""
    layers, following, entries = list(network.layers), [], Fraction(frame)
    first = 0
    while first < len(layers):
        last = first + 1
        if not isinstance(layers[first], LSTM):
            while last < len(layers) and not isinstance(layers[last], LSTM):
                last += 1
        block = x.shape[-1] if last == first + 1 else max(1, int(BLOCK_FRAMES * entries))
        own, out = state[first:last], []
        for start in range(0, max(1, x.shape[-1]), max(1, block)):
            ends = start + block >= x.shape[-1]
            y, own = step_layers(layers[first:last], x[..., start : start + block], own, final and ends)
            out.append(y)
        x = join_all(out)
        for layer in layers[first:last]:
            entries *= layer.rate if isinstance(layer, Streamable) else 1
        following += own
        first = last
    return x, tuple(following)


class ConvolutionalEncoderStream:
    """Samples in, codes out (`codec.base.EncoderStream`)."""

    def __init__(self, codec: ConvolutionalCodec, batch: int, n_codebooks: int, search: bool):
        self.codec, self.batch, self.n_codebooks, self.search = codec, batch, n_codebooks, search
        self.stream = Stream(codec.encoder, batch)
        self.n_samples = 0

    def push(self, wav: Tensor) -> Tensor:
        """wav (B, C, n), any n, to codes (B, K, t)."""
        check_wav(self.codec, wav, shortest=0)
        self.n_samples += wav.shape[-1]
        return self._quantize(self.stream.push(wav))

    def flush(self) -> Tensor:
        """The codes still owed."""
        missing = -self.n_samples % self.codec.frame_size if self.codec.whole_frames else 0
        like = next(self.codec.parameters())
        return self._quantize(self.stream.flush(like.new_zeros(self.batch, self.codec.channels, missing)))

    @torch.inference_mode()
    def _quantize(self, latents: Tensor) -> Tensor:
        if latents.shape[-1] == 0:
            return torch.zeros(self.batch, self.n_codebooks, 0, dtype=torch.int64, device=latents.device)
        return self.codec.quantizer.encode(latents, self.n_codebooks, self.search)


class ConvolutionalDecoderStream:
    """Codes in, samples out (`codec.base.DecoderStream`): frame_size samples a frame in all."""

    def __init__(self, codec: ConvolutionalCodec, batch: int):
        self.codec, self.batch = codec, batch
        self.stream = SteadyStream(codec.decoder, batch)
        self.owed = 0

    def push(self, codes: Tensor) -> Tensor:
        """codes (B, K, t), any t, to wav (B, C, n)."""
        return self._step(codes, final=False)

    def flush(self) -> Tensor:
        """The samples still owed."""
        return self._step(None, final=True)

    @torch.inference_mode()
    def _step(self, codes: Tensor | None, final: bool) -> Tensor:
        if codes is not None and codes.shape[-1]:
            check_codes(self.codec, codes)
            latents = self.codec.quantizer.decode(codes)
        else:
            like = next(self.codec.parameters())
            latents = like.new_zeros(self.batch, self.codec.decoder_channels, 0)
        self.owed += latents.shape[-1] * self.codec.frame_size
        wav = self.stream.flush(latents) if final else self.stream.push(latents)
        wav = fit(wav, self.owed) if final else wav[..., : self.owed]
        self.owed -= wav.shape[-1]
        return wav


def fit(x: Tensor, n: int) -> Tensor:
    """x cut or filled with zeros to n frames."""
    return x[..., :n] if x.shape[-1] >= n else torch.nn.functional.pad(x, (0, n - x.shape[-1]))


def check_wav(codec: Codec, wav: Tensor, shortest: int = 1) -> None:
    """Raises InputError unless wav is (B, codec.channels, N >= shortest)."""
    if wav.ndim != 3 or wav.shape[1] != codec.channels or wav.shape[-1] < shortest:
        raise InputError(
            f"{codec.name} encodes waveforms of shape (batch, {codec.channels}, samples >= {shortest}), got "
            f"{tuple(wav.shape)}: resample to {codec.sample_rate} Hz and mix to {codec.channels} channels"
        )


def check_n_codebooks(codec: Codec, n_codebooks: int | None) -> int:
    """The number of codebooks to use. Raises UsageError unless it is 1..codec.n_codebooks."""
    if n_codebooks is None:
        return codec.n_codebooks
    if not 1 <= n_codebooks <= codec.n_codebooks:
        raise UsageError(f"{codec.name} has 1 to {codec.n_codebooks} codebooks, asked for {n_codebooks}")
    return n_codebooks


def check_codes(codec: Codec, codes: Tensor) -> None:
    """Raises InputError unless codes is (B, K, T) within the codec's codebooks."""
    if codes.ndim != 3 or not 1 <= codes.shape[1] <= codec.n_codebooks or codes.shape[-1] == 0:
        raise InputError(
            f"{codec.name} decodes codes of shape (batch, codebooks 1..{codec.n_codebooks}, frames), got "
            f"{tuple(codes.shape)}"
        )
    low, high = int(codes.min()), int(codes.max())
    if low < 0 or high >= codec.codebook_size:
        raise InputError(
            f"codes must lie in 0..{codec.codebook_size - 1} for {codec.name}, got {low}..{high}"
        )
