"""A file of codes: what a codec made of a corpus, for training models over codes.

    safetensors: codes int16 (K, T in all), starts int64 (U + 1,); metadata: codec, codec_hash, codebook_size

Shapes: K codebooks, T frames, U utterances.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ...errors import InputError


@dataclass(frozen=True)
class CodeSet:
    """codes: (K, T) int16, utterances one after the other.

    starts: (U + 1,) first frame of each utterance, and the end.
    codec, codec_hash: name and weights hash (16 hex digits) of the codec that made them.
    """

    codes: np.ndarray
    starts: np.ndarray
    codebook_size: int
    codec: str
    codec_hash: str

    @property
    def n_frames(self) -> int:
        return int(self.codes.shape[1])

    def utterances(self) -> list[np.ndarray]:
        """Codes (K, t) of each utterance."""
        return [
            self.codes[:, a:b]
            for a, b in zip(self.starts[:-1].tolist(), self.starts[1:].tolist(), strict=True)
        ]

    def to_bytes(self) -> bytes:
        """The safetensors file that `load` reads."""
        metadata = {
            "codec": self.codec,
            "codec_hash": self.codec_hash,
            "codebook_size": str(self.codebook_size),
        }
        tensors = {"codes": np.ascontiguousarray(self.codes), "starts": np.ascontiguousarray(self.starts)}
        return save(tensors, metadata=metadata)

    @classmethod
    def load(cls, path: str | Path) -> CodeSet:
        """Read a file of `to_bytes`. Raises InputError when the file is something else."""
        try:
            with safe_open(str(path), framework="np") as file:
                metadata = file.metadata() or {}
                codes, starts = file.get_tensor("codes"), file.get_tensor("starts")
            codebook_size = int(metadata["codebook_size"])
            in_order = starts[0] == 0 and starts[-1] == codes.shape[1] and (np.diff(starts) > 0).all()
            if not in_order or codes.min() < 0 or codes.max() >= codebook_size:
                raise ValueError("codes or boundaries out of range")
        except (OSError, SafetensorError, KeyError, ValueError, IndexError) as error:
            raise InputError(
                f"{path} is not a file of codes ({error}); "
                "make one with `python -m myna.training.sets.extract_codes`"
            ) from error
        return cls(codes, starts, codebook_size, metadata.get("codec", ""), metadata.get("codec_hash", ""))
