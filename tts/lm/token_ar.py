"""The autoregressive model of the flow path: phones and a voice to speech tokens, 25 a second, and when each phone
is said.

    token t-1  +  the phones of both halves of frame t, how long each has lasted  +  the speaker vector
                       |
             causal transformer over prompt and target
                       |                          |
                   token t        how far the pointer moves, once for each half of frame t + 1

VALL-E's first stage (Wang et al. 2023, section 4.2.1) with VALL-E R's monotonic pointer (Han et al. 2024, section
3.2). A token lasts 40 ms, many phones less: the pointer has two places in a token, so that times keep a step of 20
ms. The end of speech is the pointer's step past the last phone.

Shapes: B batch, P phones, S tokens, T = 2 S halves, V codebook_size, D numbers of a token, W width, E speaker vector.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...codec.mel.speech_tokens import FiniteScalarQuantizer
from ...layers.streaming import State
from ...layers.transformer import Transformer, TransformerConfig
from ..text.phones import N_SYMBOLS
from .ar import MAX_ADVANCE
from .code_embedding import CodeEmbedding, CodeHead
from .pointer import phone_ages, phones_at
from .text_encoder import TextEncoder, TextEncoderConfig


@dataclass(frozen=True)
class TokenARConfig:
    """Dimensions and training options; the defaults are `myna-token-ar`, 8 million parameters."""

    name: str = "myna-token-ar"
    levels: tuple[int, ...] = (8, 5, 5, 5)  # of the tokens' quantiser
    speaker: int = 256
    n_symbols: int = N_SYMBOLS
    width: int = 320
    depth: int = 6
    n_heads: int = 5
    n_kv_heads: int = 1
    hidden: int = 672
    text_depth: int = 2
    context: int = 1024  # tokens that attention reaches back
    max_age: int = 31  # halves; a phone that lasts longer counts as this old
    extra: int = 64  # learned channels of a token beside its levels
    dropout: float = 0.1
    noise: float = 0.08  # share of the tokens read back that training replaces by any other,
    masked: float = 0.1  # and by none
    prompt_weight: float = 0.1  # of the loss over the prompt's tokens
    advance_weight: float = 1.0  # of the pointer's loss


@dataclass(frozen=True)
class TokenBatch:
    """Utterances to be spoken, each after a prompt.

    phones (B, 3, P), n_phones (B,): of the target.   tokens (B, S): the prompt's, then the target's.
    pointer (B, 2 S): the phone of each half, -1 in the prompt and the padding.   n_prompt, n_tokens (B,): of the
    prompt, in all.   speaker (B, E), zeros where hidden.   hide_text (B,) bool.
    """

    phones: Tensor
    n_phones: Tensor
    tokens: Tensor
    pointer: Tensor
    n_prompt: Tensor
    n_tokens: Tensor
    speaker: Tensor
    hide_text: Tensor


@dataclass(frozen=True)
class TokenARResult:
    """Scalars: the loss and its parts, nats a token and nats a move; how often the token is the likeliest."""

    loss: Tensor
    token_loss: Tensor
    advance_loss: Tensor
    token_right: Tensor


class MoveHead(nn.Module):
    """How far the pointer moves before the next half, from the hidden state, the token, and the phone that is
    being said and for how long."""

    def __init__(self, rows: Tensor, config: TokenARConfig, hidden: int = 128):
        super().__init__()
        self.hidden = nn.Linear(config.width, hidden)
        self.token = CodeEmbedding(rows, hidden, extra=16)
        self.phone = nn.Linear(config.width, hidden)
        self.which_half = nn.Embedding(2, hidden)
        self.out = nn.Linear(hidden, MAX_ADVANCE + 1)

    def forward(self, hidden: Tensor, token: Tensor, phone: Tensor, half: int) -> Tensor:
        """hidden, phone (..., W), token (...) -> logits (..., 4)."""
        return self.moves(self.said(hidden, token), phone, half)

    def said(self, hidden: Tensor, token: Tensor) -> Tensor:
        """What both halves read of a token."""
        return self.hidden(hidden) + self.token(token)

    def moves(self, said: Tensor, phone: Tensor, half: int) -> Tensor:
        return self.out(F.silu(said + self.phone(phone) + self.which_half.weight[half]))


class TokenAR(nn.Module):
    """P(token t, moves of the pointer | phones, voice, tokens before t)."""

    def __init__(self, config: TokenARConfig | None = None):
        super().__init__()
        self.config = c = config or TokenARConfig()
        rows = FiniteScalarQuantizer(c.levels).rows
        self.codebook_size = len(rows)
        self.text_encoder = TextEncoder(
            TextEncoderConfig(
                c.n_symbols, c.width, c.text_depth, c.n_heads, c.n_kv_heads, c.hidden, c.dropout
            )
        )
        self.token = CodeEmbedding(rows, c.width, c.extra)
        self.begin = nn.Parameter(torch.randn(c.width) * 0.5)  # the token before the first
        self.no_token = nn.Parameter(torch.randn(c.width) * 0.5)  # one that training hides
        self.no_phone = nn.Parameter(torch.randn(c.width) * 0.5)  # in the prompt
        self.no_text = nn.Parameter(torch.randn(c.width) * 0.5)
        self.segment = nn.Embedding(2, c.width)  # prompt, target
        self.age = nn.Embedding(c.max_age + 1, c.width)
        self.halves = nn.Linear(2 * c.width, c.width, bias=False)
        self.voice = nn.Sequential(nn.Linear(c.speaker, c.width), nn.SiLU(), nn.Linear(c.width, c.width))
        for table in (self.segment, self.age):
            nn.init.normal_(table.weight, 0, 0.5)
        self.transformer = Transformer(
            TransformerConfig(
                width=c.width,
                depth=c.depth,
                n_heads=c.n_heads,
                n_kv_heads=c.n_kv_heads,
                hidden=c.hidden,
                context=c.context,
                dropout=c.dropout,
            )
        )
        self.head = CodeHead(rows, c.width, c.extra)
        self.move_head = MoveHead(rows, c)

    # ---- training

    def forward(self, batch: TokenBatch) -> TokenARResult:
        encoded = self.encode_text(batch.phones, batch.n_phones, batch.hide_text)
        phones = self.phones(encoded, batch.pointer)  # (B, T, W)
        x = self.inputs(self._shifted(batch.tokens), phones, batch.speaker, self._is_target(batch))
        hidden = self.transformer(x.transpose(1, 2)).transpose(1, 2)
        places = torch.arange(batch.tokens.shape[1], device=x.device)
        inside = places < batch.n_tokens[:, None]
        target = inside & (places >= batch.n_prompt[:, None])
        weight = torch.where(target, 1.0, self.config.prompt_weight) * inside
        logits = self.head(hidden[inside]).float()
        tokens = batch.tokens[inside]
        nats = F.cross_entropy(logits, tokens, reduction="none")
        token_loss = (nats * weight[inside]).sum() / weight.sum().clamp(min=1)
        right = ((logits.argmax(-1) == tokens) & target[inside]).sum() / target.sum().clamp(min=1)
        advance_loss = self._advance_loss(batch, hidden, phones, target)
        loss = token_loss + self.config.advance_weight * advance_loss
        return TokenARResult(loss, token_loss, advance_loss, right)

    def encode_text(self, phones: Tensor, n_phones: Tensor, hide_text: Tensor | None = None) -> Tensor:
        """phones (B, 3, P) -> (B, P, W); one learned vector everywhere in the rows that hide their text."""
        encoded = self.text_encoder(phones, n_phones)
        if hide_text is not None:
            encoded = torch.where(hide_text[:, None, None], self.no_text.to(encoded.dtype), encoded)
        return encoded

    def phones(self, encoded: Tensor, pointer: Tensor) -> Tensor:
        """encoded (B, P, W), pointer (B, T) -> (B, T, W): the phone of each half, and how long it has lasted."""
        ages = phone_ages(pointer).clamp(max=self.config.max_age)
        return phones_at(encoded, pointer, self.no_phone) + self.age(ages)

    def inputs(self, before: Tensor, phones: Tensor, speaker: Tensor, is_target: Tensor) -> Tensor:
        """The embedding of the token before each (B, S, W), phones (B, 2 S, W), speaker (B, E), is_target (B, S)
        bool -> (B, S, W), what the transformer reads."""
        both = self.halves(phones.unflatten(1, (-1, 2)).flatten(2))
        return before + both + self.segment(is_target.long()) + self.voice(speaker * 16)[:, None]

    def _is_target(self, batch: TokenBatch) -> Tensor:
        return torch.arange(batch.tokens.shape[1], device=batch.tokens.device) >= batch.n_prompt[:, None]

    def _shifted(self, tokens: Tensor) -> Tensor:
        """The embedding of the token before each, (B, S, W), in training now and then another's or none."""
        c, before = self.config, tokens[:, :-1]
        if self.training and c.noise:
            other = torch.randint_like(before, self.codebook_size)
            before = torch.where(torch.rand(before.shape, device=before.device) < c.noise, other, before)
        x = self.token(before)
        if self.training and c.masked:
            hidden = torch.rand(before.shape, device=before.device) < c.masked
            x = torch.where(hidden[..., None], self.no_token.to(x.dtype), x)
        return torch.cat([self.begin.to(x.dtype).expand(len(x), 1, -1), x], dim=1)

    def _advance_loss(self, batch: TokenBatch, hidden: Tensor, phones: Tensor, target: Tensor) -> Tensor:
        """Of the moves before both halves of every following frame of the target."""
        pointer = batch.pointer.unflatten(1, (-1, 2))
        places = torch.arange(target.shape[1], device=target.device)
        last = places == batch.n_tokens[:, None] - 1
        following = F.pad(pointer[:, 1:], (0, 0, 0, 1), value=-1)
        first = torch.where(last, batch.n_phones[:, None], following[..., 0]) - pointer[..., 1]
        second = following[..., 1] - following[..., 0]
        states = phones.unflatten(1, (-1, 2))
        ahead = F.pad(states[:, 1:, 0], (0, 0, 0, 1))
        total, count = hidden.new_zeros((), dtype=torch.float32), 0
        for half, (moves, phone, used) in enumerate(
            ((first, states[:, :, 1], target), (second, ahead, target & ~last))
        ):
            logits = self.move_head(hidden[used], batch.tokens[used], phone[used], half).float()
            total = total + F.cross_entropy(logits, moves[used].clamp(0, MAX_ADVANCE), reduction="sum")
            count = count + used.sum()
        return total / torch.as_tensor(count, device=total.device).clamp(min=1)

    # ---- generation, token by token (`tts.lm.token_generate` runs the loop)

    def init_state(self, batch: int) -> State:
        """The state before the first token (`layers.transformer.Transformer`)."""
        return self.transformer.init_state(batch, like=self.begin.detach())

    def step(self, x: Tensor, state: State, reach: int | None = None) -> tuple[Tensor, State]:
        """One token for each row: x (B, W), as `inputs` has it -> the hidden state (B, W) for the heads, and the next
        state. reach: an upper bound of the tokens since the beginning, this one included."""
        hidden, state = self.transformer.step(x[:, :, None], state, reach=reach)
        return hidden[:, :, 0], state

    def move_first(self, hidden: Tensor, token: Tensor, phone: Tensor) -> Tensor:
        """How far the pointer moves before the first half of the next token, as `MoveHead` has it: logits (B, 4)."""
        return self.move_head(hidden, token, phone, 0)

    def move_second(self, hidden: Tensor, token: Tensor, phone: Tensor) -> Tensor:
        """And before the second half."""
        return self.move_head(hidden, token, phone, 1)
