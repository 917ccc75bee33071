"""What a voice's recordings have taught a model, as it is kept with the voice and used.

Parts of the speech models have names: "ar", "flow". An adapter belongs to the weights it was learned beside.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ...codec.checkpoint import weights_hash
from ...errors import InputError
from ...layers.lora import LoRAWeights, adapted
from .quantize import folded_gains

LARGEST = 3_000_000  # bytes of all adapters of a voice
# Parts of earlier versions, which old voices may hold adapters of, and what took their place.
GONE = {"vocoder": "flow"}


@dataclass(frozen=True, eq=False)
class Adapter:
    """base: 16 hex digits of the hash of the weights it was learned beside.   facts: how it was made (JSON)."""

    weights: LoRAWeights
    base: str
    facts: Mapping[str, Any] = field(default_factory=dict)


def adapter_of(adapters: Mapping[str, Adapter], part: str, original: nn.Module) -> Adapter | None:
    """A voice's adapter of a part. original: the model as it was loaded. Raises InputError for one that was learned
    beside other weights."""
    adapter = adapters.get(part)
    if adapter is None:
        return None
    here = weights_hash(original)[: len(adapter.base)]
    if adapter.base != here:
        raise InputError(
            f"the voice was adapted to other weights of the part {part} ({adapter.base}) than these ({here}); adapt it "
            "again with `myna voices adapt`, or take the adaptation out with `myna voices adapt NAME --reset`"
        )
    return adapter


def folded(adapter: Adapter, original: nn.Module) -> LoRAWeights:
    """Its weights for what `for_inference` makes of the model."""
    return adapter.weights.scaled(folded_gains(original))


def adapted_model(
    adapters: Mapping[str, Adapter], part: str, original: nn.Module, prepared: nn.Module
) -> nn.Module:
    """The prepared model with the voice's adapter; itself where the voice has none. Raises as `adapter_of`, and for an
    adapter that does not fit."""
    adapter = adapter_of(adapters, part, original)
    if adapter is None:
        return prepared
    try:
        return adapted(prepared, folded(adapter, original))
    except ValueError as error:
        raise InputError(
            f"the voice's adapter of the part {part} does not fit ({error}); adapt it again with `myna voices adapt`"
        ) from None
