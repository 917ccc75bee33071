"""Spans of speech: on real speech with silence in it, at every length, at the edges."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from myna.asr.vad import FRAME_SECONDS, Span, VadOptions, find_spans, level_gain, speech_spans
from myna.data.audio import read_audio
from myna.errors import UsageError
from myna.pretrained.silero import RATE

ASSETS = Path(__file__).parents[1] / "assets"


def silence(seconds):
    return np.zeros(int(seconds * RATE), np.float32)


@pytest.fixture(scope="module")
def speech():
    return read_audio(ASSETS / "lj.flac", RATE, mono=True).samples[0]


@pytest.fixture(scope="module")
def three_readings(speech):
    """Speech at 2 s, 12 s and 21 s, silence between."""
    n = len(speech) / RATE
    return np.concatenate([silence(2), speech, silence(10 - n), speech, silence(9 - n), speech, silence(3)])


def spans_of(pattern, seconds=None, **options):
    """Of a string, a character a frame: # speech, - neither, space silence."""
    p = np.array([{"#": 0.9, "-": 0.4, " ": 0.05}[c] for c in pattern], np.float32)
    options = {"min_speech": 0.0, "min_silence": 0.0, "pad": 0.0, **options}
    seconds = len(p) * FRAME_SECONDS if seconds is None else seconds
    spans = find_spans(p, seconds, VadOptions(**options))
    return [(round(s.start / FRAME_SECONDS, 3), round(s.end / FRAME_SECONDS, 3)) for s in spans]


def test_it_finds_the_speech_and_not_the_silence(speech, three_readings):
    spans = speech_spans(three_readings, VadOptions(min_silence=1.0))
    begins = np.array([2, 12, 21])
    assert len(spans) == 3
    assert np.abs(np.array([s.start for s in spans]) - begins).max() < 0.45  # a pad of 0.4 s
    assert np.abs(np.array([s.end for s in spans]) - begins - len(speech) / RATE).max() < 0.5


@pytest.mark.parametrize("gain", [1e-4, 0.01, 100.0])
def test_the_level_does_not_matter(three_readings, gain):
    spans = speech_spans(three_readings, VadOptions(min_silence=1.0))
    again = speech_spans(three_readings * np.float32(gain), VadOptions(min_silence=1.0))
    assert len(again) == len(spans)
    assert all(
        abs(a.start - b.start) < 0.4 and abs(a.end - b.end) < 0.4 for a, b in zip(spans, again, strict=True)
    )


def test_one_click_does_not_hide_a_quiet_speaker(three_readings):
    quiet = three_readings * 0.003
    quiet[RATE] = 1.0
    assert level_gain(quiet) > 20
    assert len(speech_spans(quiet, VadOptions(min_silence=1.0))) == 3


@pytest.mark.parametrize("audio", [silence(0), silence(1 / RATE), silence(20), np.ones(RATE, np.float32)])
def test_without_speech_there_is_no_span(audio):
    assert speech_spans(audio) == []


def test_noise_is_no_speech():
    noise = np.random.default_rng(0).normal(0, 0.1, 10 * RATE).astype(np.float32)
    assert speech_spans(noise) == []
    assert speech_spans(noise * 1e-5) == []  # nor after it is levelled


def test_long_speech_is_cut_in_its_silences(speech):
    pause = silence(0.3)
    audio = np.concatenate([speech, pause, speech, pause, speech, pause, speech])
    spans = speech_spans(audio, VadOptions(min_silence=2.0, max_length=10, pad=0.1))
    assert len(spans) >= 4
    assert max(s.seconds for s in spans) <= 10
    whole = speech_spans(audio, VadOptions(min_silence=2.0, pad=0.1))
    assert len(whole) == 1
    assert (spans[0].start, spans[-1].end) == (whole[0].start, whole[0].end)
    # Cut in silence: little energy within 30 ms of a cut.
    loud = np.abs(audio).max()
    for span in spans[1:]:
        at = int(span.start * RATE)
        assert np.sqrt(np.mean(audio[at - RATE // 33 : at + RATE // 33] ** 2)) < 0.1 * loud


def test_two_thresholds():
    assert spans_of("  ####----####   ") == [(2, 14)]
    assert spans_of("  ----####   ") == [(6, 10)]
    assert spans_of("  ####  --  ####   ") == [(2, 6), (12, 16)]
    assert spans_of("####----    ", threshold=0.3) == [(0, 8)]
    assert spans_of("####----    ", neg_threshold=0.45) == [(0, 4)]


def test_short_speech_and_short_silence():
    assert spans_of("## #### #", min_speech=3 * FRAME_SECONDS) == [(3, 7)]
    assert spans_of("## ####   ##", min_silence=2 * FRAME_SECONDS) == [(0, 7), (10, 12)]


def test_pads_share_a_silence_and_stay_inside():
    assert spans_of("  ##    ##  ", pad=FRAME_SECONDS) == [(1, 5), (7, 11)]
    assert spans_of(" ##  ## ", pad=5 * FRAME_SECONDS) == [(0, 4), (4, 8)]


def test_the_last_frame_may_be_begun_only():
    assert spans_of("####", seconds=3.5 * FRAME_SECONDS) == [(0, 3.5)]


def test_a_span_without_a_silence_is_cut_where_it_is_least_like_speech():
    pattern = "#" * 40 + "-" + "#" * 40
    assert spans_of(pattern, max_length=60 * FRAME_SECONDS) == [(0, 40), (40, 81)]


def test_the_longest_silence_is_cut_first():
    pattern = "#" * 10 + " " * 4 + "#" * 10 + " " * 8 + "#" * 10 + " " * 4 + "#" * 10
    found = spans_of(pattern, max_length=46 * FRAME_SECONDS, min_silence=1.0)
    assert found == [(0, 24), (32, 56)]


def test_spans_say_how_long_they_are():
    assert Span(1.5, 4.0).seconds == 2.5


@pytest.mark.parametrize(
    "wrong",
    [
        {"threshold": 0.0},
        {"threshold": 1.2},
        {"neg_threshold": 0.9},
        {"pad": -1},
        {"min_silence": float("nan")},
        {"max_length": 0.5},
    ],
)
def test_impossible_options_are_refused(wrong):
    with pytest.raises(UsageError, match="expected"):
        VadOptions(**wrong)
