"""TorToise by its name, with the functions that every registry of models here has. It is several files in a folder."""

from __future__ import annotations

from pathlib import Path

from ...data.download import ModelEntry, Progress
from ...data.files import check_output
from ...errors import MissingModelError, UsageError
from .adapter import convert_file, convert_folder
from .files import FAMILY, FILES, download_files, find_network, tortoise_dir

ENTRY = ModelEntry(
    FAMILY,
    "https://huggingface.co/Manmay/tortoise-tts",
    FAMILY,
    None,
    "TorToise (Betker 2023): speech in a cloned voice, English, 24 kHz; eight files, 4.4 GB",
    "Apache-2.0",
    "tts",
)


NEEDED = tuple(network for network in FILES if network != "classifier")  # all that speech takes


def is_known(name: str) -> bool:
    return name == FAMILY


def list_models() -> tuple[ModelEntry, ...]:
    return (ENTRY,)


def find_model(name: str) -> ModelEntry:
    """Raises UsageError for another name."""
    if not is_known(name):
        raise UsageError(f"no model of speech named {name!r}; there is {FAMILY}")
    return ENTRY


def model_path(name: str) -> Path:
    """The folder of the files, whether they are there or not."""
    find_model(name)
    return tortoise_dir()


def is_installed(name: str) -> bool:
    """Whether all that the presets need is there."""
    find_model(name)
    return all(find_network(network) for network in NEEDED)


def download(name: str, progress: Progress | None = None, force: bool = False) -> Path:
    """Fetch and check all files; returns their folder. Raises MissingModelError."""
    find_model(name)
    return download_files(progress, force)


def is_tortoise(path: str | Path) -> bool:
    """Whether a path is meant to be a folder of TorToise's files, or one of them."""
    path, names = Path(path), [file.name for file in FILES.values()]
    return path.name in names or (path.is_dir() and any((path / name).is_file() for name in names))


def convert(source: str | Path, target: str | Path, force: bool = False) -> ModelEntry:
    """Write the networks of the name, of a folder, or of one file as safetensors of ours: into a folder, or for one
    file into one. Raises UsageError, InputError, MissingModelError."""
    path, target = Path(source), Path(target)
    if path.is_file():
        if target.suffix != ".safetensors":
            raise UsageError(f"a network is written as .safetensors, not as {target}; name it so")
        check_output(target, force)
        convert_file(path, target)
    else:
        folder = None if is_known(str(source)) and not path.is_dir() else path
        if not convert_folder(folder, target, force):
            raise MissingModelError(f"everything in {folder or tortoise_dir()} is converted already")
    return ENTRY
