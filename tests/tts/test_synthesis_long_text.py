"""Texts as people have them, cut into what is said in one go."""

from __future__ import annotations

import time

import pytest
from myna.errors import UsageError
from myna.tts.text.long_text import split_text


def test_paragraphs_and_wrapped_lines():
    found = split_text("Chapter One\n\nIt was late. The rain had\nstopped at last.\n\n\nNobody came.")
    assert [s.text for s in found] == [
        "Chapter One.",
        "It was late.",
        "The rain had stopped at last.",
        "Nobody came.",
    ]
    assert [s.ends_paragraph for s in found] == [True, False, True, True]
    ends = [s.end for s in found]
    assert ends == sorted(ends)
    assert ends[-1] == sum(len(s.text) for s in found)


@pytest.mark.parametrize(
    "text", ["", "  \n\t ", "...", "?!", "😀🎉", "\x00\x07\x1b", "<p></p>", "<" * 100_000, "—\n\n***\n\n—"]
)
def test_nothing_to_say_is_one_line(text):
    with pytest.raises(UsageError, match=r"nothing to say.*; give at least one word") as error:
        split_text(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("Hello 😀 there.", "Hello there."),
        ("Bell\x07 and\x00 whistle.", "Bell and whistle."),
        ("<b>Bold</b> words &amp; more.", "Bold words and more."),
    ],
)
def test_what_cannot_be_said_is_left_out(text, spoken):
    assert [s.text for s in split_text(text)] == [spoken]


def test_an_unknown_language_is_one_line():
    with pytest.raises(UsageError, match="unknown language 'klingonese'"):
        split_text("Hello.", "klingonese")


@pytest.mark.parametrize("text", ["word " * 20_000, "a" * 100_000, "Is it? " * 14_000, "It is 42. " * 10_000])
def test_a_hundred_thousand_characters_are_cut_in_seconds(text):
    began = time.process_time()
    found = split_text(text)
    assert time.process_time() - began < 10
    assert max(len(s.text) for s in found) <= 200
    assert len(found) > 100
