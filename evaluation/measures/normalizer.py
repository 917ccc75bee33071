"""Texts brought to one writing before words are compared: Whisper's normalisers (Radford et al. 2022, appendix C).

`EnglishNormalizer` is for English, `BasicNormalizer` for every other language, letter by letter where words are not
spaced. Both give what openai-whisper's give, word for word, so that error rates can be compared with published ones.

>>> EnglishNormalizer()("Dr. Park won't pay $1,385.60, uh, for twenty-five colours!")
'doctor park will not pay $1385.60 for 25 colors'
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from ...errors import MissingModelError
from .spoken_numbers import normalize_numbers

# Written without spaces between words, by Whisper's codes: the paper's five, and Cantonese, which came later.
UNSPACED = ("zh", "ja", "th", "lo", "my", "yue")
_FILLERS = ("hmm", "mm", "mhm", "mmm", "uh", "um")
_CONTRACTIONS = {
    "won't": "will not",
    "can't": "can not",
    "let's": "let us",
    "ain't": "aint",
    "y'all": "you all",
    "wanna": "want to",
    "gotta": "got to",
    "gonna": "going to",
    "i'ma": "i am going to",
    "imma": "i am going to",
    "woulda": "would have",
    "coulda": "could have",
    "shoulda": "should have",
    "ma'am": "madam",
}
_ABBREVIATIONS = {
    "mr": "mister",
    "mrs": "missus",
    "st": "saint",
    "dr": "doctor",
    "prof": "professor",
    "capt": "captain",
    "gov": "governor",
    "ald": "alderman",
    "gen": "general",
    "sen": "senator",
    "rep": "representative",
    "pres": "president",
    "rev": "reverend",
    "hon": "honorable",
    "asst": "assistant",
    "assoc": "associate",
    "lt": "lieutenant",
    "col": "colonel",
    "jr": "junior",
    "sr": "senior",
    "esq": "esquire",
}
_ENDINGS = {  # in this order: those that tell which verb it is come first
    "'d been": "had been",
    "'s been": "has been",
    "'d gone": "had gone",
    "'s gone": "has gone",
    "'d done": "had done",
    "'s got": "has got",
    "n't": "not",
    "'re": "are",
    "'s": "is",
    "'d": "would",
    "'ll": "will",
    "'t": "not",
    "'ve": "have",
    "'m": "am",
}
_WRITTEN_OUT = (
    *((re.compile(rf"\b{short}\b"), long) for short, long in _CONTRACTIONS.items()),
    *((re.compile(rf"\b{short}\b"), f"{long} ") for short, long in _ABBREVIATIONS.items()),
    *((re.compile(rf"{short}\b"), f" {long}") for short, long in _ENDINGS.items()),
)
_IN_NUMBERS = ".%$¢€£"  # what is kept of the symbols, for numbers
_LETTERS = str.maketrans(  # letters that no normal form takes apart
    {"œ": "oe", "ø": "o", "æ": "ae", "ß": "ss", "đ": "d", "ð": "d", "þ": "th", "ł": "l"}
    | {"Œ": "OE", "Ø": "O", "Æ": "AE", "ẞ": "SS", "Đ": "D", "Ð": "D", "Þ": "th", "Ł": "L"}
)


class BasicNormalizer:
    """Lower-case words without symbols and what stands in brackets, for a language of which nothing else is known.

    remove_diacritics: letters without their accents, too.   split_letters: every letter (grapheme) a word of its own,
    so that the word error rate is one of letters. Raises MissingModelError without the package regex, which knows them.
    """

    def __init__(self, remove_diacritics: bool = False, split_letters: bool = False):
        self.remove_diacritics, self.split_letters = remove_diacritics, split_letters
        self.name = "Whisper's normaliser for any language" + (", letters as words" if split_letters else "")
        self._letters = _graphemes() if split_letters else None

    def __call__(self, text: str) -> str:
        text = _without_brackets(text.lower())
        text = plain_letters(text) if self.remove_diacritics else _spaced(unicodedata.normalize("NFKC", text))
        text = text.lower()
        return _single_spaced(text if self._letters is None else " ".join(self._letters(text)))


class EnglishNormalizer:
    """English: fillers gone, contractions and abbreviations written out, numbers in digits.

    spellings: British ones to American ones, as Whisper's does; without, they stay apart.
    """

    name = "Whisper's normaliser for English"
    split_letters = False

    def __init__(self, spellings: bool = True):
        self.spellings = american_spellings() if spellings else {}

    def __call__(self, text: str) -> str:
        text = _without_brackets(text.lower())
        text = re.sub(rf"\b({'|'.join(_FILLERS)})\b", "", text)
        text = re.sub(r"\s+'", "'", text)  # some transcripts part a word before its apostrophe
        for short, long in _WRITTEN_OUT:
            text = short.sub(long, text)
        text = re.sub(r"(\d),(\d)", r"\1\2", text)
        text = re.sub(r"\.([^0-9]|$)", r" \1", text)  # a period stays only in a number
        text = normalize_numbers(plain_letters(text, keep=_IN_NUMBERS))
        text = " ".join(self.spellings.get(word, word) for word in text.split())
        text = re.sub(r"[.$¢€£]([^0-9])", r" \1", text)  # signs that turned out to be of no number
        text = re.sub(r"([^0-9])%", r"\1 ", text)
        return _single_spaced(text)


def normalizer_for(language: str | None) -> EnglishNormalizer | BasicNormalizer:
    """For texts of a language by its code; None for English. Raises as `BasicNormalizer` does."""
    if language in (None, "en"):
        return EnglishNormalizer()
    return BasicNormalizer(split_letters=language in UNSPACED)


@lru_cache(maxsize=1)
def american_spellings() -> dict[str, str]:
    """About 1740 words, British to American: the table of openai-whisper, as its licence (MIT) allows."""
    table = Path(__file__).with_name("spellings.txt").read_text("utf-8")
    return dict(line.split() for line in table.splitlines() if not line.startswith("#"))


def _graphemes() -> Callable[[str], list[str]]:
    try:
        import regex
    except ImportError:
        raise MissingModelError(
            "letters are told apart by regex, which is not installed (pip install 'myna[evaluate]')"
        ) from None
    return regex.compile(r"\X").findall


def plain_letters(text: str, keep: str = "") -> str:
    """Letters without accents, symbols as spaces but for those to keep."""
    kept = "".join(
        c for c in unicodedata.normalize("NFKD", text) if c in keep or unicodedata.category(c) != "Mn"
    )
    return _spaced(kept.translate(_LETTERS), keep)


def _spaced(text: str, keep: str = "") -> str:
    """A space for every mark, symbol and piece of punctuation."""
    return "".join(c if c in keep or unicodedata.category(c)[0] not in "MSP" else " " for c in text)


def _without_brackets(text: str) -> str:
    """Without what is in brackets, as notes in transcripts are."""
    return re.sub(r"\(([^)]+?)\)", "", re.sub(r"[<\[][^>\]]*[>\]]", "", text))


def _single_spaced(text: str) -> str:
    return re.sub(r"\s+", " ", text)
