"""Text normalisation before word errors are counted: Whisper's normalisers (Radford et al. 2022, appendix C), as
the package whisper-normalizer has them.

`EnglishNormalizer` is for English, `BasicNormalizer` for every other language, letter by letter where words are not
spaced.

>>> EnglishNormalizer()("Dr. Park won't pay $1,385.60, uh, for twenty-five colours!")
'doctor park will not pay $1385.60 for 25 colors'
"""

from __future__ import annotations

import re
from typing import Any

from ...errors import MissingModelError

# Written without spaces between words, by Whisper's codes: the paper's five, and Cantonese, which came later.
UNSPACED = ("zh", "ja", "th", "lo", "my", "yue")
# Python turns no more than 4300 digits into a number. Such a row is a word: its digits stand aside meanwhile, as
# characters that no normaliser knows.
_ENDLESS = re.compile(r"\d{1000,}")
_ASIDE = {ord("0") + digit: 0xE000 + digit for digit in range(10)}
_BACK = {aside: digit for digit, aside in _ASIDE.items()}


class BasicNormalizer:
    """Lower-case words without symbols and what stands in brackets, for a language of which nothing else is known.

    remove_diacritics: letters without their accents, too.   split_letters: every letter (grapheme) a word of its own,
    so that the word error rate is one of letters. Raises MissingModelError without the package.
    """

    def __init__(self, remove_diacritics: bool = False, split_letters: bool = False):
        self.split_letters = split_letters
        self.name = "Whisper's normaliser for any language" + (", letters as words" if split_letters else "")
        self._whole = _package("basic").BasicTextNormalizer(remove_diacritics, split_letters)

    def __call__(self, text: str) -> str:
        return self._whole(text)


class EnglishNormalizer:
    """English: fillers gone, contractions and abbreviations written out, numbers in digits.

    spellings: British ones to American ones, as Whisper's does; without, they stay apart. Raises MissingModelError
    without the package.
    """

    name = "Whisper's normaliser for English"
    split_letters = False

    def __init__(self, spellings: bool = True):
        self._whole = _package("english").EnglishTextNormalizer()
        if not spellings:
            self._whole.standardize_spellings = lambda text: " ".join(text.split())

    def __call__(self, text: str) -> str:
        text = _ENDLESS.sub(lambda digits: digits[0].translate(_ASIDE), text)
        return self._whole(text).translate(_BACK)


def normalizer_for(language: str | None) -> EnglishNormalizer | BasicNormalizer:
    """For texts of a language by its code; None for English. Raises MissingModelError without the package."""
    if language in (None, "en"):
        return EnglishNormalizer()
    return BasicNormalizer(split_letters=language in UNSPACED)


def _package(module: str) -> Any:
    try:
        if module == "basic":
            from whisper_normalizer import basic

            return basic
        from whisper_normalizer import english

        return english
    except ImportError:
        raise MissingModelError(
            "texts are compared by whisper-normalizer, which is not installed (pip install 'myna[evaluate]')"
        ) from None
