"""Windows of speech: none of it lost, none too long, and every time finds its way back."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from myna.asr.model.features import SAMPLE_RATE
from myna.asr.speech_windows import SpeechWindow, pack
from myna.asr.vad import FRAME_SECONDS, Span, VadOptions

OPTIONS = VadOptions(min_silence=0.1, pad=0.4, max_length=30.0)


def probabilities(*lengths):
    """Speech and silence in turn, so many seconds each."""
    parts = [np.full(round(s / FRAME_SECONDS), 0.05 if i % 2 else 0.95) for i, s in enumerate(lengths)]
    return np.concatenate(parts).astype(np.float32)


def packed(*lengths, clips=None):
    p = probabilities(*lengths)
    return pack(p, len(p) * FRAME_SECONDS, OPTIONS, clips)


@pytest.mark.parametrize("seed", range(20))
def test_all_speech_is_in_one_window_each(seed):
    random = np.random.default_rng(seed)
    lengths = random.exponential(random.choice([0.7, 4, 20]), 60) + 0.13
    p = probabilities(*lengths)
    seconds = len(p) * FRAME_SECONDS
    windows = pack(p, seconds, OPTIONS)
    assert all(0 < window.seconds <= 30 + 1e-6 for window in windows)
    pieces = [piece for window in windows for piece in window.pieces]
    assert all(a.end <= b.start + 1e-9 for a, b in itertools.pairwise(pieces))
    assert pieces[0].start >= 0
    assert pieces[-1].end <= seconds
    spoken = np.repeat(p > 0.5, 512)
    inside = np.zeros(len(spoken), int)
    for piece in pieces:
        inside[round(piece.start * SAMPLE_RATE) : round(piece.end * SAMPLE_RATE)] += 1
    assert inside[spoken].min() == 1
    assert inside.max() == 1


def test_silence_between_is_left_out_and_pads_are_kept():
    (window,) = packed(5, 20, 5, 3)
    assert window.seconds == pytest.approx(5 + 5 + 3 * 0.4, abs=0.1)
    assert window.joins == [(pytest.approx(5.4, abs=0.05), pytest.approx(20 - 0.8, abs=0.05))]


def test_a_window_ends_in_the_longest_silence_of_its_last_third():
    first, second = packed(10, 0.3, 12, 1.0, 6, 0.3, 10)
    assert first.end == pytest.approx(10 + 0.3 + 12 + 0.4, abs=0.1)
    assert second.start == pytest.approx(first.end + 0.2, abs=0.1)


def test_speech_without_a_silence_is_cut():
    windows = packed(100)
    assert len(windows) >= 4
    assert sum(window.seconds for window in windows) == pytest.approx(100, abs=0.1)


def test_only_the_clips_count():
    windows = packed(100, clips=[Span(10, 15), Span(50, 52)])
    assert [(w.start, w.end) for w in windows] == [(10, 15), (50, 52)]
    assert packed(5, 10, 5, clips=[Span(7, 12)]) == []
    assert packed(100, clips=[Span(10, 10)]) == []


def test_nothing_is_said():
    assert pack(np.zeros(0, np.float32), 0.0, OPTIONS) == []
    assert pack(np.zeros(1000, np.float32), 32.0, OPTIONS) == []


@pytest.fixture
def window():
    return SpeechWindow((Span(10, 12), Span(20, 23), Span(40, 41)), (Span(10.4, 11.6), Span(20.4, 22.6)))


def test_times_of_the_recording(window):
    times = [window.to_recording(t) for t in (0, 1.5, 2, 3, 5, 5.5, 6)]
    assert times == [10, 11.5, 20, 21, 40, 40.5, 41]
    assert [window.to_recording(t, is_end=True) for t in (2, 2.1, 5, 6)] == pytest.approx([12, 20.1, 23, 41])


def test_what_follows_a_time(window):
    rest = window.after(3)
    assert rest.pieces == (Span(21, 23), Span(40, 41))
    assert rest.speech == (Span(21, 22.6),)
    assert window.speech_after(3) == pytest.approx(1.6)
    assert window.speech_after(0) == pytest.approx(1.2 + 2.2)
    assert window.speech_between(11, 21) == pytest.approx(0.6 + 0.6)


def test_the_samples_are_the_pieces():
    audio = np.arange(50 * SAMPLE_RATE)
    window = SpeechWindow((Span(1, 2), Span(30, 31)), ())
    assert (
        window.samples(audio) == np.r_[SAMPLE_RATE : 2 * SAMPLE_RATE, 30 * SAMPLE_RATE : 31 * SAMPLE_RATE]
    ).all()
