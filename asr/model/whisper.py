"""Whisper: an encoder over a log-mel window and a decoder that writes its text (Radford et al. 2022, figure 1).

    mel (B, M, 3000) -> conv -> gelu -> conv, stride 2 -> gelu -> + sinusoids -> blocks -> norm -> features (B, 1500, D)
    tokens (R, T) -> embedding + positions -> blocks (self-attention, attention on the features, mlp) -> norm -> logits

Parameters are named as in OpenAI's checkpoints. Memory is an argument: a `DecoderState` holds the self-attention's keys
and values and those of the features, computed once an audio and shared by its beams.

Shapes: B audios, R rows = B * beams, M mels, T frames or tokens, A frames of the encoder (1500), D width, H heads, C
channels of a head, S slots of the cache, L layers, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SLOTS = 64  # the cache grows by so many tokens at a time: few shapes, and no more to reorder than there is


@dataclass(frozen=True)
class WhisperDims:
    """Dimensions, by OpenAI's names."""

    n_mels: int = 80
    n_audio_ctx: int = 1500
    n_audio_state: int = 384
    n_audio_head: int = 6
    n_audio_layer: int = 4
    n_vocab: int = 51864
    n_text_ctx: int = 448
    n_text_state: int = 384
    n_text_head: int = 6
    n_text_layer: int = 4

    @property
    def is_multilingual(self) -> bool:
        return self.n_vocab >= 51865

    @property
    def n_languages(self) -> int:
        return self.n_vocab - 51765 - int(self.is_multilingual)

    @property
    def n_frames(self) -> int:
        """Mel frames of a window: the encoder halves them."""
        return 2 * self.n_audio_ctx


class LayerNorm(nn.LayerNorm):
    """In float32, whatever the dtype of the model."""

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        if x.dtype == torch.float32:
            return super().forward(x)
        weight, bias = self.weight.float(), self.bias.float()
        return F.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps).to(x.dtype)


class MultiHeadAttention(nn.Module):
    """Scaled dot products; the key has no bias."""

    def __init__(self, width: int, n_heads: int):
        super().__init__()
        self.n_heads = n_heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (R, T, D) -> query, key, value (R, H, T, C)."""
        return self.heads(self.query(x)), *self.keys_values(x)

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (R, T, D) -> key, value (R, H, T, C)."""
        return self.heads(self.key(x)), self.heads(self.value(x))

    def heads(self, x: Tensor) -> Tensor:
        """(R, T, D) -> (R, H, T, C)."""
        return x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)

    def merge(self, x: Tensor) -> Tensor:
        """(R, H, T, C) -> (R, T, D), through the output projection."""
        return self.out(x.transpose(1, 2).flatten(2))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, D) attends to all of itself."""
        return self.merge(F.scaled_dot_product_attention(*self.project(x)))


class EncoderBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, n_heads: int):
        super().__init__()
        self.attn = MultiHeadAttention(width, n_heads)
        self.attn_ln = LayerNorm(width)
        self.mlp = _mlp(width)
        self.mlp_ln = LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.attn_ln(x))
        return x + self.mlp(self.mlp_ln(x))


class AudioEncoder(nn.Module):
    """A mel window to features, 50 a second."""

    positional_embedding: Tensor

    def __init__(self, dims: WhisperDims):
        super().__init__()
        width = dims.n_audio_state
        self.conv1 = nn.Conv1d(dims.n_mels, width, 3, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.register_buffer("positional_embedding", sinusoids(dims.n_audio_ctx, width))
        self.blocks = nn.ModuleList(
            [EncoderBlock(width, dims.n_audio_head) for _ in range(dims.n_audio_layer)]
        )
        self.ln_post = LayerNorm(width)

    def forward(self, mel: Tensor) -> Tensor:
        """mel (B, M, 2 A) -> (B, A, D)."""
        x = F.gelu(self.conv1(mel))
        x = F.gelu(self.conv2(x)).transpose(1, 2)
        x = x + self.positional_embedding.to(x.dtype)
        for block in self.blocks:
            x = block(x)
        return self.ln_post(x)


@dataclass(frozen=True)
class DecoderState:
    """What the decoder remembers.

    position: (R,) tokens that each row has seen.   keys, values: (L, R, H, S, C) of the self-attention; slots past a
    row's position are empty.   cross: of every layer the keys and the values (B, H, A, C) of the features.
    n_beams: R = B * n_beams, the beams of an audio side by side.   reach: no row's position is above it.
    """

    position: Tensor
    keys: Tensor
    values: Tensor
    cross: tuple[tuple[Tensor, Tensor], ...]
    n_beams: int
    reach: int

    def select(self, rows: Tensor) -> DecoderState:
        """The state whose row i is row rows[i] of this one, (B * n_beams,) indices: beams go on where other beams of
        their audio are."""
        keys, values = (
            kept[:, :, :, : self.reach].index_select(1, rows) for kept in (self.keys, self.values)
        )
        return replace(self, position=self.position[rows], keys=keys, values=values)

    def keep(self, audios: Tensor) -> DecoderState:
        """The state of some of the audios, (B',) indices, with all of their beams."""
        rows = (audios[:, None] * self.n_beams + torch.arange(self.n_beams, device=audios.device)).flatten()
        cross = tuple((key[audios], value[audios]) for key, value in self.cross)
        kept = self.select(rows)
        return replace(kept, cross=cross, reach=int(kept.position.max()))  # the longest row may be gone

    def spread(self, n_beams: int) -> DecoderState:
        """The state of every row n_beams times, for beams that have a prompt in common."""
        if self.n_beams != 1:
            raise ValueError(f"a state of {self.n_beams} beams cannot be spread")
        rows = torch.arange(len(self.position), device=self.position.device).repeat_interleave(n_beams)
        return replace(self.select(rows), n_beams=n_beams)

    def rewind(self, n_tokens: int) -> DecoderState:
        """The state before the last tokens that every row has read."""
        return replace(self, position=self.position - n_tokens, reach=self.reach - n_tokens)

    def _room_for(self, n_tokens: int, limit: int) -> DecoderState:
        """Slots for n_tokens more, and some to come."""
        reach = self.reach + n_tokens
        if reach > limit:
            raise ValueError(f"{reach} tokens do not fit in the context of {limit}")
        slots = self.keys.shape[3]
        if reach > slots:
            more = min(-(-reach // SLOTS) * SLOTS, limit) - slots
            keys, values = (F.pad(kept, (0, 0, 0, more)) for kept in (self.keys, self.values))
            return replace(self, keys=keys, values=values)
        return self


class DecoderBlock(nn.Module):
    """Self-attention, attention to the audio's features, and an mlp, each on a normalised residual."""

    def __init__(self, width: int, n_heads: int):
        super().__init__()
        self.attn = MultiHeadAttention(width, n_heads)
        self.attn_ln = LayerNorm(width)
        self.cross_attn = MultiHeadAttention(width, n_heads)
        self.cross_attn_ln = LayerNorm(width)
        self.mlp = _mlp(width)
        self.mlp_ln = LayerNorm(width)

    def forward(self, x: Tensor, past: _Past, cross: tuple[Tensor, Tensor]) -> Tensor:
        """x (R, T, D), the cache of this layer, the features' keys and values (B, H, A, C) -> (R, T, D)."""
        query, key, value = self.attn.project(self.attn_ln(x))
        x = x + self.attn.merge(past.attend(query, key, value))
        query = self.cross_attn.heads(self.cross_attn.query(self.cross_attn_ln(x)))
        x = x + self.cross_attn.merge(_listen(query, *cross))
        return x + self.mlp(self.mlp_ln(x))


class TextDecoder(nn.Module):
    """Tokens to logits, given an audio's features."""

    def __init__(self, dims: WhisperDims):
        super().__init__()
        width = dims.n_text_state
        self.token_embedding = nn.Embedding(dims.n_vocab, width)
        self.positional_embedding = nn.Parameter(torch.zeros(dims.n_text_ctx, width))
        self.blocks = nn.ModuleList([DecoderBlock(width, dims.n_text_head) for _ in range(dims.n_text_layer)])
        self.ln = LayerNorm(width)
        self.head: nn.Module | None = None  # what `for_inference` puts in the place of the embedding's table

    def forward(
        self, tokens: Tensor, state: DecoderState, lengths: Tensor | None
    ) -> tuple[Tensor, DecoderState]:
        """tokens (R, T) -> (R, T, D), normalised, and the next state."""
        n = tokens.shape[1]
        context = len(self.positional_embedding)
        state = state._room_for(n, context)
        at = state.position[:, None] + torch.arange(n, device=tokens.device)
        x = self.token_embedding(tokens) + F.embedding(at.clamp(max=context - 1), self.positional_embedding)
        reach = state.reach + n
        slots = torch.arange(reach, device=tokens.device)
        even = bool((state.position == state.reach).all())  # all rows have come to the same position
        mask = slot = None
        if n > 1 or not even:
            mask = (slots <= at[:, :, None])[:, None]  # (R, 1, T, S)
        if not even:
            slot = at[:, None, :, None].expand(-1, state.keys.shape[2], -1, state.keys.shape[4])
        for i, block in enumerate(self._blocks):
            past = _Past(state.keys[i], state.values[i], slot, mask, reach)
            x = block(x, past, state.cross[i])
        position = state.position + (n if lengths is None else lengths)
        if lengths is not None:
            reach = int(position.max())
        return self.ln(x), replace(state, position=position, reach=reach)

    def logits(self, x: Tensor) -> Tensor:
        """x (..., D) -> (..., V), float32: the embedding's table once more."""
        head = cast("nn.Module | None", self.head)
        return (F.linear(x, self.token_embedding.weight) if head is None else head(x)).float()

    @property
    def _blocks(self) -> list[DecoderBlock]:
        return cast("list[DecoderBlock]", list(self.blocks))


class Whisper(nn.Module):
    """The encoder, the decoder and what belongs to them.

    alignment_heads: (layer, head) pairs of the decoder whose attention follows the words; None: all heads of the last
    half of its layers.   vocabulary: the text tokens' bytes by id, those before the end of text.
    """

    def __init__(
        self,
        dims: WhisperDims,
        alignment_heads: Sequence[tuple[int, int]] | None = None,
        vocabulary: Sequence[bytes] | None = None,
        name: str = "whisper",
    ):
        super().__init__()
        self.dims, self.name = dims, name
        if alignment_heads is None:
            layers = range(dims.n_text_layer // 2, dims.n_text_layer)
            alignment_heads = [(layer, head) for layer in layers for head in range(dims.n_text_head)]
        self.alignment_heads = tuple((int(layer), int(head)) for layer, head in alignment_heads)
        self.vocabulary = None if vocabulary is None else tuple(vocabulary)
        self.encoder = AudioEncoder(dims)
        self.decoder = TextDecoder(dims)
        self._draft: list[TextDecoder] = []  # in a list: it is no part of the checkpoint

    @property
    def draft(self) -> TextDecoder | None:
        """The decoder in 8 bits that drafts for this one (asr/decoding/speculative.py), if there is one."""
        return self._draft[0] if self._draft else None

    @property
    def device(self) -> torch.device:
        return self.decoder.positional_embedding.device

    @property
    def dtype(self) -> torch.dtype:
        return self.decoder.positional_embedding.dtype

    def encode(self, mel: Tensor) -> Tensor:
        """mel (B, M, 2 A) -> features (B, A, D)."""
        mel = mel.to(self.device, self.dtype)
        if (
            mel.device.type == "cpu" and len(mel) > 1
        ):  # a window fills the cores and nearly the caches; four miss them
            return torch.cat([self.encoder(window[None]) for window in mel])
        return self.encoder(mel)

    def init_state(self, features: Tensor, n_beams: int = 1) -> DecoderState:
        """The state before the first token; features (B, A, D)."""
        blocks = self.decoder._blocks
        cross = tuple(_of_each(block.cross_attn, features) for block in blocks)
        rows, heads = features.shape[0] * n_beams, self.dims.n_text_head
        empty = features.new_zeros(len(blocks), rows, heads, 0, self.dims.n_text_state // heads)
        position = torch.zeros(rows, dtype=torch.long, device=features.device)
        return DecoderState(position, empty, empty, cross, n_beams, 0)

    def step(
        self, tokens: Tensor, state: DecoderState, lengths: Tensor | None = None
    ) -> tuple[Tensor, DecoderState]:
        """tokens (R, T) -> the logits (R, V) after each row's last token, and the next state.

        lengths: (R,) how many of its T tokens each row has, the others being padding at its end; rows may have come to
        different positions. The state that goes in may be written to; `select` makes copies.
        """
        x, state = self.decoder(tokens, state, lengths)
        last = x[:, -1] if lengths is None else x[torch.arange(len(x), device=x.device), lengths - 1]
        return self.decoder.logits(last), state

    def all_logits(self, tokens: Tensor, state: DecoderState) -> Tensor:
        """tokens (R, T) -> (R, T, V), each position knowing the tokens up to its own."""
        return self.decoder.logits(self.decoder(tokens, state, None)[0])

    def align(self, tokens: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """tokens (B, T), features (B, A, D) -> logits (B, T, V), and the alignment heads' scaled dot products with
        the features (B, n_heads, T, A), before softmax."""
        queries: list[Tensor] = []
        state = self.init_state(features)
        hooks = [
            block.cross_attn.query.register_forward_hook(lambda *call: queries.append(call[-1]))
            for block in self.decoder._blocks
        ]
        try:
            logits = self.all_logits(tokens, state)
        finally:
            for hook in hooks:
                hook.remove()
        products = []
        for layer, head in self.alignment_heads:
            query = self.decoder._blocks[layer].cross_attn.heads(queries[layer])[:, head]
            key = state.cross[layer][0][:, head]
            products.append(query @ key.mT * key.shape[-1] ** -0.5)
        return logits, torch.stack(products, dim=1).float()


def sinusoids(length: int, channels: int, longest: float = 10_000.0) -> Tensor:
    """(length, channels): sines of wavelengths from 2 pi to 2 pi * longest, then cosines; on the CPU."""
    # On the meta device, where a model is built whose weights are in a file, this would import torch's compiler.
    steps = torch.arange(channels // 2, device="cpu") * (-math.log(longest) / (channels // 2 - 1))
    angle = torch.arange(length, device="cpu")[:, None] * torch.exp(steps)[None]
    return torch.cat([angle.sin(), angle.cos()], dim=1)


@dataclass(frozen=True)
class _Past:
    """One layer's cache. keys, values (R, H, S, C); slot (R, H, T, C): where the new tokens go, None: all rows to the
    last ones of the first `reach` slots; mask (R, 1, T, reach)."""

    keys: Tensor
    values: Tensor
    slot: Tensor | None
    mask: Tensor | None
    reach: int

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query, key, value (R, H, T, C) of the new tokens -> (R, H, T, C)."""
        keys, values = self.keys[:, :, : self.reach], self.values[:, :, : self.reach]
        if self.slot is None:
            n = key.shape[2]
            keys[:, :, -n:] = key
            values[:, :, -n:] = value
        else:
            keys.scatter_(2, self.slot, key)
            values.scatter_(2, self.slot, value)
        return F.scaled_dot_product_attention(query, keys, values, attn_mask=self.mask)


def _listen(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """query (R, H, T, C), key and value (B, H, A, C) -> (R, H, T, C); an audio's beams read it together."""
    rows, heads, n, channels = query.shape
    audios = key.shape[0]
    if rows == audios:
        return F.scaled_dot_product_attention(query, key, value)
    together = query.view(audios, -1, heads, n, channels).transpose(1, 2).reshape(audios, heads, -1, channels)
    heard = F.scaled_dot_product_attention(together, key, value)
    return heard.view(audios, heads, -1, n, channels).transpose(1, 2).reshape(rows, heads, n, channels)


def _of_each(attention: MultiHeadAttention, features: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values (B, H, A, C) of the features, each head's frames one after the other in memory, since every step
    reads them."""
    pairs = [attention.keys_values(audio) for audio in features.split(1)]
    key, value = (torch.cat(parts).contiguous() for parts in zip(*pairs, strict=True))
    return key, value


def _mlp(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
