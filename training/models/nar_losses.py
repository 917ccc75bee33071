"""What a NAR learns from and is judged by, whichever codec's codebooks it fills.

Shapes: B batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...tts.decoders.nar import NARResult
from ...tts.lm.batch import SpeechBatch

Groups = Sequence[Sequence[int]]  # of codebooks from 0; one pass of the model each


def nar_losses(
    model: nn.Module, batch: SpeechBatch, groups: Groups, weights: Sequence[float] | None
) -> dict[str, Tensor]:
    """A group drawn for each example, by `weights` (None: all alike): "loss", and that of each group drawn."""
    odds = torch.tensor(weights or [1.0] * len(groups), device=batch.codes.device)
    group = torch.multinomial(odds, len(batch.codes), replacement=True)
    result: NARResult = model(batch, group)
    parts = zip(group_names(groups), result.losses, result.n_frames, strict=True)
    return {"loss": result.loss, **{name: loss for name, loss, frames in parts if frames}}


def nar_values(model: nn.Module, batch: SpeechBatch, groups: Groups) -> dict[str, float]:
    """All groups: the loss is that of all codebooks, each of which counts alike."""
    values = {"loss": 0.0}
    for g, (name, books) in enumerate(zip(group_names(groups), groups, strict=True)):
        result: NARResult = model(batch, torch.full((len(batch.codes),), g, device=batch.codes.device))
        values["loss"] += float(result.losses[g]) * len(books) / sum(map(len, groups))
        values[name] = float(result.losses[g])
        values |= {f"accuracy_{k + 1}": float(result.codebook_accuracy[k - 1]) for k in books}
    return values


def group_names(groups: Groups) -> list[str]:
    """ "loss_2", "loss_3_4": codebooks counted from 1."""
    ends = [sorted({group[0] + 1, group[-1] + 1}) for group in groups]
    return ["_".join(["loss", *map(str, end)]) for end in ends]
