"""The phone pointer as model input: the phone of a frame, and its age in frames.

Shapes: B batch, P phones, T frames, W width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import InputError
from .batch import Prompt


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


def spoken_in(prompt: Prompt | None) -> tuple[Tensor, Tensor]:
    """The phones that are spoken in a prompt (3, P'), and the pointer (T,) into them, -1 without a transcript.

    Phones of its transcript before and after those do not count. Raises InputError for a pointer beyond them.
    """
    none = torch.zeros(3, 0, dtype=torch.long)
    if prompt is None:
        return none, none[0]
    if prompt.phones is None or prompt.pointer is None or not len(prompt.pointer):
        return none, torch.full((prompt.codes.shape[1],), -1)
    first, last = int(prompt.pointer.min()), int(prompt.pointer.max())
    if first < 0 or last >= len(prompt.phones):
        raise InputError(
            f"the voice's transcript has {len(prompt.phones)} phones, but its pointer is at {first} to {last}; make "
            "the voice again with `myna voices add`"
        )
    return prompt.phones.tokens[:, first : last + 1], prompt.pointer - first
