"""The sequential algorithm: where windows begin, what they are shown of the past, what is skipped."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from myna.asr import transcribe as module
from myna.asr.decoding.decode import DecodingResult
from myna.asr.decoding.prompts import tokenizer_of
from myna.asr.hallucination import anomaly_score, is_anomaly, skip_silence
from myna.asr.timing import WordTiming
from myna.asr.transcribe import TranscribeOptions, clips_of, transcribe, transcribe_many
from myna.asr.transcript import Segment, Word
from myna.asr.windows import Window, cut_into_segments
from myna.errors import InputError, UsageError

T = 50363  # <|0.00|>
SO, NOT, DOT = 1406, 407, 13
MULTI = 51865
PLAIN = TranscribeOptions(beam_size=None, best_of=None, temperature=0.0)


def noise(seconds: float) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.01, int(seconds * 16_000)).astype(np.float32)


def spoken(model, seconds: float = 70.0, **changes):
    return transcribe(model, noise(seconds), replace(PLAIN, **changes))


# Where the next window begins.


def test_text_after_the_last_pair_is_left_to_the_next_window(scripted, answer):
    model = scripted([answer([T, SO, T + 400, T + 450, NOT]), answer([T, DOT, T + 10])])
    transcript = spoken(model, seconds=35)
    first, second = transcript.segments
    assert (first.seek, first.start, first.end, first.text) == (0, 0.0, 8.0, " So")
    assert first.tokens == (T, SO, T + 400)
    assert (second.seek, second.start, second.end) == (800, 8.0, 8.2)  # the end of the first: 400 * 2 frames
    assert transcript.text == " So."
    assert transcript.duration == 35.0


def test_a_single_timestamp_at_the_end_says_that_nobody_speaks_after(scripted, answer):
    model = scripted([answer([T, SO, T + 100, T + 120, NOT, T + 200]), answer([T, DOT, T + 10])])
    transcript = spoken(model, seconds=35)
    assert [(s.seek, s.start, s.end) for s in transcript.segments] == [
        (0, 0.0, 2.0),
        (0, 2.4, 4.0),
        (3000, 30.0, 30.2),
    ]
    assert [s.id for s in transcript.segments] == [0, 1, 2]


def test_a_window_without_a_pair_is_a_segment(scripted, answer):
    """To its last timestamp, or to the end of the window."""
    model = scripted([answer([T, SO, T + 100]), answer([T, NOT])])
    transcript = spoken(model, seconds=35)
    assert [(s.start, s.end) for s in transcript.segments] == [(0.0, 2.0), (30.0, 35.0)]


@pytest.mark.parametrize(
    ("tokens", "seek", "ended", "times"),
    [
        ((), 1800, False, [(5.0, 18.0)]),
        ((T,), 1800, False, [(5.0, 18.0)]),
        ((T, SO, T), 1800, True, [(5.0, 18.0)]),  # a timestamp of zero says nothing
        ((T + 5, SO, T + 50), 1800, True, [(5.0, 6.0)]),
        ((T, SO, T + 50, T + 50), 600, False, [(5.0, 6.0)]),
        ((T, SO, T + 50, T + 60, SO, T + 99), 1800, True, [(5.0, 6.0), (6.2, 6.98)]),
        ((T, SO, T + 50, T + 60, SO, T + 70, T + 80, SO), 640, False, [(5.0, 6.0), (6.2, 6.4)]),
    ],
)
def test_segments_of_a_window(scripted, tokens, seek, ended, times):
    tokenizer = tokenizer_of(scripted([]))
    cut = cut_into_segments(Window(500, 1300), DecodingResult("en", tokens), tokenizer)
    assert (cut.seek, cut.ended) == (seek, ended)
    assert [time for s in cut.segments for time in (s.start, s.end)] == pytest.approx(sum(times, ()))


def test_silence_is_skipped(scripted, answer):
    """The model says that nobody speaks and is not sure of its text; no temperature is tried."""
    silent = answer([T, SO, T + 50], no_speech=0.9, doubts=500)
    sure = answer([T, SO, T + 50], no_speech=0.9)
    model = scripted([silent, sure, answer([T, NOT, T + 50])])
    transcript = spoken(model, temperature=(0.0, 0.5))
    assert [s.seek for s in transcript.segments] == [3000, 6000]
    assert model.given == 3


def test_without_a_threshold_nothing_is_skipped(scripted, answer):
    silent = answer([T, SO, T + 50], no_speech=0.9, doubts=500)
    transcript = spoken(scripted([silent]), 20, no_speech_threshold=None)
    assert transcript.text == " So"


def test_segments_without_length_or_text_are_emptied(scripted, answer):
    heard = []
    model = scripted([answer([T + 10, SO, T + 20, T + 20, 220, T + 40, T + 40, NOT, T + 60])])
    transcript = transcribe(model, noise(10), PLAIN, on_segment=heard.append)
    first, empty, last = transcript.segments
    assert (empty.text, empty.tokens, empty.words) == ("", (), ())
    assert (empty.start, empty.end) == (0.4, 0.8)
    assert transcript.text == " So not"
    assert heard == [first, last]
    assert transcript.to_dict()["segments"][1]["words"] == []
    assert "words" not in transcript.to_dict()["segments"][0]


def test_every_window_moves_on(scripted, answer):
    """Also where the pair stands at the beginning and timestamps are not held to the rules."""
    model = scripted([answer([T, T]), answer([T + 3, SO, T + 9])])
    transcript = spoken(model, 35, without_timestamps=True)
    assert [s.seek for s in transcript.segments] == [0, 3000]


# What a window is shown of the past.


def test_what_was_said_is_the_next_prompt(scripted, answer):
    model = scripted([answer([T, SO, T + 5]), answer([T, NOT, T + 5]), answer([T, DOT, T + 5])])
    spoken(model)
    sot, prev = 50257, 50360
    assert model.prompts == [
        (sot,),
        (prev, T, SO, T + 5, sot),
        (prev, T, SO, T + 5, T, NOT, T + 5, sot),
    ]


def test_condition_on_previous_text_can_be_left_out(scripted, answer):
    model = scripted([answer([T, SO, T + 5]), answer([T, NOT, T + 5]), answer([T, DOT, T + 5])])
    spoken(model, condition_on_previous_text=False)
    assert model.prompts == [(50257,)] * 3


@pytest.mark.parametrize(("temperature", "kept"), [(0.5, True), (0.6, False)])
def test_a_high_temperature_resets_the_prompt(scripted, answer, temperature, kept):
    model = scripted([answer([T, SO, T + 5]), answer([T, NOT, T + 5]), answer([T, DOT, T + 5])])
    spoken(model, temperature=temperature)
    lengths = [len(prompt) for prompt in model.prompts]
    assert lengths == ([1, 5, 8] if kept else [1, 1, 1])


def test_initial_prompt_is_that_of_the_first_window_only(scripted, answer):
    model = scripted([answer([T, SO, T + 5]), answer([T, NOT, T + 5])])
    transcript = spoken(model, 35, initial_prompt="not.", condition_on_previous_text=False)
    assert model.prompts == [(50360, NOT, DOT, 50257), (50257,)]
    assert transcript.text == " So not"


def test_initial_prompt_is_carried(scripted, answer):
    model = scripted([answer([T, SO, T + 5]), answer([T, NOT, T + 5])])
    spoken(model, 35, initial_prompt="not.", carry_initial_prompt=True, condition_on_previous_text=False)
    assert model.prompts == [(50360, NOT, DOT, 50257)] * 2


def test_hotwords_are_shown_to_every_window(scripted, answer):
    model = scripted([answer([T, SO, T + 5]), answer([T, NOT, T + 5])])
    spoken(model, 35, hotwords="not")
    assert model.prompts == [(50360, NOT, 50257), (50360, NOT, T, SO, T + 5, 50257)]


def test_prefix_is_that_of_the_first_window_and_takes_the_place_of_hotwords(scripted, answer):
    model = scripted([answer([T, SO, T + 5], n_tail=1), answer([T, NOT, T + 5])])
    spoken(model, 35, hotwords="not", prefix="so", condition_on_previous_text=False)
    assert model.prompts == [(50257, *tokenizer_of(model).encode(" so")), (50257,)]


# Clips.


@pytest.mark.parametrize(
    ("given", "clips"),
    [
        ("0", [(0, 4000)]),
        ("", [(0, 4000)]),
        ([], [(0, 4000)]),
        ("1.5", [(150, 4000)]),
        ("1,2,3", [(100, 200), (300, 4000)]),
        ([1, 2.004, 3, 99], [(100, 200), (300, 4000)]),
        ("50,60", [(4000, 4000)]),
    ],
)
def test_clips(given, clips):
    assert clips_of(given, 4000) == clips


@pytest.mark.parametrize("bad", ["a", "1;2", "-1", "3,2", "nan", "inf", [1, 0.5]])
def test_clips_that_are_none(bad):
    with pytest.raises(UsageError, match="clip_timestamps"):
        clips_of(bad, 4000)


def test_only_clips_are_decoded(scripted, answer):
    model = scripted([answer([T, SO, T + 5]), answer([T, NOT, T + 5])])
    transcript = spoken(model, clip_timestamps="2,4,40,60.5")
    assert [(s.seek, s.start) for s in transcript.segments] == [(200, 2.0), (4000, 40.0)]
    sizes = [int((window != 0).any(0).sum()) for window in model.windows]
    assert sizes == [200, 2050]  # the rest is zero in mel space


# Words and hallucinations.


def word(start: float, end: float, probability: float = 0.9, text: str = " w") -> Word:
    return Word(text, start, end, probability)


def said(start: float, end: float, *words: Word) -> Segment:
    return Segment(0, 0, start, end, " w", (T, SO, T + 5), 0.0, -0.1, 1.0, 0.0, words)


ODD = [word(5, 5.01, 0.05), word(5.01, 5.02, 0.05)]


@pytest.mark.parametrize(
    ("one", "score"),
    [
        (word(1, 1.5), 0.0),
        (word(1, 1.5, 0.14), 1.0),
        (word(1, 1.033), 1.5),  # 0.1 s too short
        (word(1, 4.5), 1.5),
        (word(1, 1, 0.1), 1 + 0.133 * 15),
    ],
)
def test_how_odd_a_word_is(one, score):
    assert anomaly_score(one) == pytest.approx(score)


def test_odd_segments():
    plain = [word(i, i + 0.5) for i in range(12)]
    odd = word(0, 0.5, 0.1)
    assert not is_anomaly(None)
    assert not is_anomaly(said(0, 1))
    assert not is_anomaly(said(0, 9, *plain))
    assert is_anomaly(said(0, 9, odd, odd, odd, *plain))  # three
    assert not is_anomaly(said(0, 9, odd, odd, *plain))
    assert is_anomaly(said(0, 9, odd, odd))  # all of them
    assert not is_anomaly(said(0, 9, *plain[:8], odd, odd, odd))  # after the eighth
    assert is_anomaly(said(0, 9, odd, odd, word(1, 1.5, text=",")))  # punctuation does not count


def guard(segments, seek=3000, ended=True, last_speech=0.0, window=Window(0, 3000), content=9000):
    return skip_silence(
        segments,
        window,
        seek,
        threshold=2.0,
        ended=ended,
        last_speech=last_speech,
        content_frames=content,
    )


def test_silence_before_an_odd_first_segment_is_skipped():
    found = guard([said(5, 5.02, *ODD)])
    assert (found.segments, found.seek, found.skipped) == ([], 500, True)


def test_an_odd_segment_in_silence_is_dropped():
    good = said(0, 1, word(0, 0.5), word(0.5, 1))
    found = guard([good, said(8, 8.02, *ODD)])
    assert (found.segments, found.seek, found.skipped) == ([good], 800, False)
    # Near the end of the recording there is nothing to come back for.
    assert guard([good, said(8, 8.02, *ODD)], content=950).seek == 950


def test_an_odd_segment_among_speech_stays():
    good = [said(0, 4.9, word(0, 0.5), word(4.5, 4.9)), said(5.1, 9, word(5.1, 6), word(6, 7))]
    segments = [good[0], said(5, 5.02, *ODD), good[1]]
    found = guard(segments)
    assert (found.segments, found.seek) == (segments, 3000)


def test_the_rest_of_a_window_is_left_out_unless_it_is_long():
    """Of what follows the last word: decoded again if it is longer than the threshold."""
    early, late = (said(0, end, word(0, 0.5), word(end - 0.5, end)) for end in (20.0, 29.0))
    assert guard([early], seek=1000, ended=False).seek == 2000
    assert guard([late], seek=1000, ended=False).seek == 3000


def times(*spans: tuple[float, float], probability: float = 0.9) -> list[list[WordTiming]]:
    return [[WordTiming(" So", (SO,), (-1.0,), start, end, probability) for start, end in spans]]


@pytest.fixture
def aligned(monkeypatch):
    """Alignments that are given in turn instead of the model's."""

    def use(*found):
        turns = iter(found)
        monkeypatch.setattr(module, "find_alignment", lambda *_: next(turns))

    return use


def test_words_say_where_the_next_window_begins(scripted, answer, aligned):
    aligned(times((0.5, 0.9), (7.2, 7.6)), times((0.1, 0.5)))
    model = scripted([answer([T, SO, SO, T + 400, T + 450, NOT]), answer([T, SO, T + 10])])
    transcript = spoken(model, 30, word_timestamps=True)
    first, second = transcript.segments
    assert (first.start, first.end) == (0.5, 7.6)
    assert [w.word for w in first.words or ()] == [" So", " So"]
    assert (second.seek, second.start, second.end) == (760, 7.7, 8.1)
    fields = transcript.to_dict()["segments"][0]["words"][0]
    assert fields == {"word": " So", "start": 0.5, "end": 0.9, "probability": 0.9}


def test_silence_is_skipped_before_made_up_words(scripted, answer, aligned):
    odd = times((12.0, 12.02), probability=0.05)
    aligned(odd, times((0.0, 0.4)))
    model = scripted([answer([T, SO, T + 800]), answer([T, SO, T + 20])])
    transcript = spoken(model, 40, word_timestamps=True, hallucination_silence_threshold=2.0)
    assert [(s.seek, s.start) for s in transcript.segments] == [(1200, 12.0)]
    assert model.prompts[1] == (50257,)  # nothing of the first window counts


# The recording.


def test_language_is_told_once(scripted, answer):
    german = answer([50261])
    first, second = answer([50364, SO, 50400]), answer([50364, NOT, 50400])
    model = scripted([german, first, second], n_vocab=MULTI)
    transcript = spoken(model, 35)
    assert transcript.language == "de"
    assert model.prompts[1:] == [
        (50258, 50261, 50359),
        (50361, 50364, SO, 50400, 50258, 50261, 50359),
    ]
    assert len(model.windows) == 2  # the first window's features told the language


def test_language_is_one_of_those_given(scripted, answer):
    model = scripted([answer([50261]), answer([50364, SO, 50400])], n_vocab=MULTI)
    assert spoken(model, 5, languages=("fr", "German")).language == "de"
    model = scripted([answer([50261]), answer([50364, SO, 50400])], n_vocab=MULTI)
    assert spoken(model, 5, languages=("fr",)).language == "fr"


def test_translation(scripted, answer):
    model = scripted([answer([50364, SO, 50400])], n_vocab=MULTI)
    transcript = spoken(model, 5, language="German", task="translate")
    assert model.prompts == [(50258, 50261, 50358)]
    assert transcript.language == "de"


def test_a_short_recording_tells_its_language_with_its_own_silence(scripted, answer):
    """The padding of the wave for the language, zeros in mel space for the text."""
    model = scripted([answer([50259]), answer([50364, SO, 50400])], n_vocab=MULTI)
    spoken(model, 5)
    told, text = model.windows
    assert torch.equal(told[:, :500], text[:, :500])
    assert (text[:, 500:] == 0).all()
    assert (told[:, 600:] < 0).all()


def test_progress(scripted, answer):
    seen = []
    model = scripted([answer([T, SO, T + 400, T + 450, NOT]), answer([T, SO, T + 5], 0.9, 500)])
    transcribe(model, noise(35), PLAIN, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(8.0, 35.0), (35.0, 35.0)]


@pytest.mark.parametrize("n", [0, 1, 159])
def test_recordings_shorter_than_a_frame(scripted, n):
    transcript = transcribe(scripted([]), np.zeros(n, np.float32), PLAIN)
    assert (transcript.text, transcript.segments, transcript.duration) == ("", (), 0.0)
    assert transcript.to_dict() == {"text": "", "segments": [], "language": "en"}


def test_several_recordings_in_their_order(scripted, answer):
    """Windows of different recordings in one batch; a recording is loaded when another is done."""
    loaded = []

    def recordings():
        for i, seconds in enumerate((35, 5, 65, 0, 10)):
            loaded.append(i)
            yield noise(seconds)

    # One window of each in a round: 0 and 1; 0 and 2; 2 and 4; 2
    model = scripted([answer([T, SO, T + i]) for i in range(10, 17)])
    found = transcribe_many(model, recordings(), PLAIN, batch_size=2)
    first = next(found)
    assert [s.end for s in first.segments] == pytest.approx([0.2, 30.24])
    assert loaded == [0, 1, 2, 3, 4]
    rest = list(found)
    assert [len(t.segments) for t in rest] == [1, 3, 0, 1]
    assert [t.duration for t in rest] == [5.0, 65.0, 0.0, 10.0]
    assert model.given == 7


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (np.zeros((2, 100), np.float32), "expected \\(N,\\)"),
        (np.zeros(100, np.int16), "floating point"),
        (np.array([0.0, np.nan], np.float32), "NaN"),
        (np.array([0.0, np.inf], np.float32), "NaN"),
    ],
)
def test_audio_that_cannot_be(scripted, audio, message):
    with pytest.raises(InputError, match=message):
        transcribe(scripted([]), audio, PLAIN)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"task": "lang_id"}, "task is 'lang_id'"),
        ({"temperature": ()}, "no temperature"),
        ({"temperature": (0.0, -1.0)}, "temperature is -1"),
        ({"beam_size": None, "patience": 1.0}, "patience"),
        ({"beam_size": 0}, "beam_size is 0"),
        ({"best_of": 0, "temperature": 0.5}, "best_of is 0"),
        ({"hallucination_silence_threshold": 1.0}, "word_timestamps"),
        ({"carry_initial_prompt": True}, "initial_prompt"),
        ({"clip_timestamps": "x"}, "clip_timestamps"),
        ({"language": "elvish"}, "elvish"),
        ({"language": "de"}, "knows only English"),
    ],
)
def test_options_that_cannot_be(scripted, given, message):
    with pytest.raises(UsageError, match=message):
        transcribe(scripted([]), noise(1), TranscribeOptions(**given))
    with pytest.raises(UsageError, match=message):
        list(transcribe_many(scripted([]), [noise(1)], TranscribeOptions(**given)))


def test_no_batch_is_too_small(scripted):
    with pytest.raises(UsageError, match="batch_size is 0"):
        transcribe_many(scripted([]), [], PLAIN, batch_size=0)


def test_defaults_are_those_of_the_command_line():
    options = TranscribeOptions()
    assert (options.beam_size, options.best_of, options.temperatures) == (
        5,
        5,
        (0.0, 0.2, 0.4, 0.6, 0.8, 1.0),
    )
    assert (options.compression_ratio_threshold, options.logprob_threshold) == (2.4, -1.0)
    assert (options.no_speech_threshold, options.condition_on_previous_text) == (0.6, True)
