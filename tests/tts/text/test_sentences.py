"""Sentences: where text is cut, and that nothing of it is lost."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from myna.tts.text.sentences import split_sentences

CASES = [
    ("One. Two! Three?", ["One.", "Two!", "Three?"]),
    ("hello. how are you? fine.", ["hello.", "how are you?", "fine."]),
    ("Dr. Smith met Mr. Jones.", ["Dr. Smith met Mr. Jones."]),
    ("J. R. Smith wrote it.", ["J. R. Smith wrote it."]),
    ("So do I. He left.", ["So do I.", "He left."]),
    ("It is 3.14. Yes.", ["It is 3.14.", "Yes."]),
    ("Use e.g. this. Then that.", ["Use e.g. this.", "Then that."]),
    ("In the U.S. Army he rose.", ["In the U.S. Army he rose."]),
    ("He is in the U.S. He is well.", ["He is in the U.S.", "He is well."]),
    ("At 5 p.m. We ate.", ["At 5 p.m.", "We ate."]),
    ("No. 5 is here. He said no. Go.", ["No. 5 is here.", "He said no.", "Go."]),
    ("Well… maybe. Wait... what?", ["Well… maybe.", "Wait... what?"]),
    ("It ended... The next day came.", ["It ended...", "The next day came."]),
    ('"Yes?" he said. "No."', ['"Yes?" he said.', '"No."']),
    ('He said "no." Then he left.', ['He said "no."', "Then he left."]),
    ("(One.) Two.", ["(One.)", "Two."]),
    ("What?! No!!", ["What?!", "No!!"]),
    ("The end.Next one begins.", ["The end.", "Next one begins."]),
    ("Really?yes!no", ["Really?", "yes!", "no"]),
    ("你好。世界！好吗？", ["你好。", "世界！", "好吗？"]),
    ("「はい。」そうです。", ["「はい。」", "そうです。"]),
    ("A title\nThe text. More", ["A title", "The text.", "More"]),
    ("See example.com. Then go.", ["See example.com.", "Then go."]),
    ("", []),
    ("  \n ", []),
    ("...", ["..."]),
    ("no stop at all", ["no stop at all"]),
]


@pytest.mark.parametrize(("text", "sentences"), CASES, ids=[case[0][:30] for case in CASES])
def test_split(text, sentences):
    assert split_sentences(text) == sentences


@pytest.mark.parametrize(
    ("text", "max_chars", "parts"),
    [
        ("one two three; four five, six", 20, ["one two three;", "four five, six"]),
        ("one two, three four five six", 20, ["one two,", "three four five six"]),
        ("one two three four five", 12, ["one two", "three four", "five"]),
        ("abcdefghij", 4, ["abcd", "efgh", "ij"]),
        ("costs 1,000,000 in all now", 16, ["costs 1,000,000", "in all now"]),
        ("一二三四，五六七八九", 6, ["一二三四，", "五六七八九"]),
    ],
)
def test_long_sentences_are_cut_at_the_best_place(text, max_chars, parts):
    assert split_sentences(text, max_chars) == parts


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="aB1 .,?!;:…\"'()\n。，", max_size=200), st.integers(1, 60))
def test_nothing_is_lost_and_nothing_is_too_long(text, max_chars):
    parts = split_sentences(text, max_chars)
    assert "".join("".join(parts).split()) == "".join(text.split())
    assert all(0 < len(part) <= max_chars for part in parts)


@pytest.mark.parametrize("unit", ["Some words here. ", "a", "!?", ". ", "a.", "word ", "。", '"'])
def test_a_hundred_thousand_characters(unit):
    text = unit * (100_000 // len(unit))
    start = time.process_time()
    split_sentences(text)
    assert time.process_time() - start < 1


def test_max_chars_must_be_positive():
    with pytest.raises(ValueError, match="at least 1"):
        split_sentences("text", 0)
