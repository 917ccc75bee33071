"""A user's lexicon: how to say words that espeak-ng gets wrong.

A text file with `word<TAB>how to say it` on each line (`#` starts a comment line), or a JSON object {word: how}. How is
IPA as espeak-ng writes it (in slashes, or with any sign that only IPA has: `ˈ`, `ə`, `ʃ`) or a respelling in ordinary
letters. A word with a capital matches only as written; one without matches in any case. A key may be several words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from ...errors import InputError
from .phones import UNKNOWN, Phones

_ONLY_IPA = re.compile("[ˈˌːəɚɛɜæɐɑɒɔɪʊʌᵻðθʃʒŋɹɾɡʔɲɣɸβχʁʎʂʐɕʑɯɨʉɵœøɫ\u0303]")
_EXPECTED = "expected word<TAB>IPA or respelling"


@dataclass(frozen=True)
class Entry:
    """How to say a word: `ipa` or, when that is None, `respelling`."""

    ipa: str | None
    respelling: str | None

    @classmethod
    def parse(cls, value: str) -> Entry:
        """From a lexicon's right-hand side; ValueError says in a few words what is wrong with it."""
        value = value.strip()
        in_slashes = len(value) > 1 and value[0] == value[-1] == "/"
        if not in_slashes and not _ONLY_IPA.search(value):
            if not any(char.isalnum() for char in value):
                raise ValueError("nothing to say in it")
            return cls(None, value)
        ipa = value[1:-1] if in_slashes else value
        for char in ipa:
            if UNKNOWN in Phones.from_ipa(char).tokens[0]:
                raise ValueError(f"{char!r} is not an IPA symbol that espeak-ng uses")
        if not Phones.from_ipa(ipa).n_sounds:
            raise ValueError("no sound in it")
        return cls(ipa, None)


@dataclass(frozen=True)
class Lexicon:
    """word -> how to say it. `Lexicon.load(path)`, or `Lexicon.of({"Myna": "ˈmaɪnə"})` in Python."""

    entries: Mapping[str, Entry] = field(default_factory=dict)

    @classmethod
    def of(cls, words: Mapping[str, str]) -> Lexicon:
        """From {word: IPA or respelling}. InputError on the first that cannot be used."""
        return cls(dict(_entry(word, value, f"lexicon entry {word!r}") for word, value in words.items()))

    @classmethod
    def load(cls, path: str | Path) -> Lexicon:
        """From a TSV or JSON file. InputError names the line."""
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: not UTF-8 text; save the lexicon as UTF-8") from error
        except OSError as error:
            raise InputError(f"{path}: cannot read the lexicon ({error.strerror}); check the path") from error
        rows = _json_rows(text, path) if text.lstrip().startswith(("{", "[")) else _tsv_rows(text, path)
        entries: dict[str, Entry] = {}
        for line, word, value in rows:
            word, entry = _entry(word, value, f"{path}, line {line}")
            if word in entries:
                raise InputError(f"{path}, line {line}: {word!r} is in the lexicon twice; remove one")
            entries[word] = entry
        return cls(entries)

    def find(self, text: str) -> Iterator[re.Match[str]]:
        """The places of the lexicon's words in `text`, whole words only, the longest where several fit."""
        if self.entries:
            yield from self._pattern.finditer(text)

    def __getitem__(self, found: str) -> Entry:
        return self.entries.get(found) or self.entries[found.casefold()]

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        words = sorted(self.entries, key=len, reverse=True)
        return re.compile("|".join(rf"(?<!\w)(?:{_word_pattern(word)})(?!\w)" for word in words))


def _word_pattern(word: str) -> str:
    pattern = re.escape(word).replace(r"\ ", r"\s+")
    return f"(?i:{pattern})" if word == word.casefold() else pattern


def _entry(word: object, value: object, place: str) -> tuple[str, Entry]:
    if not isinstance(word, str) or not isinstance(value, str) or not word.strip() or not value.strip():
        raise InputError(f"{place}: {_EXPECTED}, both of them text that is not empty")
    word = " ".join(word.split())
    if not any(char.isalnum() for char in word):
        raise InputError(f"{place}: {word!r} is not a word; {_EXPECTED}")
    try:
        return word, Entry.parse(value)
    except ValueError as error:
        raise InputError(f"{place}: {value.strip()!r} cannot be said: {error}; {_EXPECTED}") from error


def _tsv_rows(text: str, path: Path) -> Iterator[tuple[int, str, str]]:
    for line, row in enumerate(text.splitlines(), 1):
        if not row.strip() or row.lstrip().startswith("#"):
            continue
        columns = row.strip("\r\n").split("\t")
        if len(columns) != 2:
            raise InputError(
                f"{path}, line {line}: {len(columns)} column(s); {_EXPECTED}, one tab between them"
            )
        yield line, columns[0], columns[1]


def _json_rows(text: str, path: Path) -> Iterator[tuple[int, str, str]]:
    try:
        pairs = json.loads(text, object_pairs_hook=list)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}, line {error.lineno}: not valid JSON ({error.msg}); {_EXPECTED} or JSON"
        ) from error
    if not text.lstrip().startswith("{"):
        raise InputError(
            f'{path}, line 1: expected one JSON object {{"word": "IPA or respelling"}}, found a list'
        )
    start = 0
    for word, value in pairs:
        # json forgets where things stood: keys come in order, so the next place of this one is its line.
        found = re.compile(rf'"{re.escape(json.dumps(word)[1:-1])}"|"{re.escape(word)}"').search(text, start)
        start = found.end() if found else start
        yield text.count("\n", 0, start) + 1, word, value
