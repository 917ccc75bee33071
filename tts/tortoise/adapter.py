"""TorToise's published files, read without running anything in them, and its networks in our own format.

published   NAME.pth, checked against its published sha256; in a folder of one's own any file of the same layout
ours        NAME.safetensors, the configuration in its metadata, the sha256 of its source beside it
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ...data.checkpoint import config_from_dict, load_strictly, read_safetensors, read_torch
from ...data.files import atomic_output
from ...errors import InputError, MissingModelError, UsageError
from .files import FAMILY, FILES, check_published, file_sha256, find_network, tortoise_dir
from .layout import LAYOUTS


def load_network(network: str, folder: Path | None = None) -> nn.Module:
    """A network, float32, on the CPU, in evaluation mode.

    folder: None for the cache, where a published file must be what its publisher states; in any other, files of the
    same layout will do, such as fine-tuned ones. Raises MissingModelError, InputError.
    """
    path = find_network(network, folder)
    if path is None:
        file = FILES[network]
        where = tortoise_dir() if folder is None else folder
        raise MissingModelError(
            f"{file.name} is not in {where}; {file.needed_for} needs it: `myna models download tortoise` fetches it"
        )
    if path.suffix == ".safetensors":
        return _load_ours(network, path)
    if folder is None:
        check_published(FILES[network], path)
    return load_published(network, path)


def load_published(network: str, path: Path) -> nn.Module:
    """The network of a `.pth` in the published layout, strictly. Its weights stay in the file until they are used,
    where they can. Raises InputError."""
    weights = _published_weights(network, path)
    try:
        config = LAYOUTS[network].dimensions(weights)
    except (KeyError, IndexError, ValueError) as error:
        raise InputError(
            f"{path} is not laid out as {FILES[network].name} ({error} is missing); download it again"
        ) from None
    return _assemble(network, config, weights, path)


def mapped_weights(network: str, folder: Path | None = None) -> Mapping[str, Tensor]:
    """A network's weights by our names, mapped from its file anew and not yet read. Raises as `load_network`."""
    path = find_network(network, folder)
    if path is None:
        raise MissingModelError(f"{FILES[network].name} is gone; `myna models download tortoise` fetches it")
    return (
        read_safetensors(path).weights if path.suffix == ".safetensors" else _published_weights(network, path)
    )


def _published_weights(network: str, path: Path) -> dict[str, Tensor]:
    layout = LAYOUTS[network]
    weights: Mapping[str, Any] = read_torch(path)
    if layout.inside is not None:
        weights = weights.get(layout.inside, {})
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise InputError(f"{path} does not hold named weights of TorToise's {network}; download it again")
    return layout.translate(weights)


def convert_folder(source: Path | None, target: Path, force: bool = False) -> list[Path]:
    """Write every network of a folder (None: the cache) into another as our safetensors; returns what was written.
    Raises UsageError where one exists without `force`, MissingModelError where there is nothing to convert."""
    if target.exists() and not target.is_dir():
        raise UsageError(f"{target} is a file; TorToise is several networks, give a folder")
    found = {network: find_network(network, source) for network in FILES}
    if not any(found.values()):
        raise MissingModelError(
            f"there are no files of TorToise in {source or tortoise_dir()}; "
            f"expected {', '.join(file.name for file in FILES.values())}"
        )
    target.mkdir(parents=True, exist_ok=True)
    written = []
    for network, path in found.items():
        if path is None or path.suffix == ".safetensors":
            continue
        out = target / f"{network}.safetensors"
        if out.exists() and not force:
            raise UsageError(f"{out} exists; --force overwrites it")
        if source is None:
            check_published(FILES[network], path)
        save_network(network, load_published(network, path), out, file_sha256(path))
        written.append(out)
    return written


def convert_file(source: Path, target: Path) -> None:
    """Write one published file, known by its name, as our safetensors. Raises InputError."""
    network = next(network for network, file in FILES.items() if file.name == source.name)
    save_network(network, load_published(network, source), target, file_sha256(source))


def save_network(network: str, model: nn.Module, path: Path, source_sha256: str = "") -> None:
    """Write a network with its configuration, whole or not at all."""
    config: Any = model.config
    described = json.dumps({"family": FAMILY, "network": network, **dataclasses.asdict(config)})
    weights = {key: value.detach().contiguous() for key, value in model.state_dict().items()}
    with atomic_output(path, force=True) as file:
        # By its name: what `save` returns would be all of it in memory once more.
        save_file(weights, file.name, {"config": described, "source_sha256": source_sha256})


def _load_ours(network: str, path: Path) -> nn.Module:
    file = read_safetensors(path)
    try:
        described: dict[str, Any] = json.loads(file.metadata["config"])
        if (described.pop("family"), described.pop("network")) != (FAMILY, network):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(
            f"{path} is not TorToise's {network}; convert it again: `myna models convert`"
        ) from None
    config = config_from_dict(LAYOUTS[network].config, described, path)
    return _assemble(network, config, file.weights, path)


def _assemble(network: str, config: Any, weights: Mapping[str, Tensor], path: Path) -> nn.Module:
    """Built without memory of its own, so that the weights are there once."""
    try:
        with torch.device("meta"):
            model = LAYOUTS[network].model(config)
    except (ValueError, TypeError, ZeroDivisionError, RuntimeError) as error:
        raise InputError(f"{path}: its dimensions cannot be built: {error}") from None
    load_strictly(model, weights, path, assign=True)
    return model.requires_grad_(False).float().eval()
