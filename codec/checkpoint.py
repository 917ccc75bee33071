"""Our checkpoints: one safetensors file whose metadata holds the configuration as JSON.

    metadata["config"] = {"family": "myna" | "myna-mel" | "encodec" | "encodec-lm" | "dac", <every field of the config>}
    metadata["codes_of"]   `Codec.codes_of`, where there is one

No other file is needed to rebuild the model, and nothing in the file can run code.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from safetensors.torch import save
from torch import Tensor, nn

from ..data.checkpoint import (
    CheckpointFile,
    config_from_dict,
    in_8_bits,
    load_strictly,
    read_safetensors,
    uninitialized,
)
from ..data.files import atomic_output
from ..errors import InputError, UsageError
from .base import Codec
from .dac import DAC, DACConfig
from .encodec import EncodecConfig, build_encodec
from .encodec_lm import EncodecLM, EncodecLMConfig
from .mel.codec import MelCodec, MelCodecConfig
from .myna import MynaCodec, MynaConfig


@dataclass(frozen=True)
class Family:
    """A kind of model: its config, and how to build it."""

    config: type
    build: Callable[[Any], nn.Module]


FAMILIES = {
    "myna": Family(MynaConfig, MynaCodec),
    "myna-mel": Family(MelCodecConfig, MelCodec),
    "encodec": Family(EncodecConfig, build_encodec),
    "encodec-lm": Family(EncodecLMConfig, EncodecLM),
    "dac": Family(DACConfig, DAC),
}


def save_checkpoint(
    model: nn.Module,
    path: str | Path,
    force: bool = True,
    notes: Mapping[str, str] | None = None,
    int8: bool = False,
) -> None:
    """Write a model (its `config` is a config of one of FAMILIES) with its weights.

    notes: further metadata, text to text, such as the training step.   int8: what bears it in 8 bits
    (`Codec.fit_for_int8`); the file reads the codes of the model that is given. Raises UsageError or OutputError as
    `data.files.atomic_output` does.
    """
    config = model.config
    family = next(name for name, family in FAMILIES.items() if isinstance(config, family.config))
    described = json.dumps({"family": family, **dataclasses.asdict(typing.cast(Any, config))})
    weights = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    metadata = {**(notes or {}), "config": described}
    codes_of = model.codes_of if isinstance(model, Codec) else ""
    if int8:
        if not isinstance(model, Codec) or not model.fit_for_int8:
            raise UsageError(
                f"{getattr(model, 'name', 'this model')} has no weights that bear 8 bits; leave int8 out"
            )
        fit, codes_of = model.fit_for_int8, codes_hash(model)
        weights = in_8_bits(weights, lambda name: name.endswith(fit))
    if codes_of:
        metadata["codes_of"] = codes_of
    with atomic_output(path, force=force) as file:
        file.write(save(weights, metadata=metadata))


def load_checkpoint(path: str | Path, device: str | torch.device = "cpu") -> nn.Module:
    """The model that `save_checkpoint` wrote, in evaluation mode.

    Raises MissingModelError if there is no such file, InputError if it is damaged, of another kind, or asks
    for something that this version does not know.
    """
    file = read_safetensors(path)
    if "config" not in file.metadata:
        raise InputError(
            f"{path} has no configuration inside: it is not a checkpoint of ours; try `myna models convert`"
        )
    return build_checkpoint(file, path).to(device)


def build_checkpoint(file: CheckpointFile, path: str | Path) -> nn.Module:
    """The model of a file that has been read. Raises InputError as `load_checkpoint` does."""
    try:
        described = json.loads(file.metadata["config"])
        family = FAMILIES[described.pop("family")]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(
            f"{path}: its configuration is not one of {', '.join(FAMILIES)}; is this a model of ours?"
        ) from None
    config = config_from_dict(family.config, described, path)
    try:
        with uninitialized():
            model = family.build(config)
    except (ValueError, TypeError, ZeroDivisionError, RuntimeError) as error:
        raise InputError(f"{path}: its configuration cannot be built: {error}") from None
    load_strictly(model, file.weights, path)
    if isinstance(model, Codec):
        model.codes_of = file.metadata.get("codes_of", "")
    return model.eval()


_HASHES: WeakKeyDictionary[nn.Module, tuple[object, str]] = WeakKeyDictionary()


def weights_hash(model: nn.Module) -> str:
    """sha256 (64 hex digits) over the names, shapes and values of a model's weights: the same weights have
    the same hash whichever file they came from. Made once, and again when a weight has changed (other than by
    way of its `.data`, which leaves no trace)."""
    weights = sorted(model.state_dict().items())
    # Weights made in inference mode do not count their changes.
    if any(value.is_inference() for _, value in weights):
        return _hash(weights)
    key = [(name, value.data_ptr(), value._version, value.shape, value.dtype) for name, value in weights]
    cached = _HASHES.get(model)
    if cached is None or cached[0] != key:
        cached = _HASHES[model] = (key, _hash(weights))
    return cached[1]


def codes_hash(codec: Codec) -> str:
    """What files, voices and language models know a codec by: sha256 (64 hex digits) of the weights that first made
    its codes. A decoder that has been trained on reads the codes of before, and the encoder still makes them."""
    return codec.codes_of or weights_hash(codec)


def _hash(weights: list[tuple[str, Tensor]]) -> str:
    digest = hashlib.sha256()
    for key, value in weights:
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
