"""Text as TorToise was trained to read it: plain lower-case letters, numbers as words (the cleaners of Tacotron).

Of the published cleaners one thing is mended: they knew pounds, but turned their sign into letters before they looked.
"""

from __future__ import annotations

import re
import unicodedata

_ABBREVIATIONS = {
    "mrs": "misess",
    "mr": "mister",
    "dr": "doctor",
    "st": "saint",
    "co": "company",
    "jr": "junior",
    "maj": "major",
    "gen": "general",
    "drs": "doctors",
    "rev": "reverend",
    "lt": "lieutenant",
    "hon": "honorable",
    "sgt": "sergeant",
    "capt": "captain",
    "esq": "esquire",
    "ltd": "limited",
    "col": "colonel",
    "ft": "fort",
}
_ABBREVIATION = re.compile(rf"\b({'|'.join(_ABBREVIATIONS)})\.")

# Characters that do not become plain by taking them apart (`unicodedata`, NFKD), as unidecode writes them.
_PLAIN = {
    **{
        "¡": "!",
        "¢": "C/",
        "¥": "Y=",
        "¦": "|",
        "§": "SS",
        "¨": '"',
        "©": "(c)",
        "«": "<<",
        "¬": "!",
        "®": "(r)",
    },
    **{
        "¯": "-",
        "°": "deg",
        "±": "+-",
        "´": "'",
        "µ": "u",
        "¶": "P",
        "·": "*",
        "¸": ",",
        "»": ">>",
        "¿": "?",
    },
    **{
        "¼": " 1/4",
        "½": " 1/2",
        "¾": " 3/4",
        "⅓": " 1/3 ",
        "⅔": " 2/3 ",
        "×": "x",
        "÷": "/",
        "−": "-",
        "⁄": "/",
    },
    **{
        "Æ": "AE",
        "æ": "ae",
        "Ð": "D",
        "ð": "d",
        "Ø": "O",
        "ø": "o",
        "Þ": "Th",
        "þ": "th",
        "ß": "ss",
        "Đ": "D",
    },
    **{"đ": "d", "Ħ": "H", "ħ": "h", "ı": "i", "ĸ": "k", "Ł": "L", "ł": "l", "ŉ": "'n", "Ŋ": "NG", "ŋ": "ng"},
    **{"Œ": "OE", "œ": "oe", "Ŧ": "T", "ŧ": "t", "€": "EUR", "™": "(tm)", "℃": "degC", "←": "-", "→": "-"},
    **{"‐": "-", "‑": "-", "‒": "-", "–": "-", "—": "--", "―": "--", "‘": "'", "’": "'", "‚": ",", "‛": "'"},
    **{"“": '"', "”": '"', "„": ",,", "‟": '"', "†": "+", "‡": "++", "•": "*", "‧": ".", "‰": "%0", "′": "'"},
    **{"″": "''", "‴": "'''", "‹": "<", "›": ">", "※": "*", "‽": "!?", "‾": "-", "‿": "_", "\u2028": "\n"},
}

_ONES = (
    *(
        "zero",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
    ),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SCALES = ("", "thousand", "million", "billion", "trillion", "quadrillion", "quintillion")
_ORDINALS = {
    **{
        "one": "first",
        "two": "second",
        "three": "third",
        "five": "fifth",
        "eight": "eighth",
        "nine": "ninth",
    },
    "twelve": "twelfth",
}


def spell(text: str) -> str:
    """A text in plain ASCII, lower case, its numbers and abbreviations as words."""
    text = plain(re.sub(r"£\s?([0-9][0-9,]*)", r"\1 pounds", text)).lower()
    text = re.sub(r"[0-9][0-9,]+[0-9]", lambda m: m[0].replace(",", ""), text)
    text = re.sub(r"\$([0-9.,]*[0-9]+)", lambda m: _dollars(m[1]), text)
    text = re.sub(r"[0-9]+\.[0-9]+", lambda m: m[0].replace(".", " point "), text)
    text = re.sub(r"([0-9]+)(?:st|nd|rd|th)", lambda m: ordinal(int(m[1])), text)
    text = re.sub(r"[0-9]+", lambda m: number(int(m[0])), text)
    text = _ABBREVIATION.sub(lambda m: _ABBREVIATIONS[m[1]], text)
    return re.sub(r"\s+", " ", text).replace('"', "")


def plain(text: str) -> str:
    """The nearest ASCII: letters without their marks, typographic signs as typed; what is neither goes."""
    text = "".join(_PLAIN.get(char, char) for char in unicodedata.normalize("NFC", text))
    apart = unicodedata.normalize("NFKD", text)
    return apart.encode("ascii", "ignore").decode()


def cardinal(n: int, conjunction: str = " ") -> str:
    """A number in words, without "and" unless it is the conjunction."""
    if n >= 1000 ** len(_SCALES):
        return " ".join(_ONES[int(digit)] for digit in str(n))
    groups = []
    for scale in _SCALES:
        n, group = divmod(n, 1000)
        if group:
            groups.append((group, scale))
    if not groups:
        return "zero"
    words = ""
    for group, scale in reversed(groups):
        said = _below_thousand(group, conjunction) + (f" {scale}" if scale else "")
        # A last group below a hundred follows without a comma.
        joined = conjunction if not scale and group < 100 else ", "
        words = f"{words}{joined}{said}" if words else said
    return words


def ordinal(n: int) -> str:
    """ "one hundred and twenty-first"."""
    if n == 0:
        return "zeroth"
    rest, separator, last = re.fullmatch(r"(.*?)([ -]?)(\w+)", cardinal(n, " and ")).groups()  # pyright: ignore
    if last.endswith("y"):
        return f"{rest}{separator}{last[:-1]}ieth"
    return f"{rest}{separator}{_ORDINALS.get(last, last + 'th')}"


def number(n: int) -> str:
    """A number as it is read: those of four digits up to 2999 as years."""
    if not 1000 < n < 3000:
        return cardinal(n)
    if n == 2000 or 2000 < n < 2010:
        return "two thousand" + (f" {_ONES[n % 100]}" if n % 100 else "")
    century, rest = divmod(n, 100)
    if rest == 0:
        return f"{cardinal(century)} hundred"
    return f"{cardinal(century)} {'oh ' if rest < 10 else ''}{cardinal(rest)}"


def _below_thousand(n: int, conjunction: str) -> str:
    hundreds, rest = divmod(n, 100)
    words = []
    if hundreds:
        words.append(f"{_ONES[hundreds]} hundred")
    if rest:
        tens, ones = divmod(rest, 10)
        words.append(_ONES[rest] if rest < 20 else _TENS[tens] + (f"-{_ONES[ones]}" if ones else ""))
    return conjunction.join(words)


def _dollars(amount: str) -> str:
    """What follows the sign: "3.50" is three dollars and, as published, what stands behind the point as a number."""
    parts = amount.replace(",", "").split(".")
    if len(parts) > 2:
        return f"{amount} dollars"
    dollars, cents = (int(part) if part else 0 for part in (*parts, "")[:2])
    said = [f"{dollars} dollar{'s' * (dollars != 1)}"] if dollars else []
    said += [f"{cents} cent{'s' * (cents != 1)}"] if cents else []
    return ", ".join(said) or "zero dollars"
