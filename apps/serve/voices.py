"""The voices of the server: those of the library, by name, each read once.

Shapes: N samples of one channel.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from ...data.audio import Audio
from ...errors import InputError, MynaError, UsageError
from ...tts.remarks import remarks
from ...tts.speaker import Speaker
from ...tts.tortoise.files import FAMILY as TORTOISE
from ...tts.tortoise.voices import RANDOM, saved_facts
from ...tts.voices import library
from ...tts.voices.recording import PromptOptions
from ...tts.voices.voice import Voice, check_codec, check_name, make_voice
from .problems import ConflictError, InvalidError, NotFoundError

log = logging.getLogger("myna.serve")
MYNA = "myna"  # by this name and TORTOISE voices tell which model can say them
# OpenAI's voices, for clients that know no others; each stands for one of the package's.
OPENAI = (
    "alloy", "ash", "ballad", "coral", "echo", "fable", "onyx", "nova", "sage", "shimmer", "verse", "marin", "cedar",
)  # fmt: skip
_DEEP = ("ash", "ballad", "echo", "onyx", "verse", "cedar")
_KEPT = 64  # voices in memory: some kilobytes each
MAX_SECONDS = PromptOptions().max_seconds


@dataclass(frozen=True)
class VoiceEntry:
    """A voice as it is listed. created: seconds since 1970.   models: of those that are here, which can say it."""

    name: str
    created: int
    ours: bool
    consent: str
    source: str
    models: tuple[str, ...]


class Voices:
    """Safe to use from several threads.

    speaker: whose models the voices are for.   most: voices of users that are kept.
    """

    def __init__(self, speaker: Speaker, most: int = 1000):
        self.speaker, self.most = speaker, most
        self._lock = threading.Lock()
        self._read: OrderedDict[str, tuple[int, Voice]] = OrderedDict()

    def find(self, name: str) -> Voice:
        """By its name or one of OpenAI's. The object is the same every time, so that the models read it once.
        Raises NotFoundError, and InvalidError for a voice that these models cannot say."""
        with self._lock:
            try:
                name = resolve(name)
            except NotFoundError:
                raise (_of_tortoise(name) if name == RANDOM else _unknown(name)) from None
            changed = self._changed_at(name)
            known = self._read.get(name)
            if known is None or known[0] != changed:
                voice = self._load(name)
                for line in remarks(voice):
                    log.warning("the voice %s: %s", name, line)
                known = self._read[name] = (changed, voice)
                while len(self._read) > _KEPT:
                    self._read.popitem(last=False)
            self._read.move_to_end(name)
            return known[1]

    def _load(self, name: str) -> Voice:
        models = self.speaker.models
        try:
            voice = library.known_voice(name, models.codec, models.aligner)
            check_codec(voice, models.codec)
        except InputError as error:
            raise (_of_tortoise(name) if _tortoise_facts(name) else unusable(name, error)) from None
        return voice

    def add(self, audio: Audio, name: str, consent: str | None, text: str | None, replace: bool) -> Voice:
        """From a recording, and kept. Raises UsageError without consent or for a name that is taken, InputError for
        what cannot be a voice."""
        name = check_name(name)
        models = self.speaker.models
        with self._lock:
            exists = library.voice_path(name).exists()
            if name in library.shipped_voices() or (exists and not replace):
                raise ConflictError(f"there is a voice {name!r} already; choose another name", param="name")
            if not exists and sum(1 for _ in library.library_dir().glob("*.safetensors")) >= self.most:
                raise UsageError(f"{self.most} voices are kept, no more; delete one first")
            voice = make_voice(audio, models.codec, consent, name, text, aligner=models.aligner)
            library.add_voice(voice, force=replace)
        return voice

    def remove(self, name: str) -> None:
        """Raises NotFoundError, and UsageError for a voice of the package."""
        with self._lock:
            if name not in library.shipped_voices() and not self._exists(name):
                raise _unknown(name)
            library.remove_voice(name)
            self._read.pop(name, None)

    def _exists(self, name: str) -> bool:
        try:
            return library.voice_path(name).is_file()
        except UsageError:
            return False

    def _changed_at(self, name: str) -> int:
        path = library.voice_path(name)
        return path.stat().st_mtime_ns if path.is_file() else 0


def resolve(name: str) -> str:
    """The name of a voice of the library or the package. Raises NotFoundError: of a name that could be a path, too."""
    shipped = library.shipped_voices()
    try:
        path = library.voice_path(name)
    except UsageError:
        raise _unknown(name) from None
    if path.is_file() or name in shipped:
        return name
    if name in OPENAI and shipped:
        names = list(shipped)
        deep = [own for own in names if own in ("liam", "daniel")] or names
        light = [own for own in names if own not in deep] or names
        among = deep if name in _DEEP else light
        return among[OPENAI.index(name) % len(among)]
    raise _unknown(name)


def entries(codec: str | None, tortoise: bool) -> list[VoiceEntry]:
    """All voices, the users' own first; TorToise's own only where it is here.

    codec: whose voices Myna's own models can say, by its hash; None where they are not installed.   tortoise: whether
    TorToise is.
    """
    listed = []
    for kept in library.kept_voices():
        if kept.voice is not None:
            fits = codec in (None, kept.voice.codec_hash)
            listed.append(_kept(kept.name, vars(kept.voice), codec is not None and fits, tortoise and fits))
        elif tortoise and (facts := _tortoise_facts(kept.name)):
            with contextlib.suppress(KeyError, TypeError, ValueError):  # damaged
                listed.append(_kept(kept.name, facts, False, True))
    own, models = {entry.name for entry in listed}, models_of(codec is not None, tortoise)
    listed += [
        VoiceEntry(name, _RELEASED, True, voice.consent, voice.source, models)
        for name, voice in library.shipped_voices().items()
        if name not in own
    ]
    if tortoise and RANDOM not in own:
        listed.append(VoiceEntry(RANDOM, _RELEASED, True, "", "a voice of nobody for each seed", (TORTOISE,)))
    return listed


def models_of(myna: bool, tortoise: bool) -> tuple[str, ...]:
    """By their names, whichever can say a voice."""
    return (MYNA,) * myna + (TORTOISE,) * tortoise


def _kept(name: str, facts: Mapping[str, Any], myna: bool, tortoise: bool) -> VoiceEntry:
    created = int(datetime.fromisoformat(facts["created"]).timestamp())
    return VoiceEntry(name, created, False, facts["consent"], facts["source"], models_of(myna, tortoise))


def _tortoise_facts(name: str) -> dict[str, Any] | None:
    """What a kept voice of TorToise's says of itself; None for any other."""
    with contextlib.suppress(MynaError):
        return saved_facts(library.voice_path(name))
    return None


def _of_tortoise(name: str) -> InvalidError:
    message = f"the voice {name!r} is one that TorToise alone can say; ask for the model {TORTOISE!r}"
    return InvalidError(message, param="voice", code="invalid_voice")


def unusable(name: str, error: InputError) -> InvalidError:
    """What to raise for a voice that a model cannot say: whoever asks does not know where the voices are kept."""
    message = str(error).replace(str(library.voice_path(name)), f"the voice {name!r}")
    return InvalidError(message, param="voice", code="invalid_voice")


def _unknown(name: str) -> NotFoundError:
    names = [kept.name for kept in library.kept_voices()] + list(library.shipped_voices())
    shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    return NotFoundError(
        f"no voice named {name[:64]!r}; there are {shown}", param="voice", code="voice_not_found"
    )


_RELEASED = int(datetime(2026, 11, 1, tzinfo=timezone.utc).timestamp())
