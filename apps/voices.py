"""`myna voices`: make a voice from a recording, see what there is, remove it again."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..errors import UsageError
from .consent import ask_consent
from .console import Console
from .voices_adapt import adapt
from .voices_tortoise import tortoise_facts

if TYPE_CHECKING:
    from ..tts.voices.voice import Voice

app = typer.Typer(help="Voices made once from a recording and used by name.", no_args_is_help=True)

_JSON = typer.Option(False, "--json", help="Print the facts as JSON.")

app.command("adapt")(adapt)


@app.command("add")
def add(
    recording: str = typer.Argument(
        ...,
        metavar="RECORDING",
        help="1 to 30 s of one person speaking; the best three are used. - reads a pipe. For tortoise also a folder "
        "of clips, a .pth of latents, or a&b.",
    ),
    name: str | None = typer.Option(None, "--name", help="What to call it; otherwise as the recording."),
    text: str | None = typer.Option(
        None, "--text", help="What is said in the recording: the voice comes closer."
    ),
    language: str = typer.Option("en-us", "--language", help="Of that text."),
    consent: str | None = typer.Option(
        None,
        "--consent",
        help="A statement that the speaker agrees; it is kept with the voice. Asked for otherwise.",
    ),
    model: str = typer.Option(
        "myna", "--model", help="Whose voice it will be: myna, tortoise, or a folder of TorToise's files."
    ),
    force: bool = typer.Option(False, "--force", help="Replace a voice of that name."),
    quiet: bool = typer.Option(False, "-q", "--quiet", help="Say only what went wrong."),
    json: bool = _JSON,
) -> None:
    """Make a voice from a recording and keep it."""
    console = Console(quiet, json)
    from ..tts.voices.library import shipped_voices, voice_path
    from ..tts.voices.voice import check_name, check_recording

    if (
        name is not None and not force and voice_path(check_name(name)).exists()
    ):  # before any question is asked
        raise UsageError(f"there is a voice {name!r} already; give --force to replace it, or another --name")
    if name in shipped_voices():
        raise UsageError(f"{name} is a voice of the package; choose another name (--name)")
    if model != "myna":
        from .voices_tortoise import add_tortoise_voice

        if text is not None:
            raise UsageError("--text belongs to the model myna; leave it out")
        return add_tortoise_voice(recording, name, consent, model, force, console)
    check_recording(recording)
    statement = ask_consent(recording, consent)
    from ..codec.registry import VOICE_CODEC, load_codec
    from ..tts.voices.library import add_voice
    from ..tts.voices.voice import make_voice

    source: Any = sys.stdin.buffer if recording == "-" else recording
    if recording == "-" and name is None:
        raise UsageError("a voice from standard input needs a name; give --name")
    voice = make_voice(source, load_codec(VOICE_CODEC), statement, name, text, language)
    path = add_voice(voice, force)
    for note in voice.notes:
        console.note(note)
    facts = {**voice_facts(voice), "path": str(path)}
    console.result(
        facts,
        f'kept {voice.name!r}: {voice.seconds:.1f} s; try `myna say "Hello." --voice {_quoted(voice.name)}`',
    )


@app.command("list")
def show_all(json: bool = _JSON) -> None:
    """The voices there are: yours, and those of the package."""
    from ..tts.voices.library import kept_voices, library_dir, shipped_voices

    facts: list[dict[str, Any]] = []
    lines = []
    for kept in kept_voices():
        if kept.voice is None and (known := tortoise_facts(kept.path)):
            facts.append({**known, "name": kept.name, "kind": "tortoise", "path": str(kept.path)})
            lines.append(
                f"{kept.name:<20}  for --model tortoise  {known['created'][:10]}  from {known['source']}"
            )
            continue
        if kept.voice is None:
            facts.append(
                {"name": kept.name, "kind": "unreadable", "path": str(kept.path), "problem": kept.problem}
            )
            lines.append(f"{kept.name:<20}  unreadable: {kept.problem}")
            continue
        facts.append({**voice_facts(kept.voice), "name": kept.name, "kind": "yours", "path": str(kept.path)})
        lines.append(
            f"{kept.name:<20}  {kept.voice.seconds:.1f} s  {kept.voice.created[:10]}  from {kept.voice.source}"
        )
    for one in shipped_voices().values():
        facts.append({"name": one.name, "kind": "package", "path": str(one.path), "source": one.source})
        lines.append(f"{one.name:<20}  ships with the package: {one.source}")
    Console(json=json).result(facts, "\n".join([*lines, f"(yours are in {library_dir()})"]))


@app.command("show")
def show(
    name: str = typer.Argument(..., metavar="NAME", help="Of a voice, or its file."), json: bool = _JSON
) -> None:
    """What is known about a voice."""
    from ..tts.voices.library import shipped_voices, voice_path
    from ..tts.voices.voice import SUFFIX, load_voice

    shipped = shipped_voices()
    if Path(name).suffix == SUFFIX:
        facts = tortoise_facts(Path(name)) or voice_facts(load_voice(name))
    elif voice_path(name).exists() or name not in shipped:
        path = voice_path(name)
        if not path.exists():
            raise UsageError(f"no voice named {name!r}; `myna voices list` shows those there are")
        facts = {**(tortoise_facts(path) or voice_facts(load_voice(path))), "path": str(path)}
    else:
        one = shipped[name]
        facts = {
            "name": one.name,
            "source": one.source,
            "licence": one.licence,
            "text": one.text,
            "consent": one.consent,
            "path": str(one.path),
        }
    width = max(map(len, facts))
    lines = [f"{key.replace('_', ' '):<{width}}  {_shown(value)}" for key, value in facts.items() if value]
    Console(json=json).result(facts, "\n".join(lines))


@app.command("remove")
def remove(
    name: str = typer.Argument(..., metavar="NAME"),
    quiet: bool = typer.Option(False, "-q", "--quiet", help="Say only what went wrong."),
    json: bool = _JSON,
) -> None:
    """Delete a voice of yours."""
    from ..tts.voices.library import remove_voice

    path = remove_voice(name)
    Console(quiet, json).result({"name": name, "removed": str(path)}, f"removed {name!r}")


def voice_facts(voice: Voice) -> dict[str, Any]:
    """What there is to say about a voice."""
    from ..tts.remarks import remarks

    return {
        "name": voice.name,
        "seconds": voice.seconds,
        "source": voice.source,
        "created": voice.created,
        "consent": voice.consent,
        "text": voice.text,
        "transcript_used": voice.phones is not None,
        "codec_hash": voice.codec_hash,
        "notes": list(remarks(voice)),
        "adapted": [_adapted(part, one.facts) for part, one in voice.adapters.items()],
    }


def _adapted(part: str, facts: Mapping[str, Any]) -> str:
    seconds, created = facts.get("seconds_of_speech"), str(facts.get("created", ""))[:10]
    return f"{part}, by {seconds} s of speech, on {created}"


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.2f} s"
    return "; ".join(map(str, value)) if isinstance(value, list) else "yes" if value is True else str(value)


def _quoted(name: str) -> str:
    return f'"{name}"' if " " in name or "'" in name else name
