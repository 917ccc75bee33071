"""Checkpoints of the speech models: one safetensors file each, and the ones that ship.

    metadata: config {"family": "ar" | "nar" | "vocoder", <every field of the config>}, codec_hash (16 hex digits of the
              hash of the weights of the codec whose codes the model speaks), and notes of the trainer

Nothing in the file can run code, and no other file is needed.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save

from ..data.checkpoint import config_from_dict, load_strictly, read_safetensors
from ..data.files import atomic_output
from ..errors import InputError, MissingModelError
from .decoders.nar import NARConfig, NARModel
from .decoders.vocoder import Vocoder, VocoderConfig
from .lm.ar import ARConfig, ARModel

WEIGHTS = Path(__file__).resolve().parent.parent / "weights"
SHIPPED_AR, SHIPPED_NAR = WEIGHTS / "myna-ar.safetensors", WEIGHTS / "myna-nar.safetensors"
SHIPPED_VOCODER = WEIGHTS / "myna-vocoder.safetensors"

_FAMILIES: dict[str, tuple[type, type]] = {
    "ar": (ARConfig, ARModel),
    "nar": (NARConfig, NARModel),
    "vocoder": (VocoderConfig, Vocoder),
}
_SAYS = {
    "ar": "an autoregressive speech model",
    "nar": "a non-autoregressive speech model",
    "vocoder": "a vocoder",
}

M = TypeVar("M", ARModel, NARModel, Vocoder)


def save_model(
    model: ARModel | NARModel | Vocoder, path: str | Path, codec_hash: str, notes: Mapping[str, str]
) -> None:
    """Write a model in the precision it is in. codec_hash: 16 hex digits. notes: further metadata.
    Raises OutputError."""
    family = next(name for name, (config, _) in _FAMILIES.items() if isinstance(model.config, config))
    described = json.dumps({"family": family, **dataclasses.asdict(model.config)})
    weights = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    with atomic_output(path, force=True) as file:
        file.write(save(weights, metadata={**notes, "codec_hash": codec_hash, "config": described}))


def load_ar(
    path: str | Path = SHIPPED_AR, device: str | torch.device = "cpu", codec_hash: str | None = None
) -> ARModel:
    """The autoregressive model of a file, float32, in evaluation mode.

    codec_hash: of the codec that is to speak its codes. Raises MissingModelError without the file or for another
    codec's, InputError when it is damaged or of another kind.
    """
    return _load("ar", ARModel, path, device, codec_hash)


def load_nar(
    path: str | Path = SHIPPED_NAR, device: str | torch.device = "cpu", codec_hash: str | None = None
) -> NARModel:
    """The non-autoregressive model of a file, as `load_ar`."""
    return _load("nar", NARModel, path, device, codec_hash)


def load_vocoder(
    path: str | Path = SHIPPED_VOCODER,
    device: str | torch.device = "cpu",
    codec_hash: str | None = None,
    ar_hash: str | None = None,
) -> Vocoder:
    """The vocoder of a file, as `load_ar`. ar_hash: of the AR whose hidden states it is to read; MissingModelError for
    another's."""
    vocoder = _load("vocoder", Vocoder, path, device, codec_hash)
    known = read_safetensors(path).metadata.get("ar_hash", "")
    if ar_hash is not None and (not known or ar_hash[: len(known)] != known):
        raise MissingModelError(
            f"{path} reads the hidden states of the AR {known or 'of an unknown hash'}, but the AR here is "
            f"{ar_hash[:16]}; use the two that were trained together, or train it anew: myna train "
            "recipes/myna-vocoder-cpu.yaml"
        )
    return vocoder


def _load(
    family: str, kind: type[M], path: str | Path, device: str | torch.device, codec_hash: str | None
) -> M:
    file = read_safetensors(path)
    try:
        described: dict[str, Any] = json.loads(file.metadata["config"])
        if described.pop("family") != family:
            raise ValueError
        spoken = file.metadata["codec_hash"]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(
            f"{path} is not {_SAYS[family]}; give one that `myna train myna-{family}` wrote"
        ) from None
    if codec_hash is not None and codec_hash[: len(spoken)] != spoken:
        raise MissingModelError(
            f"{path} speaks the codes of the codec {spoken}, but the codec here is {codec_hash[: len(spoken)]}; "
            "use the two that were trained together"
        )
    config, _ = _FAMILIES[family]
    for key, value in described.items():  # lists of lists
        if isinstance(value, list):
            described[key] = tuple(tuple(v) if isinstance(v, list) else v for v in value)
    dimensions = config_from_dict(config, described, path)
    try:
        model = kind(dimensions)
    except (ValueError, TypeError, ZeroDivisionError, RuntimeError) as error:
        raise InputError(f"{path}: its configuration cannot be built: {error}") from None
    load_strictly(model, file.weights, path)
    return model.to(device).float().eval()
