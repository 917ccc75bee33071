"""A folder of recordings to a list of them, with what its layout says: texts, speakers, languages, splits.

Layouts (each as its distributor ships it; the folder given may be the corpus or what is above it):

    plain         any audio; NAME.txt beside NAME.wav is what is said in it
    speakers      the same, where the first folder is the speaker: SPEAKER/.../NAME.wav (only when it is asked for)
    librispeech   SUBSET/SPEAKER/CHAPTER/SPEAKER-CHAPTER-0000.flac, SPEAKER-CHAPTER.trans.txt
    libritts      SUBSET/SPEAKER/CHAPTER/SPEAKER_CHAPTER_000000_000000.wav, the same .normalized.txt
    ljspeech      metadata.csv (id|text|normalised), wavs/ID.wav
    vctk          txt/SPEAKER/SPEAKER_001.txt, wav48*/SPEAKER/SPEAKER_001[_mic1].flac, speaker-info.txt
    commonvoice   LANGUAGE/clips/*.mp3, LANGUAGE/{train,dev,test,validated}.tsv
    librilight    SUBSET/SPEAKER/BOOK/*.flac, the same .json
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import InputError, UsageError
from .decode import SUFFIXES
from .options import tidy_name
from .records import Dropped, Listing, Recording

SPLITS = ("train", "dev", "test")
_LONGEST_KEY = 80  # characters; a tar of the oldest kind holds names of 100


class Tree:
    """The files below a folder, found once. Hidden ones are left out, folders that cannot be read are named."""

    def __init__(self, root: Path):
        self.root = root
        self.files: list[PurePosixPath] = []
        self.unreadable: list[Dropped] = []

        def note(error: OSError) -> None:
            where = Path(error.filename or root)
            self.unreadable.append(Dropped(self._relative(where), "unreadable", f"folder: {error.strerror}"))

        for folder, folders, names in os.walk(root, onerror=note):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            here = PurePosixPath(self._relative(Path(folder)))
            self.files += [here / name for name in names if not name.startswith(".")]
        self.files.sort()
        self.audio = [path for path in self.files if path.suffix.lower() in SUFFIXES]
        self._all = set(self.files)

    def __contains__(self, path: PurePosixPath) -> bool:
        return path in self._all

    def named(self, pattern: str) -> Iterator[PurePosixPath]:
        """Files whose name matches a regular expression."""
        wanted = re.compile(pattern)
        return (path for path in self.files if wanted.fullmatch(path.name))

    def text(self, path: PurePosixPath) -> str:
        """A small text file. Raises InputError if it cannot be read or is no UTF-8."""
        try:
            return (self.root / path).read_text("utf-8-sig")
        except UnicodeDecodeError:
            raise InputError(f"{path} is not text in UTF-8; convert it") from None
        except OSError as error:
            raise InputError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else path.as_posix()


def read_folder(folder: str | Path, layout: str = "auto", source: str = "corpus") -> Listing:
    """The recordings of `folder`. layout: a name in `LAYOUTS`, or auto.   source: prefix of keys and speakers.

    Raises InputError if the folder is missing or holds no audio, UsageError for an unknown layout or one that the
    folder has not.
    """
    root = Path(folder)
    if layout != "auto" and layout not in LAYOUTS:
        raise UsageError(f"unknown layout {layout!r}; expected auto, {', '.join(LAYOUTS)}")
    if not root.is_dir():
        what = "is a file" if root.exists() else "is not there"
        raise InputError(f"{root} {what}; expected a folder of recordings")
    tree = Tree(root)
    if not tree.audio:
        raise InputError(f"{root} holds no audio; expected files such as {', '.join(SUFFIXES[:6])}")
    for name in DETECTED if layout == "auto" else (layout,):
        found = LAYOUTS[name](tree)
        if found is not None:
            return _finish(name, found, tree, source)
    if layout not in ("auto", "plain"):
        raise UsageError(f"{root} is not arranged as {layout}; give another --layout, or auto")
    return _finish("plain", _plain(tree), tree, source)


Found = tuple[list[Recording], list[Dropped]]


def _plain(tree: Tree) -> Found:
    recordings: list[Recording] = []
    dropped: list[Dropped] = []
    for path in tree.audio:
        beside = path.with_suffix(".txt")
        text = None
        if beside in tree:
            try:
                text = tree.text(beside)
            except InputError as error:
                dropped.append(Dropped(str(path), "unreadable", str(error)))
                continue
        recordings.append(Recording(str(path), "", text))
    return recordings, dropped


def _speakers(tree: Tree) -> Found | None:
    recordings, dropped = _plain(tree)
    named = [replace(one, speaker=PurePosixPath(one.path).parts[0]) for one in recordings if "/" in one.path]
    return (named + [one for one in recordings if "/" not in one.path], dropped) if named else None


def _librispeech(tree: Tree) -> Found | None:
    texts: dict[PurePosixPath, str] = {}
    for listing in tree.named(r"\d+-\d+\.trans\.txt"):
        for line in tree.text(listing).splitlines():
            name, _, text = line.partition(" ")
            texts[listing.parent / name] = text
    if not texts:
        return None
    return _chapters(tree, texts, r"(\d+)-\d+-\d+")


def _libritts(tree: Tree) -> Found | None:
    ending = ".normalized.txt"
    texts = {
        path.with_name(path.name[: -len(ending)]): tree.text(path)
        for path in tree.named(r".*\.normalized\.txt")
    }
    if not texts:
        return None
    return _chapters(tree, texts, r"(\d+)_\d+_\d+_\d+")


def _chapters(tree: Tree, texts: dict[PurePosixPath, str], pattern: str) -> Found:
    """SUBSET/SPEAKER/CHAPTER/UTTERANCE: what LibriSpeech and LibriTTS have in common. Both are English."""
    recordings, seen = [], set()
    for path in tree.audio:
        name = path.with_suffix("")
        match = re.fullmatch(pattern, name.name)
        if match is None:
            continue
        seen.add(name)
        subset = next(
            (part for part in reversed(path.parts[:-1]) if re.match(r"(train|dev|test)-", part)), None
        )
        if subset is None:  # the folder given is the subset itself
            subset = tree.root.resolve().name
        split = subset.split("-")[0]
        recordings.append(
            Recording(str(path), "", texts.get(name), match[1], "en", split if split in SPLITS else None)
        )
    return recordings, _missing(name for name in texts if name not in seen)


def _ljspeech(tree: Tree) -> Found | None:
    for table in tree.named(r"metadata\.csv"):
        audio = {path.stem: path for path in tree.audio if path.parent == table.parent / "wavs"}
        if not audio:
            continue
        texts = {}
        for line in tree.text(table).splitlines():
            fields = line.split("|")
            if len(fields) >= 2:
                texts[fields[0]] = fields[2] if len(fields) > 2 and fields[2].strip() else fields[1]
        recordings = [Recording(str(path), "", texts.get(name), "lj", "en") for name, path in audio.items()]
        return recordings, _missing(table.parent / "wavs" / name for name in texts if name not in audio)
    return None


def _vctk(tree: Tree) -> Found | None:
    texts = {}
    for path in tree.named(r"[ps]\d+_\d+\.txt"):
        if path.parent.parent.name == "txt":
            texts[path.stem] = path
    if not texts:
        return None
    facts = _vctk_speakers(tree)
    takes: dict[str, dict[str, PurePosixPath]] = defaultdict(dict)
    for path in tree.audio:
        match = re.fullmatch(r"([ps]\d+_\d+)(?:_mic(\d))?", path.stem)
        if match and path.parent.parent.name.startswith("wav48"):
            takes[match[1]][match[2] or "0"] = path
    if not takes:
        return None
    recordings, dropped = [], []
    for name, microphones in takes.items():
        path = microphones[min(microphones)]  # two microphones heard the same words
        speaker = name.split("_")[0]
        text = None
        if name in texts:  # p315 has lost its texts
            try:
                text = tree.text(texts[name])
            except InputError as error:
                dropped.append(Dropped(str(path), "unreadable", str(error)))
                continue
        recordings.append(Recording(str(path), "", text, speaker, "en", None, facts.get(speaker, {})))
    return recordings, dropped + _missing(texts[name].with_suffix("") for name in texts if name not in takes)


def _vctk_speakers(tree: Tree) -> dict[str, dict[str, Any]]:
    """speaker-info.txt: ID AGE GENDER ACCENTS REGION, columns by spaces."""
    facts: dict[str, dict[str, Any]] = {}
    for table in tree.named(r"speaker-info\.txt"):
        for line in tree.text(table).splitlines():
            fields = line.split()
            if len(fields) >= 4 and fields[1].isdigit():
                name = fields[0] if fields[0][0] in "ps" else "p" + fields[0]
                facts[name] = {"age": int(fields[1]), "gender": fields[2].lower(), "accent": fields[3]}
    return facts


def _commonvoice(tree: Tree) -> Found | None:
    recordings: list[Recording] = []
    missing: list[PurePosixPath] = []
    found = False
    tables: dict[PurePosixPath, dict[str, PurePosixPath]] = defaultdict(dict)
    for path in tree.named(r"(train|dev|test|validated)\.tsv"):
        tables[path.parent][path.stem] = path
    for folder, listed in tables.items():
        audio = {path.name: path for path in tree.audio if path.parent == folder / "clips"}
        if not audio:
            continue
        rows: dict[str, Recording] = {}
        for split in ("validated", *SPLITS):  # the later, narrower lists say in which split a clip is
            if split not in listed:
                continue
            for row in csv.DictReader(
                tree.text(listed[split]).splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE
            ):
                if not {"client_id", "path", "sentence"} <= set(row):
                    break
                found = True
                name = PurePosixPath(row["path"] or "").name
                name = name if PurePosixPath(name).suffix else name + ".mp3"
                if name not in audio:
                    missing.append(folder / "clips" / name)
                    continue
                extra = {field: row[field] for field in ("gender", "age", "accents") if row.get(field)}
                language = row.get("locale") or (folder.name or tree.root.resolve().name)
                rows[name] = Recording(
                    str(audio[name]),
                    "",
                    row["sentence"],
                    row["client_id"][:16],  # 128 hexadecimal digits, of which these are enough
                    language,
                    split if split in SPLITS else None,
                    extra,
                )
        recordings += rows.values()
    return (recordings, _missing(dict.fromkeys(missing))) if found else None


def _librilight(tree: Tree) -> Found | None:
    recordings = []
    for path in tree.audio:
        beside = path.with_suffix(".json")
        if path.suffix.lower() != ".flac" or beside not in tree:
            continue
        try:
            facts = json.loads(tree.text(beside))
        except (InputError, ValueError):
            facts = {}
        if not isinstance(facts, dict) or not ({"book_meta", "voice_activity"} & set(facts)):
            if not recordings:
                return None  # some other kind of JSON
            facts = {}
        speaker = str(facts.get("speaker") or path.parent.parent.name)
        recordings.append(Recording(str(path), "", None, speaker, "en"))
    return (recordings, []) if recordings else None


# In the order in which they are tried: the more telling signs first.
LAYOUTS: dict[str, Callable[[Tree], Found | None]] = {
    "commonvoice": _commonvoice,
    "ljspeech": _ljspeech,
    "vctk": _vctk,
    "libritts": _libritts,
    "librispeech": _librispeech,
    "librilight": _librilight,
    "plain": _plain,
    "speakers": _speakers,
}
DETECTED = tuple(name for name in LAYOUTS if name not in ("plain", "speakers"))


def _missing(names: Iterable[PurePosixPath]) -> list[Dropped]:
    return [Dropped(str(name), "missing", "it has a text but no audio") for name in names]


def _finish(layout: str, found: Found, tree: Tree, source: str) -> Listing:
    """Keys, tidy texts and speakers, in order of the paths."""
    recordings, dropped = found
    if not recordings:
        raise InputError(f"{tree.root} is arranged as {layout} but none of its recordings is there")
    recordings.sort(key=lambda recording: recording.path)
    plain = [tidy_name(f"{source}_{PurePosixPath(r.path).with_suffix('')}") for r in recordings]
    taken: dict[str, int] = defaultdict(int)
    for key in plain:
        taken[key] += 1
    finished = []
    for recording, key in zip(recordings, plain, strict=True):
        if taken[key] > 1 or len(key) > _LONGEST_KEY:
            key = (
                key[: _LONGEST_KEY - 9]
                + "_"
                + hashlib.sha256(recording.path.encode("utf-8", "replace")).hexdigest()[:8]
            )
        text = " ".join((recording.text or "").split()) or None
        finished.append(replace(recording, key=key, text=text))
    return Listing(layout, tuple(finished), (*tree.unreadable, *dropped))
