"""A codec's products in the precision that was asked for, or that pays on this machine.

What is turned are the large products inside residual branches: DAC's and EnCodec's wide convolutions, the pairs of
ConvNeXt. What runs from end to end, where errors add up (transposed convolutions, the LSTM, the first and last
layer), stays in float32. Of a decoder in bf16 only so much is turned that its sound stays within -50 dB of float32's,
which is measured, since it depends on the weights: with everything in bf16 it is -41 to -43 dB (docs/log.md).
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import nn

from ..data.download import cache_dir
from ..data.files import atomic_output
from ..errors import MynaError
from ..kernels.precision import Precision, choose
from ..layers import Conv1d, Residual
from ..layers.convnext import ConvNeXtBlock
from .base import Codec, Codes
from .checkpoint import weights_hash

_WIDE = 128  # channels of a convolution whose products take longer than its copies
_LIMIT = 10**-5.15  # of all errors together, as a share of the power: -51.5 dB on what is tried
_FRAMES = 4  # of codes on which the errors are measured
_safe: WeakKeyDictionary[nn.Module, list[str]] = WeakKeyDictionary()


@dataclass(frozen=True)
class CodecPrecision:
    """Of a codec's products."""

    encoder: Precision
    decoder: Precision


def set_precision(codec: Codec, requested: str = "auto") -> CodecPrecision:
    """Change the precision of a codec's products, from now on; its weights stay as they are. Returns what was chosen.

    requested: auto, float32, bf16 or int8. auto leaves encoders in float32, so that codes are everywhere the same.
    Raises UsageError as `kernels.precision.check_precision` does.
    """
    device = next(codec.parameters()).device
    chosen = CodecPrecision(
        choose(requested, "codec encoder", device), choose(requested, "codec decoder", device)
    )
    for name in ("encoder", "decoder"):
        network = getattr(codec, name, None)
        if not isinstance(network, nn.Module):
            continue
        precision = getattr(chosen, name)
        safe = None
        if name == "decoder" and precision == "bf16":
            safe = _safe_parts(codec, network, candidates(network))
        turn(network, precision, safe)
    return chosen


def turn(network: nn.Module, precision: Precision, only: list[str] | None = None) -> None:
    """Change the precision of a network's large products, of those in `only` if it is given, by name."""
    for name, part in candidates(network).items():
        part.products = precision if only is None or name in only else "float32"


def candidates(network: nn.Module) -> dict[str, Conv1d | ConvNeXtBlock]:
    """The layers of a network whose products can be turned, by name."""
    found: dict[str, Conv1d | ConvNeXtBlock] = {}
    for name, module in network.named_modules():
        if isinstance(module, ConvNeXtBlock):
            found[name] = module
        elif isinstance(module, Residual):
            found |= {
                f"{name}.body.{inner}": conv
                for inner, conv in module.body.named_modules()
                if isinstance(conv, Conv1d) and _is_large(conv)
            }
    return found


def _is_large(conv: Conv1d) -> bool:
    return conv.groups == 1 and conv.kernel_size > 1 and conv.in_channels >= _WIDE


def _safe_parts(codec: Codec, decoder: nn.Module, parts: dict[str, Conv1d | ConvNeXtBlock]) -> list[str]:
    """The parts of a decoder whose errors in bf16 together stay below the limit. Measured once for its weights on this
    machine (for DAC that takes seconds) and kept beside what is downloaded."""
    if decoder not in _safe:
        kept = cache_dir() / "precision" / f"{weights_hash(codec)[:16]}.json"
        try:
            found = json.loads(kept.read_text())
            _safe[decoder] = [name for name in found["bf16"] if name in parts]
        except (OSError, ValueError, KeyError, TypeError):
            _safe[decoder] = _measured(codec, parts)
            with suppress(MynaError, OSError):  # a cache that cannot be written is measured anew
                kept.parent.mkdir(parents=True, exist_ok=True)
                with atomic_output(kept, force=True) as file:
                    file.write(json.dumps({"bf16": _safe[decoder]}).encode())
    return _safe[decoder]


@torch.no_grad()
def _measured(codec: Codec, parts: dict[str, Conv1d | ConvNeXtBlock]) -> list[str]:
    """Those with most products for their error first, as many as fit; errors on a few frames of random codes."""
    generator = torch.Generator().manual_seed(0)
    shape = 1, codec.n_codebooks, _FRAMES
    drawn = torch.randint(codec.codebook_size, shape, generator=generator)
    # One segment of loudness 1, where a codec stores that (EnCodec 48 kHz).
    codes = Codes(drawn, _FRAMES * codec.frame_size, torch.ones(1, 1))
    before: dict[str, Precision] = {name: part.products for name, part in parts.items()}
    for part in parts.values():
        part.products = "float32"
    exact = codec.decode(codes).double()
    power = exact.square().sum().clamp(min=1e-30)
    errors: dict[str, float] = {}
    for name, part in parts.items():
        part.products = "bf16"
        errors[name] = float((codec.decode(codes) - exact).square().sum() / power)
        part.products = "float32"
    for name, part in parts.items():
        part.products = before[name]
    chosen, spent = [], 0.0
    for name in sorted(parts, key=lambda name: errors[name] / _products(parts[name])):
        if spent + errors[name] <= _LIMIT:
            chosen.append(name)
            spent += errors[name]
    return chosen


def _products(part: Conv1d | ConvNeXtBlock) -> int:
    """How many there are a frame, of all that the part's weights take part in; its rate is not known and left out."""
    return sum(weight.numel() for weight in part.parameters())
