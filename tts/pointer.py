"""The phone pointer as a model reads it: which phone is spoken in a frame, and for how long by then.

Shapes: B batch, P phones, T frames, W width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def phones_at(encoded: Tensor, pointer: Tensor, unknown: Tensor) -> Tensor:
    """The encoding of the phone spoken in each frame: encoded (B, P, W), pointer (B, T) -> (B, T, W).

    unknown: (W,), what stands where the pointer is -1.
    """
    b, p, w = encoded.shape
    table = torch.cat([encoded.reshape(b * p, w), unknown.to(encoded.dtype)[None]])
    row = torch.arange(b, device=pointer.device)[:, None] * p
    return F.embedding(torch.where(pointer < 0, b * p, pointer + row), table)


def phone_ages(pointer: Tensor, before: Tensor | None = None, age: Tensor | None = None) -> Tensor:
    """Frames since the pointer last moved, (B, T) -> (B, T).

    before, age: (B,) the pointer and the age of the frame before the first, None at the beginning.
    """
    frames = torch.arange(pointer.shape[1], device=pointer.device).expand_as(pointer)
    first = torch.ones_like(pointer[:, :1], dtype=torch.bool)
    if before is not None and age is not None:
        first = pointer[:, :1] != before[:, None]
        carried = torch.where(first[:, 0], 0, -1 - age)  # where the running phone began, counted from here
    else:
        carried = torch.zeros_like(pointer[:, 0])
    moved = torch.cat([first, pointer[:, 1:] != pointer[:, :-1]], dim=1)
    since = torch.where(moved, frames, carried[:, None]).cummax(dim=1).values
    return frames - since
