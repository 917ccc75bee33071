"""Phones: what espeak-ng's IPA becomes before a model sees it.

One token a sound. Stress marks ride on the sound they precede, the length mark on the sound it follows, so that every
token is something that takes time. A space is a token (a word boundary, often without a frame of its own); a run of
punctuation with its spaces is one token, the mark that weighs most in it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

PAD, UNKNOWN = 0, 1
SPACE = " "
# Of a run such as `?!"` the earliest of these is kept.
PUNCTUATION = ("?", "!", "…", ".", "—", ";", ":", ",", '"')

# The order is part of every checkpoint: add at the end, never in between.
SYMBOLS: tuple[str, ...] = (
    "<pad>",
    "<unknown>",
    SPACE,
    *PUNCTUATION,
    *"abcdefhijklmnopqrstuvwxyz",
    *"æçðøħŋœβθχ",
    *"ɐɑɒɓɔɕɖɗɘəɚɛɜɝɞɟɠɡɢɣɤɥɦɧɨɪɫɬɭɮɯɰɱɲɳɴɵɶɸɹɺɻɽɾʀʁʂʃʄʈʉʊʋʌʍʎʏʐʑʒʔʕʙʛʜʝʟʡʢ",
    *"ᵻᵊǀǁǂǃ",
    *"ʰʱʲʷˠˤʼⁿᵐᵑᵝ",  # modifiers: tokens of their own, short ones
    *"\u0303\u0325\u030a\u0329\u032a\u032f\u031d\u031e\u0320\u0324\u0330\u033a\u033b\u0306\u030d",  # diacritics
    *"1234567",  # tones, as espeak-ng writes them
)
N_SYMBOLS = len(SYMBOLS)

_IDS = {symbol: i for i, symbol in enumerate(SYMBOLS)}
_STRESS = {"ˈ": 1, "ˌ": 2}
_STRESS_MARKS = ("", "ˈ", "ˌ")
_LONG = "ː"
_RANK = {mark: i for i, mark in enumerate(PUNCTUATION)}
_VOWELS = frozenset("aeiouyæøœɐɑɒɔɘəɚɛɜɝɞɤɨɪɯɵɶʉʊʌʏᵻ")

# Spellings of one sound that differ between espeak-ng's languages and versions, and marks that look alike.
_ALIASES = {
    "g": "ɡ",
    "ε": "ɛ",
    "ɩ": "ɪ",
    "ä": "a",
    "Φ": "ɸ",
    "φ": "ɸ",
    "'": "ˈ",
    "ʦ": "ts",
    "ʧ": "tʃ",
    "ʨ": "tɕ",
    "ʣ": "dz",
    "ʤ": "dʒ",
    "ʥ": "dʑ",
    "\n": SPACE,
    "\t": SPACE,
}
# Marks of which the corpora hold next to nothing (14 colons, 13 semicolons, no dash, in 15 hours): each is read as the
# mark that sounds most like it, rather than as a symbol that a model has never learned.
FOLDED = {";": ",", ":": ",", "—": ",", "…": ".", '"': SPACE}
# Separators, ties and leftovers of espeak-ng's notation that stand for no sound.
# The syllabic mark is among them because the versions of espeak-ng behind the corpora disagree about it.
_SILENT = frozenset("_-^`+#()[]{}|\u0361\u035c\u200d\u200c\u200b\ufeffˑ\u0329\u0308")


def _characters(symbol: str) -> str:
    """`symbol` in the alphabet above: aliases resolved, precomposed letters taken apart, silent marks gone."""
    out = []
    for char in symbol:
        char = _ALIASES.get(char) or FOLDED.get(char, char)
        if len(char) == 1 and char not in _IDS:
            parts = unicodedata.normalize("NFD", char)
            char = parts if all(part in _IDS for part in parts) else char
        out += [c for c in char if c not in _SILENT]
    return "".join(out)


@dataclass(frozen=True, eq=False)
class Phones:
    """An utterance's sounds.

    tokens: (3, P) long: symbol (index into SYMBOLS; 0 padding, 1 unknown), stress (0 none, 1 primary, 2 secondary),
        long (0 or 1). The first token is a space, which carries a silence before the speech; the last is a
        punctuation mark, which carries the silence after it.
    """

    tokens: Tensor

    @classmethod
    def from_ipa(cls, ipa: str) -> Phones:
        """From espeak-ng's IPA with stress marks and punctuation."""
        return cls.from_timed([(char, 0.0, 0.0) for char in ipa])[0]

    @classmethod
    def from_timed(cls, phones: Iterable[Sequence]) -> tuple[Phones, Tensor]:
        """From [symbol, start, end] in seconds, as the corpus has them; also returns their times, (P, 2).

        A mark that merges into a sound gives it its time. Times come out in order: a start before the last end, or
        an end before its start, is moved up to it.
        """
        tokens: list[list[int]] = [[_IDS[SPACE], 0, 0]]
        times: list[list[float]] = [[0.0, 0.0]]
        stress, stress_start = 0, None  # of the mark that waits for its sound
        for symbol, start, end in phones:
            for char in _characters(symbol):
                last = tokens[-1]
                if char in _STRESS:
                    stress, stress_start = _STRESS[char], start
                    continue
                if char == _LONG or (char == "ʲ" and SYMBOLS[last[0]] in _VOWELS):
                    # A glide that newer versions of espeak-ng write between two vowels is in the vowel already.
                    last[2] |= char == _LONG
                    times[-1][1] = max(times[-1][1], end)
                    continue
                if char == SPACE or char in _RANK:
                    stress, stress_start = 0, None
                    if _is_pause(last[0]):
                        heavier = len(tokens) > 1 and _rank(_IDS[char]) < _rank(last[0])
                        last[0] = _IDS[char] if heavier else last[0]
                        times[-1][1] = max(times[-1][1], end)
                        continue
                if stress_start is not None:
                    start = stress_start
                tokens.append([_IDS.get(char, UNKNOWN), stress, 0])
                start = max(min(start, end), times[-1][1])  # the corpus ends some marks before they start
                times.append([start, max(start, end)])
                stress, stress_start = 0, None
        if len(tokens) > 1:
            times[0][1] = times[1][0]
        if _rank(tokens[-1][0]) >= len(PUNCTUATION):
            if _is_pause(tokens[-1][0]) and len(tokens) > 1:  # a space at the end
                tokens[-1][0] = _IDS["."]
            else:
                tokens.append([_IDS["."], 0, 0])
                times.append([times[-1][1]] * 2)
        return cls(torch.tensor(tokens).T.contiguous()), torch.tensor(times)

    def __len__(self) -> int:
        return self.tokens.shape[1]

    def __add__(self, other: Phones) -> Phones:
        """One after the other, every token kept, so that pointers into either stay valid (shifted for `other`)."""
        return Phones(torch.cat([self.tokens, other.tokens], dim=1))

    @property
    def n_sounds(self) -> int:
        """Tokens that are neither a space nor punctuation."""
        return int((self.tokens[0] > _IDS[PUNCTUATION[-1]]).sum())

    def ipa(self) -> str:
        """As text again: `Phones.from_ipa(p.ipa())` has the tokens of p."""
        out = []
        for symbol, stress, long in self.tokens.T.tolist():
            mark = SYMBOLS[symbol] if symbol > UNKNOWN else "�"
            out.append(_STRESS_MARKS[stress] + mark + _LONG * long + SPACE * (mark in _RANK))
        return " ".join("".join(out).split())


def _is_pause(symbol: int) -> bool:
    return symbol == _IDS[SPACE] or SYMBOLS[symbol] in _RANK


def _rank(symbol: int) -> int:
    return _RANK.get(SYMBOLS[symbol], len(PUNCTUATION))
