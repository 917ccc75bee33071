"""`myna-mel`: speech at 0.25 to 2 kbps, as a mel spectrogram of which the first codebook says what is said.

    mel (100 Hz) --> tokenizer --> tokens (25 Hz, codebook 1) --> said ----.
             |                                                  |          |
             '----> encoder --> latents (25 Hz) -------------( - )      ( + ) --> decoder --> mel --> vocoder --> wav
                                                                |          |
                                                      residual quantizer --'  (codebooks 2 to K)

Speech tokens leave the voice out (`codec.mel.speech_tokens`); "said" is what latents they let one expect, and the
residual codes say the rest: the voice, the room, and what tokens get wrong. A codebook more is 250 bits a second more,
and every number of leading codebooks decodes, the tokens alone in nobody's voice. There is no speaker vector in the
header: a pipe has written it before anybody has spoken, a recording may hold several people, and a packet is decoded
alone. The waveform is the mel vocoder's, whose phases are its own (`codec.mel_vocoder`).

Nearest of kin: codecs whose first codebook is semantic (Zhang et al. 2024, "SpeechTokenizer"; Défossez et al. 2024,
"Moshi", section 3.3), and residual quantizers of mel spectrograms. With its blocks at zero the network is a linear
transform codec, which `init_from_data` computes, as `codec.myna` does.

Shapes: B batch, N samples, M mel bands, T mel frames (100 Hz), S = T / 4 code frames (25 Hz), K codebooks, V
codebook_size, D latent channels, L numbers of a token.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...layers.conv import Conv1d, ConvTranspose1d
from ...layers.convnext import ConvNeXtBlock, Pointwise
from ...layers.mel import MelStream
from ...layers.steady import SteadyStream
from ...layers.streaming import Chain, State, Stream, Streamable
from ..base import Codec, Codes
from ..convolutional import check_codes, check_n_codebooks, check_wav, fit
from ..mel_vocoder import MelVocoder, MelVocoderConfig
from ..mel_vocoder_stream import MelVocoderStream
from ..quantizer import EMACodebook, FactorizedCodebook, QuantizedResult, ResidualVQ
from .speech_tokens import SILENCE, STRIDE, SpeechTokenizer, SpeechTokensConfig

_BLOCK = 250  # code frames that encode and decode hand on at a time: memory does not grow with the input
_SHRINK = 4.0  # frames of a token that count as little: what few frames say of its latents is not believed


@dataclass(frozen=True)
class MelCodecConfig:
    """Dimensions; the defaults are `myna-mel`, 2.1 million parameters besides tokenizer and vocoder."""

    name: str = "myna-mel"
    tokens: SpeechTokensConfig = field(default_factory=SpeechTokensConfig)
    vocoder: MelVocoderConfig = field(default_factory=MelVocoderConfig)
    width: int = 256  # channels at 25 Hz
    fine_width: int = 128  # channels at 100 Hz
    encoder_depth: int = 2  # ConvNeXt blocks at 25 Hz
    decoder_depth: tuple[int, int] = (4, 2)  # at 25 Hz, at 100 Hz
    expansion: int = 2  # hidden width of a block, times its channels
    kernel_size: int = 5
    latent_dim: int = 96
    n_codebooks: int = 8  # that of the tokens is the first
    quantizer: str = "factorized"  # or "ema"
    codebook_dim: int = 8  # of factorized codebooks
    dead_code_share: float = 0.2  # codes used less than this share of the average are replaced while training
    look_ahead: int = 1  # code frames that the decoder waits for

    def __post_init__(self) -> None:
        bands = self.vocoder.mel_bands
        if self.n_codebooks < 2:
            raise ValueError(f"n_codebooks counts the tokens' and is at least 2, got {self.n_codebooks}")
        if self.fine_width < bands or not self.latent_dim <= self.width <= STRIDE * bands:
            raise ValueError(
                f"fine_width must be at least the {bands} mel bands, width at least latent_dim ({self.latent_dim}) and "
                f"at most {STRIDE * bands}, got {self.fine_width} and {self.width}"
            )
        if self.tokens.mel_bands != bands:
            raise ValueError(f"tokens read {self.tokens.mel_bands} mel bands, the vocoder {bands}")
        if self.quantizer not in ("factorized", "ema"):
            raise ValueError(f"quantizer {self.quantizer!r} is neither 'factorized' nor 'ema'")

    @property
    def codebook_size(self) -> int:
        """Of every codebook: there are as many residual codes as tokens, so that a packet, an entropy model and a
        language model meet one size."""
        return self.tokens.codebook_size


@dataclass(frozen=True)
class MelPass:
    """A pass with gradients. mel (B, M, T): natural logarithms.   tokens (B, S).   said_loss: mean square of what the
    tokens leave of the latents.   quantizer: of the residual codes."""

    mel: Tensor
    tokens: Tensor
    said_loss: Tensor
    quantizer: QuantizedResult


class Said(Streamable):
    """The latents that tokens let one expect: (B, S) tokens and their levels -> (B, D, S).

    A row of a table and a linear map of the levels (through which a tokenizer that is trained, too, learns), then the
    tokens before.
    """

    def __init__(self, config: MelCodecConfig):
        super().__init__()
        d, levels = config.latent_dim, len(config.tokens.levels)
        self.table = nn.Embedding(config.codebook_size, d)
        self.map = nn.Linear(levels, d)
        self.context = ConvNeXtBlock(d, config.expansion * d, config.kernel_size)
        nn.init.zeros_(self.table.weight)

    def alone(self, tokens: Tensor, levels: Tensor) -> Tensor:
        """Each token by itself: (..., S), (..., S, L) -> (..., S, D)."""
        return self.table(tokens) + self.map(levels.to(self.map.weight.dtype))

    def embedded(self, tokens: Tensor, levels: Tensor) -> Tensor:
        """What `step` reads, (B, D, S)."""
        return self.alone(tokens, levels).transpose(1, 2)

    def init_state(self, batch: int, like: Tensor) -> State:
        return self.context.init_state(batch, like)

    def step(self, x: Tensor, state: State, final: bool = False) -> tuple[Tensor, State]:
        return self.context.step(x, state, final)

    @torch.no_grad()
    def init_from(self, latents: Tensor, tokens: Tensor, levels: Tensor) -> None:
        """Start as the mean of the latents (n, D) of each token (n,), levels (n, L); of rare ones, what their levels
        let one expect."""
        inputs = F.pad(levels.to(latents), (0, 1), value=1.0)
        ridge = 1e-3 * len(inputs) * torch.eye(inputs.shape[1], device=inputs.device)
        solved = torch.linalg.solve(inputs.t() @ inputs + ridge, inputs.t() @ latents)  # (L + 1, D)
        self.map.weight.copy_(solved[:-1].t())
        self.map.bias.copy_(solved[-1])
        rest = latents - inputs @ solved
        total = torch.zeros_like(self.table.weight).index_add_(0, tokens, rest)
        count = torch.zeros(len(total), device=total.device).index_add_(
            0, tokens, torch.ones_like(rest[:, 0])
        )
        self.table.weight.copy_(total / (count + _SHRINK)[:, None])


def _blocks(channels: int, depth: int, config: MelCodecConfig) -> list[nn.Module]:
    return [ConvNeXtBlock(channels, channels * config.expansion, config.kernel_size) for _ in range(depth)]


def build_encoder(config: MelCodecConfig) -> Chain:
    """Normalised mel (B, M, T) -> latents (B, D, S). A code frame's own four mel frames and those before."""
    return Chain(
        Conv1d(config.vocoder.mel_bands, config.width, 2 * STRIDE, stride=STRIDE),
        *_blocks(config.width, config.encoder_depth, config),
        Pointwise(config.width, config.latent_dim),
    )


def build_decoder(config: MelCodecConfig) -> Chain:
    """Latents (B, D, S) -> normalised mel (B, M, T), `look_ahead` code frames late."""
    return Chain(
        Conv1d(config.latent_dim, config.width, 2 * config.look_ahead + 1),
        *_blocks(config.width, config.decoder_depth[0], config),
        ConvTranspose1d(config.width, config.fine_width, STRIDE, stride=STRIDE),
        *_blocks(config.fine_width, config.decoder_depth[1], config),
        Pointwise(config.fine_width, config.vocoder.mel_bands),
    )


def build_quantizer(config: MelCodecConfig) -> ResidualVQ:
    d, v, n = config.latent_dim, config.codebook_size, config.n_codebooks - 1
    if config.quantizer == "ema":
        return ResidualVQ([EMACodebook(d, v) for _ in range(n)])
    share = config.dead_code_share
    return ResidualVQ([FactorizedCodebook(d, v, config.codebook_dim, share) for _ in range(n)])


class MelCodec(Codec):
    """`myna-mel`: 24 kHz mono, 25 frames a second, a codebook of speech tokens and seven of what they leave out."""

    channels = 1
    mean: Tensor
    deviation: Tensor

    def __init__(self, config: MelCodecConfig | None = None):
        super().__init__()
        self.config = c = config or MelCodecConfig()
        self.name, self.sample_rate, self.frame_size = c.name, c.vocoder.sample_rate, STRIDE * c.vocoder.hop
        self.n_codebooks, self.codebook_size = c.n_codebooks, c.codebook_size
        self.register_buffer(
            "mean", torch.full((c.vocoder.mel_bands,), -5.0)
        )  # of natural log-mels, by band,
        self.register_buffer("deviation", torch.full((c.vocoder.mel_bands,), 2.5))  # set from training speech
        self.tokenizer, self.vocoder = SpeechTokenizer(c.tokens), MelVocoder(c.vocoder)
        self.said, self.encoder = Said(c), build_encoder(c)
        self.quantizer, self.decoder = build_quantizer(c), build_decoder(c)
        # What the last mel frame looks at, the tokenizer and the decoder wait for, then the vocoder, whose last hop is
        # whole when the next has come.
        ahead = c.vocoder.n_fft - c.vocoder.hop - (c.vocoder.n_fft - c.vocoder.hop) // 2
        frames = c.tokens.look_ahead + c.look_ahead
        self.delay = ahead + frames * self.frame_size + (c.vocoder.look_ahead + 1) * c.vocoder.hop

    # ---- between mel spectrograms and codes

    def normalized(self, mel: Tensor) -> Tensor:
        """Natural log-mel (B, M, T) -> about zero mean and unit variance, band by band."""
        return (mel - self.mean[:, None]) / self.deviation[:, None]

    def restored(self, x: Tensor) -> Tensor:
        """The inverse of `normalized`."""
        return x.float() * self.deviation[:, None] + self.mean[:, None]

    def forward(
        self, mel: Tensor, n_codebooks: Tensor | int | None = None, tokens: Tensor | None = None
    ) -> MelPass:
        """One training pass on natural log-mel (B, M, T), T a multiple of 4.

        n_codebooks: how many each example uses, (B,), or one number, 1 to K.   tokens (B, S): where they are known;
        None: the tokenizer's, which then gets gradients.
        """
        fsq = self.tokenizer.quantizer
        if tokens is None:
            levels = fsq.rounded(self.tokenizer(mel))
            tokens = fsq.tokens(levels.detach())
        else:
            levels = fsq.vectors(tokens)
        said = self.said(self.said.embedded(tokens, levels)).float()
        latents = self.encoder(self.normalized(mel)).float()
        limit = torch.as_tensor(self.n_codebooks if n_codebooks is None else n_codebooks, device=mel.device)
        # Detached: straight through the codes, the two would cancel and nothing be learned of what tokens say.
        result = self.quantizer(latents - said.detach(), limit.expand(len(mel)) - 1)
        left = (latents.detach() - said).square().mean()
        return MelPass(self.mel_of(said + result.quantized), tokens, left, result)

    def mel_of(self, latents: Tensor) -> Tensor:
        """Latents, quantised or not, (B, D, S) -> natural log-mel (B, M, T), with gradients."""
        ahead = self.config.look_ahead
        return self.restored(self.decoder(F.pad(latents, (0, ahead)))[..., ahead * STRIDE :])

    def encode_mel(self, mel: Tensor, n_codebooks: int | None = None) -> Tensor:
        """Natural log-mel (B, M, T), T a multiple of 4 -> codes (B, K, S)."""
        k = check_n_codebooks(self, n_codebooks)
        stream = MelEncoder(self, len(mel), k)
        with torch.no_grad():
            return torch.cat([stream.push(mel), stream.flush()], dim=-1)

    def decode_mel(self, codes: Tensor) -> Tensor:
        """codes (B, K, S) -> natural log-mel (B, M, T)."""
        check_codes(self, codes)
        stream = MelDecoder(self, len(codes))
        with torch.no_grad():
            return torch.cat([stream.push(codes), stream.flush()], dim=-1)

    # ---- the contract

    def n_frames(self, n_samples: int) -> int:
        """Code frames of a waveform, the last of which may be whole in part only."""
        return -(-n_samples // self.frame_size)

    def latents(self, wav: Tensor) -> Tensor:
        """wav (B, 1, N) -> (B, D, S)."""
        whole = self.n_frames(wav.shape[-1]) * self.frame_size
        return self.encoder(self.normalized(self.vocoder.mel(fit(wav, whole)[:, 0])))

    def encode(self, wav: Tensor, n_codebooks: int | None = None, search: bool = False) -> Codes:
        check_wav(self, wav)
        stream = self.encoder_stream(len(wav), n_codebooks, search)
        parts = [stream.push(part) for part in wav.split(_BLOCK * self.frame_size, dim=-1)]
        return Codes(torch.cat([*parts, stream.flush()], dim=-1), wav.shape[-1])

    def decode(self, codes: Codes) -> Tensor:
        check_codes(self, codes.codes)
        stream = self.decoder_stream(len(codes.codes))
        parts = [stream.push(part) for part in codes.codes.split(_BLOCK, dim=-1)]
        return fit(torch.cat([*parts, stream.flush()], dim=-1), codes.n_samples)

    def rows(self) -> Tensor:
        """(K, V, d): the levels of the tokens, filled up with zeros, and the residual codebooks' vectors."""
        rest = self.quantizer.rows()
        levels = self.tokenizer.quantizer.rows.to(rest)
        d = max(levels.shape[1], rest.shape[2])
        books = [levels, *rest.unbind(0)]
        return torch.stack([F.pad(book, (0, d - book.shape[1])) for book in books])

    def encoder_stream(
        self, batch: int = 1, n_codebooks: int | None = None, search: bool = False
    ) -> MelCodecEncoderStream:
        return MelCodecEncoderStream(self, batch, check_n_codebooks(self, n_codebooks), search)

    def decoder_stream(self, batch: int = 1) -> MelCodecDecoderStream:
        return MelCodecDecoderStream(self, batch)

    # ---- a start from data

    @torch.no_grad()
    def init_from_data(self, patches: Tensor, tokens: Tensor) -> None:
        """Become the best transform codec for code frames of natural log-mel, patches (n, M, 4), that tokens (n,) stand
        for; training then starts from there.

        `latent_dim` principal axes are the latents, the means of each token's are what it says, and the codebooks
        start from what is left over. n should be many times codebook_size.
        """
        c = self.config
        n, m, _ = patches.shape
        x = self.normalized(patches).transpose(1, 2).reshape(n, STRIDE * m)
        axes = torch.linalg.eigh(x.t() @ x / n).eigenvectors.flip(1)[
            :, : c.width
        ]  # (4 M, W), the widest first
        by_frame = axes.t().reshape(c.width, STRIDE, m)
        down, *_, out = cast("list[Conv1d | Pointwise]", list(self.encoder.layers))
        lift, *inner, last = cast("list[Conv1d | ConvTranspose1d | Pointwise]", list(self.decoder.layers))
        up = next(layer for layer in inner if isinstance(layer, ConvTranspose1d))
        assert isinstance(down, Conv1d)
        assert isinstance(lift, Conv1d)
        assert isinstance(out, Pointwise)
        assert isinstance(last, Pointwise)
        for weight in (down.weight, lift.weight, up.weight, out.linear.weight, last.linear.weight):
            weight.mul_(0.02)  # what the start does not use stays small, but can learn
        down.weight[:, :, -STRIDE:] += by_frame.transpose(1, 2)
        # One scale for all latents, which makes them of unit size: distances stay those of mel spectrograms.
        kept = torch.eye(c.latent_dim, device=x.device)
        size = (x @ axes[:, : c.latent_dim]).square().mean().sqrt().clamp(min=1e-4)
        out.linear.weight[:, : c.latent_dim] += kept / size
        lift.weight[: c.latent_dim, :, c.look_ahead] += kept * size
        up.weight[:, :m] += by_frame.transpose(1, 2)
        last.linear.weight[:, :m] += torch.eye(m, device=x.device)
        for layer in (down, lift, up, out.linear, last.linear):
            cast("Tensor", layer.bias).zero_()
        latents = self.encoder(self.normalized(patches))[..., 0]
        levels = self.tokenizer.quantizer.vectors(tokens)
        self.said.init_from(latents, tokens, levels)
        self.quantizer.init_from((latents - self.said.alone(tokens, levels)).t()[None])


class MelEncoder:
    """Mel spectrograms to codes, as they come. The codes are those of all of it at once."""

    def __init__(self, codec: MelCodec, batch: int, n_codebooks: int):
        self.codec, self.batch, self.n_codebooks = codec, batch, n_codebooks
        self._tokens = Stream(codec.tokenizer.net, batch)
        self._early = codec.config.tokens.look_ahead  # tokens of the net that come before the first
        self._said = Stream(codec.said, batch)
        self._encoder = Stream(codec.encoder, batch)
        like = next(codec.parameters())
        self._waiting = like.new_zeros(
            batch, codec.config.latent_dim, 0
        )  # latents whose tokens are not certain

    @torch.no_grad()
    def push(self, mel: Tensor) -> Tensor:
        """Natural log-mel (B, M, t), any t -> codes (B, K, s), s >= 0."""
        codec = self.codec
        if mel.shape[-1] and self.n_codebooks > 1:
            latents = self._encoder.push(codec.normalized(mel))
            self._waiting = torch.cat([self._waiting, latents], dim=-1)
        return self._codes(self._tokens.push(codec.tokenizer.normalized(mel)))

    @torch.no_grad()
    def flush(self) -> Tensor:
        """The codes (B, K, s) still owed; of a last frame that is not whole there is none."""
        c = self.codec.config
        ahead = self._waiting.new_full(
            (self.batch, c.vocoder.mel_bands, c.tokens.look_ahead * STRIDE), SILENCE
        )
        return self._codes(self._tokens.push(self.codec.tokenizer.normalized(ahead)))

    def _codes(self, z: Tensor) -> Tensor:
        dropped = min(self._early, z.shape[-1])
        self._early -= dropped
        fsq = self.codec.tokenizer.quantizer
        levels = fsq.rounded(fsq.bounded(z[..., dropped:].transpose(1, 2)))
        tokens = fsq.tokens(levels)
        if self.n_codebooks == 1:
            return tokens[:, None]
        n = tokens.shape[1]
        if n == 0:
            return tokens.new_zeros(self.batch, self.n_codebooks, 0)
        said = self._said.push(self.codec.said.embedded(tokens, levels))
        latents, self._waiting = self._waiting[..., :n], self._waiting[..., n:]
        rest = self.codec.quantizer.encode(latents - said, self.n_codebooks - 1)
        return torch.cat([tokens[:, None], rest], dim=1)


class MelDecoder:
    """Codes to mel spectrograms, as they come. The frames are those of all of it at once."""

    def __init__(self, codec: MelCodec, batch: int):
        self.codec, self.batch = codec, batch
        self._said = SteadyStream(codec.said, batch)
        self._decoder = SteadyStream(codec.decoder, batch)
        self._early = codec.config.look_ahead * STRIDE  # frames of the net that come before the first

    @torch.no_grad()
    def push(self, codes: Tensor) -> Tensor:
        """codes (B, k, s), any s -> natural log-mel (B, M, t), t >= 0."""
        codec = self.codec
        if codes.shape[-1] == 0:
            return codec.mean.new_zeros(self.batch, codec.config.vocoder.mel_bands, 0)
        tokens = codes[:, 0]
        latents = self._said.push(codec.said.embedded(tokens, codec.tokenizer.quantizer.vectors(tokens)))
        if codes.shape[1] > 1:
            latents = latents + codec.quantizer.decode(codes[:, 1:])
        return self._mel(self._decoder.push(latents))

    @torch.no_grad()
    def flush(self) -> Tensor:
        """The frames (B, M, t) still owed."""
        c = self.codec.config
        return self._mel(
            self._decoder.push(self.codec.mean.new_zeros(self.batch, c.latent_dim, c.look_ahead))
        )

    def _mel(self, x: Tensor) -> Tensor:
        dropped = min(self._early, x.shape[-1])
        self._early -= dropped
        return self.codec.restored(x[..., dropped:]).clamp(min=SILENCE)


class MelCodecEncoderStream:
    """wav chunks to codes, `codec.base.EncoderStream`. search: there is nothing to search; codes are the nearest."""

    def __init__(self, codec: MelCodec, batch: int, n_codebooks: int, search: bool = False):
        self.codec, self.n_samples = codec, 0
        self._mels = [MelStream(codec.vocoder.mel) for _ in range(batch)]
        self._encoder = MelEncoder(codec, batch, n_codebooks)

    def push(self, wav: Tensor) -> Tensor:
        """wav (B, 1, n), any n -> codes (B, K, s)."""
        check_wav(self.codec, wav, shortest=0)
        self.n_samples += wav.shape[-1]
        frames = [mel.push(row) for mel, row in zip(self._mels, wav[:, 0], strict=True)]
        return self._encoder.push(torch.stack(frames))

    def flush(self) -> Tensor:
        """The codes still owed: the last frame is filled up with silence."""
        n = self.codec.n_frames(self.n_samples) * self.codec.frame_size - self.n_samples
        like = self.codec.mean
        frames = [torch.cat([mel.push(like.new_zeros(n)), mel.flush()], dim=1) for mel in self._mels]
        return torch.cat([self._encoder.push(torch.stack(frames)), self._encoder.flush()], dim=-1)


class MelCodecDecoderStream:
    """codes to wav chunks, `codec.base.DecoderStream`: frame_size samples a frame in all."""

    def __init__(self, codec: MelCodec, batch: int):
        self.codec = codec
        self._decoder = MelDecoder(codec, batch)
        self._vocoders = [MelVocoderStream(codec.vocoder, seed=row) for row in range(batch)]

    def push(self, codes: Tensor) -> Tensor:
        """codes (B, k, s), any s -> wav (B, 1, n), n >= 0."""
        if codes.shape[-1]:
            check_codes(self.codec, codes)
        return self._wav(self._decoder.push(codes))

    def flush(self) -> Tensor:
        """The samples still owed; the stream is over."""
        wav = self._wav(self._decoder.flush())
        rest = torch.stack([vocoder.flush() for vocoder in self._vocoders])
        return torch.cat([wav, rest[:, None]], dim=-1)

    def _wav(self, mel: Tensor) -> Tensor:
        rows = [vocoder.push(row) for vocoder, row in zip(self._vocoders, mel, strict=True)]
        return torch.stack(rows)[:, None]
