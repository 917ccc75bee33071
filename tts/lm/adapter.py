"""What a voice's recordings have taught a model, as it is kept with the voice and used.

Parts of the speech models have names: "ar", "flow". An adapter belongs to the weights it was learned beside.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ...codec.checkpoint import weights_hash
from ...errors import InputError
from ...layers.lora import LoRAWeights, adapted
from .quantize import folded_gains

LARGEST = 3_000_000  # bytes of all adapters of a voice
# Parts of earlier versions, which old voices may hold adapters of, and what took their place.
GONE = {"vocoder": "flow"}


@dataclass(frozen=True, eq=False)
class Adapter:
    """base: 16 hex digits of the hash of the weights it was learned beside.   facts: how it was made (JSON).
    speaker (E,): the mean speaker vector of what it was learned from, which the part reads in place of the prompt's;
    None: the prompt's."""

    weights: LoRAWeights
    base: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    speaker: Tensor | None = None

    def digest(self) -> str:
        """Stands for all that it changes."""
        told = f"{self.base} {self.weights.digest()}"
        if self.speaker is not None:
            told += f" {hashlib.sha256(self.speaker.float().cpu().numpy().tobytes()).hexdigest()}"
        return told


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


def speaker_of(adapters: Mapping[str, Adapter], part: str, of_prompt: Tensor) -> Tensor:
    """The speaker vector (E,) that a part reads: the mean of what it was adapted to, else the prompt's. Raises
    InputError for one of another network."""
    adapter = adapters.get(part)
    if adapter is None or adapter.speaker is None:
        return of_prompt
    if adapter.speaker.shape != of_prompt.shape:
        raise InputError(
            f"the voice's adapter of the part {part} does not fit (its speaker vector has {len(adapter.speaker)} "
            f"numbers, not {len(of_prompt)}); adapt it again with `myna voices adapt`"
        )
    return adapter.speaker.to(of_prompt)


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
