"""Given texts against what was heard."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from myna.preparation.check import character_error_rate, cut_text, spoken, unsure
from myna.preparation.options import PrepareOptions
from myna.preparation.records import Transcription

WORDS = st.lists(st.text("abcdefgh", min_size=1, max_size=8), min_size=1, max_size=30)


@pytest.mark.parametrize(
    ("given", "heard"),
    [
        ("Dr. Smith paid $5 in 1984.", "doctor smith paid five dollars in nineteen eighty-four"),
        ("MIKE'S DOG", "Mike’s dog."),
        ("a low-country house", "a low country house"),
    ],
)
def test_two_spellings_of_the_same_words_agree(given, heard):
    assert character_error_rate(given, heard, "en") == 0


def test_errors_are_counted_by_character():
    assert character_error_rate("abcd efgh", "abcd efgx", "en") == pytest.approx(1 / 8)
    assert character_error_rate("abcd", "", "en") == 1
    assert character_error_rate("ab", "abab", "en") == 1
    assert character_error_rate("", "ab", "en") == 2


def test_other_languages_keep_their_marks():
    assert spoken("Über ¿qué? 日本語!", "de") == "über qué 日本語"
    assert spoken("हिन्दी", "hi") == "हिन्दी"


@given(WORDS, st.lists(st.integers(0, 30), max_size=4))
@settings(deadline=None)
def test_the_parts_of_a_text_are_the_text(words, places):
    places = sorted({p for p in places if p <= len(words)})
    parts = [words[a:b] for a, b in zip([0, *places], [*places, len(words)], strict=True)]
    text = " ".join(words)
    made = cut_text(text, [" ".join(part) for part in parts], "de")
    assert " ".join(filter(None, made)) == text  # nothing lost, nothing twice
    assert made == [" ".join(part) for part in parts]  # heard without an error, cut where it was


def test_errors_in_what_was_heard_do_not_move_the_cut():
    text = "The first sentence, of 3 parts. A second one follows it. And the third ends it."
    heard = ["the furst sentence of three part", "the second won follows it", "and third ends it"]
    assert cut_text(text, heard, "en") == [
        "The first sentence, of 3 parts.",
        "A second one follows it.",
        "And the third ends it.",
    ]


def test_a_passage_that_was_not_heard_spoils_only_its_neighbour():
    text = "one two three four. Nobody said these many words aloud. five six seven eight"
    parts = cut_text(text, ["one two three four", "five six seven eight"], "en")
    rates = [
        character_error_rate(part, heard, "en")
        for part, heard in zip(parts, ["one two three four", "five six seven eight"], strict=True)
    ]
    assert sorted(rate < 0.3 for rate in rates) == [False, True]


def test_a_piece_in_which_nothing_was_heard_gets_nothing():
    assert cut_text("a few words", ["a few words", "", ""], "en") == ["a few words", "", ""]


@pytest.mark.parametrize(
    ("heard", "word"),
    [
        (Transcription("...", "en"), "nothing"),
        (Transcription("words", "en", logprob=-1.5), "log-probability"),
        (Transcription("la la la", "en", compression=3.0), "repeats"),
        (Transcription("words", "en", -0.5, 1.5), None),
    ],
)
def test_transcripts_that_are_not_trusted(heard, word):
    why = unsure(heard, PrepareOptions())
    assert (why is None) if word is None else word in why
