"""Numbers as they are said to numbers as they are written: "twenty five dollars and six cents" to "$25.06".

The number part of Whisper's English normaliser (Radford et al. 2022, appendix C), every result equal to that of
openai-whisper's, so that error rates can be compared. Where what is equal is surprising, a comment says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from enum import Enum, auto
from fractions import Fraction

_ONE_TO_NINETEEN = (
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
)
_TWENTY_TO_NINETY = "twenty thirty forty fifty sixty seventy eighty ninety"
_LARGE = "thousand million billion trillion quadrillion quintillion sextillion septillion octillion nonillion decillion"
_ONES, _TENS, _POWERS = (names.split() for names in (_ONE_TO_NINETEEN, _TWENTY_TO_NINETY, _LARGE))
_IRREGULAR = {
    "first": (1, "st"),
    "second": (2, "nd"),
    "third": (3, "rd"),
    "fifth": (5, "th"),
    "twelfth": (12, "th"),
}


class _Kind(Enum):
    """What a word does to the number before it."""

    ZERO = auto()
    SMALL = auto()  # 1 to 19
    TENS = auto()
    MULTIPLIER = auto()
    SIGN = auto()  # written before the number that follows
    CURRENCY = auto()  # written before the number that it follows
    PERCENT = auto()
    AND = auto()
    REPEAT = auto()  # double, triple
    POINT = auto()


def _vocabulary() -> Iterator[tuple[str, tuple[_Kind, int, str]]]:
    """Every word that can be part of a number: its kind, its amount, and its ending ("s", "th") or sign."""
    for word in ("o", "oh", "zero"):
        yield word, (_Kind.ZERO, 0, "")
    yield "zeroth", (_Kind.SMALL, 0, "th")
    for word, (amount, ending) in _IRREGULAR.items():
        yield word, (_Kind.SMALL, amount, ending)
    for amount, word in enumerate(_ONES, 1):
        yield word, (_Kind.SMALL, amount, "")
        yield word + ("es" if word == "six" else "s"), (_Kind.SMALL, amount, "s")
        if amount > 3 and amount not in (5, 12):
            # Of nine this makes "nineth": "ninth" stays a word, as in the original.
            yield word + ("h" if word.endswith("t") else "th"), (_Kind.SMALL, amount, "th")
    for i, word in enumerate(_TENS, 2):
        yield word, (_Kind.TENS, 10 * i, "")
        yield word[:-1] + "ies", (_Kind.TENS, 10 * i, "s")
        yield word[:-1] + "ieth", (_Kind.TENS, 10 * i, "th")
    for amount, word in ((100, "hundred"), *((1000**i, word) for i, word in enumerate(_POWERS, 1))):
        for ending in ("", "s", "th"):
            yield word + ending, (_Kind.MULTIPLIER, amount, ending)
    for sign, words in (("-", ("minus", "negative")), ("+", ("plus", "positive"))):
        for word in words:
            yield word, (_Kind.SIGN, 0, sign)
    for sign, word in (("£", "pound"), ("€", "euro"), ("$", "dollar"), ("¢", "cent")):
        yield word, (_Kind.CURRENCY, 0, sign)
        yield word + "s", (_Kind.CURRENCY, 0, sign)
    yield "per", (_Kind.PERCENT, 0, "")
    yield "percent", (_Kind.PERCENT, 0, "%")
    yield "and", (_Kind.AND, 0, "")
    yield "double", (_Kind.REPEAT, 2, "")
    yield "triple", (_Kind.REPEAT, 3, "")
    yield "point", (_Kind.POINT, 0, "")


_WORDS = dict(_vocabulary())
_DIGITS = {
    word for word, (kind, _, ending) in _WORDS.items() if kind in (_Kind.ZERO, _Kind.SMALL) and not ending
}
_PLAIN_TENS = set(_TENS)
_MULTIPLIERS = {word for word, (kind, _, ending) in _WORDS.items() if kind is _Kind.MULTIPLIER and not ending}
_NUMERAL = re.compile(r"\d+(\.\d+)?")
_SIGNS = frozenset("-+£€$¢")


def normalize_numbers(text: str) -> str:
    """Lower-case text with its numbers in digits: currency and percent as signs, ordinals as 1st and 2nd."""
    return _join_cents(" ".join(_Reader(_part_words(text).split()).read()))


class _Reader:
    """Goes through the words with one number in hand, which grows or is written down.

    value: the number in hand. An integer while arithmetic still works on it, a string of digits once it is a decimal,
    or was dictated digit by digit.   prefix: the sign that it will be written with.
    """

    def __init__(self, words: Sequence[str]):
        self._words = words
        self._written: list[str] = []
        self._value: int | str | None = None
        self._prefix = ""

    def read(self) -> list[str]:
        at = 0
        while at < len(self._words):
            before = self._words[at - 1] if at else ""
            after = self._words[at + 1] if at + 1 < len(self._words) else ""
            at += 1 + self._take(before, self._words[at], after)
        self._flush()
        return self._written

    # ---- writing down

    def _write(self, what: str) -> None:
        """A number or a word. A sign in hand goes before whatever it is."""
        self._written.append(self._prefix + what)
        self._value, self._prefix = None, ""

    def _flush(self) -> None:
        if self._value is not None:
            self._write(str(self._value))

    def _pass(self, word: str) -> None:
        """A word that is none of the number."""
        self._flush()
        self._write(word)

    # ---- reading: each returns how many words after this one are done with it

    def _take(self, before: str, word: str, after: str) -> int:
        sign, numeral = (word[0], word[1:]) if word[0] in _SIGNS else ("", word)
        if _NUMERAL.fullmatch(numeral):
            self._numeral(sign, numeral, word)
            return 0
        if word not in _WORDS:
            self._pass(word)
            return 0
        kind, amount, ending = _WORDS[word]
        # A sign before the numeral keeps it from being seen from the word before.
        numeric_next = after in _WORDS or bool(_NUMERAL.fullmatch(after))
        if kind is _Kind.ZERO:
            self._value = f"{self._value or ''}0"
        elif kind in (_Kind.SMALL, _Kind.TENS):
            self._value = self._joined(before, kind, amount)
            if ending:
                self._write(f"{self._value}{ending}")
        elif kind is _Kind.MULTIPLIER:
            self._multiply(amount)
            if ending:
                self._write(f"{self._value}{ending}")
        elif kind is _Kind.SIGN:
            self._flush()
            if numeric_next:
                self._prefix = ending
            else:
                self._write(word)
        elif kind is _Kind.CURRENCY:
            if self._value is not None:
                self._prefix = ending
                self._flush()
            else:
                self._write(word)
        elif kind is _Kind.PERCENT:
            return self._percent(word, after)
        elif not numeric_next:
            self._pass(word)
        elif kind is _Kind.AND:
            if before not in _MULTIPLIERS:  # "two hundred and five" is one number
                self._pass(word)
        elif kind is _Kind.REPEAT:
            return self._repeat(word, after, amount)
        elif after in _DIGITS or after in _PLAIN_TENS or after not in _WORDS:
            self._value = f"{self._value or ''}."  # of a point before any other number word nothing is left
        return 0

    def _numeral(self, sign: str, numeral: str, word: str) -> None:
        """Digits in the text."""
        if isinstance(self._value, str) and self._value.endswith("."):
            self._value += word  # decimals, or a part of an address
            return
        self._flush()
        self._prefix = sign or self._prefix
        number = _fraction(numeral)
        self._value = number.numerator if number is not None and number.denominator == 1 else numeral

    def _joined(self, before: str, kind: _Kind, amount: int) -> int | str:
        """The number with one from 1 to 99 behind it: added where there is room for it, else digit after digit."""
        value = self._value
        if value is None:
            return amount
        if isinstance(value, str) or (kind is _Kind.SMALL and before in _ONES):
            if kind is _Kind.SMALL and before in _PLAIN_TENS and amount < 10:
                return f"{str(value)[:-1]}{amount}"  # nineteen twenty one: 1920 to 1921
            return f"{value}{amount}"
        return value + amount if value % (10 if amount < 10 else 100) == 0 else f"{value}{amount}"

    def _multiply(self, amount: int) -> None:
        """The number, or what it holds below a thousand, times a hundred or a power of a thousand."""
        value = self._value
        if value is None:
            self._value = amount
        elif isinstance(value, str) or value == 0:
            product = None if (number := _fraction(str(value))) is None else number * amount
            if product is not None and product.denominator == 1:
                self._value = product.numerator
            else:
                self._flush()
                self._value = amount
        else:
            self._value = value // 1000 * 1000 + value % 1000 * amount

    def _percent(self, word: str, after: str) -> int:
        if self._value is None:
            self._write(word)
        elif word == "percent":
            self._write(f"{self._value}%")
        elif after == "cent":
            self._write(f"{self._value}%")
            return 1
        else:
            self._pass(word)
        return 0

    def _repeat(self, word: str, after: str, times: int) -> int:
        """Double o seven."""
        if after not in _DIGITS:
            self._pass(word)
            return 0
        self._value = f"{self._value or ''}{str(_WORDS[after][1]) * times}"
        return 1


def _fraction(numeral: str) -> Fraction | None:
    try:
        return Fraction(numeral)
    except ValueError:  # a point alone, or thousands of digits
        return None


def _part_words(text: str) -> str:
    """Numbers and letters apart, endings of numbers on them; "and a half" as a decimal."""
    parts = re.split(r"\band\s+a\s+half\b", text)
    kept: list[str] = []
    for i, part in enumerate(parts):
        if not (words := part.split()):
            continue
        kept.append(part)
        if i < len(parts) - 1:
            number = words[-1] in _DIGITS or words[-1] in _PLAIN_TENS or words[-1] in _MULTIPLIERS
            kept.append("point five" if number else "and a half")
    text = " ".join(kept)
    text = re.sub(r"([a-z])([0-9])", r"\1 \2", text)
    text = re.sub(r"([0-9])([a-z])", r"\1 \2", text)
    return re.sub(r"([0-9])\s+(st|nd|rd|th|s)\b", r"\1\2", text)


def _join_cents(text: str) -> str:
    """$2 and ¢7 to $2.07; $0.07 to ¢7; a lone 1 to one, which reads better."""
    text = re.sub(
        r"([€£$])([0-9]+) (?:and )?¢([0-9]{1,2})\b", lambda m: f"{m[1]}{m[2]}.{int(m[3]):02d}", text
    )
    # Whatever stands after the 0: the original's pattern has a bare dot.
    text = re.sub(r"[€£$]0.([0-9]{1,2})\b", lambda m: f"¢{int(m[1])}", text)
    return re.sub(r"\b1(s?)\b", r"one\1", text)
