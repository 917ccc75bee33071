"""The flow decoder: which phone is said when, speech tokens, and how a voice sounds, to a mel spectrogram.

    phones -> text encoder --> at the pointer, with age and time left --.
    speech tokens -> convolution -> x 2 --------------------------------+--> trunk --> mel (mean) and states
    the prompt's mel, in front; the speaker vector (condition) ---------'                |
    noise ------------------------------------------------------------------> head, 1 to 4 steps --> mel

The trunk regresses the mel: it learns the words soon. The head reads the trunk's states, its mel and a noisy mel, and
predicts the clean one (flow matching, Lipman et al. 2023, with the data as its target): it adds what a mean lacks, and
with it the voice. Both are block-causal transformers (`layers.dit`): a chunk of a stream is a block. Tokens, phones and
what is known of the voice are hidden at random in training, so that each can be missing.

Shapes: B batch, T frames of 50 Hz, F = 2 M numbers of a frame (two mel frames), M mel bands, W width, P phones,
S = T / 2 tokens, D numbers of a token, E speaker vector.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....layers.dit import DiT, DiTConfig
from ...lm.text_encoder import TextEncoder, TextEncoderConfig
from ...text.phones import N_SYMBOLS
from .timing import UNKNOWN, Timing

PATCH = 2  # mel frames in a frame
MIN_TEXT = 1  # phones that the text encoder is given at least


@dataclass(frozen=True)
class FlowConfig:
    """Dimensions; the defaults are `myna-flow`."""

    name: str = "myna-flow"
    mel_bands: int = 80
    speaker: int = 256  # of the speaker vector
    token_dims: int = 4
    n_symbols: int = N_SYMBOLS
    text_width: int = 192
    text_depth: int = 2
    condition: int = 320
    trunk: DiTConfig = field(default_factory=lambda: DiTConfig(depth=6, hidden=896))
    head: DiTConfig = field(default_factory=lambda: DiTConfig(depth=3, hidden=512))
    look_ahead: int = 4  # frames beyond a block that its timing and tokens are known for
    clarity: bool = False  # whether it is told how clearly the text is to be said

    @property
    def frame(self) -> int:
        """Numbers of a frame."""
        return PATCH * self.mel_bands


@dataclass(frozen=True)
class FlowInputs:
    """What a stretch of speech is made from, the prompt's frames first.

    text (B, P, C): encoded phones.   pointer (B, T): the phone of each frame, -1: none.   timing: of each frame.
    tokens (B, S, D): levels of speech tokens.   prompt (B, T, F): normalised mel, 0 outside of the prompt.
    prompted, target (B, T) bool: frames of the prompt, of the target.   knows_phone, knows_token (B, T), (B, S)
    bool: what is not hidden.
    """

    text: Tensor
    pointer: Tensor
    timing: Timing
    tokens: Tensor
    prompt: Tensor
    prompted: Tensor
    target: Tensor
    knows_phone: Tensor
    knows_token: Tensor


class Voice(nn.Module):
    """What is known of a voice as a whole, as one vector: a speaker vector, and the mean and spread of the prompt."""

    def __init__(self, config: FlowConfig):
        super().__init__()
        c = config
        self.map = nn.Sequential(
            nn.Linear(c.speaker + 2 * c.mel_bands, c.condition),
            nn.SiLU(),
            nn.Linear(c.condition, c.condition),
        )

    def forward(self, speaker: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
        """speaker (B, E) of length 1, or zeros; mean, spread (B, M) of the prompt's normalised mel -> (B, C)."""
        return self.map(torch.cat([speaker * 16, mean, spread], dim=-1))


class Clarity(nn.Module):
    """How clearly a text is said, as a part of the condition.

    It is the aligner's score of a recording, in nats a phone: strong accents, noise and mumbling score less. Told of
    each recording what it was, the decoder can be asked for more than a voice's own recordings have.
    """

    # Of recordings: about -1.1 in a studio, -2.7 a stranger's second language at home.
    MEAN, SPREAD = -1.9, 0.7

    def __init__(self, condition: int, hidden: int = 64):
        super().__init__()
        last = nn.Linear(hidden, condition)
        self.map = nn.Sequential(nn.Linear(2, hidden), nn.SiLU(), last)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, score: Tensor) -> Tensor:
        """score (B,) in nats, NaN where it is not known -> (B, C)."""
        known = ~score.isnan()
        level = ((score - self.MEAN) / self.SPREAD).clamp(-2.5, 2.5)
        x = torch.stack([torch.where(known, level, 0.0), known.to(score)], dim=-1)
        return self.map(x)


class TokenFrames(nn.Module):
    """Levels of tokens at 25 Hz to channels at 50 Hz; looks two tokens ahead."""

    REACH = 2

    def __init__(self, dims: int, width: int):
        super().__init__()
        self.inputs = nn.Linear(dims, width)
        self.hidden = nn.Parameter(torch.randn(width) * 0.5)  # stands for tokens that are not known
        self.conv = nn.Conv1d(width, width, 2 * self.REACH + 1)
        self.halves = nn.Linear(width, 2 * width)

    def forward(self, tokens: Tensor, known: Tensor, parts: Tensor) -> Tensor:
        """tokens (B, S, D), known (B, S) bool -> (B, 2 S, width).

        parts (B, S): 0 for the prompt, 1 for the target, neither for padding. Nothing is seen across parts: a prompt is
        read before there is a target.
        """
        x, reach = self.embedded(tokens, known), self.REACH
        y = x.new_zeros(())
        for part in (0, 1):
            inside = (parts == part)[..., None]
            own = F.pad((x * inside).transpose(1, 2), (reach, reach))
            y = y + self.spread(own) * inside.repeat_interleave(2, 1)
        return y

    def embedded(self, tokens: Tensor, known: Tensor) -> Tensor:
        """(B, S, width), before the convolution."""
        x = self.inputs(tokens.to(self.inputs.weight.dtype))
        return torch.where(known[..., None], x, self.hidden.to(x.dtype))

    def spread(self, x: Tensor) -> Tensor:
        """Embedded tokens with REACH more on either side (B, width, S + 2 REACH) -> (B, 2 S, width)."""
        x = F.silu(self.conv(x).transpose(1, 2))
        return self.halves(x).unflatten(-1, (2, -1)).flatten(1, 2)


class FlowDecoder(nn.Module):
    """Trunk and head."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: FlowConfig | None = None):
        super().__init__()
        self.config = c = config or FlowConfig()
        w = c.trunk.width
        self.register_buffer("mean", torch.full((c.mel_bands,), -5.0))  # of natural log-mels, band by band,
        self.register_buffer("deviation", torch.full((c.mel_bands,), 2.5))  # set from the training speech
        self.text_encoder = TextEncoder(
            TextEncoderConfig(c.n_symbols, c.text_width, c.text_depth, 3, 3, 2 * c.text_width)
        )
        self.no_phone = nn.Parameter(torch.randn(c.text_width) * 0.5)
        self.age = nn.Embedding(UNKNOWN + 1, c.text_width)
        self.left = nn.Embedding(UNKNOWN + 1, c.text_width)
        self.token_frames = TokenFrames(c.token_dims, c.text_width)
        self.place = nn.Embedding(2, w)  # target, prompt
        self.inputs = nn.Linear(2 * c.text_width + c.frame, w)
        self.voice = Voice(c)
        self.clarity = Clarity(c.condition) if c.clarity else None
        self.trunk = DiT(c.trunk, c.condition)
        self.out = nn.Linear(w, c.frame)
        self.time = nn.Sequential(nn.Linear(128, c.condition), nn.SiLU(), nn.Linear(c.condition, c.condition))
        self.head_inputs = nn.Linear(3 * c.frame + w, c.head.width)
        self.head = DiT(c.head, c.condition)
        self.head_out = nn.Linear(c.head.width, c.frame)
        for table in (self.age, self.left, self.place):
            nn.init.normal_(table.weight, 0, 0.5)
        for out in (self.out, self.head_out):
            nn.init.zeros_(out.weight)
            nn.init.zeros_(out.bias)

    def head_parts(self) -> tuple[nn.Module, ...]:
        """The head, and what only it reads by."""
        return self.time, self.head_inputs, self.head, self.head_out

    # ---- mel spectrograms as frames

    def frames(self, mel: Tensor) -> Tensor:
        """Natural log-mel (B, M, 2 T) -> normalised frames (B, T, F)."""
        x = (mel.transpose(1, 2) - self.mean) / self.deviation
        return x.unflatten(1, (-1, PATCH)).flatten(2)

    def mel(self, frames: Tensor) -> Tensor:
        """(B, T, F) -> natural log-mel (B, M, 2 T)."""
        x = frames.unflatten(-1, (PATCH, -1)).flatten(1, 2)
        return (x * self.deviation + self.mean).transpose(1, 2)

    def told(self, voice: Tensor, clarity: Tensor) -> Tensor:
        """The condition (B, C): a voice (B, C), and how clearly it speaks, (B,) nats, NaN where that is not known."""
        return voice if self.clarity is None else voice + self.clarity(clarity.to(voice.device))

    def statistics(self, prompt: Tensor, prompted: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and spread (B, M) of a prompt's frames (B, T, F) where `prompted` (B, T); zeros without any."""
        weight = prompted[..., None].to(prompt.dtype)
        bands = prompt.unflatten(-1, (PATCH, -1))  # (B, T, 2, M)
        n = (PATCH * weight.sum(1)).clamp(min=1)
        mean = (bands.sum(2) * weight).sum(1) / n
        square = ((bands - mean[:, None, None]).square().sum(2) * weight).sum(1) / n
        return mean, (square + 1e-4).sqrt() * prompted.any(1)[:, None]

    # ---- the two stages

    def embed(self, inputs: FlowInputs) -> Tensor:
        """What the trunk reads, (B, T, W)."""
        i = inputs
        even = slice(None, None, 2)
        parts = torch.where(i.target[:, even], 1, torch.where(i.prompted[:, even], 0, -1))
        tokens = self.token_frames(i.tokens, i.knows_token, parts)
        return self.joined(self.phone_frames(i), tokens, i.prompt, i.prompted)

    def joined(self, phones: Tensor, tokens: Tensor, prompt: Tensor, prompted: Tensor) -> Tensor:
        """Phones and tokens of each frame (B, T, C) and the prompt (B, T, F) -> (B, T, W)."""
        x = self.inputs(torch.cat([phones, tokens.to(phones.dtype), prompt.to(phones.dtype)], dim=-1))
        return x + self.place(prompted.long()).to(x.dtype)

    def phone_frames(self, inputs: FlowInputs) -> Tensor:
        """(B, T, C): the phone of each frame, how long it has lasted and will."""
        pointer = inputs.pointer
        b, p, c = inputs.text.shape
        row = torch.arange(b, device=pointer.device)[:, None] * p
        phone = F.embedding(pointer.clamp(min=0) + row, inputs.text.reshape(b * p, c))
        x = phone + self.age(inputs.timing.age) + self.left(inputs.timing.left)
        known = inputs.knows_phone & (pointer >= 0)
        return torch.where(known[..., None], x, self.no_phone.to(x.dtype))

    def regress(self, x: Tensor, condition: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """The trunk over `embed`'s (B, T, W) -> mean frames (B, T, F) and states (B, T, W)."""
        hidden = self.trunk(x, F.silu(condition), mask)
        return self.out(hidden), hidden

    def refine(
        self,
        noisy: Tensor,
        time: Tensor,
        stage: tuple[Tensor, Tensor, Tensor],
        condition: Tensor,
        mask: Tensor | None,
    ) -> Tensor:
        """The head: noisy frames (B, T, F) at time (B,), 0 noise to 1 data -> clean frames (B, T, F).

        stage: mean frames and states of the trunk, and the prompt (B, T, F).
        """
        x = self.head_embed(noisy, stage)
        return stage[0] + self.head_out(self.head(x, self.timed(condition, time), mask))

    def head_embed(self, noisy: Tensor, stage: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        mean, hidden, prompt = stage
        return self.head_inputs(
            torch.cat([noisy.to(mean.dtype), mean, hidden, prompt.to(mean.dtype)], dim=-1)
        )

    def timed(self, condition: Tensor, time: Tensor) -> Tensor:
        """The condition with the time in it (Nichol and Dhariwal 2021: sines and cosines of it)."""
        rates = torch.exp(-math.log(1e4) * torch.arange(64, device=time.device) / 64)
        phase = 1000 * time[:, None] * rates
        wave = torch.cat([phase.cos(), phase.sin()], dim=-1).to(condition.dtype)
        return F.silu(condition + self.time(wave))
