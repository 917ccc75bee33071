"""The models that `myna` knows by name: where they come from, where they are kept, how they are loaded.

    load_codec("myna-24k-v2")              ships with the package
    load_codec("encodec-24k")              from the cache (`myna models download encodec-24k` puts it there)
    load_codec("some/checkpoint")          .safetensors (ours or Hugging Face), .th, .pth, a folder of Hugging Face

The cache is $MYNA_CACHE, or ~/.cache/myna.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..data.checkpoint import is_safetensors, place, read_safetensors, read_torch
from ..data.download import ModelEntry, cache_dir, fetch_entry, not_installed
from ..errors import InputError, MissingModelError, UsageError, did_you_mean
from .adapters import adapt_dac, adapt_encodec, adapt_encodec_lm
from .adapters.dac import is_dac
from .adapters.encodec import is_encodec, is_encodec_lm
from .base import Codec
from .checkpoint import build_checkpoint, codes_hash, save_checkpoint
from .encodec_lm import EncodecLM
from .formats import FileInfo

_WEIGHTS = Path(__file__).resolve().parent.parent / "weights"
_ENCODEC = "https://dl.fbaipublicfiles.com/encodec/v0/"
_DAC = "https://github.com/descriptinc/descript-audio-codec/releases/download/"


def _entry(
    name: str, root: str, file: str, sha256: str | None, description: str, license: str, kind: str = "codec"
) -> ModelEntry:
    # DAC's releases differ only in their folder: weights.pth alone would not say which model it is.
    kept = file.replace("/", "-") if root == _DAC else file
    return ModelEntry(name, root + file, kept, sha256, description, license, kind)


DEFAULT_CODEC = "myna-24k-v2"  # of what is compressed
VOICE_CODEC = "myna-24k"  # whose codes voices hold

_MODELS = (
    ModelEntry(
        DEFAULT_CODEC,
        None,
        "myna-24k-v2.safetensors",
        None,
        "24 kHz mono, 50 ms look-ahead, 0.5 to 5 kbps: the default",
        "MIT",
    ),
    ModelEntry(
        "myna-24k",
        None,
        "myna-24k.safetensors",
        None,
        "24 kHz mono, causal, 0.5 to 4 kbps: the one before, whose files and voices it reads",
        "MIT",
    ),
    ModelEntry(
        "myna-mel",
        None,
        "myna-mel.safetensors",
        None,
        "24 kHz mono, speech only, speech tokens and what they leave out, 0.25 to 2 kbps; in training",
        "MIT",
        recipe="myna-mel-cpu",
    ),
    _entry(
        "encodec-24k",
        _ENCODEC,
        "encodec_24khz-d7cc33bc.th",
        "d7cc33bcf1aad7f2dad9836f36431530744abeace3ca033005e3290ed4fa47bf",
        "EnCodec, 24 kHz mono, causal, 0.75 to 24 kbps",
        "MIT",
    ),
    _entry(
        "encodec-48k",
        _ENCODEC,
        "encodec_48khz-7e698e3e.th",
        "7e698e3e",
        "EnCodec, 48 kHz stereo, one second look-ahead, 1.5 to 24 kbps",
        "MIT",
    ),
    _entry(
        "encodec-lm-24k",
        _ENCODEC,
        "encodec_lm_24khz-1608e3c0.th",
        "1608e3c0",
        "language model for the entropy coder of encodec-24k's .ecdc",
        "MIT",
        kind="entropy",
    ),
    _entry(
        "encodec-lm-48k",
        _ENCODEC,
        "encodec_lm_48khz-7add9fc3.th",
        "7add9fc3",
        "language model for the entropy coder of encodec-48k's .ecdc",
        "MIT",
        kind="entropy",
    ),
    _entry("dac-16k", _DAC, "0.0.5/weights_16khz.pth", None, "DAC, 16 kHz mono, 0.5 to 6 kbps", "MIT"),
    _entry("dac-24k", _DAC, "0.0.4/weights_24khz.pth", None, "DAC, 24 kHz mono, 0.75 to 24 kbps", "MIT"),
    _entry("dac-44k", _DAC, "0.0.1/weights.pth", None, "DAC, 44.1 kHz mono, 0.9 to 7.8 kbps", "MIT"),
    _entry(
        "dac-44k-16kbps",
        _DAC,
        "1.0.0/weights_44khz_16kbps.pth",
        None,
        "DAC, 44.1 kHz mono, up to 16 kbps",
        "MIT",
    ),
)


def list_models() -> tuple[ModelEntry, ...]:
    """All models known by name, the default first."""
    return _MODELS


def find_model(name: str) -> ModelEntry:
    """The entry of a name. Raises UsageError naming the nearest one and the models there are."""
    for entry in _MODELS:
        if entry.name == name:
            return entry
    raise _unknown(name)


def _unknown(name: str) -> UsageError:
    names = [entry.name for entry in _MODELS]
    return UsageError(
        f"no model named {name!r}: {did_you_mean(name, names)}choose one of {', '.join(names)}, or a path"
    )


def model_path(name: str) -> Path:
    """Where a model's weights are, or would be after a download; whether they are is `.is_file()`."""
    entry = find_model(name)
    if entry.url is None:
        ships = _WEIGHTS / entry.file
        # What is still in training lies apart, as the flow path's weights do.
        return ships if entry.recipe is None or ships.is_file() else _WEIGHTS / "next" / entry.file
    return cache_dir() / entry.file


def download(
    name: str, progress: Callable[[int, int | None], None] | None = None, force: bool = False
) -> Path:
    """Fetch a model's weights into the cache, check them, and return their path; nothing to do if they are
    there.

    progress: called with (bytes so far, bytes in all or None) as they arrive. Raises MissingModelError when
    they cannot be fetched or are not what the publisher states; the cache is then as it was before.
    """
    return fetch_entry(find_model(name), model_path(name), progress, force)


def load_codec(name_or_path: str | Path = DEFAULT_CODEC, device: str | torch.device = "cpu") -> Codec:
    """A codec by its name, or from a checkpoint: ours, EnCodec's `.th`, DAC's `.pth`, Hugging Face's
    safetensors of either (the file or its folder). In evaluation mode.

    Raises UsageError for an unknown name, MissingModelError if the weights are not on this machine,
    InputError if they are damaged or not a codec's.
    """
    model = load_model(name_or_path)
    if not isinstance(model, Codec):
        raise InputError(
            f"{name_or_path} holds {type(model).__name__}, not a codec; give a codec's name or checkpoint"
        )
    return place(model, device)


def codec_for(
    info: FileInfo,
    model: str | Path | Codec | None = None,
    device: str | torch.device = "cpu",
    note: Callable[[str], None] | None = None,
) -> Codec:
    """The codec that a compressed file needs.

    model: a name, a checkpoint or a codec, None for what the file says.   note: called with a line when `model` is not
    the very one that made the file. Raises MissingModelError if it is not here or cannot have made the file.
    """
    wanted = info.model if model is None else model
    if wanted is None:
        raise MissingModelError(f"the {info.format} file does not say which model made it; name it (--model)")
    codec = wanted if isinstance(wanted, Codec) else load_codec(wanted, device)
    if info.n_codebooks > codec.n_codebooks or info.codebook_size != codec.codebook_size:
        raise MissingModelError(
            f"the file holds {info.n_codebooks} codebooks of {info.codebook_size}, {codec.name} has "
            f"{codec.n_codebooks} of {codec.codebook_size}; give the model that made it (--model)"
        )
    if info.sample_rate and (info.sample_rate, info.frame_size) != (codec.sample_rate, codec.frame_size):
        raise MissingModelError(
            f"the file was made at {info.sample_rate} Hz with frames of {info.frame_size}, {codec.name} has "
            f"{codec.sample_rate} Hz and {codec.frame_size}; give the model that made it (--model)"
        )
    here = codes_hash(codec)[:16] if info.weights_hash else ""
    if info.weights_hash != here:
        if model is None:
            raise MissingModelError(
                f"the file was made with other weights of {codec.name} ({info.weights_hash}) than are installed "
                f"({here}); give the checkpoint that made it (--model)"
            )
        if note:
            note(f"the weights of {codec.name} are not the ones that made the file; it may sound wrong")
    return codec


def load_encodec_lm(name_or_path: str | Path) -> EncodecLM:
    """EnCodec's language model by the name "encodec-lm-24k", "encodec-lm-48k", or from its `.th` or our
    checkpoint.
    Raises as `load_codec` does."""
    model = load_model(name_or_path)
    if not isinstance(model, EncodecLM):
        raise InputError(
            f"{name_or_path} is not a language model of EnCodec; try encodec-lm-24k or encodec-lm-48k"
        )
    return model


@torch.inference_mode(False)  # whoever calls: weights made in inference mode cannot count their changes
def load_model(name_or_path: str | Path) -> nn.Module:
    """Whatever model a name or a checkpoint stands for, on the CPU. Raises as `load_codec` does."""
    if isinstance(name_or_path, str) and any(entry.name == name_or_path for entry in _MODELS):
        return _load_file(_local(name_or_path))
    path = Path(name_or_path)
    if path.is_dir():
        path = path / "model.safetensors"
        if not path.is_file():
            raise MissingModelError(
                f"no model.safetensors in {path.parent}; give a folder as Hugging Face lays it out"
            )
    if not path.is_file():
        if path.suffix or len(path.parts) > 1:
            names = ", ".join(e.name for e in _MODELS)
            raise MissingModelError(f"no model file at {name_or_path}; give a checkpoint, or one of {names}")
        raise _unknown(str(name_or_path))
    return _load_file(path)


def convert(
    source: str | Path, target: str | Path, force: bool = False, int8: bool = False
) -> Codec | EncodecLM:
    """Write any model that `load_codec` or `load_encodec_lm` reads as a checkpoint of ours, weights folded.

    int8: in 8 bits, a quarter of float32 (`codec.checkpoint.save_checkpoint`).

    Returns the model. Raises as they do, and UsageError or OutputError for the target.
    """
    model = load_model(source)
    save_checkpoint(model, target, force=force, int8=int8)
    return model  # pyright: ignore[reportReturnType]


def _local(name: str) -> Path:
    path = model_path(name)
    if path.is_file():
        return path
    entry = find_model(name)
    if entry.url is None:
        raise not_installed(entry, path)
    raise MissingModelError(
        f"the weights of {name} are not on this machine; get them with `myna models download {name}`"
    )


def _load_file(path: Path) -> nn.Module:
    """Tell the kind of a file by what is in it, not by its name."""
    if is_safetensors(path):
        file = read_safetensors(path)
        if "config" in file.metadata:
            return build_checkpoint(file, path)
        config = _hf_config(path)
        return _adapt(file.weights, path, config, config.get("sampling_rate"))
    package = read_torch(path)
    weights = package.get("state_dict", package)
    metadata = package.get("metadata", {})
    kwargs = metadata.get("kwargs", {}) if isinstance(metadata, Mapping) else {}
    return _adapt(weights, path, None, kwargs.get("sample_rate") if isinstance(kwargs, Mapping) else None)


def _adapt(weights: Any, path: Path, hf_config: Mapping[str, Any] | None, sample_rate: Any) -> nn.Module:
    if not isinstance(weights, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in weights.items()
    ):
        raise InputError(
            f"{path} holds something other than named weights; give a checkpoint of EnCodec or DAC"
        )
    if is_encodec(weights):
        return adapt_encodec(weights, path, hf_config)
    if is_dac(weights):
        return adapt_dac(weights, path, int(sample_rate) if isinstance(sample_rate, int | float) else None)
    if is_encodec_lm(weights):
        return adapt_encodec_lm(weights, path)
    raise InputError(f"{path} holds weights of an unknown model; give a checkpoint of myna, EnCodec or DAC")


def _hf_config(path: Path) -> Mapping[str, Any]:
    """The config.json beside a safetensors file, {} if there is none."""
    beside = path.parent / "config.json"
    if not beside.is_file():
        return {}
    try:
        config = json.loads(beside.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise InputError(f"{beside} is not readable JSON ({error}); download it again") from None
    return config if isinstance(config, Mapping) else {}
