"""Our checkpoints of a Whisper: one safetensors file, no other needed.

    metadata["config"] = {"family": "whisper", "name", "dims": {...}, "alignment_heads": [[layer, head], ...],
                          "n_tokens"}
    weights by OpenAI's names, and "vocabulary", (n,) uint8: n_tokens text tokens as `vocabularies.pack` writes them

A weight is kept in float16 where that loses nothing: most were published so.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from ...data.checkpoint import CheckpointFile, config_from_dict
from ...data.files import atomic_output, check_output
from ...errors import InputError
from ..adapters.assemble import assemble
from ..vocabularies import pack, unpack
from .whisper import Whisper, WhisperDims

FAMILY = "whisper"
_VOCABULARY = "vocabulary"


@dataclasses.dataclass(frozen=True)
class WhisperConfig:
    """What the metadata says. n_tokens: text tokens in the vocabulary, 0 for a model without one."""

    name: str
    dims: WhisperDims
    alignment_heads: tuple[tuple[int, int], ...]
    n_tokens: int


def save_checkpoint(model: Whisper, path: str | Path, force: bool = False) -> None:
    """Write a model with its vocabulary. Raises UsageError or OutputError as `atomic_output` does."""
    check_output(path, force)
    vocabulary = model.vocabulary or ()
    config = WhisperConfig(model.name, model.dims, model.alignment_heads, len(vocabulary))
    weights = {key: _half(value.detach().cpu()).contiguous() for key, value in model.state_dict().items()}
    if vocabulary:
        weights[_VOCABULARY] = torch.from_numpy(np.frombuffer(pack(vocabulary), np.uint8).copy())
    described = json.dumps({"family": FAMILY, **dataclasses.asdict(config)})
    with atomic_output(path, force=force) as file:
        file.write(save(weights, metadata={"config": described}))


def is_checkpoint(metadata: dict[str, str]) -> bool:
    """Whether the metadata of a safetensors file is that of a Whisper of ours."""
    try:
        return json.loads(metadata["config"])["family"] == FAMILY
    except (KeyError, ValueError, TypeError):
        return False


def build_checkpoint(file: CheckpointFile, path: str | Path) -> Whisper:
    """The model of a file that has been read, float32, in evaluation mode. Raises InputError where it is damaged or of
    a version to come."""
    described: dict[str, Any] = json.loads(file.metadata["config"])
    described.pop("family")
    heads = described.get("alignment_heads")
    if isinstance(heads, list):
        described["alignment_heads"] = tuple(tuple(h) if isinstance(h, list) else h for h in heads)
    config = config_from_dict(WhisperConfig, described, path)
    weights = dict(file.weights)
    packed = weights.pop(_VOCABULARY, None)
    vocabulary = None
    if config.n_tokens:
        try:
            if packed is None:
                raise ValueError("it is missing")
            vocabulary = unpack(packed.numpy().tobytes(), config.n_tokens)
        except ValueError as error:
            raise InputError(f"{path}: its vocabulary is damaged ({error}); convert it again") from None
    dims = config.dims
    return assemble(
        weights,
        path,
        config.name,
        dims.n_audio_head,
        dims.n_text_head,
        config.alignment_heads,
        vocabulary,
        stated=dataclasses.asdict(dims),
    )


def _half(value: Tensor) -> Tensor:
    half = value.half()
    return half if torch.equal(half.float(), value) else value
