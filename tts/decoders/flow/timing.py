"""When each phone is said, as the decoder reads it: for how long already, and for how much longer.

In a stream the end of a phone may not be known yet. What is known of a frame depends on its block: all up to the
block's end and a fixed look-ahead beyond it, whatever arrives when.

Shapes: B batch, T frames (50 Hz).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

LONGEST = 31  # frames; what lasts longer counts as this
UNKNOWN = LONGEST + 1  # of `left`: the end of the phone cannot be seen yet


class Timing(NamedTuple):
    """age (B, T): frames since the phone began, 0 to LONGEST.   left (B, T): frames until its last one, 0 to
    LONGEST, or UNKNOWN."""

    age: Tensor
    left: Tensor


def timing(pointer: Tensor, visible: Tensor) -> Timing:
    """pointer (B, T) index of the phone in each frame; visible (B, T): up to which frame, not included, each may look.

    A phone whose end is not visible, or that lasts to the end of what is visible, is UNKNOWN; pass a number beyond the
    last frame where nothing follows.
    """
    t = pointer.shape[1]
    frames = torch.arange(t, device=pointer.device).expand_as(pointer)
    moved = torch.ones_like(pointer, dtype=torch.bool)
    moved[:, 1:] = pointer[:, 1:] != pointer[:, :-1]
    began = torch.where(moved, frames, torch.zeros_like(frames)).cummax(dim=1).values
    last = torch.ones_like(moved)
    last[:, :-1] = moved[:, 1:]
    ends = torch.where(last, frames, torch.full_like(frames, t)).flip(1).cummin(dim=1).values.flip(1)
    left = (ends - frames).clamp(max=LONGEST)
    left = torch.where(ends + 1 < visible, left, torch.full_like(left, UNKNOWN))
    return Timing((frames - began).clamp(max=LONGEST), left)
