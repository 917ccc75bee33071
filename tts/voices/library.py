"""The voice library: the user's folder, and the voices that ship.

The user's are in $MYNA_VOICES, in $MYNA_HOME/voices, or in ~/.local/share/myna/voices. Those of the package are
recordings of three to four seconds; codes of the codec that is installed are made of them the first time, and kept in
the cache.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

from ...codec import Codec
from ...codec.checkpoint import weights_hash
from ...data.audio import Audio
from ...data.download import cache_dir
from ...errors import MynaError, OutputError, UsageError
from .recording import PromptOptions
from .voice import SUFFIX, Voice, check_codec, check_name, codec_hash, is_recording, load_voice, make_voice

if TYPE_CHECKING:
    from ..aligner import Aligner

SHIPPED = Path(__file__).resolve().parents[2] / "voices"


@dataclass(frozen=True)
class ShippedVoice:
    """A recording in the package.   text: what it says.   licence, source: of the recording."""

    name: str
    path: Path
    text: str
    source: str
    licence: str
    consent: str


@dataclass(frozen=True)
class Kept:
    """A file of the library; voice is None, with the reason, where it cannot be read."""

    name: str
    path: Path
    voice: Voice | None
    problem: str | None = None


def library_dir() -> Path:
    """Where the user's voices are."""
    if folder := os.environ.get("MYNA_VOICES"):
        return Path(folder)
    home = os.environ.get("MYNA_HOME")
    return (Path(home) if home else Path.home() / ".local" / "share" / "myna") / "voices"


def voice_path(name: str) -> Path:
    """Where a voice of that name is, or would be. Raises UsageError for a name that cannot be one."""
    return library_dir() / (check_name(name) + SUFFIX)


class Savable(Protocol):
    """A voice of any speech engine."""

    @property
    def name(self) -> str: ...

    def save(self, path: str | Path, force: bool = False) -> None: ...


def add_voice(voice: Savable, force: bool = False) -> Path:
    """Keep a voice under its name. Raises UsageError if the name is taken, unless `force`, or is that of a voice of
    the package; OutputError if it cannot be written."""
    path = voice_path(voice.name)
    if voice.name in shipped_voices():
        raise UsageError(f"{voice.name} is a voice of the package; choose another name (--name)")
    if path.exists() and not force:
        raise UsageError(
            f"there is a voice {voice.name!r} already; give --force to replace it, or another --name"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot make the folder {path.parent} ({(error.strerror or str(error)).lower()}); set MYNA_HOME to another"
        ) from None
    voice.save(path, force=True)
    return path


def remove_voice(name: str) -> Path:
    """Delete a voice of the user's. Raises UsageError if there is none, OutputError if it cannot be deleted."""
    path = voice_path(name)
    if name in shipped_voices() and not path.exists():
        raise UsageError(f"{name} is a voice of the package, which cannot be removed")
    if not path.exists():
        raise UsageError(f"no voice of yours is named {name!r}; `myna voices list` shows those there are")
    try:
        path.unlink()
    except OSError as error:
        raise OutputError(f"cannot remove {path}: {(error.strerror or str(error)).lower()}") from None
    return path


def kept_voices() -> Iterator[Kept]:
    """The user's voices by name; a file that cannot be read is listed with the reason."""
    for path in sorted(library_dir().glob("*" + SUFFIX)):
        if path.name.startswith("."):
            continue
        try:
            yield Kept(path.stem, path, load_voice(path))
        except MynaError as error:
            yield Kept(path.stem, path, None, str(error))


def shipped_voices() -> dict[str, ShippedVoice]:
    """The package's voices by name."""
    listed = json.loads((SHIPPED / "voices.json").read_text(encoding="utf-8"))
    return {one["name"]: ShippedVoice(path=SHIPPED / one.pop("file"), **one) for one in listed}


def find_voice(
    source: Voice | str | Path | BinaryIO | Audio,
    codec: Codec,
    text: str | None = None,
    consent: str | None = None,
    aligner: Aligner | None = None,
    language: str = "en-us",
) -> Voice:
    """Whatever stands for a voice: a voice, its file, its name in the library or in the package, or a recording, for
    which `make_voice` needs `consent`.

    Raises UsageError for a name that is unknown and a recording without consent, InputError for what is no voice or
    another codec's.
    """
    if isinstance(source, Voice):
        voice = source
    elif isinstance(source, str | Path) and Path(source).suffix == SUFFIX:
        voice = load_voice(source)
    elif isinstance(source, str | Path) and not is_recording(str(source)):
        voice = known_voice(str(source), codec, aligner)
    else:
        voice = make_voice(source, codec, consent, text=text, language=language, aligner=aligner)
    check_codec(voice, codec)
    return voice


def known_voice(name: str, codec: Codec, aligner: Aligner | None = None) -> Voice:
    """A voice by its name, the user's before the package's. Raises UsageError for a name that nobody has."""
    path = voice_path(name)
    if path.exists():
        return load_voice(path)
    shipped = shipped_voices().get(name)
    if shipped is None:
        raise unknown_voice(name)
    return prepared_voice(shipped, codec, aligner)


def prepared_voice(shipped: ShippedVoice, codec: Codec, aligner: Aligner | None = None) -> Voice:
    """A voice of the package for this codec, from the cache if it is there. Raises as `make_voice`."""
    timed_by = "-" + weights_hash(aligner)[:8] if aligner is not None else ""
    cached = cache_dir() / "voices" / f"{shipped.name}-{codec_hash(codec)}{timed_by}{SUFFIX}"
    if cached.is_file():
        with contextlib.suppress(MynaError):  # damaged: made anew below
            voice = load_voice(cached)
            if voice.mel is not None and voice.speaker is not None:  # an earlier version kept neither
                return voice
    options = PromptOptions(two_people=False)
    voice = make_voice(
        shipped.path, codec, shipped.consent, shipped.name, shipped.text, aligner=aligner, options=options
    )
    with contextlib.suppress(MynaError, OSError):  # a cache that cannot be written is none
        cached.parent.mkdir(parents=True, exist_ok=True)
        voice.save(cached, force=True)
    return voice


def unknown_voice(name: str) -> UsageError:
    """What to raise for a name that nobody has."""
    names = [kept.name for kept in kept_voices()] + list(shipped_voices())
    return UsageError(f"no voice named {name!r}; there are {', '.join(names)}, or give a recording")
