"""A text of any length as sentences, each of which is said on its own."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from .text.normalize import normalize
from .text.sentences import split_sentences

_PARAGRAPH = re.compile(r"\n[ \t]*\n\s*|\f|\u2029")


@dataclass(frozen=True)
class Sentence:
    """text: normalised, ready for phonemes. ends_paragraph: a longer pause follows. end: characters of the
    original text up to the end of its paragraph's share, for telling how far the speech is."""

    text: str
    ends_paragraph: bool
    end: int


def split_text(text: str, language: str = "en-us", max_chars: int = 200) -> list[Sentence]:
    """Paragraphs (blank lines between them) into sentences of at most about `max_chars` characters.

    Lines within a paragraph run on, as in a book that was wrapped. Control characters are dropped. Raises what
    the text's parts raise: UsageError for a language that is unknown.
    """
    text = "".join(_plain(char) for char in text.replace("\r\n", "\n").replace("\r", "\n"))
    found: list[Sentence] = []
    start = 0
    for match in [*_PARAGRAPH.finditer(text), None]:
        stop = match.start() if match else len(text)
        paragraph = " ".join(text[start:stop].split())
        spoken = split_sentences(normalize(paragraph, language), max_chars) if paragraph else []
        length = sum(map(len, spoken)) or 1
        said = 0
        for i, sentence in enumerate(spoken):
            said += len(sentence)
            end = start + round((stop - start) * said / length)
            found.append(Sentence(sentence, i == len(spoken) - 1, end))
        start = match.end() if match else stop
    return found


def _plain(char: str) -> str:
    """Control and unassigned characters are nobody's words; those that separate are kept as a space."""
    if char in "\n\t\f\u2029\u200d":
        return char
    kind = unicodedata.category(char)
    if kind in ("Cc", "Cs", "Cn", "Co"):
        return " "
    return "" if kind == "Cf" else char
