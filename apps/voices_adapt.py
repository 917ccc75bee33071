"""`myna voices adapt`: a voice from minutes of recordings rather than seconds.

    recordings -> `preparation` (speech, level, quality, texts, who speaks) -> `training.adapt` -> adapters in the voice
    --codec: the same for the decoder of the codec, without texts

What is prepared and learned lies in a work folder until the voice is done, so that the same command goes on.
"""

from __future__ import annotations

import contextlib
import hashlib
import json as jsons
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..data.files import input_errors, output_errors
from ..errors import InputError, MissingModelError, UsageError
from .console import Console

if TYPE_CHECKING:
    from ..codec import Codec
    from ..training.adapt.adapt import Adapted
    from ..training.adapt.loop import Progress
    from ..training.adapt.material import Material
    from ..training.adapt.recipe import AdaptRecipe
    from ..tts.aligner import Aligner
    from ..tts.valle import Valle
    from ..tts.voices.voice import Voice

NONE, CODEC = "none", "codec"  # no Whisper; the part of a voice that has learned a codec
_PIECE = 12.0  # seconds, the longest clip
_PROMPTS, _CHOOSING = 6, 0.2  # clips that a new voice may be read from; the part of the time to choose one in


def adapt(
    name: str = typer.Argument(..., metavar="NAME", help="Of a voice of yours, or of a new one."),
    recordings: list[str] = typer.Argument(
        None, metavar="RECORDINGS...", help="Files or folders: 30 s to an hour of one person speaking."
    ),
    texts: Path = typer.Option(
        None,
        "--texts",
        help="What is said: a file with lines NAME|text, or a folder of NAME.txt.  [default: NAME.txt beside "
        "NAME.wav, else as a Whisper hears it]",
    ),
    consent: str | None = typer.Option(
        None,
        "--consent",
        help="A statement that the speaker agrees; kept with a new voice. Asked for otherwise.",
    ),
    minutes: float = typer.Option(10.0, "--minutes", help="For learning, and the listening it needs."),
    decoder: str = typer.Option(
        None, "--decoder", help="Which is adapted: flow.  [default: that which speaks by default]"
    ),
    model: str = typer.Option(
        None, "--model", "-m", help="A Whisper by name or path, or `none`.  [default: the best here]"
    ),
    language: str = typer.Option("en", "--language", help="Spoken in the recordings."),
    recipe: str = typer.Option("adapt", "--recipe", help="A recipe file, or the name of one that ships."),
    others: Path = typer.Option(
        None, "--others", help="A corpus of other people (WebDataset shards), so that words survive."
    ),
    codec: bool = typer.Option(
        False,
        "--codec",
        help="Adapt the decoder of myna-24k-v2 instead, by which `myna decompress --voice NAME` gives this person's "
        "files back. Needs no texts.",
    ),
    work: Path = typer.Option(None, "--work", help="Where the work is kept.  [default: beside the voices]"),
    reset: bool = typer.Option(False, "--reset", help="Take an adaptation out again."),
    workers: int = typer.Option(None, "--workers", "-j", help="That prepare.  [default: all cores]"),
    quiet: bool = typer.Option(False, "-q", "--quiet", help="Say only what went wrong."),
    json: bool = typer.Option(False, "--json", help="Print the facts as JSON."),
) -> None:
    """Bring a voice closer by minutes of recordings: a few small matrices beside the weights, kept in the voice.

    The voice is then used by its name as before. Ctrl-C keeps the best so far; the same command goes on.
    """
    console = Console(quiet, json)
    from ..tts.voices.library import add_voice, library_dir, shipped_voices, voice_path
    from ..tts.voices.voice import check_name, load_voice

    path = voice_path(check_name(name))
    if name in shipped_voices() and not path.exists():
        raise UsageError(f"{name} is a voice of the package; choose another name")
    known = load_voice(path) if path.exists() else None
    if reset:
        _reset(name, known, console)
        return
    if not recordings:
        raise UsageError("no recordings are given; name files or a folder")
    if not 0 < minutes <= 24 * 60:
        raise UsageError(f"--minutes {minutes:g}: expected more than 0, at most a day")
    files = audio_files(recordings)
    statement = known.consent if known is not None else _consent(recordings, consent)
    chosen = _recipe(recipe, others)
    place = work or library_dir().parent / "adapt" / name
    if codec:
        if any(given is not None for given in (texts, decoder, model, others)):
            raise UsageError(
                "--codec needs no texts and no models of speech; leave --texts, --model, --others and --decoder out"
            )
        place = place / "codec" / _key(files, None, NONE, language)
        clean_work(place)
        _adapt_codec(name, known, statement, files, place, chosen, minutes, workers, console)
        return
    place = place / _key(files, texts, model, language)
    clean_work(place)
    models, decoder = _models(decoder)
    corpus = prepared(files, texts, place, model, language, workers, console)
    given = texts is not None or any(file.with_suffix(".txt").is_file() for file in files)
    from ..training.adapt.adapt import Adapting
    from ..training.engine.interrupt import Interrupt

    adapting = Adapting(
        models, decoder, models.aligner, corpus, place / "learned", chosen, given, console.note
    )
    with _shown(console) as shown, Interrupt() as interrupt:
        begun = time.monotonic()
        voice = known
        if voice is None:
            about = models.codec, models.aligner, statement, language
            voices = new_voices(name, adapting.material, _PROMPTS, *about)
            prompts = [voice.prompt() for voice in voices]
            voice = voices[adapting.choose(prompts, _CHOOSING * minutes, interrupt, shown.stage)]
        left = max(minutes / 2, minutes - (time.monotonic() - begun) / 60)
        found = adapting.run(voice.prompt(), left, interrupt, shown.report, shown.stage)
    if found.adapters or known is None:
        kept = {part: one for part, one in voice.adapters.items() if part == CODEC or not found.adapters}
        voice = replace(voice, adapters={**kept, **found.adapters})
        path = add_voice(voice, force=True)
    console.result(*described(name, path, found))


def _adapt_codec(
    name: str,
    known: Voice | None,
    consent: str,
    files: Sequence[Path],
    place: Path,
    recipe: AdaptRecipe,
    minutes: float,
    workers: int | None,
    console: Console,
) -> None:
    """The decoder of the codec; what the voice has learned to speak with stays."""
    from ..codec.registry import DEFAULT_CODEC, VOICE_CODEC, load_codec
    from ..training.adapt.adapt_codec import AdaptingCodec
    from ..training.engine.interrupt import Interrupt
    from ..tts.voices.library import add_voice, voice_path

    corpus = prepared(files, None, place, NONE, "en", workers, console)
    adapting = AdaptingCodec(load_codec(DEFAULT_CODEC), corpus, place / "learned", recipe, console.note)
    about = load_codec(VOICE_CODEC), None, consent, "en"
    voice = known or new_voices(name, adapting.material, 1, *about)[0]
    with _shown(console) as shown, Interrupt() as interrupt:
        shown.stage("adapting the decoder of the codec")
        found = adapting.run(minutes, interrupt, shown.report)
    path = voice_path(name)
    if found.adapters or known is None:
        path = add_voice(replace(voice, adapters={**voice.adapters, **found.adapters}), force=True)
    console.result(*described_codec(name, path, found))


def described_codec(name: str, path: Path, found: Adapted) -> tuple[dict[str, Any], str]:
    """What came of it, for programs and for people."""
    assert found.before is not None
    assert found.now is not None
    before, now = -found.before.likeness, -found.now.likeness
    facts = _facts(name, path, found, distance_before=round(before, 4), distance=round(now, 4))
    if found.adapters:
        line = (
            f"adapted the codec of {name!r} by {found.seconds:.0f} s of speech: what it decodes is {before:.3f} from "
            f"the recordings before, {now:.3f} now; use it with `myna decompress FILE --voice {name}`"
        )
    else:
        line = f"nothing was gained by {found.seconds:.0f} s of speech; {name!r} is as it was"
    if found.interrupted:
        line += "; stopped, the same command goes on"
    return facts, line


def described(name: str, path: Path, found: Adapted) -> tuple[dict[str, Any], str]:
    """What came of it, for programs and for people."""
    before, now = found.before, found.now
    facts = _facts(
        name,
        path,
        found,
        likeness_before=None if before is None else round(before.likeness, 4),
        likeness=None if now is None else round(now.likeness, 4),
        words_before=None if before is None else round(before.words, 4),
        words=None if now is None else round(now.words, 4),
    )
    if not found.adapters:
        line = f"nothing was gained by {found.seconds:.0f} s of speech; {name!r} is as it was"
    else:
        line = (
            f"adapted {name!r} ({', '.join(facts['adapted'])}) by {found.seconds:.0f} s of speech: likeness "
            f"{facts['likeness_before']:.3f} before, {facts['likeness']:.3f} now"
        )
    if found.interrupted:
        line += "; stopped, the same command goes on"
    return facts, line


def _facts(name: str, path: Path, found: Adapted, **judged: float | None) -> dict[str, Any]:
    """For programs."""
    return {
        "name": name,
        "path": str(path),
        "seconds_of_speech": round(found.seconds, 1),
        "adapted": sorted(found.adapters),
        "bytes": sum(one.weights.half().n_bytes for one in found.adapters.values()),
        **judged,
        "interrupted": found.interrupted,
    }


# ---- what is given


def audio_files(given: Sequence[str]) -> list[Path]:
    """Files, and those in folders. Raises InputError for what is not there, or a folder without audio."""
    from ..preparation.decode import SUFFIXES

    found: list[Path] = []
    for one in given:
        path = Path(one)
        if path.is_dir():
            inside = sorted(
                p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")
            )
            if not inside:
                raise InputError(f"{path} holds no audio; expected files such as {', '.join(SUFFIXES[:6])}")
            found += inside
        else:
            with input_errors(path), open(path, "rb"):
                pass
            found.append(path)
    return list(dict.fromkeys(path.resolve() for path in found))


def read_texts(source: Path, files: Sequence[Path]) -> dict[Path, str]:
    """What is said in which file. source: a table with lines NAME|text (or a tab), NAME with or without its suffix;
    the text itself where there is one recording; or a folder of NAME.txt. Raises InputError where none is of these."""
    if source.is_dir():
        found = {}
        for file in files:
            beside = source / f"{file.stem}.txt"
            if beside.is_file():
                with input_errors(beside):
                    found[file] = beside.read_text("utf-8", "replace")
    else:
        with input_errors(source):
            written = source.read_text("utf-8-sig", "replace")
        rows = [line.replace("\t", "|").split("|") for line in written.splitlines() if line.strip()]
        table = {Path(row[0].strip()).name: row[-1].strip() for row in rows if len(row) > 1}
        stems = {Path(key).stem: text for key, text in table.items()} | table
        found = {file: stems[key] for file in files for key in (file.name, file.stem) if key in stems}
        if not table and len(files) == 1:
            found = {files[0]: " ".join(written.split())}
    if not any(text.strip() for text in found.values()):
        raise InputError(
            f"{source} has no text for any of the {len(files)} recordings; give lines NAME|text, NAME being that of a "
            "recording"
        )
    return found


def _consent(recordings: Sequence[str], given: str | None) -> str:
    from .consent import ask_consent

    return ask_consent(recordings[0], given)


def _recipe(name: str, others: Path | None):
    from ..training.adapt.recipe import AdaptRecipe
    from ..training.engine.recipe import load_recipe

    return load_recipe(name, AdaptRecipe, [] if others is None else [f"others.corpus={others}"])


def _models(decoder: str | None) -> tuple[Valle, str]:
    """The models that speak, and the name of the decoder that is to be adapted."""
    from ..tts.registry import find_decoder
    from ..tts.speaker import load_models

    name = None if decoder is None else find_decoder(decoder).name
    models = load_models(decoder=name)
    return models, models.decoder(name).name


def _reset(name: str, known: Voice | None, console: Console) -> None:
    from ..tts.voices.library import add_voice

    if known is None:
        raise UsageError(f"no voice of yours is named {name!r}; `myna voices list` shows those there are")
    parts = sorted(known.adapters)
    path = add_voice(replace(known, adapters={}), force=True)
    line = f"took out {', '.join(parts)} of {name!r}" if parts else f"{name!r} has not been adapted"
    console.result({"name": name, "path": str(path), "removed": parts}, line)


# ---- prepared


def _key(files: Sequence[Path], texts: Path | None, model: str | None, language: str) -> str:
    """Of the recordings and their texts: others are other work, and so they are without quality scores, which
    somebody may install the package for after a first try."""
    from ..pretrained import dnsmos

    told: list[Any] = [language, model]
    if missing := dnsmos.missing():
        told.append(missing)
    for file in [*files, *([texts] if texts is not None and texts.is_file() else [])]:
        stat = file.stat()
        told.append((str(file), stat.st_size, stat.st_mtime_ns))
    return hashlib.sha256(jsons.dumps(told).encode()).hexdigest()[:16]


def clean_work(place: Path) -> None:
    """Room for this work; that of other recordings is removed."""
    with output_errors(place):
        place.mkdir(parents=True, exist_ok=True)
        for other in place.parent.iterdir():
            if other != place and other.is_dir() and len(other.name) == 16:
                shutil.rmtree(other, ignore_errors=True)


def prepared(
    files: Sequence[Path],
    texts: Path | None,
    place: Path,
    model: str | None,
    language: str,
    workers: int | None,
    console: Console,
) -> Path:
    """The corpus of the recordings, in `place`; what is left out is noted with its reasons."""
    from ..preparation.engine import LocalEngine
    from ..preparation.options import PrepareOptions
    from ..preparation.prepare import prepare

    said = read_texts(texts, files) if texts is not None else {}
    folder = place / "recordings"
    with output_errors(folder):
        folder.mkdir(exist_ok=True)
        for number, file in enumerate(files):
            linked = folder / f"{number:04d}-{file.name}"
            if not linked.exists():
                try:
                    linked.symlink_to(file)
                except OSError:  # a system without links
                    shutil.copy(file, linked)
            text = said.get(file)
            if text is None and texts is None and file.with_suffix(".txt").is_file():
                text = file.with_suffix(".txt").read_text("utf-8", "replace")
            if text is not None:
                linked.with_suffix(".txt").write_text(text, encoding="utf-8")
    options = PrepareOptions(
        source="adapt",
        model=_whisper(model, language, console),
        language=language,
        max_seconds=_PIECE,
        dev=0.0,
        test=0.0,
    )
    from .prepare import bars

    with bars(console) as progress:
        made = prepare(folder, place / "corpus", options, LocalEngine(workers), False, progress)
    for note in made.notes:
        console.note(note)
    if dropped := made.facts.get("dropped"):
        console.note(
            f"left out: {', '.join(f'{n} {reason}' for reason, n in dropped.items())}; see {place / 'corpus'}"
        )
    return place / "corpus"


def _whisper(model: str | None, language: str, console: Console) -> str | None:
    from ..asr.transcriber import default_model

    if model is not None:
        return None if model == NONE else model
    try:
        return default_model(language)
    except MissingModelError:
        console.note("no Whisper is installed: only clips with a text of yours are used as ones with a text")
        return None


def new_voices(
    name: str,
    material: Material,
    n: int,
    codec: Codec,
    aligner: Aligner | None,
    consent: str,
    language: str,
) -> list[Voice]:
    """The voice, of one clip and another, n at most. codec: that of voices. Raises InputError where no clip can be a
    voice."""
    from ..data.audio import Audio
    from ..tts.voices.recording import PromptOptions
    from ..tts.voices.voice import make_voice

    voices: list[Voice] = []
    unfit = InputError("no clip of the recordings can be a voice; record more")
    options = PromptOptions(two_people=False)  # told apart already
    spoken = "en-us" if language == "en" else language
    for clip, text in material.prompts(n):
        audio = Audio(material.corpus.read(clip, 0, clip.length)[None], material.corpus.sample_rate)
        make = partial(make_voice, audio, codec, consent, name, language=spoken, options=options)
        try:
            try:
                voice = make(text=text, aligner=aligner)
            except InputError:  # its text does not fit after all
                voice = make()
        except InputError as error:
            unfit = error
            continue
        voices.append(replace(voice, source=f"{len(material.person.items)} clips"))
    if not voices:
        raise unfit
    return voices


# ---- progress


@dataclass(frozen=True)
class _Shown:
    stage: Callable[[str], None]
    report: Callable[[Progress], None]


@contextlib.contextmanager
def _shown(console: Console) -> Iterator[_Shown]:
    """A line that says what goes on: likeness before and now, time left."""
    if console.quiet or console.json or not sys.stderr.isatty():
        yield _Shown(lambda what: None, lambda progress: None)
        return
    from rich.console import Console as Terminal
    from rich.status import Status

    with Status("preparing", console=Terminal(stderr=True)) as status:
        yield _Shown(status.update, lambda progress: status.update(progress_line(progress)))


def progress_line(progress: Progress) -> str:
    p = progress
    judged = (
        f"held out {-p.before.likeness:.3f} before, {-p.best.likeness:.3f} now"
        if p.part in ("ar", "token-ar", CODEC)
        else f"likeness {p.before.likeness:.3f} before, {p.best.likeness:.3f} now"
    )
    return f"{p.part}, step {p.step}: {judged}; {max(0.0, p.minutes_left):.1f} min left at most"
