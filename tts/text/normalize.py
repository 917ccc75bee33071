"""Text as it is written to text as it is said: numbers, dates, money, abbreviations, addresses, signs in words.

English is spelled out here, because espeak-ng reads much of it in ways that a listener would not expect (a date as a
division, an address as one word). Other languages are only cleaned: espeak-ng reads their numbers itself.
"""

from __future__ import annotations

import re

from ...errors import InputError
from .abbreviations import expand_abbreviations, expand_capitals, expand_roman, is_shouted
from .addresses import say_addresses
from .cleaning import clean
from .lexicon import Lexicon
from .numbers import say_numbers
from .sentences import split_sentences

# The lexicon's words pass through as one private character each (which cleaning has removed from the text itself).
_FIRST_PRIVATE = 0xE000
_N_PRIVATE = 0x1900
_PIECE = 500  # characters that the rules see at a time, at most

_SIGNS = [
    (r"(?<=\w)\s?&\s?(?=\w)|\s&\s", " and "),
    (r"\band\s?/\s?or\b", "and or"),
    (r"(?<=[^\W\d_])/(?=[^\W\d_])", " slash "),
    (r"(?<!\w)~\s?(?=\w)", " about "),
    (r"(?<=\w)\+\+", " plus plus"),
    (r"(?<=\b[A-Z])#", " sharp"),
    (r"#", " hash "),
    (r"->|=>|→", ", "),
    (r"<-|<=|←", ", "),
]
_NAMES = {
    "%": "percent",
    "@": "at",
    "+": "plus",
    "=": "equals",
    "<": "less than",
    ">": "greater than",
    "±": "plus or minus",
    "×": "times",
    "÷": "divided by",
    "≈": "is about",
    "≠": "is not equal to",
    "≤": "at most",
    "≥": "at least",
    "√": "square root of",
    "∞": "infinity",
    "∑": "sum",
    "°": "degrees",
    "§": "section",
    "©": "copyright",
    "$": "dollars",
    "€": "euros",
    "£": "pounds",
    "¥": "yen",
    "₹": "rupees",
    "₽": "rubles",
    "₩": "won",
    "₿": "bitcoin",
    "¢": "cents",
    "&": "and",
    "α": "alpha",
    "β": "beta",
    "γ": "gamma",
    "δ": "delta",
    "Δ": "delta",
    "θ": "theta",
    "λ": "lambda",
    "μ": "mu",
    "π": "pi",
    "σ": "sigma",
    "φ": "phi",
    "ω": "omega",
    "Ω": "omega",
}
_NAMED = re.compile("|".join(map(re.escape, _NAMES)))
_GREEK = re.compile(r"(?<![\u0370-\u03ff])[\u0370-\u03ff](?![\u0370-\u03ff])")  # alone: a sign, not Greek
_LEFT_OVER = re.compile(r"[^\w\s.,?!;:…—\"'\-\u0300-\u036f\ue000-\uf8ff]|_")


def normalize(text: str, language: str = "en-us", lexicon: Lexicon | None = None) -> str:
    """`text` as it is said, one paragraph a line; "" when nothing in it can be said.

    language: English is spelled out (en-gb puts the day before the month in 3/4/2024), others are cleaned only.
    lexicon: its words are left as they are, for `phonemize` to find.
    """
    text = clean(text)
    if not language.lower().startswith("en"):
        return text
    day_first = language.lower().replace("_", "-").startswith(("en-gb", "en-au", "en-nz", "en-ie", "en-za"))
    return "\n".join(filter(None, (_say_paragraph(line, day_first, lexicon) for line in text.split("\n"))))


def prepare_text(
    text: str, language: str = "en-us", lexicon: Lexicon | None = None, max_chars: int = 200
) -> list[str]:
    """The sentences of `text`, normalised, in order, none longer than `max_chars`: what `phonemize` takes.

    Errors: InputError when there is nothing to say: an empty text, only punctuation, only emoji.
    """
    sentences = [
        sentence
        for sentence in split_sentences(normalize(text, language, lexicon), max_chars)
        if any(char.isalnum() for char in sentence)
    ]
    if not sentences:
        raise InputError(why_nothing(text))
    return sentences


def why_nothing(text: str) -> str:
    """One line for a text in which there is nothing to say."""
    shown = " ".join("".join(char for char in text if char.isprintable() or char.isspace()).split())
    if not shown:
        return "nothing to say: the text is empty; give at least one word"
    shown = shown if len(shown) <= 30 else shown[:29] + "…"
    return (
        f"nothing to say in {shown!r}: it holds only punctuation, symbols or markup; give at least one word"
    )


def _say_paragraph(text: str, day_first: bool, lexicon: Lexicon | None) -> str:
    kept: list[str] = []
    if lexicon:
        text = _protect(text, lexicon, kept)
    # Piece by piece, so that the time grows with the text's length and not faster, whatever stands in it. Addresses
    # first: a question mark in one is no sentence's end.
    shouted = is_shouted(text)
    pieces = split_sentences(say_addresses(text), _PIECE)
    text = " ".join(filter(None, (_say(piece, day_first, shouted) for piece in pieces)))
    return re.sub("[\ue000-\uf8ff]", lambda m: kept[ord(m[0]) - _FIRST_PRIVATE], text) if kept else text


def _say(text: str, day_first: bool, shouted: bool) -> str:
    text = expand_roman(expand_abbreviations(expand_roman(text)))
    text = say_numbers(text, day_first)
    text = expand_capitals(text, shouted or is_shouted(text))
    for pattern, replacement in _SIGNS:
        text = re.sub(pattern, replacement, text)
    text = _GREEK.sub(lambda m: f" {_NAMES.get(m[0], m[0])} ", text)
    text = _NAMED.sub(lambda m: m[0] if "\u0370" <= m[0] <= "\u03ff" else f" {_NAMES[m[0]]} ", text)
    text = re.sub(r"\s*[()\[\]{}]+\s*", _bracket, text)
    text = _LEFT_OVER.sub(" ", text)
    text = re.sub(r"(?<![\w'])-+|-+(?![\w'])", " ", text)
    text = re.sub(r"\s+([.,?!;:…])", r"\1", " ".join(text.split()))
    text = re.sub(r",(?=[.,?!;:…])|^[\s.,;:…—]+(?=\w)", "", text)
    return text


def _bracket(m: re.Match[str]) -> str:
    """A remark in brackets is set off by commas, as a reader would by pauses."""
    before, after = m.string[: m.start()], m.string[m.end() :]
    if not before.strip() or before.rstrip()[-1] in ".,?!;:…—" or not after.strip() or after[0] in ".,?!;:…—":
        return " "
    return ", " if " " in m[0] else ""


def _protect(text: str, lexicon: Lexicon, kept: list[str]) -> str:
    out, end = [], 0
    for found in lexicon.find(text):
        if len(kept) == _N_PRIVATE:
            break
        out += [text[end : found.start()], chr(_FIRST_PRIVATE + len(kept))]
        kept.append(found[0])
        end = found.end()
    return "".join([*out, text[end:]])
