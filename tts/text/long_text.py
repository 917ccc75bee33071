"""A text of any length as sentences, each of which is said on its own."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import UsageError
from .normalize import normalize, why_nothing
from .phonemes import find_language
from .sentences import split_sentences


@dataclass(frozen=True)
class Sentence:
    """text: normalised, ready for phonemes.   ends_paragraph: a longer pause follows.   end: characters of the
    normalised text up to here, for telling how far the speech is."""

    text: str
    ends_paragraph: bool
    end: int


def split_text(text: str, language: str = "en-us", max_chars: int = 200) -> list[Sentence]:
    """Text as people have it, markup and all, to sentences of at most `max_chars` characters.

    Blank lines end a paragraph; lines within one run on, as in a book that was wrapped. Raises UsageError if there is
    nothing to say, or for a language that is unknown.
    """
    find_language(language)
    found: list[Sentence] = []
    end = 0
    for paragraph in normalize(text, language).splitlines():
        sentences = split_sentences(paragraph, max_chars)
        for i, sentence in enumerate(sentences):
            end += len(sentence)
            found.append(Sentence(sentence, i == len(sentences) - 1, end))
    if not found:
        raise UsageError(why_nothing(text))
    return found
