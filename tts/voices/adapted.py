"""A voice's adapters in its file.

tensors:  adapter/PART/LAYER/down (R, I), adapter/PART/LAYER/up (O, R), float16
          adapter-speaker/PART (E,), float16: the mean speaker vector, where the part has one
facts:    adapters: {PART: {"base": hash of the weights it belongs to, "scale": factor, "facts": how it was made}}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...errors import UsageError
from ...layers.lora import LoRAWeights
from ..lm.adapter import LARGEST, Adapter

_PREFIX, _SPEAKER = "adapter", "adapter-speaker"


def adapter_tensors(adapters: Mapping[str, Adapter]) -> dict[str, Tensor]:
    """By name in the file. Raises UsageError for adapters that are too large for a voice."""
    tensors: dict[str, Tensor] = {}
    for part, adapter in adapters.items():
        weights = adapter.weights.half()
        for side, each in (("down", weights.down), ("up", weights.up)):
            tensors |= {f"{_PREFIX}/{part}/{name}/{side}": tensor for name, tensor in each.items()}
        if adapter.speaker is not None:
            tensors[f"{_SPEAKER}/{part}"] = adapter.speaker.half().cpu().contiguous()
    n_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if n_bytes > LARGEST:
        raise UsageError(
            f"the voice's adapters have {n_bytes / 1e6:.1f} MB, at most {LARGEST / 1e6:g} are kept; give them a lower "
            "rank or fewer targets in the recipe"
        )
    return tensors


def describe_adapters(adapters: Mapping[str, Adapter]) -> dict[str, Any]:
    """What is said of them beside their tensors."""
    return {
        part: {"base": one.base, "scale": one.weights.scale, "facts": dict(one.facts)}
        for part, one in adapters.items()
    }


def read_adapters(described: Any, tensors: Mapping[str, Tensor]) -> dict[str, Adapter]:
    """What the two functions above gave. Raises ValueError, KeyError or TypeError for anything else."""
    sides: dict[str, dict[str, dict[str, Tensor]]] = {part: {"down": {}, "up": {}} for part in described}
    for key, tensor in tensors.items():
        if key.startswith(f"{_PREFIX}/"):
            _, part, name, side = key.split("/")
            if tensor.ndim != 2 or not bool(tensor.isfinite().all()):
                raise ValueError(key)
            sides[part][side][name] = tensor.float()
    adapters = {}
    for part, said in described.items():
        weights = LoRAWeights(sides[part]["down"], sides[part]["up"], float(said["scale"]))
        if not isinstance(said["base"], str) or not said["base"] or not isinstance(said["facts"], dict):
            raise ValueError(part)
        speaker = tensors.get(f"{_SPEAKER}/{part}")
        if speaker is not None and (speaker.ndim != 1 or not bool(speaker.isfinite().all())):
            raise ValueError(part)
        adapters[part] = Adapter(weights, said["base"], said["facts"], speaker)
    return adapters
