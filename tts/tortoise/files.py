"""TorToise's published files: where they come from, where they are kept, whether one is what was published."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from ...data.download import ModelEntry, Progress, cache_dir, fetch_entry
from ...data.files import input_errors
from ...errors import InputError

FAMILY = "tortoise"


@dataclass(frozen=True)
class PublishedFile:
    """A file of TorToise.   needed_for: what cannot be done without it."""

    network: str
    name: str
    n_bytes: int | None
    sha256: str
    needed_for: str
    repository: str = "Manmay/tortoise-tts/resolve/main"

    @property
    def url(self) -> str:
        return f"https://huggingface.co/{self.repository}/{self.name}"


_ORIGINAL = "jbetker/tortoise-tts-v2/resolve/main/.models"
FILES = {
    file.network: file
    for file in (
        PublishedFile(
            "autoregressive",
            "autoregressive.pth",
            1_716_988_501,
            "9c6651b9996df6cef6a1fc459738ae207ab60f902ec49b4d0623ca8ab6110d51",
            "speech",
        ),
        PublishedFile(
            "diffusion",
            "diffusion_decoder.pth",
            1_169_472_627,
            "ea776fc354eabb70cfae145777153483fad72e3e0c5ea345505ded2231a90ce1",
            "every preset but streaming",
        ),
        PublishedFile(
            "clvp",
            "clvp2.pth",
            975_620_731,
            "6097e708cf692eb93bd770880660953935e87e8995eb864819bbe51b7d91342c",
            "choosing among candidates",
        ),
        PublishedFile(
            "univnet",
            "vocoder.pth",
            391_384_715,
            "16e8153e9f8ffb00b116f7f67833df2802fcf81e6bc173acc3b3b4bf9f04189d",
            "every preset but streaming",
        ),
        PublishedFile(
            "random-autoregressive",
            "rlg_auto.pth",
            25_193_729,
            "4473c125482e2a3322a5ea762025a0c6ec657955c3002cf099c0635d79967551",
            "the voice random",
        ),
        PublishedFile(
            "random-diffusion",
            "rlg_diffuser.pth",
            100_715_777,
            "6e84b1ce60631c56dc8dec3d27c131993dd99d3060e7919cc351857457dbfdac",
            "the voice random",
        ),
        PublishedFile(
            "hifigan",
            "hifidecoder.pth",
            71_452_769,
            "d9273064225f06681067f374a44eb2b1dc9942b32ffdbf6bce702603e38189ab",
            "the preset streaming",
        ),
        PublishedFile(
            "classifier",
            "classifier.pth",
            None,
            "95ab946010be0a963b5039e8fca74bbb8a6eebcf366c761db21ae7e94cd6ada3",
            "telling TorToise's own speech",
            _ORIGINAL,
        ),
    )
}


def tortoise_dir() -> Path:
    """Where the published files and their conversions are kept."""
    return cache_dir() / FAMILY


def download_files(progress: Progress | None = None, force: bool = False) -> Path:
    """Fetch all files, each checked; returns their folder. Raises MissingModelError."""
    folder = tortoise_dir()
    for file in FILES.values():
        path = folder / file.name
        if (folder / f"{file.network}.safetensors").is_file() and not force:
            continue
        entry = ModelEntry(
            f"tortoise ({file.network})", file.url, file.name, file.sha256, "", "Apache-2.0", "tts"
        )
        fetch_entry(entry, path, progress, force)
    return folder


def find_network(network: str, folder: Path | None = None) -> Path | None:
    """The file of a network: our conversion, else the published one, in a folder (None: the cache)."""
    folder = tortoise_dir() if folder is None else folder
    for name in (f"{network}.safetensors", FILES[network].name):
        if (folder / name).is_file():
            return folder / name
    return None


def check_published(file: PublishedFile, path: Path) -> None:
    """Raises InputError for a file that is not what its publisher states."""
    size = path.stat().st_size
    if file.n_bytes is not None and size != file.n_bytes:
        kind = "truncated" if size < file.n_bytes else "of another version"
        raise InputError(
            f"{path} is {kind}: {size} bytes, published are {file.n_bytes}; "
            "`myna models download tortoise --force` fetches it again"
        )
    found = file_sha256(path)
    if found != file.sha256:
        raise InputError(
            f"{path} is of another version: its sha256 is {found[:16]}..., published is {file.sha256[:16]}...; "
            "`myna models download tortoise --force` fetches it again, or give a folder of your own with --model"
        )


def file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with input_errors(path), open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
