"""Files of what an AR knows while others speak, for training a vocoder: made by `training.sets.extract_hidden`.

    safetensors: starts int64 (U + 1,), codes int16 (N, T), hidden float16 (T, W)   drawn frame by frame, and from what
                 pitch float32 (2 T,)                                               of the recording, Hz; 0: unvoiced
                 prompt_starts int64 (U + 1,), prompts int16 (K, P)                 another recording of the voice,
                 prompt_mels float16 (P, M)                                         and what its codes sound like
                 alone bool (U,)                                                    went on from frames of its own only
    metadata:    format, utterances (JSON: names of fields, then a row for each), codec, codec_hash, ar_hash

Shapes: N coarse codebooks, K codebooks, T frames, W the AR's width, P frames of prompts, M mel bands,
U utterances.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ...errors import InputError
from .speech_set import SpeechItem

FORMAT = "2"


@dataclass(frozen=True)
class HiddenItem:
    """An utterance. codes (N, T) int16, hidden (T, W) float16, pitch (2 T,) float32, prompt (K, P) int16,
    prompt_mel (P, M) float16.

    alone: the AR has said it all by itself, and has only the rhythm of the recording.
    """

    item: SpeechItem
    codes: np.ndarray
    hidden: np.ndarray
    pitch: np.ndarray
    prompt: np.ndarray
    prompt_mel: np.ndarray
    alone: bool


class HiddenSet(Sequence[HiddenItem]):
    """The file at `path`, in memory. Raises InputError when it is something else.

    items: of every utterance.   n_frames: (U,).   codec, codec_hash, ar_hash: whose codes and hidden states these are.
    """

    def __init__(self, path: str | Path):
        try:
            with safe_open(str(path), framework="np") as file:
                metadata = file.metadata() or {}
                if metadata["format"] != FORMAT or "ar_hash" not in metadata:
                    raise ValueError("another format")
                self.codec, self.codec_hash = metadata["codec"], metadata["codec_hash"]
                self.ar_hash = metadata["ar_hash"]
                self._starts, self._prompt_starts = (
                    file.get_tensor("starts"),
                    file.get_tensor("prompt_starts"),
                )
                self._codes, self._hidden = file.get_tensor("codes"), file.get_tensor("hidden")
                self._pitch, self._prompts = file.get_tensor("pitch"), file.get_tensor("prompts")
                self._prompt_mels, self._alone = file.get_tensor("prompt_mels"), file.get_tensor("alone")
            names, *rows = json.loads(metadata["utterances"])
            self.items = tuple(SpeechItem(**dict(zip(names, row, strict=True))) for row in rows)
            self.n_frames = np.diff(self._starts)
            ends = int(self._starts[-1]), int(self._prompt_starts[-1])
            lengths = self._codes.shape[1], self._prompts.shape[1]
            if len(self._prompt_mels) != ends[1]:
                raise ValueError("its prompts are of different lengths")
            if ends != lengths or len(self._hidden) != ends[0] or len(self._pitch) != 2 * ends[0]:
                raise ValueError("its parts are of different lengths")
            if not len(self.n_frames) == len(self._prompt_starts) - 1 == len(self.items) == len(self._alone):
                raise ValueError("its parts are of different numbers of utterances")
        except (OSError, SafetensorError, KeyError, ValueError, TypeError, IndexError) as error:
            raise InputError(
                f"{path} is not a file of `python -m myna.training.sets.extract_hidden` ({error}); make it again"
            ) from error

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> HiddenItem:  # pyright: ignore[reportIncompatibleMethodOverride]
        if not 0 <= index < len(self):
            raise IndexError(f"utterance {index} of {len(self)}")
        a, b = self._starts[index : index + 2].tolist()
        p, q = self._prompt_starts[index : index + 2].tolist()
        return HiddenItem(
            self.items[index],
            self._codes[:, a:b],
            self._hidden[a:b],
            self._pitch[2 * a : 2 * b],
            self._prompts[:, p:q],
            self._prompt_mels[p:q],
            bool(self._alone[index]),
        )


def hidden_set_bytes(utterances: Sequence[HiddenItem], codec: str, codec_hash: str, ar_hash: str) -> bytes:
    """The file that `HiddenSet` reads. Raises InputError without utterances."""
    if not utterances:
        raise InputError("no utterance is left; check the speech set and its selection")
    names = [field.name for field in fields(SpeechItem)]
    rows = [[asdict(u.item)[name] for name in names] for u in utterances]
    metadata = {
        **{"format": FORMAT, "codec": codec, "codec_hash": codec_hash, "ar_hash": ar_hash},
        "utterances": json.dumps([names, *rows], ensure_ascii=False),
    }
    tensors = {
        "starts": np.cumsum([0, *(u.codes.shape[1] for u in utterances)]).astype(np.int64),
        "codes": np.concatenate([u.codes for u in utterances], axis=1).astype(np.int16),
        "hidden": np.concatenate([u.hidden for u in utterances]).astype(np.float16),
        "pitch": np.concatenate([u.pitch for u in utterances]).astype(np.float32),
        "prompt_starts": np.cumsum([0, *(u.prompt.shape[1] for u in utterances)]).astype(np.int64),
        "prompts": np.concatenate([u.prompt for u in utterances], axis=1).astype(np.int16),
        "prompt_mels": np.concatenate([u.prompt_mel for u in utterances]).astype(np.float16),
        "alone": np.array([u.alone for u in utterances]),
    }
    return save(tensors, metadata=metadata)
