"""What speech tokens are asked for in training: the phone, pitch, voicing, loudness, and what a recogniser hears.

A small network reads all of it from the tokens alone. Of a recogniser's encoder (Whisper tiny.en: 384 channels, few
of which vary much) it reads the first principal components, whitened: each counts the same, and what a squared error
over the channels themselves would never reach (the phones) is among them.

Shapes: B batch, S tokens, D numbers of a token, T = 2 S frames of 50 Hz, C channels of the encoder, N components.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .flow_batch import FlowBatch


class TokenProbe(nn.Module):
    """The network, and its losses. Not part of what ships."""

    content_mean: Tensor
    whitening: Tensor

    def __init__(
        self, dims: int, n_symbols: int, content: tuple[Tensor, Tensor] | None = None, width: int = 256
    ):
        """content: mean (C,) and whitening (C, N) of the encoder's states; None: they are not asked for."""
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv1d(dims, width, 5, padding=2), nn.GELU(), nn.Conv1d(width, width, 3, padding=1), nn.GELU()
        )
        self.out = nn.Linear(width, 2 * (n_symbols + 3))
        self.content = None
        if content is not None:
            self.content = nn.Linear(width, 2 * content[1].shape[1])
            self.register_buffer("content_mean", content[0])
            self.register_buffer("whitening", content[1])
        self.n_symbols = n_symbols

    def forward(self, levels: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Levels (B, S, D) -> phone logits (B, T, n_symbols), (B, T, 3): log-pitch, voicing logit, loudness, and the
        components (B, T, N)."""
        x = self.net(levels.transpose(1, 2)).transpose(1, 2)
        out = self.out(x).unflatten(-1, (2, -1)).flatten(1, 2)
        content = None if self.content is None else self.content(x).unflatten(-1, (2, -1)).flatten(1, 2)
        return out[..., : self.n_symbols], out[..., self.n_symbols :], content

    def losses(self, levels: Tensor, b: FlowBatch) -> dict[str, Tensor]:
        """phone: nats, phone_right: share.   pitch: octaves from the utterance's own, with voicing and loudness.
        content: mean squared error of the components, 1 if tokens tell nothing."""
        phones, others, content = self(levels)
        others = others.float()
        known = b.symbols >= 0
        target = torch.where(known, b.symbols, -100)
        nats = F.cross_entropy(phones.float().transpose(1, 2), target, ignore_index=-100, reduction="sum")
        right = (phones.argmax(-1) == b.symbols) & known
        inside = b.inside.float()
        voiced = (b.pitch > 0) & b.inside
        log = b.pitch.clamp(min=1).log2()
        centre = (log * voiced).sum(1) / voiced.sum(1).clamp(min=1)
        octaves = ((others[..., 0] - (log - centre[:, None])).abs() * voiced).sum() / voiced.sum().clamp(
            min=1
        )
        voicing = F.binary_cross_entropy_with_logits(others[..., 1], voiced.float(), reduction="none")
        loud = (others[..., 2] - b.loudness).abs()
        n = known.sum().clamp(min=1)
        losses = {}
        if content is not None:
            heard = (b.content.float() - self.content_mean) @ self.whitening
            error = (content.float() - heard).square().mean(-1)
            losses["content"] = (error * inside).sum() / inside.sum().clamp(min=1)
        return losses | {
            "phone": nats / n,
            "phone_right": right.sum() / n,
            "pitch": octaves + ((0.3 * voicing + 0.3 * loud) * inside).sum() / inside.sum().clamp(min=1),
        }


def spread(bounded: Tensor, inside: Tensor) -> Tensor:
    """How far numbers (B, S, D) in [-1, 1], where `inside` (B, S), are from filling their grid: 0 if each has mean 0
    and the variance of a uniform distribution, and none tells of another. Without it most levels are never used."""
    weight = inside[..., None].to(bounded.dtype)
    n = weight.sum().clamp(min=1)
    mean = (bounded * weight).sum((0, 1)) / n
    x = ((bounded - mean) * weight).flatten(0, 1)
    off = 3 * (x.t() @ x) / n - torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    return mean.square().sum() + off.square().sum()
