"""Files of mel spectrograms that a flow decoder drew in the place of recordings: made by `training.models.draw_mels`.

    safetensors: mel float16 (N, M) natural logarithms, at 100 Hz
                 starts int64 (U + 1,) in mel frames;  first int64 (U,): the hop of the recording that it begins with
    metadata:    format, keys (JSON: of the recordings)

Shapes: N mel frames of all, M mel bands, U utterances.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor

from ...errors import InputError

FORMAT = "1"


class DrawnSet:
    """Drawn mels by the key of the recording. Raises InputError for a file that is something else."""

    def __init__(self, path: str | Path):
        try:
            with safe_open(str(path), framework="np") as file:
                metadata = file.metadata() or {}
                if metadata["format"] != FORMAT:
                    raise ValueError(f"format {metadata['format']}, this version reads {FORMAT}")
                keys = json.loads(metadata["keys"])
                self._mel = torch.from_numpy(file.get_tensor("mel"))
                self._starts, self._first = file.get_tensor("starts"), file.get_tensor("first")
            if (
                len(self._starts) != len(keys) + 1
                or len(self._first) != len(keys)
                or self._starts[-1] != len(self._mel)
            ):
                raise ValueError("its parts are of different lengths")
        except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
            raise InputError(
                f"{path} is not a file of `python -m myna.training.models.draw_mels` ({error}); make it again"
            ) from error
        self._places = {key: i for i, key in enumerate(keys)}

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, key: str) -> tuple[int, Tensor]:
        """The hop that it begins with, and the mel (N, M), float16."""
        i = self._places[key]
        return int(self._first[i]), self._mel[self._starts[i] : self._starts[i + 1]]


def drawn_set_bytes(drawn: Sequence[tuple[str, int, np.ndarray]]) -> bytes:
    """The file that `DrawnSet` reads: key, first hop and mel (N, M) of each. Raises InputError without any."""
    if not drawn:
        raise InputError("no utterance is left to be drawn; check the sets and the corpora")
    tensors = {  # the format writes what lies in memory: transposed arrays would be read as others
        "mel": np.ascontiguousarray(np.concatenate([mel for _, _, mel in drawn]), np.float16),
        "starts": np.cumsum([0, *(len(mel) for _, _, mel in drawn)]).astype(np.int64),
        "first": np.array([first for _, first, _ in drawn], np.int64),
    }
    keys = json.dumps([key for key, _, _ in drawn], ensure_ascii=False)
    return save(tensors, metadata={"format": FORMAT, "keys": keys})
