"""The contract of the decoders: from what the AR says to sound.

    phones, voice -> AR -> Latents, chunk by chunk -> SpeechDecoder.stream(...).push -> samples

A new decoder is a file in this folder, a row of `tts.registry.DECODERS`, and a trainer.

Shapes: N codebooks that the AR says, T frames at the AR's rate, P phones, S samples of a prompt, n samples
of speech; both of one channel at the codec's rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..lm.ar import ARModel
from ..lm.batch import Prompt
from ..lm.step import Frame
from ..text.phones import Phones

VoiceState = Any  # what a decoder keeps of a prompt


@dataclass(frozen=True)
class Latents:
    """What the AR says in T frames."""

    codes: Tensor  # (N, T) long
    # (T,) long: the phone that is said, counted from the first; or (T, 2), of both halves of a frame
    # (`tts.lm.token_ar`)
    pointer: Tensor

    @classmethod
    def of(cls, frames: Sequence[Frame]) -> Latents:
        """At least one frame."""
        codes = torch.stack([frame.codes for frame in frames])
        return cls(codes.t(), torch.stack([frame.pointer for frame in frames]))

    @classmethod
    def join(cls, parts: Sequence[Latents]) -> Latents:
        """Parts, at least one, one after the other."""
        return cls(
            torch.cat([part.codes for part in parts], dim=1),
            torch.cat([part.pointer for part in parts]),
        )

    def __len__(self) -> int:
        return self.pointer.shape[0]

    def __getitem__(self, frames: slice) -> Latents:
        return Latents(self.codes[:, frames], self.pointer[frames])


class SoundStream(Protocol):
    """One utterance. The samples are the same however it is fed; how far it looks ahead is its own affair."""

    def push(self, latents: Latents) -> np.ndarray:
        """The samples (n,), float32, that are certain after these frames, too; any T including 0."""
        ...

    def flush(self) -> np.ndarray:
        """The samples that are still owed; the stream is over."""
        ...


class SpeechDecoder(Protocol):
    """Latents to sound. Safe to use from several threads: all that changes is in the streams.

    name: by which it is chosen.   chunks: frames a push, the last repeats; empty: a whole sentence at once.
    """

    name: str
    chunks: tuple[int, ...]

    def check(self, ar: ARModel) -> None:
        """Raises MissingModelError, one line, for an AR whose latents it cannot read."""
        ...

    def read_voice(self, prompt: Prompt, wav: Tensor) -> VoiceState:
        """What is kept of a voice; read once for all that is said in it. wav (S,): how the prompt sounds."""
        ...

    def stream(self, phones: Phones, voice: VoiceState | None, seed: int) -> SoundStream:
        """An utterance of these phones. voice: of `read_voice`, None for no voice in particular; it stays as it is.
        seed: of all that is drawn."""
        ...

    def fingerprint(self) -> str:
        """Stands for the weights."""
        ...


def to_samples(wav: Tensor) -> np.ndarray:
    return wav.float().cpu().numpy()
