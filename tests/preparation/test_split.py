"""Where recordings are cut, and that nothing is lost, invented or shifted by it."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from myna.asr.vad import Span
from myna.preparation import split
from myna.preparation.options import PrepareOptions
from myna.preparation.split import cuts, join

RATE = 16000
OPTIONS = PrepareOptions()


@given(st.lists(st.tuples(st.floats(0.05, 25), st.floats(0.2, 3)), min_size=1, max_size=40))
@settings(deadline=None)
def test_pieces_keep_every_breath_whole_and_in_order(lengths):
    spans, at = [], 0.0
    for seconds, pause in lengths:
        spans.append(Span(at, at + min(seconds, 19)))
        at += seconds + pause
    pieces = join(spans, OPTIONS)
    inside = [[s for s in spans if p.start <= s.start and s.end <= p.end] for p in pieces]
    assert [s for group in inside for s in group] == spans
    assert all(p.seconds <= OPTIONS.max_seconds - 2 * split.PAD + 1e-9 for p in pieces)
    assert all(a.end <= b.start for a, b in itertools.pairwise(pieces))
    for group in inside:  # no long silence in a piece
        assert all(b.start - a.end <= OPTIONS.max_pause for a, b in itertools.pairwise(group))


def test_a_long_run_is_cut_at_its_longest_pause():
    spans = [Span(0, 6), Span(6.3, 12), Span(12.8, 15), Span(15.3, 19), Span(19.3, 26)]
    assert join(spans, OPTIONS) == [Span(0, 12), Span(12.8, 26)]


def test_a_rest_that_would_be_too_short_is_worth_a_shorter_pause():
    spans = [Span(0, 12), Span(12.3, 19.0), Span(19.6, 20.3)]
    assert join(spans, OPTIONS) == [Span(0, 12), Span(12.3, 20.3)]


def blocks(wav, size):
    return (wav[i : i + size] for i in range(0, len(wav), size))


@pytest.fixture
def talk(speech):
    """A minute with pauses of 2 s between its sentences, each of which is known."""
    pause = np.zeros(2 * RATE, np.float32)
    return np.concatenate([np.concatenate([speech[: 5 * RATE], pause]) for _ in range(8)])


def test_the_size_of_blocks_changes_nothing(talk):
    one = list(cuts(blocks(talk, len(talk)), RATE, RATE, OPTIONS))
    other = list(cuts(blocks(talk, 7001), RATE, RATE, OPTIONS))
    assert len(one) == 8
    assert [(c.start, c.end) for c in one] == [(c.start, c.end) for c in other]
    for a, b in zip(one, other, strict=True):
        assert np.array_equal(a.wav, b.wav)


def test_cuts_are_what_was_recorded_at_both_rates(talk):
    for cut in cuts(blocks(talk, 50_000), RATE, RATE, OPTIONS):
        first, last = round(cut.start * RATE), round(cut.end * RATE)
        assert np.array_equal(cut.wav16, talk[first:last])
        assert np.array_equal(cut.wav, talk[first:last])
    for cut in cuts(blocks(talk, 50_000), RATE, 24_000, OPTIONS):
        assert abs(len(cut.wav) - 1.5 * len(cut.wav16)) <= 1


def test_a_long_recording_is_cut_like_a_short_one(talk, monkeypatch):
    """What is forgotten on the way leaves no trace in the speech that is found."""
    whole = list(cuts(blocks(talk, 50_000), RATE, 24_000, OPTIONS))
    monkeypatch.setattr(split, "STRETCH", 17)
    streamed = list(cuts(blocks(talk, 50_000), RATE, 24_000, OPTIONS))
    assert len(streamed) == len(whole)
    for a, b in zip(whole, streamed, strict=True):
        assert a.start == pytest.approx(b.start, abs=0.1)
        assert a.end == pytest.approx(b.end, abs=0.1)
        first, last = round(b.start * RATE), round(b.end * RATE)
        assert np.array_equal(b.wav16, talk[first:last])  # the times are those of the recording


def test_memory_does_not_grow(talk, monkeypatch):
    monkeypatch.setattr(split, "STRETCH", 17)
    kept = []
    original = split._Buffer.forget

    def forget(self, seconds):
        original(self, seconds)
        kept.append(self.seconds)

    monkeypatch.setattr(split._Buffer, "forget", forget)
    assert len(list(cuts(blocks(talk, 16_000), RATE, RATE, OPTIONS))) == 8
    assert len(kept) >= 3
    assert max(kept) < 17


def test_a_recording_with_one_text_stays_one_piece(speech):
    talk = np.concatenate([speech[: 2 * RATE], np.zeros(3 * RATE, np.float32), speech[2 * RATE : 5 * RATE]])
    assert len(list(cuts(blocks(talk, 9999), RATE, RATE, OPTIONS))) == 2
    (cut,) = cuts(blocks(talk, 9999), RATE, RATE, OPTIONS, whole=True)
    assert cut.end - cut.start > 7


@pytest.mark.parametrize(
    "wav", [np.zeros(3 * RATE, np.float32), np.zeros(1, np.float32), np.ones(1, np.float32)]
)
def test_silence_and_a_sample_hold_no_speech(wav):
    assert list(cuts(blocks(wav, 1000), RATE, RATE, OPTIONS)) == []
