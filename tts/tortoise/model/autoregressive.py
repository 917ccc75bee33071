"""UnifiedVoice: from text and a voice to the codes of speech, a GPT-2 over both (Betker 2023, section 4.1).

    [voice][255, text, 0][8192, codes ..., 8193]      text and codes each with learned positions of their own, from 0

The voice is what an encoder of mels says in its first frame. The second stage of TorToise does not read codes but the
latents that the same network has over them. Shapes: B batch, W width, H heads, D channels a head, T positions,
P of the prompt (voice and text), N codes, M mel bands, F frames of a mel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import AttentionBlock
from .cache import CandidateCache, attend


@dataclass(frozen=True)
class AutoregressiveConfig:
    """Dimensions; the defaults are the published ones."""

    depth: int = 30
    width: int = 1024
    n_heads: int = 16
    n_mels: int = 80
    n_encoder_blocks: int = 6  # of the voice's encoder
    n_text_tokens: int = 255  # besides the start
    max_text_tokens: int = 402
    n_codes: int = 8192
    max_codes: int = 604
    max_clips: int = 2  # counted among the positions of the codes, as published

    @property
    def start_text(self) -> int:
        return self.n_text_tokens

    @property
    def stop_text(self) -> int:
        return 0

    @property
    def start_code(self) -> int:
        return self.n_codes

    @property
    def stop_code(self) -> int:
        return self.n_codes + 1


class VoiceEncoder(nn.Module):
    """Mels of clips to a voice."""

    def __init__(self, config: AutoregressiveConfig):
        super().__init__()
        self.conv = nn.Conv1d(config.n_mels, config.width, 1)
        blocks = [AttentionBlock(config.width, config.n_heads) for _ in range(config.n_encoder_blocks)]
        self.blocks = nn.Sequential(*blocks)

    def forward(self, mels: Tensor) -> Tensor:
        """(N, M, F), a clip a row -> (1, W): the first frame of each, averaged."""
        return self.blocks(self.conv(mels))[:, :, 0].mean(0, keepdim=True)


class Block(nn.Module):
    """GPT-2's: pre-norm attention and a feed-forward layer (Radford et al. 2019, section 2.3)."""

    def __init__(self, width: int, n_heads: int):
        super().__init__()
        self.n_heads = n_heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, cache: CandidateCache | None = None, layer: int = 0) -> Tensor:
        """(B, T, W) -> (B, T, W), causal; behind what the cache holds, into which keys and values are written."""
        b, t, w = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, t, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        y = attend(q, k, v, cache, layer)
        x = x + self.out(y.transpose(1, 2).reshape(b, t, w))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class Autoregressive(nn.Module):
    """The network; `generate` draws codes from it."""

    def __init__(self, config: AutoregressiveConfig | None = None):
        super().__init__()
        self.config = config = config or AutoregressiveConfig()
        width = config.width
        self.voice_encoder = VoiceEncoder(config)
        self.text_embedding = nn.Embedding(config.n_text_tokens + 1, width)
        self.code_embedding = nn.Embedding(config.n_codes + 2, width)
        self.text_positions = nn.Embedding(config.max_text_tokens + 2, width)
        self.code_positions = nn.Embedding(config.max_codes + 2 + config.max_clips, width)
        self.blocks = nn.ModuleList([Block(width, config.n_heads) for _ in range(config.depth)])
        self.norm, self.final_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.text_head = nn.Linear(width, config.n_text_tokens + 1)  # for training
        self.code_head = nn.Linear(width, config.n_codes + 2)

    # ---- the parts of the sequence

    def prompt(self, voice: Tensor, text: Tensor) -> Tensor:
        """voice (B, W) and text ids (B, T) without start and stop -> (B, T + 3, W)."""
        ids = F.pad(F.pad(text, (0, 1), value=self.config.stop_text), (1, 0), value=self.config.start_text)
        embedded = self.text_embedding(ids) + self.text_positions.weight[: ids.shape[1]]
        return torch.cat([voice.to(embedded.dtype)[:, None], embedded], dim=1)

    def embed_codes(self, codes: Tensor, position: int = 0) -> Tensor:
        """(B, N) -> (B, N, W). The start has position 0, the first code 1, and so on: as in training. (The published
        generation with a cache skips position 1; without one it does not.)"""
        positions = self.code_positions.weight[position : position + codes.shape[1]]
        return self.code_embedding(codes) + positions

    # ---- passes

    def run(self, x: Tensor, cache: CandidateCache | None = None) -> Tensor:
        """Embeddings (B, T, W) -> what the heads read (B, T, W)."""
        for layer, block in enumerate(self._blocks):
            x = block(x, cache, layer)
        if cache is not None:
            cache.advance(x.shape[1])
        return self.final_norm(self.norm(x))

    def forward(self, voice: Tensor, text: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Training's pass: voice (B, W), text (B, T), codes (B, N) -> logits of the text and its stop (B, T + 2, V) and
        of the codes and their stop (B, N + 2, V'): what follows each position."""
        prompt = self.prompt(voice, text)
        hidden = self.run(torch.cat([prompt, self.embed_codes(self._framed(codes))], dim=1))
        n = prompt.shape[1]
        return self.text_head(hidden[:, 1:n]), self.code_head(hidden[:, n:])

    def latents(self, voice: Tensor, text: Tensor, codes: Tensor) -> Tensor:
        """What the decoders read: voice (1, W), text (1, T), codes (1, N) -> (1, N, W)."""
        prompt = self.prompt(voice, text)
        hidden = self.run(torch.cat([prompt, self.embed_codes(self._framed(codes))], dim=1))
        return hidden[:, prompt.shape[1] : prompt.shape[1] + codes.shape[1]]

    def _framed(self, codes: Tensor) -> Tensor:
        start = F.pad(codes, (1, 0), value=self.config.start_code)
        return F.pad(start, (0, 1), value=self.config.stop_code)

    @property
    def _blocks(self) -> list[Block]:
        return cast("list[Block]", list(self.blocks))
