"""Inputs of the speech models in training and inference: phones, codes, and the phone of each frame.

Shapes: B batch, P phones, K codebooks, T frames (at the codec's frame rate), H places of a frame that each have a
phone (1, but for codecs of few frames), F numbers of a frame of mel. A phone is three numbers: symbol, stress, long
(`tts.text.phones`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .adapter import Adapter

if TYPE_CHECKING:
    from ..text.phones import Phones


@dataclass(frozen=True)
class SpeechBatch:
    """Utterances to be spoken, each after a prompt (which may be empty), zero-padded to the longest."""

    phones: Tensor  # (B, 3, P) the prompt's phones, then the target's
    n_phones: Tensor  # (B,)
    codes: Tensor  # (B, K, T) the prompt's frames, then the target's
    # (B, T H) index of the phone spoken in each place; -1: unknown (a prompt without text) or padding
    pointer: Tensor
    n_prompt: Tensor  # (B,) frames of the prompt, 0: none
    n_frames: Tensor  # (B,) frames in all
    drop_text: Tensor  # (B,) bool: the phones are hidden (for classifier-free guidance)
    drop_voice: Tensor  # (B,) bool: the prompt's frames are hidden
    mel: Tensor | None = (
        None  # (B, T', F) normalised, of at least the prompt's frames, for models that read it
    )

    def to(self, device: str | torch.device) -> SpeechBatch:
        moved: dict[str, Any] = {
            name: None if part is None else part.to(device, non_blocking=True)
            for name, part in vars(self).items()
        }
        return SpeechBatch(**moved)

    def without_hidden_prompts(self) -> SpeechBatch:
        """The same with the prompt's frames cut out of the rows that hide them, the target moved to the front."""
        cut = torch.where(self.drop_voice, self.n_prompt, torch.zeros_like(self.n_prompt))
        frames = torch.arange(self.codes.shape[-1], device=cut.device)
        source = frames + cut[:, None]
        inside = source < self.n_frames[:, None]
        source = source.clamp(max=self.codes.shape[-1] - 1)
        codes = self.codes.gather(2, source[:, None].expand_as(self.codes)) * inside[:, None]
        places = self.pointer.unflatten(1, (self.codes.shape[-1], -1))  # (B, T, H)
        places = places.gather(1, source[..., None].expand_as(places))
        pointer = torch.where(inside[..., None], places, -1).flatten(1)
        return dataclasses.replace(
            self, codes=codes, pointer=pointer, n_prompt=self.n_prompt - cut, n_frames=self.n_frames - cut
        )


@dataclass(frozen=True)
class Prompt:
    """A recorded voice. codes (K, T); with its transcript: phones, and pointer (T,) into them, else None.

    mel (M, T'), speaker (E,): of the recording itself, natural log-mel (`layers.mel.MelFrames`) and speaker
    vector; None in a voice of an earlier version, which has its codes only.   adapters: of the models, by their part
    (`tts.lm.adapter`), where the voice has been adapted.
    """

    codes: Tensor
    phones: Phones | None = None
    pointer: Tensor | None = None
    mel: Tensor | None = None
    speaker: Tensor | None = None
    adapters: Mapping[str, Adapter] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.phones is None) != (self.pointer is None):
            raise ValueError("a prompt has both its phones and the pointer into them, or neither")
        if self.pointer is not None and self.pointer.shape[-1] != self.codes.shape[-1]:
            raise ValueError(
                f"the pointer has {self.pointer.shape[-1]} frames, the prompt {self.codes.shape[-1]}; "
                "they must agree"
            )
