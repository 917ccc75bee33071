"""`myna voices add --model tortoise`: TorToise's two latents of a recording, kept under a name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import MynaError, UsageError, did_you_mean
from .console import Console
from .say_tortoise import NAME, is_tortoise


def add_tortoise_voice(
    source: str, name: str | None, consent: str | None, model: str, force: bool, console: Console
) -> None:
    """Make a voice of what `tts.tortoise.voices` lists, and keep it. model: tortoise, or a folder of its files.

    Raises UsageError, InputError, MissingModelError and OutputError, one line each.
    """
    from dataclasses import replace

    from ..tts.tortoise.speaker import TortoiseSpeaker
    from ..tts.voices.library import add_voice, voice_path
    from ..tts.voices.voice import check_name
    from .consent import ask_consent

    if not is_tortoise(model):
        near = did_you_mean(model, ("myna", NAME))
        raise UsageError(
            f"no model named {model!r}: {near}choose myna, tortoise, or a folder of TorToise's files"
        )
    if source == "-":
        raise UsageError("a voice for tortoise is made from files; give a recording or a folder of them")
    called = check_name(name or Path(source).stem)
    if voice_path(called).exists() and not force:
        raise UsageError(
            f"there is a voice {called!r} already; give --force to replace it, or another --name"
        )
    if any(Path(part.strip()).exists() for part in source.split("&")):
        consent = ask_consent(source, consent)
    speaker = TortoiseSpeaker(folder=None if model == NAME else Path(model))
    voice = replace(speaker.voice(source, consent), name=called)
    path = add_voice(voice, force)
    for note in voice.notes:
        console.note(note)
    facts = {**_facts(voice.__dict__), "path": str(path)}
    console.result(facts, f'kept {called!r}; try `myna say "Hello." --model {model} --voice {called}`')


def tortoise_facts(path: Path) -> dict[str, Any] | None:
    """What a voice of TorToise's says of itself; None for any other file."""
    from ..tts.tortoise.voices import saved_facts

    try:
        facts = saved_facts(path)
    except MynaError:
        return None
    return None if facts is None else _facts(facts)


def _facts(known: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": known["name"],
        "source": known["source"],
        "created": known["created"],
        "consent": known["consent"],
        "networks": known["networks"],
        "notes": list(known["notes"]),
    }
