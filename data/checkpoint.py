"""Files of weights, read without running anything in them, and loaded strictly: what all kinds of models share."""

from __future__ import annotations

import dataclasses
import json
import typing
import zipfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..errors import InputError, MissingModelError, UsageError
from .files import atomic_output, input_errors

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class CheckpointFile:
    """What a safetensors file holds: its tensors, and its metadata as text."""

    weights: dict[str, Tensor]
    metadata: dict[str, str]


def is_safetensors(path: str | Path) -> bool:
    """Whether a file is meant to be one, by its name or by how it begins. Raises InputError."""
    with input_errors(path), open(path, "rb") as opened:
        head = opened.read(10)
    # It starts with the length of its header (8 bytes) and the header's brace; torch's are zip archives, or pickles in
    # old ones.
    return Path(path).suffix == ".safetensors" or head[8:9] == b"{"


_SCALE = ".int8_scale"  # after the name of a tensor that is kept in 8 bits: one scale for each of its rows


def in_8_bits(weights: Mapping[str, Tensor], chosen: Callable[[str], bool]) -> dict[str, Tensor]:
    """Weights as a small file keeps them: those of which `chosen` says so in 8 bits with a scale for each row (of the
    first dimension), the rest in half precision. `read_safetensors` gives float32 back, with errors of up to half a
    step, a 254th of each row's largest weight."""
    kept: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if not tensor.is_floating_point():
            kept[name] = tensor
        elif not chosen(name):
            kept[name] = tensor.half()
        else:
            rows = tensor.float().flatten(1)
            scale = rows.abs().amax(1).clamp(min=1e-12) / 127
            kept[name] = (rows / scale[:, None]).round().to(torch.int8).view_as(tensor)
            kept[name + _SCALE] = scale
    return kept


def _restored(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a file as they are computed with: those in 8 bits as float32."""
    for scaled in [name for name in weights if name.endswith(_SCALE)]:
        scale, name = weights.pop(scaled), scaled.removesuffix(_SCALE)
        rows = weights.get(name)
        if rows is None or rows.dtype != torch.int8 or rows.ndim < 2 or scale.shape != rows.shape[:1]:
            raise ValueError(f"{scaled} does not belong to rows in 8 bits")
        weights[name] = rows.float() * scale.float().view(-1, *[1] * (rows.ndim - 1))
    return weights


def read_safetensors(path: str | Path) -> CheckpointFile:
    """All tensors (on the CPU) and metadata of a safetensors file; those that `in_8_bits` made small as float32. Raises
    MissingModelError or InputError."""
    if not Path(path).is_file():
        raise MissingModelError(f"no model file at {path}; `myna models list` shows the models to download")
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
            return CheckpointFile(_restored(weights), file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path} is not a whole safetensors file ({reason}); download or copy it again"
        ) from None


def safetensors_keys(path: str | Path) -> tuple[list[str], dict[str, str]]:
    """The names of the tensors and the metadata of a safetensors file, without its tensors. Raises InputError."""
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            return list(file.keys()), file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(
            f"{path} is not a whole safetensors file ({' '.join(str(error).split())}); download or copy it again"
        ) from None


def read_torch(path: str | Path) -> Mapping[str, Any]:
    """What `torch.save` wrote, read without running anything in it; its tensors are those of the file until they are
    copied. Raises InputError."""
    try:
        # What older versions of torch saved is no zip archive and cannot be mapped.
        package = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    # The restricted unpickler fails on arbitrary bytes in whichever way it stumbles.
    except Exception as error:
        reason = " ".join(str(error).split())[:80]
        raise InputError(
            f"{path} is not a whole checkpoint of plain weights ({type(error).__name__}: {reason}); "
            "download it again"
        ) from None
    if not isinstance(package, Mapping):
        raise InputError(
            f"{path} holds a {type(package).__name__}, expected named weights; download it again"
        )
    return package


class _Uninitialized(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _RANDOM_FILLS:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


_RANDOM_FILLS = frozenset(
    (
        nn.init.kaiming_uniform_,
        nn.init.kaiming_normal_,
        nn.init.uniform_,
        nn.init.normal_,
        nn.init.trunc_normal_,
        Tensor.uniform_,
        Tensor.normal_,
    )
)


def uninitialized() -> AbstractContextManager[Any]:
    """Modules made inside do not draw random weights, which `load_strictly` replaces anyway: that takes longer than to
    read a file. Until then their weights are whatever was in memory."""
    return _Uninitialized()


def load_strictly(
    model: nn.Module, weights: Mapping[str, Tensor], path: str | Path, assign: bool = False
) -> None:
    """Load all of the weights and nothing else. Raises InputError naming what differs.

    assign: the model takes the tensors themselves, as one on the meta device needs.
    """
    own = model.state_dict()
    wrong = [f"missing {key}" for key in own if key not in weights]
    wrong += [f"unknown {key}" for key in weights if key not in own]
    wrong += [
        f"{key} is {tuple(weights[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in weights and weights[key].shape != own[key].shape
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise InputError(
            f"{path}: weights do not fit the model: {'; '.join(wrong[:3])}{more}; download it again"
        )
    model.load_state_dict(dict(weights), strict=True, assign=assign)


def config_from_dict(kind: type, values: Mapping[str, Any], where: str | Path) -> Any:
    """A config dataclass from JSON: lists become tuples, nested configs are built. Raises InputError for keys
    that the config does not have and for values of the wrong type."""
    hints = typing.get_type_hints(kind)
    unknown = [key for key in values if key not in hints]
    if unknown:
        raise InputError(
            f"{where}: unknown key {unknown[0]!r} in its configuration; "
            "if a newer version wrote it, update myna"
        )
    built = {}
    for key, value in values.items():
        hint = hints[key]
        if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
            value = config_from_dict(typing.cast(type, hint), value, where)
        elif isinstance(value, list):
            value = tuple(value)
        if not _fits(value, hint):
            raise InputError(f"{where}: {key} = {value!r} in its configuration, expected {hint}")
        built[key] = value
    try:
        return kind(**built)
    except (ValueError, TypeError) as error:
        raise InputError(f"{where}: its configuration is refused: {error}") from None


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value from JSON is of the annotated type (as far as the configs here need it)."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return value in args
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(v, args[0]) for v in value)
    if origin is not None:  # a union such as int | None
        return any(_fits(value, arg) for arg in args)
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, (int, float) if hint is float else hint)


def save_checkpoint(
    model: nn.Module, config: Any, path: str | Path, family: str, notes: Mapping[str, str] | None = None
) -> None:
    """Write a model in the precision it is in, with its config (a dataclass), so that no other file is needed.

    family: what kind of model it is.   notes: further metadata.   Raises OutputError.
    """
    described = json.dumps({"family": family, **dataclasses.asdict(config)}, ensure_ascii=False)
    weights = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    with atomic_output(path, force=True) as file:
        file.write(save(weights, metadata={**(notes or {}), "config": described}))


def load_checkpoint(
    kind: Callable[[Any], M], config: type, path: str | Path, family: str, device: str | torch.device = "cpu"
) -> M:
    """The model of a file that `save_checkpoint` wrote, float32, in evaluation mode.

    kind, config: its class and that of its config.   Raises MissingModelError without the file, InputError when it is
    damaged or of another family.
    """
    file = read_safetensors(path)
    try:
        described = json.loads(file.metadata["config"])
        found = described.pop("family")
    except (ValueError, KeyError, TypeError, AttributeError):
        found = None
    if found != family:
        raise InputError(f"{path} holds {found or 'no model of myna'}, expected {family}; give another file")
    try:
        model = kind(config_from_dict(config, described, path))
    except (ValueError, TypeError, ZeroDivisionError, RuntimeError) as error:
        raise InputError(f"{path}: its configuration cannot be built: {error}") from None
    load_strictly(model, file.weights, path)
    return place(model, device).float().eval()


def place(model: M, device: str | torch.device) -> M:
    """The model on a device. Raises UsageError where torch finds none of that name."""
    try:
        return model.to(torch.device(device))
    except (RuntimeError, AssertionError) as error:  # a CPU-only torch asserts
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(
            f"device {device} cannot be used ({reason}); choose cpu, or cuda where a GPU is"
        ) from None
