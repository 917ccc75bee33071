"""OpenAI's checkpoints: {"dims": ..., "model_state_dict": ...} of `torch.save`, most in float16. Their names are ours;
there is no vocabulary in them and no alignment heads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ...errors import InputError
from ..model.whisper import Whisper
from .assemble import assemble


def is_openai(package: Mapping[str, Any]) -> bool:
    """Whether what a `.pt` file holds is laid out as OpenAI's."""
    return "dims" in package and "model_state_dict" in package


def load_openai(package: Mapping[str, Any], path: str | Path, name: str) -> Whisper:
    """The model of a package that has been read. Raises InputError where it is not whole."""
    stated, weights = package["dims"], package["model_state_dict"]
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise InputError(f"{path}: its model_state_dict is not named weights; download it again")
    if not isinstance(stated, Mapping):
        raise InputError(f"{path}: its dims are {stated!r}, not dimensions by name; download it again")
    return assemble(
        dict(weights), path, name, stated.get("n_audio_head"), stated.get("n_text_head"), stated=stated
    )
