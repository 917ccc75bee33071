"""Integer context model: how likely each entry of codebook k is, given what the decoder already knows.

    x = embeddings of the last P frames (codebooks <= k) and of this frame (codebooks < k)
    h = clip((W1 x + b1) >> s, 0, 255)
    weight of entry v = 2^(-(max - (W2 h + b2)_v))          by table

All parameters and activations are integers. They are held in float32 so that BLAS does the work, and every
row of a matrix is bounded so that no partial sum reaches 2^24: float32 then adds exactly, in any order, and
the result is the same on any machine and at any number of threads. The bound is checked when the model is
made.

Codebook k looks only at codebooks <= k, so a file cut to fewer codebooks still decodes; the context starts
empty at each packet, so packets stand alone.

Shapes: S streams, K codebooks, T frames, V codebook size, D embedding, H hidden, P past frames.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ...errors import CorruptStreamError, InputError, UsageError

MAX_ACTIVATION = 255
UNITS_PER_BIT = 64  # resolution of log2 probabilities
MAX_BITS = 24  # entries further below the most likely one all get the lowest weight
_EXACT = 1 << 24  # float32 holds every integer up to here


@dataclass(frozen=True)
class ContextConfig:
    """Dimensions of a context model."""

    n_codebooks: int = 8
    codebook_size: int = 1024
    embedding: int = 32  # D
    hidden: int = 128  # H
    past: int = 3  # P, frames

    def sources(self, k: int) -> int:
        """Codes that codebook k sees: those of codebooks < k in P past frames and this one, and its own past.

        They are laid out codebook by codebook (its past, latest first, then its present), so that what
        codebook k may see is the beginning of what codebook k + 1 may see.
        """
        return (self.past + 1) * k + self.past


@dataclass(frozen=True)
class Head:
    """What predicts one codebook; integers in float32.

    w1: (H, sources * D).   b1: (H,), with half a unit of the shift added.   w2: (V, H).   b2: (V,).
    shift1: bits dropped before the activation.   shift2: bits dropped to reach 1 / UNITS_PER_BIT bit.
    """

    w1: np.ndarray
    b1: np.ndarray
    w2: np.ndarray
    b2: np.ndarray
    shift1: int
    shift2: int


class ContextModel:
    """embedding: (K, V + 1, D) integers in float32; row V stands for "before the packet".   heads: one a
    codebook.

    hash: 16 hex digits over all parameters: what a file's header names.
    codec_hash: of the codec weights whose codes it was trained on, "" for any.
    """

    def __init__(self, config: ContextConfig, tensors: dict[str, np.ndarray], codec_hash: str = ""):
        self.config, self.tensors, self.codec_hash = config, tensors, codec_hash
        for name, shape in expected_shapes(config).items():
            if name not in tensors or tensors[name].shape != shape or tensors[name].dtype.kind != "i":
                raise ValueError(f"a context model needs integers of shape {shape} as {name}")
        self.embedding = tensors["embedding"].astype(np.float32)
        self.heads = [self._head(k) for k in range(config.n_codebooks)]
        levels = np.arange(MAX_BITS * UNITS_PER_BIT + 1, dtype=np.float64)
        # Rounding happens once, here, far from any tie that a libm could decide differently.
        self.table = np.floor(np.exp2(MAX_BITS - levels / UNITS_PER_BIT) + 0.5)
        self.hash = self._hash()

    def _head(self, k: int) -> Head:
        w1, b1, w2, b2 = (
            self.tensors[f"heads.{k}.{name}"].astype(np.float32) for name in ("w1", "b1", "w2", "b2")
        )
        shift1, shift2 = (int(s) for s in self.tensors[f"heads.{k}.shifts"])
        if not (0 <= shift1 < 24 and 0 <= shift2 < 24):
            raise ValueError(f"shifts of codebook {k} outside [0, 24): {shift1}, {shift2}")
        b1 = b1 + np.float32(1 << shift1 >> 1)  # shifting then rounds to nearest
        largest = float(np.abs(self.embedding).max())
        for name, weight, bias, bound in (("1", w1, b1, largest), ("2", w2, b2, float(MAX_ACTIVATION))):
            if (np.abs(weight).sum(1, dtype=np.float64) * bound + np.abs(bias)).max() >= _EXACT:
                raise ValueError(
                    f"layer {name} of codebook {k} can exceed 2^24, where float32 stops being exact"
                )
        return Head(w1, b1, w2, b2, shift1, shift2)

    def _hash(self) -> str:
        digest = hashlib.sha256(json.dumps(asdict(self.config), sort_keys=True).encode())
        for name in sorted(self.tensors):
            digest.update(name.encode() + self.tensors[name].astype("<i4").tobytes())
        return digest.hexdigest()[:16]

    def weights_of(self, codes: np.ndarray) -> Iterator[np.ndarray]:
        """For each codebook of a packet's codes (S, K, T), the weights (T * S, V) of all its symbols, frame
        by frame.

        The same numbers as PacketContext gives one frame after the other.
        """
        streams, n_codebooks, frames = codes.shape
        config = self.config
        if n_codebooks > config.n_codebooks:
            raise UsageError(f"{n_codebooks} codebooks, but this entropy model knows {config.n_codebooks}")
        x = np.empty((frames, streams, n_codebooks, config.past + 1, config.embedding), dtype=np.float32)
        for k in range(n_codebooks):
            table = self.embedding[k]
            present = table[codes[:, k].T]  # (T, S, D)
            x[:, :, k, config.past] = present
            for d in range(1, config.past + 1):
                x[d:, :, k, d - 1] = present[: max(frames - d, 0)]
                x[:d, :, k, d - 1] = table[config.codebook_size]
        x = x.reshape(frames * streams, n_codebooks * (config.past + 1) * config.embedding)
        for k in range(n_codebooks):
            yield self._weights(k, x[:, : config.sources(k) * config.embedding])

    def _weights(self, k: int, x: np.ndarray) -> np.ndarray:
        """x (n, sources * D) to weights (n, V) float64, integers in [1, 2^MAX_BITS]."""
        head = self.heads[k]
        h = x @ head.w1.T
        h += head.b1
        h *= np.float32(2.0**-head.shift1)  # a power of two: exact
        np.floor(h, out=h)
        np.clip(h, 0, MAX_ACTIVATION, out=h)
        y = h @ head.w2.T
        y += head.b2
        np.subtract(
            y.max(axis=1, keepdims=True), y, out=y
        )  # exact where it matters: below 2^24, else clipped
        y *= np.float32(2.0**-head.shift2)
        np.minimum(y, np.float32(MAX_BITS * UNITS_PER_BIT), out=y)
        return self.table.take(y.astype(np.int32))  # truncation: y is not negative

    def to_bytes(self) -> bytes:
        """The safetensors file that `load` reads; the configuration is JSON in its metadata."""
        metadata = {
            "config": json.dumps({"family": "myna-entropy", **asdict(self.config)}),
            "codec_hash": self.codec_hash,
        }
        return save({k: np.ascontiguousarray(v) for k, v in self.tensors.items()}, metadata=metadata)

    @classmethod
    def load(cls, path: str | Path) -> ContextModel:
        """Read a file of `to_bytes`. Raises InputError when the file is something else."""
        try:
            with safe_open(str(path), framework="np") as file:
                metadata = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
            config = json.loads(metadata["config"])
            if config.pop("family") != "myna-entropy":
                raise ValueError("another family of model")
            return cls(ContextConfig(**config), tensors, metadata.get("codec_hash", ""))
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{path} is not an entropy model ({error}); expected a file that "
                "`python -m myna.training.models.context_model` wrote"
            ) from error


def expected_shapes(config: ContextConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a model."""
    K, V, D, H = config.n_codebooks, config.codebook_size, config.embedding, config.hidden
    shapes: dict[str, tuple[int, ...]] = {"embedding": (K, V + 1, D)}
    for k in range(K):
        shapes |= {
            f"heads.{k}.w1": (H, config.sources(k) * D),
            f"heads.{k}.b1": (H,),
            f"heads.{k}.w2": (V, H),
            f"heads.{k}.b2": (V,),
            f"heads.{k}.shifts": (2,),
        }
    return shapes


class PacketContext:
    """The context while a packet is decoded, symbol by symbol.

    >>> weights = context.weights(k); context.put(k, symbols)      # for each codebook, lowest first
    >>> context.next_frame()
    """

    def __init__(self, model: ContextModel, streams: int):
        config = model.config
        self.model, self.config = model, config
        shape = (streams, config.n_codebooks, config.past + 1, config.embedding)
        self.x = np.zeros(shape, dtype=np.float32)
        self.x[:, :, : config.past] = model.embedding[:, config.codebook_size, None]
        self.flat = self.x.reshape(streams, -1)

    def weights(self, k: int) -> np.ndarray:
        """(S, V) float64: the weights of codebook k in this frame, one row a stream."""
        return self.model._weights(k, self.flat[:, : self.config.sources(k) * self.config.embedding])

    def put(self, k: int, symbols: np.ndarray) -> None:
        """The code of each stream, (S,), in codebook k of this frame."""
        if symbols.max(initial=0) >= self.config.codebook_size or symbols.min(initial=0) < 0:
            raise CorruptStreamError(f"a code beyond the codebook of {self.config.codebook_size} entries")
        self.x[:, k, self.config.past] = self.model.embedding[k, symbols]

    def next_frame(self) -> None:
        """This frame becomes the latest of the past."""
        if self.config.past:
            self.x[:, :, 1 : self.config.past] = self.x[:, :, : self.config.past - 1].copy()
            self.x[:, :, 0] = self.x[:, :, self.config.past]
