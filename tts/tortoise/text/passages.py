"""A text cut into what TorToise can say at a time, and what of it is not to be heard.

|            cut here
blank line   a paragraph ends
[words]      said, and cut out of the sound: they set the tone ("[I am so sad,] please come")
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ....errors import UsageError
from ...text.long_text import Sentence
from ...text.sentences import split_sentences
from .tokenizer import MAX_TOKENS, tokens

MAX_CHARS = 200  # TorToise's own; some 100 text tokens


@dataclass(frozen=True)
class Passage:
    """Words that are heard, or that are only said."""

    text: str
    heard: bool


def split(text: str) -> list[Sentence]:
    """What is said at a time, of at most MAX_CHARS characters. Raises UsageError where there is nothing to say, and for
    brackets that do not match."""
    found: list[Sentence] = []
    end = 0
    for paragraph in re.split(r"\n\s*\n", text):
        parts = [
            sentence
            for piece in paragraph.split("|")
            for whole in _bracketed(split_sentences(" ".join(piece.split()), MAX_CHARS))
            for sentence in _short_enough(whole)
            if any(char.isalnum() for char in sentence)
        ]
        for index, part in enumerate(parts):
            end += len(part)
            found.append(Sentence(part, index == len(parts) - 1, end))
    if not found:
        raise UsageError("there is nothing to say; give at least one word")
    for sentence in found:
        passages(sentence.text)
    return found


def passages(sentence: str) -> list[Passage]:
    """The passages of a sentence in order. Raises UsageError for brackets that do not match or hold everything."""
    parts = re.split(r"(\[[^\[\]]*\])", sentence)
    if any("[" in part or "]" in part for part in parts[::2]):
        raise UsageError(
            f"a bracket is not closed in {sentence[:60]!r}; [brackets] hold what is said but not heard"
        )
    made = [
        Passage(part.strip("[] "), index % 2 == 0) for index, part in enumerate(parts) if part.strip("[] ")
    ]
    if not any(passage.heard and any(c.isalnum() for c in passage.text) for passage in made):
        raise UsageError(f"all of {sentence[:60]!r} is in brackets, and nothing would be heard")
    return made


def spoken(sentence: str) -> str:
    """All that is said, without the brackets."""
    return " ".join(passage.text for passage in passages(sentence))


def _short_enough(sentence: str) -> list[str]:
    """A sentence whose figures are so many words that the network cannot read them, in parts. One with brackets stays
    whole."""
    if "[" in sentence or len(tokens(sentence)) < MAX_TOKENS:
        return [sentence]
    return [part for half in split_sentences(sentence, len(sentence) // 2) for part in _short_enough(half)]


def _bracketed(sentences: list[str]) -> list[str]:
    """Sentences put together again where a bracket spans them, and where nothing but a bracket is left."""
    joined: list[str] = []
    for sentence in sentences:
        open_before = bool(joined) and joined[-1].count("[") > joined[-1].count("]")
        if open_before or (joined and re.fullmatch(r"\[[^\]]*\]", joined[-1])):
            joined[-1] = f"{joined[-1]} {sentence}"
        else:
            joined.append(sentence)
    return joined
