"""The normalisers give what openai-whisper's give, whatever the text."""

from __future__ import annotations

import itertools
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from myna.errors import MissingModelError
from myna.evaluation.measures.normalizer import BasicNormalizer, EnglishNormalizer, normalizer_for

SENTENCES = (  # the first two are of LJSpeech
    "Printing, in the only sense with which we are at present concerned, differs from most if not from all the arts",
    "The invention of movable metal letters in the middle of the fifteenth century may justly be considered",
    "IT'S NINE O'CLOCK AND WE'VE GOT TWENTY FIVE MINUTES",
    "Mr. and Mrs. Smith, Jr. won't've been there since 1963; they'd gone on November 22nd, at 12:30 p.m.",
    "He paid $1,385.60 for 2,000 colours, i.e. one hundred and five per cent more than in the 1960s!",
    "Uh, the (inaudible) St. John's [laughter] organisation -- hmm -- didn't recognise Dr. Müller’s œuvre.",
    "two and a half million dollars and seven cents, minus one point oh five percent, double o seven",
    "dial one eight hundred five five five nineteen twenty one, twenty-first floor, the ninth of twenties",
)
FOREIGN = (
    "Zwei Vögel, „dort“ (leise) – für 3,50 € am Straßenrand!",
    "L’été, l'œuvre naïve: « ça va ? » [rires]",
    "我们在2024年去了北京（很冷）。",
    "東京タワーは、ﾌﾟｰﾙの「隣」です。が→か\u3099",
    "ประเทศไทย น้ำ กำลัง",
    "ພາສາລາວ ນ້ຳ",
    "မြန်မာဘာသာ",
    "한국어 \u1112\u1161\u11ab글",
    "نمی\u200cخواهم ۳",
    "a\r\nb\u200dc İI",
)
ODD = (
    "a and half the dog's don't he'd been gone mr. st 1 10 1,000 3.5 $5 $0.07 0 00 7th 21st 1960s 5% % . , - + $ ¢7 ¢ "
    "£3 €2.5 uh colour (aside) [x] <y> œuf naïve ½ ² ' 's n't 't 5kg b2b nineth 3rds 2 nd 0. .5 1.. $. 1/2 #1 ± ٣ 𝟙 ① "
    "-3 +4 £-3 $+ i'ma i'ma'am been't"
)
NUMBERS = (
    "zero oh o one two three nine ten eleven nineteen twenty ninety hundred thousand million first second third "
    "twelfth twentieth hundredth minus negative plus positive dollar dollars cents pounds euros percent per cent "
    "and double triple point a half ones tens thousands"
)
PHRASES = st.lists(st.sampled_from([*NUMBERS.split(), *ODD.split()]), max_size=9).map(" ".join)


@pytest.fixture(scope="module")
def original():
    return pytest.importorskip("whisper.normalizers")


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("Hello, World!", "hello world"),
        ("He won't, she can't, they'd been", "he will not she can not they had been"),
        ("Dr. Park met Mrs. Lee", "doctor park met missus lee"),
        ("uh, hmm: well (cough) [noise] done", "well done"),
        ("twenty-five colours", "25 colors"),
        ("one two three", "123"),
        ("one hundred and one", "101"),
        ("nineteen eighty four", "1984"),
        ("the twenty first of May", "the 21st of may"),
        ("two and a half", "2.5"),
        ("three million two hundred thousand", "3200000"),
        ("two dollars and seven cents", "$2.07"),
        ("fifty per cent", "50%"),
        ("minus three point one four", "-3.14"),
        ("double o seven", "007"),
        ("one", "one"),
        ("naïve Œuvre", "naive oeuvre"),
        ("", ""),
    ],
)
def test_english_by_hand(text, normal):
    assert EnglishNormalizer()(text) == normal


@pytest.mark.parametrize("text", SENTENCES)
def test_sentences_come_out_as_the_original_has_them(original, text):
    assert EnglishNormalizer()(text) == original.EnglishTextNormalizer()(text)
    for remove in (False, True):
        assert BasicNormalizer(remove)(text) == original.BasicTextNormalizer(remove)(text)


@pytest.mark.parametrize("text", [*SENTENCES[4:6], *FOREIGN])
@pytest.mark.parametrize("remove", [False, True])
@pytest.mark.parametrize("split", [False, True])
def test_other_languages_come_out_as_the_original_has_them(original, text, remove, split):
    assert BasicNormalizer(remove, split)(text) == original.BasicTextNormalizer(remove, split)(text)


@settings(max_examples=600, deadline=None)
@given(PHRASES)
def test_any_row_of_number_words_comes_out_as_the_original_has_it(original, text):
    ours, theirs = EnglishNormalizer(), _cached(original)
    assert ours(text) == theirs(text)
    assert ours(text.replace(" ", "", 2)) == theirs(text.replace(" ", "", 2))


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40))
def test_any_text_comes_out_as_the_original_has_it(original, text):
    assert EnglishNormalizer()(text) == _cached(original)(text)
    for kind in itertools.product((False, True), repeat=2):
        assert BasicNormalizer(*kind)(text) == original.BasicTextNormalizer(*kind)(text)


def test_british_spellings():
    assert EnglishNormalizer()("colour") == "color"
    assert EnglishNormalizer(spellings=False)("colour") == "colour"


def test_thousands_of_digits_are_a_word():
    digits = "7" * 6000  # more than Python turns into a number
    assert EnglishNormalizer()(f"{digits} birds, twenty five") == f"{digits} birds 25"


def test_languages():
    assert isinstance(normalizer_for("en"), EnglishNormalizer)
    assert isinstance(normalizer_for(None), EnglishNormalizer)
    assert normalizer_for("de")("Zwei Vögel, „dort“ (leise)!") == "zwei vögel dort "
    for language in ("zh", "ja", "th", "lo", "my", "yue"):
        assert normalizer_for(language)("北京 2").split() == ["北", "京", "2"]
    assert normalizer_for("ko")("북경 2").split() == ["북경", "2"]
    assert "letters as words" in normalizer_for("ja").name


@pytest.mark.parametrize(("language", "module"), [("en", "english"), ("de", "basic")])
def test_without_the_package(monkeypatch, language, module):
    monkeypatch.setitem(sys.modules, f"whisper_normalizer.{module}", None)
    monkeypatch.delattr(f"whisper_normalizer.{module}", raising=False)
    with pytest.raises(MissingModelError, match=r"myna\[evaluate\]"):
        normalizer_for(language)


_made = {}


def _cached(original):
    """One for all examples: it reads a file."""
    return _made.setdefault("english", original.EnglishTextNormalizer())
