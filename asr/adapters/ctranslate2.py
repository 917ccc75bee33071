"""Whisper as CTranslate2 lays it out, the folders of faster-whisper:

    model.bin              variables by name, then aliases, tightly packed, little-endian (ctranslate2's
                           specs/model_spec.py writes it, src/models/model.cc reads it)
    config.json            alignment_heads, in conversions since 2023
    vocabulary.json        a list by id; vocabulary.txt, a line each, in older conversions

    model.bin := u32 version, str spec, u32 revision, u32 n, n variables, u32 m, m aliases
    variable  := str name, u8 rank, u32 dims[rank], u8 dtype, u32 n_bytes, bytes
                 before version 4, for dtype and n_bytes: u8 bytes of an item, u32 items
    alias     := str alias, str name                                                 (since version 3)
    str       := u16 length with the closing zero, bytes

A quantized weight is an integer q with a variable NAME_scale: weight = q / scale.
"""

from __future__ import annotations

import math
import mmap
import struct
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...data.files import input_errors
from ...errors import InputError, MissingModelError
from ..model.whisper import Whisper
from .assemble import assemble, read_config, read_json, text_tokens

VERSIONS, REVISIONS, SPEC = range(2, 7), range(1, 4), "WhisperSpec"

_DTYPES = (torch.float32, torch.int8, torch.int16, torch.int32, torch.float16, torch.bfloat16)
_OLD_DTYPES = {4: torch.float32, 2: torch.int16, 1: torch.int8}  # by the bytes of an item
_OLD_INT16_SCALE = 1000.0  # of conversions that did not write one
_MAX_RANK = 8

# CTranslate2's own settings, which are the same in every Whisper or are found in the shapes.
_SETTINGS = [
    "activation",
    "alibi",
    "alibi_use_positive_positions",
    "alignment_heads",
    "alignment_layer",
    "num_heads",
    "pre_norm",
    "scale_alibi",
    "scale_embeddings",
    "scale_outputs",
    "start_from_zero_embedding",
]
_NORM = {"gamma": "weight", "beta": "bias"}


def load_ctranslate2(folder: Path, name: str) -> Whisper:
    """The model of a folder. Raises MissingModelError without its model.bin, InputError where it is damaged, foreign or
    of a version to come."""
    path = folder / "model.bin"
    if not path.is_file():
        raise MissingModelError(f"no model.bin in {folder}; give a whole folder as CTranslate2 lays it out")
    with input_errors(path), open(path, "rb") as file:
        size = file.seek(0, 2)
        if size == 0:
            raise InputError(f"{path} is empty; download it again")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            variables = _Reader(data, path).read()
    audio_heads = _integer(variables.get("encoder/num_heads"), path)
    text_heads = _integer(variables.get("decoder/num_heads"), path)
    config = read_config(folder / "config.json")
    vocabulary = _vocabulary(folder, variables.get("decoder/embeddings/weight"))
    weights = _rename(variables, path)
    del variables  # `assemble` frees one weight after another
    return assemble(weights, path, name, audio_heads, text_heads, config.get("alignment_heads"), vocabulary)


def is_model_bin(path: Path) -> bool:
    """Whether a file begins as a Whisper of CTranslate2 does."""
    begins = struct.pack("<H", len(SPEC) + 1) + SPEC.encode() + b"\0"
    with input_errors(path), open(path, "rb") as file:
        return file.read(4 + len(begins))[4:] == begins


class _Reader:
    """Reads model.bin front to back, never past its end."""

    def __init__(self, data: mmap.mmap, path: Path):
        self.data, self.path, self.at = data, path, 0

    def read(self) -> dict[str, Tensor]:
        """All variables, those of other names included, dequantized to float32 where they were."""
        version = self.number("I")
        if version > VERSIONS[-1]:
            # What is no model at all also begins with some number.
            raise self.refused(
                f"is of binary version {version}, expected {VERSIONS[-1]} at most", "not a newer one"
            )
        if version not in VERSIONS:
            raise self.refused(
                f"is of binary version {version}", "convert it again with ctranslate2 of 2022 or later"
            )
        spec = self.string()
        if spec != SPEC:
            raise self.refused(f"holds a {spec[:40]!r}, not a {SPEC}", "give the folder of a Whisper")
        revision = self.number("I")
        if revision not in REVISIONS:
            raise self.refused(
                f"is of revision {revision}, expected {REVISIONS[-1]} at most", "not a newer one"
            )
        variables = dict(self.variable(version) for _ in range(self.number("I")))
        if version >= 3:
            for _ in range(self.number("I")):
                alias, name = self.string(), self.string()
                if name not in variables:
                    raise self.refused(f"names {name[:80]!r}, which it does not hold", "download it again")
                variables[alias] = variables[name]
        if self.at != len(self.data):
            raise self.refused(f"goes on after its end at byte {self.at}", "download it again")
        return self.dequantize(variables)

    def variable(self, version: int) -> tuple[str, Tensor]:
        name, rank = self.string(), self.number("B")
        if rank > _MAX_RANK:
            raise self.refused(f"gives {name[:80]!r} {rank} dimensions", "download it again")
        shape = [self.number("I") for _ in range(rank)]
        kind, n = self.number("B"), self.number("I")
        dtype = _OLD_DTYPES.get(kind) if version < 4 else _DTYPES[kind] if kind < len(_DTYPES) else None
        if dtype is None:
            raise self.refused(f"gives {name[:80]!r} the unknown type {kind}", "download it again")
        n_bytes = n * dtype.itemsize if version < 4 else n
        if n_bytes != math.prod(shape) * dtype.itemsize:
            raise self.refused(
                f"gives {name[:80]!r} {n_bytes} bytes for {shape} of {dtype}", "download it again"
            )
        begins = self.skip(n_bytes)
        tensor = torch.empty(n_bytes, dtype=torch.uint8)
        tensor.numpy()[:] = memoryview(self.data)[begins : self.at]  # nothing in the file is aligned
        return name, tensor.view(dtype).view(shape)

    def dequantize(self, variables: dict[str, Tensor]) -> dict[str, Tensor]:
        made: dict[int, Tensor] = {}  # by the integers' identity: aliases stay one tensor
        for name, value in variables.items():
            if value.ndim == 0 or value.dtype not in (torch.int8, torch.int16):
                continue
            if id(value) not in made:
                made[id(value)] = self.weight(name, value, variables.get(f"{name}_scale"))
        return {
            name: made.get(id(value), value)
            for name, value in variables.items()
            if not name.endswith(("_scale", "_zero"))
        }

    def weight(self, name: str, value: Tensor, scale: Tensor | None) -> Tensor:
        """int8: a scale a row, of what is flattened to (rows, ...); int16: one for all."""
        if scale is None and value.dtype == torch.int16:
            scale = torch.tensor(_OLD_INT16_SCALE)
        if scale is None or not scale.is_floating_point() or scale.numel() not in (1, value.shape[0]):
            shown = "no scale" if scale is None else f"a scale of {tuple(scale.shape)}"
            raise self.refused(f"gives {name!r} {shown} for {tuple(value.shape)}", "download it again")
        rows = scale.float().reshape(-1, *(1 for _ in value.shape[1:]))
        return value.float() / rows

    def number(self, kind: str) -> int:
        at = self.skip(struct.calcsize(kind))
        return struct.unpack_from(f"<{kind}", self.data, at)[0]

    def string(self) -> str:
        length = self.number("H")
        at = self.skip(length)
        text = self.data[at : self.at]
        if not text.endswith(b"\0"):
            raise self.refused(
                f"has no name at byte {at}", "it is not a model of CTranslate2's, or is damaged"
            )
        return text[:-1].decode("utf-8", "replace")

    def skip(self, n_bytes: int) -> int:
        """Where the next n bytes begin."""
        begins = self.at
        self.at += n_bytes
        if self.at > len(self.data):
            raise self.refused(
                f"ends at byte {len(self.data)}, before byte {self.at} of what it holds", "download it again"
            )
        return begins

    def refused(self, what: str, remedy: str) -> InputError:
        return InputError(f"{self.path} {what}; {remedy}")


def _rename(variables: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """OpenAI's names, the fused projections parted. What neither knows keeps its name, and loading refuses it."""
    weights: dict[str, Tensor] = {}
    embedding, projection = "decoder/embeddings/weight", "decoder/projection/weight"
    tied = variables.get(embedding), variables.get(projection)
    if (
        tied[1] is not None
        and tied[1] is not tied[0]
        and (tied[0] is None or not torch.equal(tied[0], tied[1]))
    ):
        raise InputError(
            f"{path}: its output projection is not its embedding, as in a Whisper; give another model"
        )
    for name, value in variables.items():
        part, _, rest = name.partition("/")
        if rest in _SETTINGS or name == projection:
            continue
        if rest.startswith("layer_") and rest[6:7].isdigit():
            layer, _, rest = rest.removeprefix("layer_").partition("/")
            for key, tensor in _layer(rest, value).items():
                weights[f"{part}.blocks.{layer}.{key}"] = tensor
        else:
            weights[_outside(part, rest, name)] = value
    return weights


def _outside(part: str, rest: str, name: str) -> str:
    if rest == "position_encodings/encodings":
        return f"{part}.positional_embedding"
    if rest == "embeddings/weight":
        return f"{part}.token_embedding.weight"
    module, _, kind = rest.rpartition("/")
    if module == "layer_norm":
        return f"{part}.{'ln_post' if part == 'encoder' else 'ln'}.{_NORM.get(kind, kind)}"
    return f"{part}.{module}.{kind}" if module in ("conv1", "conv2") else name


def _layer(rest: str, value: Tensor) -> dict[str, Tensor]:
    """The weights of one variable of a layer: rows of fused projections are query, key and value in this order."""
    module, _, kind = rest.rpartition("/")
    block, _, inner = module.partition("/")
    ours = {"self_attention": "attn", "attention": "cross_attn", "ffn": "mlp"}.get(block, block)
    if inner == "layer_norm":
        return {f"{ours}_ln.{_NORM.get(kind, kind)}": value}
    if ours == "mlp":
        return {f"mlp.{({'linear_0': 0, 'linear_1': 2}).get(inner, inner)}.{kind}": value}
    fused = {
        ("attn", "linear_0"): ("query", "key", "value"),
        ("attn", "linear_1"): ("out",),
        ("cross_attn", "linear_0"): ("query",),
        ("cross_attn", "linear_1"): ("key", "value"),
        ("cross_attn", "linear_2"): ("out",),
    }.get((ours, inner))
    if fused is None or value.ndim == 0 or value.shape[0] % len(fused):
        return {rest: value}
    rows = dict(zip(fused, value.chunk(len(fused)), strict=True))
    # The key has no bias: its rows are zeros, and whatever they were would not change a softmax over the keys.
    return {f"{ours}.{key}.{kind}": part for key, part in rows.items() if (key, kind) != ("key", "bias")}


def _integer(value: Tensor | None, path: Path) -> int | None:
    if value is None or value.numel() != 1 or value.is_floating_point():
        raise InputError(
            f"{path} does not say its number of heads; convert it again with a current ctranslate2"
        )
    return int(value)


def _vocabulary(folder: Path, embedding: Tensor | None) -> tuple[bytes, ...] | None:
    """The text tokens of vocabulary.json, else vocabulary.txt; None without either."""
    path = folder / "vocabulary.json"
    tokens: Any = read_json(path)
    if tokens is None:
        path = folder / "vocabulary.txt"
        if not path.is_file():
            return None
        with input_errors(path):
            data = path.read_bytes()
        # A blank line is the empty token that every multilingual vocabulary has.
        tokens = data.decode("utf-8", "replace").replace("\r\n", "\n").removesuffix("\n").split("\n")
    if not isinstance(tokens, list):
        raise InputError(f"{path} is not a list of tokens; download it again")
    if embedding is not None and len(tokens) != embedding.shape[0]:
        raise InputError(
            f"{path} holds {len(tokens)} tokens, the model beside it has {embedding.shape[0]}; use those of one model"
        )
    return text_tokens(tokens, path)
