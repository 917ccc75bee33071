"""A source-filter vocoder that reads the AR's codes and hidden states, in place of the codec's decoder.

    coarse codes + the AR's hidden states + a speaker vector -> ConvNeXt at 50 Hz -> + attention to the frames of the
        prompt -> ConvNeXt at 50 Hz -> x 2 -> ConvNeXt at 100 Hz
        -> pitch, voiced or not, harmonic envelope, noise envelope -> pulses and noise through filters -> wav

The codes of a waveform codec hold the phase of every harmonic. A small language model cannot keep these phases
consistent between frames, and the codec's decoder then sounds hoarse. Here the phases come from a running pitch, and
the codes give the envelopes only. Hidden states as an input: XTTS (Casanova et al. 2024, section 3) and TorToise
(Betker 2023, section 4.2). Source and filters: the neural homomorphic vocoder (`layers.source_filter`). Attention to
the frames of the prompt raises the similarity of unseen speakers over a single vector: Attentron (Choi et al. 2020).

Shapes: B batch, N coarse codebooks, K codebooks, T frames of codes, U = 2 T frames of the vocoder, W the AR's width,
M bands, V channels of a voice, P frames of a prompt, H heads, C channels of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...layers.conv import Conv1d, ConvTranspose1d
from ...layers.convnext import ConvNeXtBlock, Pointwise
from ...layers.harmonic import PITCHES, Sound
from ...layers.mel import LogMel
from ...layers.source_filter import SourceFilter, SourceFilterState
from ...layers.streaming import Chain, State
from ..lm.code_embedding import CodeSumEmbedding

_PROMPT_FFT = 1024  # samples of the windows through which a prompt is looked at
_SILENT = -7.0  # natural logarithm of the magnitude from which envelopes start


@dataclass(frozen=True)
class VocoderConfig:
    """Dimensions; the defaults are `myna-vocoder`."""

    name: str = "myna-vocoder"
    sample_rate: int = 24_000
    hop: int = 240  # samples a frame of the vocoder
    stride: int = 2  # of them in a frame of codes
    n_codebooks: int = 8
    n_coarse: int = 4
    codebook_size: int = 1024
    codebook_dim: int = 64
    hidden: int = 320  # width of the AR
    width: int = 320
    depth: int = 6
    fine_width: int = 256
    fine_depth: int = 3
    voice_width: int = 192
    voice: int = 96
    depth_before: int = 3  # of the blocks come before the attention to the prompt
    prompt_bands: int = 80  # of the mel spectrogram of it
    prompt_width: int = 128
    prompt_heads: int = 4
    bands: int = 96  # of an envelope
    look_ahead: int = 3  # frames of codes that the vocoder waits for

    @property
    def frame_size(self) -> int:
        return self.hop * self.stride


class VoiceEncoder(nn.Module):
    """A prompt's codes to a vector: means and spreads over time (Snyder et al. 2018, x-vectors, statistics pooling)."""

    def __init__(self, rows: Tensor, width: int, out: int):
        super().__init__()
        self.embedding = CodeSumEmbedding(rows, width)
        self.blocks = nn.Sequential(*(ConvNeXtBlock(width, 3 * width, 7) for _ in range(2)))
        self.out = nn.Linear(2 * width, out)

    def forward(self, codes: Tensor) -> Tensor:
        """(B, K, T) -> (B, V)."""
        x = self.blocks(F.silu(self.embedding(codes)).transpose(1, 2))
        return self.out(torch.cat([x.mean(-1), x.var(-1, unbiased=False).add(1e-5).sqrt()], dim=1))


def prompt_mel(config: VocoderConfig) -> LogMel:
    """How a vocoder looks at prompts: samples (B, N) -> (B, M, P)."""
    return LogMel(config.sample_rate, _PROMPT_FFT, config.frame_size, config.prompt_bands)


@dataclass(frozen=True)
class KnownVoice:
    """vector (B, V): the whole of a voice.   keys, values (B, H, P, C): how it sounds, frame by frame of its prompt."""

    vector: Tensor
    keys: Tensor
    values: Tensor

    def hidden(self, rows: Tensor) -> KnownVoice:
        """Without the voices of some rows, (B,) bool."""
        shown = ~rows[:, None]
        by_frame = shown[..., None, None]
        return KnownVoice(self.vector * shown, self.keys * by_frame, self.values * by_frame)


class PromptReader(nn.Module):
    """A prompt's log-mel to keys and values of its frames, and to what they say of the voice as a whole."""

    def __init__(self, bands: int, width: int, heads: int, out: int):
        super().__init__()
        self.heads = heads
        self.inputs = nn.Conv1d(bands, width, 5, padding=2)
        self.blocks = nn.Sequential(*(ConvNeXtBlock(width, 3 * width, 7) for _ in range(2)))
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width + bands, width)
        self.whole = nn.Linear(2 * width, out)

    def forward(self, mel: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, M, P) -> keys and values (B, H, P, C), and (B, V) to be added to the vector."""
        x = self.blocks(self.inputs(mel))
        spread = x.var(-1, unbiased=False).add(1e-5).sqrt()
        whole = self.whole(torch.cat([x.mean(-1), spread], dim=1))
        frames = x.transpose(1, 2)
        values = self.value(torch.cat([frames, mel.transpose(1, 2)], dim=-1))
        key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.key(frames), values)
        )
        return key, value, whole


class Listening(nn.Module):
    """Adds to every frame what the prompt holds for it."""

    def __init__(self, channels: int, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(channels)
        self.query = nn.Linear(channels, width)
        self.out = nn.Linear(width, channels)
        nn.init.zeros_(self.out.weight)  # a new one adds nothing
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, voice: KnownVoice) -> Tensor:
        """x (B, channels, T) -> the same shape."""
        if x.shape[-1] == 0:
            return x
        query = self.query(self.norm(x.transpose(1, 2))).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        heard = F.scaled_dot_product_attention(query, voice.keys, voice.values)
        return x + self.out(heard.transpose(1, 2).flatten(2)).transpose(1, 2)


class VocoderState(NamedTuple):
    """What a running vocoder remembers. pitch (B, 1): the last that was voiced, 0 before the first frame.   early, lag:
    hops and samples that are still to be dropped, which come before the first; 0 once the stream runs."""

    net: State
    deep: State
    synthesis: SourceFilterState
    pitch: Tensor
    early: int
    lag: int


class Vocoder(nn.Module):
    """Codes and hidden states in, sound out. rows: the codec's codebook vectors (K, V, d); None if weights follow."""

    def __init__(self, config: VocoderConfig | None = None, rows: Tensor | None = None):
        super().__init__()
        self.config = c = config or VocoderConfig()
        shape = (c.n_codebooks, c.codebook_size, c.codebook_dim)
        rows = torch.zeros(shape) if rows is None else rows
        if tuple(rows.shape) != shape:
            raise ValueError(f"the codec's vectors have the shape {tuple(rows.shape)}, expected {shape}")
        if not 0 <= c.depth_before <= c.depth or c.prompt_width % c.prompt_heads:
            raise ValueError(
                f"depth_before is {c.depth_before} of {c.depth} blocks, and {c.prompt_heads} heads share "
                f"{c.prompt_width} channels: the one must not be more, the others divide"
            )
        self.voice_encoder = VoiceEncoder(rows, c.voice_width, c.voice)
        self.mel = prompt_mel(c)
        self.prompt_reader = PromptReader(c.prompt_bands, c.prompt_width, c.prompt_heads, c.voice)
        self.codes = CodeSumEmbedding(rows[: c.n_coarse], c.width)
        self.net = Chain(
            Conv1d(c.width + c.hidden + c.voice, c.width, 3),
            *(ConvNeXtBlock(c.width, 3 * c.width, 7) for _ in range(c.depth_before)),
        )
        self.listening = Listening(c.width, c.prompt_width, c.prompt_heads)
        self.deep = Chain(
            *(ConvNeXtBlock(c.width, 3 * c.width, 7) for _ in range(c.depth - c.depth_before)),
            ConvTranspose1d(c.width, c.fine_width, 2 * c.stride, stride=c.stride),
            *(ConvNeXtBlock(c.fine_width, 3 * c.fine_width, 7) for _ in range(c.fine_depth)),
            Pointwise(c.fine_width, PITCHES + 1 + 2 * c.bands),
        )
        self.synthesis = SourceFilter(c.sample_rate, c.hop, c.bands)

    def voice(self, prompt: Tensor, mel: Tensor) -> KnownVoice:
        """A prompt's codes (B, K, P), and what they sound like (B, M, P): `self.mel` of them decoded."""
        keys, values, whole = self.prompt_reader(mel)
        return KnownVoice(self.voice_encoder(prompt) + whole, keys, values)

    def no_voice(self, batch: int, like: Tensor) -> KnownVoice:
        """Where there is no prompt."""
        c = self.config
        frame = like.new_zeros(batch, c.prompt_heads, 1, c.prompt_width // c.prompt_heads)
        return KnownVoice(like.new_zeros(batch, c.voice), frame, frame)

    def inputs(self, codes: Tensor, hidden: Tensor, voice: Tensor) -> Tensor:
        """codes (B, N, T), hidden (B, T, W), a voice's vector (B, V) -> (B, C, T), what `net` reads."""
        known = torch.cat([self.codes(codes), F.layer_norm(hidden, hidden.shape[-1:])], dim=-1).transpose(
            1, 2
        )
        return torch.cat([known, voice[:, :, None].expand(-1, -1, known.shape[2])], dim=1)

    def out(self, inputs: Tensor, voice: KnownVoice) -> Tensor:
        """`inputs` (B, C, T) -> (B, C', U), early by what the vocoder looks ahead."""
        return self.deep(self.listening(self.net(inputs), voice))

    def sound(self, out: Tensor) -> Sound:
        """What `deep` says (B, C', U), sorted."""
        pitch, voicing, harmonic, noise = out.split([PITCHES, 1, self.config.bands, self.config.bands], dim=1)
        return Sound(pitch, voicing[:, 0], harmonic + _SILENT, noise + _SILENT)

    def forward(self, codes: Tensor, hidden: Tensor, voice: KnownVoice) -> Sound:
        """All of an utterance, or of a stretch of one: codes (B, N, T), hidden (B, T, W) -> U = 2 T."""
        c = self.config
        x = F.pad(self.inputs(codes, hidden, voice.vector), (0, c.look_ahead))
        return self.sound(self.out(x, voice)[..., c.look_ahead * c.stride :])

    def render(self, sound: Sound, pitch: Tensor, voiced: Tensor, noise: Tensor) -> Tensor:
        """The waveform (B, U * hop), from the beginning; the last hop is only in part.

        pitch (B, U) Hz, voiced (B, U) bool, noise (B, U * hop) white, of unit power.
        """
        return self.synthesis(sound, pitch, voiced, noise)

    def init_state(self, batch: int, like: Tensor) -> VocoderState:
        """Before the first frame."""
        return VocoderState(
            self.net.init_state(batch, like),
            self.deep.init_state(batch, like),
            self.synthesis.init_state(batch, like),
            like.new_zeros(batch, 1),
            early=self.config.look_ahead * self.config.stride,
            lag=self.config.hop,
        )

    def advance(
        self, inputs: Tensor, voice: KnownVoice, state: VocoderState, final: bool = False
    ) -> tuple[Tensor, VocoderState]:
        """`inputs` (B, C, T) -> what `deep` says (B, C', U), as far as it is certain."""
        x, net = self.net.step(inputs, state.net, final)
        out, deep = self.deep.step(self.listening(x, voice), state.deep, final)
        dropped = min(state.early, out.shape[-1])
        return out[..., dropped:], state._replace(net=net, deep=deep, early=state.early - dropped)

    def sounding(self, sound: Sound, noise: Tensor, state: VocoderState) -> tuple[Tensor, VocoderState]:
        """`sound` of U > 0 hops and white noise (B, U * hop) -> samples (B, n), one hop less in all. Through unvoiced
        sounds the pitch is that of the last voiced one."""
        voiced, pitch = sound.voicing > 0, sound.pitch()
        known = voiced.clone()
        known[:, 0] |= state.pitch[:, 0] == 0  # a beginning without a voice is at the pitch it would have
        place = torch.arange(1, pitch.shape[1] + 1, device=pitch.device)
        last = torch.where(known, place, 0).cummax(dim=1).values
        held = torch.cat([state.pitch.to(pitch), pitch], dim=1).gather(1, last)
        wav, synthesis = self.synthesis.step(sound, held, voiced, noise, state.synthesis)
        dropped = min(state.lag, wav.shape[1])
        following = state._replace(synthesis=synthesis, pitch=held[:, -1:], lag=state.lag - dropped)
        return wav[:, dropped:], following

    def last_hop(self, state: VocoderState) -> Tensor:
        """The samples that `sounding` still owes, (B, hop)."""
        return self.synthesis.flush(state.synthesis)[:, state.lag :]
