"""Published weights: where they come from, where they are kept, fetched whole and checked.

The cache is $MYNA_CACHE, or ~/.cache/myna.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import MissingModelError, UsageError
from .files import atomic_output

Progress = Callable[[int, int | None], None]  # bytes so far, bytes in all or None


@dataclass(frozen=True)
class ModelEntry:
    """A model known by name.

    url: where the publisher keeps the weights, None for those in the package.   file: its name in the cache.
    sha256: of the file, or the leading digits that the publisher states; None where none is published.
    kind: "codec", "entropy" for a language model over a codec's codes, "asr" for a Whisper.
    beside: names of small files that belong to it and are kept beside it, published next to it.
    recipe: that trains it, of a model of ours whose weights do not ship yet.
    """

    name: str
    url: str | None
    file: str
    sha256: str | None
    description: str
    license: str
    kind: str = "codec"
    beside: tuple[str, ...] = ()
    recipe: str | None = None


def cache_dir() -> Path:
    """Where downloaded weights are kept."""
    return Path(os.environ.get("MYNA_CACHE") or Path.home() / ".cache" / "myna")


def fetch_entry(entry: ModelEntry, path: Path, progress: Progress | None = None, force: bool = False) -> Path:
    """Fetch a model's weights to `path`, check them, and return it; nothing to do if they are there.

    What belongs beside them comes first, so that a model whose weights are there is whole. Raises MissingModelError
    when they cannot be fetched or are not what the publisher states; what was there before then stays as it was.
    """
    if path.is_file() and not force:
        return path
    if entry.url is None:
        raise not_installed(entry, path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"cannot make the cache folder {path.parent} ({error.strerror}); set MYNA_CACHE to another"
        ) from None
    for name in entry.beside:
        beside = path.parent / name
        if force or not beside.is_file():
            _fetch(entry.name, entry.url.rpartition("/")[0] + f"/{name}", beside, None, None)
    _fetch(entry.name, entry.url, path, entry.sha256, progress)
    return path


def not_installed(entry: ModelEntry, path: Path) -> MissingModelError:
    """What to say of a model of ours whose weights are not there."""
    if entry.recipe is not None:
        return MissingModelError(
            f"{entry.name} is still to be trained: {path} is not there; train it with `myna train {entry.recipe}`, and "
            "give its checkpoint in the place of its name"
        )
    return MissingModelError(
        f"{entry.name} should be part of the package but {path} is missing; install myna again"
    )


def _fetch(name: str, url: str, path: Path, sha256: str | None, progress: Progress | None) -> None:
    with atomic_output(path, force=True) as file:
        digest = hashlib.sha256()
        for block in _blocks(name, url, path, progress):
            digest.update(block)
            file.write(block)
        if sha256 and not digest.hexdigest().startswith(sha256):
            raise MissingModelError(
                f"{url} has sha256 {digest.hexdigest()[:16]}..., expected {sha256[:16]}...; nothing was kept, try again"
            )


def _blocks(name: str, url: str, path: Path, progress: Progress | None) -> Iterator[bytes]:
    """The blocks of a download."""
    try:
        with urllib.request.urlopen(url, timeout=30) as response:
            total = int(response.headers["Content-Length"]) if response.headers["Content-Length"] else None
            done = 0
            while block := response.read(1 << 20):
                done += len(block)
                if progress:
                    progress(done, total)
                yield block
            if total is not None and done < total:
                raise http.client.IncompleteRead(b"", total - done)
    except (OSError, http.client.HTTPException) as error:  # urllib's errors and timeouts are OSErrors
        reason = getattr(error, "reason", None) or error
        raise MissingModelError(
            f"cannot download {name} from {url} ({reason}); fetch it on another machine and put it at {path}"
        ) from None
