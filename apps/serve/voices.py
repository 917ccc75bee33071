"""The voices of the server: those of the library, by name, each read once.

Shapes: N samples of one channel.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime, timezone

from ...data.audio import Audio
from ...errors import UsageError
from ...tts.remarks import remarks
from ...tts.speaker import Speaker
from ...tts.voices import library
from ...tts.voices.recording import PromptOptions
from ...tts.voices.voice import Voice, check_codec, check_name, make_voice
from .problems import ConflictError, NotFoundError

log = logging.getLogger("myna.serve")
# OpenAI's voices, for clients that know no others; each stands for one of the package's.
OPENAI = (
    "alloy", "ash", "ballad", "coral", "echo", "fable", "onyx", "nova", "sage", "shimmer", "verse", "marin", "cedar",
)  # fmt: skip
_DEEP = ("ash", "ballad", "echo", "onyx", "verse", "cedar")
_KEPT = 64  # voices in memory: some kilobytes each
MAX_SECONDS = PromptOptions().max_seconds


@dataclass(frozen=True)
class VoiceEntry:
    """A voice as it is listed. created: seconds since 1970."""

    name: str
    created: int
    ours: bool
    consent: str
    source: str


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
        Raises NotFoundError, InputError."""
        models = self.speaker.models
        with self._lock:
            name = resolve(name)
            changed = self._changed_at(name)
            known = self._read.get(name)
            if known is None or known[0] != changed:
                voice = library.known_voice(name, models.codec, models.aligner)
                check_codec(voice, models.codec)
                for line in remarks(voice):
                    log.warning("the voice %s: %s", name, line)
                known = self._read[name] = (changed, voice)
                while len(self._read) > _KEPT:
                    self._read.popitem(last=False)
            self._read.move_to_end(name)
            return known[1]

    def entries(self) -> list[VoiceEntry]:
        """The users' own first."""
        listed = []
        for kept in library.kept_voices():
            if kept.voice is not None:
                made = datetime.fromisoformat(kept.voice.created).timestamp()
                listed.append(VoiceEntry(kept.name, int(made), False, kept.voice.consent, kept.voice.source))
        own = {entry.name for entry in listed}
        return listed + [
            VoiceEntry(name, _RELEASED, True, voice.consent, voice.source)
            for name, voice in library.shipped_voices().items()
            if name not in own
        ]

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


def _unknown(name: str) -> NotFoundError:
    names = [kept.name for kept in library.kept_voices()] + list(library.shipped_voices())
    shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    return NotFoundError(
        f"no voice named {name[:64]!r}; there are {shown}", param="voice", code="voice_not_found"
    )


_RELEASED = int(datetime(2026, 11, 1, tzinfo=timezone.utc).timestamp())
