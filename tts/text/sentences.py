"""Text to sentences, each short enough to be said in one go."""

from __future__ import annotations

import re

from .english import ABBREVIATIONS, MAY_END, STARTERS, UNITS

_CLOSERS = "\"'”’)\\]»"
_BOUNDARY = re.compile(
    rf"\n+|[。！？｡]+[{_CLOSERS}」』]*"  # Chinese and Japanese need no space
    rf"|(?<![.!?…])[.!?…]+[{_CLOSERS}]*(?=\s|$)"
    r"|(?<=[^\W\d_]{2})[.!?](?=[A-Z][a-z])|(?<=[^\W\d_])[!?]+(?=[^\W\d_])"  # a space was forgotten
)
_LAST_WORD = re.compile(r"[^\s\"“'(\[]+$")
_BREAKS = (
    re.compile(r"[;:；：—](?=\s|[^\x00-\x7f])|[；：]"),
    re.compile(r",(?!\d)|[，、]"),
    re.compile(r"\s"),
)


def split_sentences(text: str, max_chars: int = 200) -> list[str]:
    """The sentences of `text`, in order, none longer than `max_chars` characters; nothing but white space is lost.

    A longer one is cut at a semicolon, colon or dash, else at a comma, else between words, else anywhere.
    """
    if max_chars < 1:
        raise ValueError(f"max_chars is {max_chars}, expected at least 1")
    sentences = []
    start = 0
    for boundary in _BOUNDARY.finditer(text):
        if boundary.end() > start and _ends_sentence(text, boundary):
            sentences.append(text[start : boundary.end()].strip())
            start = boundary.end()
    sentences.append(text[start:].strip())
    return [part for sentence in sentences if sentence for part in _shorten(sentence, max_chars)]


def _ends_sentence(text: str, boundary: re.Match[str]) -> bool:
    mark = boundary[0]
    if mark[0] in "\n。！？｡" or boundary.end() == len(text):
        return True
    after = text[boundary.end() : boundary.end() + 40].lstrip(" \t\"“'‘([")
    if after[:1].islower() and (mark[-1] in "\"'”’)»]…" or mark.startswith(("…", ".."))):
        return False  # "Yes?" he said; well... maybe
    if not mark.startswith(".") or mark.startswith(".."):
        return True
    found = _LAST_WORD.search(text, max(0, boundary.start() - 40), boundary.start())
    word = found[0] if found else ""
    starter = re.match(r"[^\W\d_]+(?=[\s,'])", after)
    begins = bool(starter) and starter[0] in STARTERS
    if len(word) == 1 and word.isupper():  # an initial, unless it is the pronoun
        return begins or word == "I"
    if re.fullmatch(r"(?:[^\W\d_]\.)+[^\W\d_]", word):  # U.S, e.g
        return begins and word.lower() not in ("e.g", "i.e")
    if word in UNITS and after[:1].islower():
        return False
    if word.lower() in MAY_END:
        return begins
    if word.lower() not in ABBREVIATIONS:
        return True
    if word.lower() == "no":  # "No. 5", but "He said no."
        return not after[:1].isdigit()
    return False


def _shorten(sentence: str, max_chars: int) -> list[str]:
    parts = []
    while len(sentence) > max_chars:
        end = _break(sentence, max_chars)
        parts.append(sentence[:end].strip())
        sentence = sentence[end:].lstrip()
    return [part for part in (*parts, sentence) if part]


def _break(sentence: str, max_chars: int) -> int:
    """Where to cut: after the best mark within `max_chars`, but not so early that a stump is left."""
    for marks in _BREAKS:
        ends = [m.end() for m in marks.finditer(sentence, max_chars // 3, max_chars)]
        if ends:
            return ends[-1]
    ends = [m.end() for m in _BREAKS[-1].finditer(sentence, 0, max_chars)]
    return ends[-1] if ends else max_chars
