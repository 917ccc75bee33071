"""Text tokens are the published ones, token for token."""

from __future__ import annotations

import json
import random
from importlib.util import find_spec
from pathlib import Path

import pytest
import reference
from myna.errors import InputError
from myna.tts.tortoise.text.spelling import cardinal, number, ordinal, plain, spell
from myna.tts.tortoise.text.tokenizer import decode, encode, vocabulary

# Every rule at least once, then sentences made of all of them.
HARD = [
    "Hello, world!",
    "Dr. Smith met Mrs. Jones (and Mr. Brown) on St. James St. in 1905; they'd had $3.50, $1, $1.01 and $0.00.",
    "The 21st of May, 2007: 1,234 people, 12,345,678 stars, 3.14159 and 0.5.",
    "On the 1121st day, the 2nd, 3rd, 40th and 100th runners left at 10:30 with $1,000,000.",
    "In 2000, 2001, 2010, 1100, 1101, 2999 and 3000.",
    "“Curly” ‘quotes’ — dashes – and … dots; café, naïve, Ægir, Straße, Łódź.",
    "Lt. Col. Maj. Gen. Capt. Sgt. Rev. Hon. Jr. Co. Ltd. Esq. Ft. Drs. all came.",
    "a/b; c:d? e-f. UPPER lower MiXeD",
    "tabs\tand\nnew   lines and    spaces ",
    "100% of #1 & @home * ~ are [odd] signs = here_too",
    "$1.2.3 and 5,5 and 1,23,456 and 007 and 1st2nd",
    "It's 5 o'clock; we're \"here\" now?!",
    "zzyzx qwxv strengths rhythm onomatopoeia antidisestablishmentarianism",
]


def sentences() -> list[str]:
    rng = random.Random(0)
    spec = find_spec("whisper_normalizer")
    assert spec is not None
    assert spec.origin is not None
    table = json.loads((Path(spec.origin).parent / "normalizers" / "english.json").read_text("utf-8"))
    words = [word for pair in table.items() for word in pair]  # British and American spellings
    made = []
    while len(made) < 200:
        chosen = rng.sample(words, rng.randint(3, 14))
        for _ in range(rng.randint(0, 3)):
            figure = rng.choice(
                [
                    str(rng.randint(0, 20)),
                    str(rng.randint(900, 3100)),
                    f"{rng.randint(1000, 99_999_999):,}",
                    f"${rng.randint(0, 2000)}.{rng.randint(0, 99):02}",
                    f"{rng.randint(0, 99)}.{rng.randint(0, 999)}",
                    f"{rng.randint(1, 3000)}th",
                    "Dr. No",
                    "(aside)",
                ]
            )
            chosen.insert(rng.randrange(len(chosen)), figure)
        made.append(rng.choice([" ", ", ", " "]).join(chosen) + rng.choice(".?!;"))
    return made


def test_tokens_are_those_of_the_package():
    theirs = reference.module("utils.tokenizer").VoiceBpeTokenizer()
    wrong = [text for text in HARD + sentences() if encode(text) != theirs.encode(text)]
    assert not wrong


def test_the_plain_signs_are_those_of_unidecode():
    unidecode = pytest.importorskip("unidecode").unidecode
    signs = [
        *range(0x20, 0x180),
        *range(0x2010, 0x2016),
        *range(0x2018, 0x2023),
        *range(0x2024, 0x2028),
        0x20AC,
        0x2122,
        0x2212,
    ]
    wrong = [chr(c) for c in signs if c not in (0xA3, 0xA4) and plain(chr(c)) != unidecode(chr(c))]
    assert not wrong


def test_a_known_sentence():
    assert encode("Hello, world!") == [62, 84, 28, 7, 2, 179, 79, 3]
    assert decode(encode("Hello, world!")) == "hello, world!"
    assert sorted(vocabulary().values()) == list(range(3, 255))


def test_pounds_are_said():
    assert spell("It cost £25.") == "it cost twenty-five pounds."
    assert spell("or $,5") == "or five dollars"  # where the package fails


def test_numbers_in_words():
    assert cardinal(12_345_678) == (
        "twelve million, three hundred forty-five thousand, six hundred seventy-eight"
    )
    assert (cardinal(0), cardinal(1001), cardinal(100_000)) == (
        "zero",
        "one thousand one",
        "one hundred thousand",
    )
    assert number(1905) == "nineteen oh five"
    assert (ordinal(21), ordinal(1000), ordinal(112)) == (
        "twenty-first",
        "one thousandth",
        "one hundred and twelfth",
    )
    assert cardinal(10**30).split().count("zero") == 30  # digit by digit, where no name is left


@pytest.mark.parametrize(
    ("text", "says"), [("... !", "nothing to say"), ("", "nothing"), ("日本", "in English")]
)
def test_what_cannot_be_said_is_refused(text, says):
    with pytest.raises(InputError, match=says):
        encode(text)


def test_a_sentence_of_400_tokens_is_refused_with_the_remedy():
    assert len(encode("a " * 199 + "b")) == 399
    with pytest.raises(InputError, match=r"400 text tokens is too long.*full stop"):
        encode("a " * 199 + "bb")
