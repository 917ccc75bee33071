"""A network that reads phones from the flow decoder's frames: it learns from recordings, and what the decoder drew has
to be read as its text.

    a recording's frames -> PhoneReader -> the phone of each frame, as aligned     the reader learns
    frames that were drawn -> PhoneReader, which stays as it is                    the decoder learns

A discriminator asks whether a mel sounds like a recording, and recordings of strangers mumble; this asks for the words
(an auxiliary classifier, Odena et al. 2017, that never learns from what was made).

Shapes: B batch, T frames of 50 Hz, F numbers of a frame, C symbols.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...layers.mel import mel_centres
from ...tts.aligner import AlignerBlock, is_pause
from ...tts.decoders.flow.decoder import PATCH
from ...tts.text.phones import SYMBOLS
from .adversarial import CriticStep
from .flow_batch import FlowBatch

_HIGHEST = 7400.0  # Hz: what recordings of 16 kHz have, too


class PhoneReader(nn.Module):
    """Convolutions as the aligner's, over normalised frames. All spaces and punctuation are one symbol, a pause."""

    bands: Tensor
    classes: Tensor

    def __init__(self, mel_bands: int = 80, width: int = 160, dilations: Sequence[int] = (1, 2, 4, 8, 1)):
        super().__init__()
        bands = torch.nonzero(mel_centres(24_000, mel_bands) < _HIGHEST).flatten()
        both = torch.cat([bands + i * mel_bands for i in range(PATCH)])
        self.register_buffer("bands", both, persistent=False)
        pause = SYMBOLS.index(" ")
        classes = torch.tensor([pause if is_pause(s) else i for i, s in enumerate(SYMBOLS)])
        self.register_buffer("classes", classes, persistent=False)
        self.stem = nn.Conv1d(len(both), width, 5, padding=2)
        self.blocks = nn.ModuleList(AlignerBlock(width, dilation, 0.0) for dilation in dilations)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, len(SYMBOLS))

    def forward(self, frames: Tensor, inside: Tensor) -> Tensor:
        """frames (B, T, F), those that are read (B, T) bool -> logits (B, T, C)."""
        mask = inside[..., None]
        x = torch.where(mask, frames[..., self.bands], 0)
        x = self.stem(x.transpose(1, 2)).transpose(1, 2)
        for block in self.blocks:
            x = block(x, mask)
        return self.head(self.norm(x))

    def unlike(self, logits: Tensor, symbols: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, T, C) and symbols (B, T), -1 where none is asked for -> the mean cross-entropy in nats, and the
        share that is right."""
        asked = torch.where(symbols >= 0, self.classes[symbols.clamp(min=0)], -100)
        count = (asked >= 0).sum().clamp(min=1)
        loss = F.cross_entropy(logits.float().flatten(0, 1), asked.flatten(), reduction="sum")
        return loss / count, (logits.argmax(-1) == asked).sum() / count


def learn_to_read(
    reader: nn.Module, clean: Tensor, batch: FlowBatch, step: CriticStep, autocast: torch.autocast
) -> dict[str, Tensor]:
    """A step of the reader on recordings' frames (B, T, F). reader: as processes share it; `step` holds it bare."""
    bare = step.critic
    assert isinstance(bare, PhoneReader)
    with autocast:
        logits = reader(clean, batch.target)
    loss, right = bare.unlike(logits, torch.where(batch.target, batch.symbols, -1))
    step(loss)
    return {"reading": loss.detach(), "reading_right": right}


def read_by(
    reader: PhoneReader, drawn: Tensor, batch: FlowBatch, autocast: torch.autocast
) -> dict[str, Tensor]:
    """How far frames that were drawn (B, T, F) are from being read as their text, where the decoder was told it, by
    phones or by tokens."""
    told = batch.target & (batch.knows_phone | batch.knows_token.repeat_interleave(2, 1))
    reader.requires_grad_(False)
    with autocast:
        logits = reader(drawn, batch.target)
    reader.requires_grad_(True)
    loss, right = reader.unlike(logits, torch.where(told, batch.symbols, -1))
    return {"read": loss, "read_right": right}
