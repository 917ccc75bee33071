"""Times of words: the path, its parts, and the corrections of what it draws out."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from myna.asr.model.whisper import Whisper, WhisperDims
from myna.asr.timing import (
    WordTiming,
    add_word_timestamps,
    attention_matrix,
    find_alignment,
    median_filter,
    merge_punctuations,
    warp,
)
from myna.asr.transcript import Segment, last_word_end
from myna.asr.vocabularies import vocabulary_for

V = 51864


# The path.


def cheapest(cost: np.ndarray) -> float:
    """The sum along the cheapest path, cell by cell."""
    n, m = cost.shape
    total = np.full((n + 1, m + 1), np.inf)
    total[0, 0] = 0
    for i, j in itertools.product(range(n), range(m)):
        total[i + 1, j + 1] = cost[i, j] + min(total[i, j], total[i, j + 1], total[i + 1, j])
    return total[n, m]


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (3, 20), (20, 3), (17, 17), (30, 101)])
def test_path_is_the_cheapest(shape):
    cost = np.random.default_rng(shape[0]).normal(size=shape)
    i, j = warp(cost)
    assert (i[0], j[0]) == (0, 0)
    assert (i[-1] + 1, j[-1] + 1) == shape
    steps = set(zip(np.diff(i).tolist(), np.diff(j).tolist(), strict=True))
    assert steps <= {(0, 1), (1, 0), (1, 1)}
    assert cost[i, j].sum() == pytest.approx(cheapest(cost), rel=1e-5, abs=1e-4)


def test_path_that_is_known():
    """Each token has its frames, where it costs nothing."""
    frames = [0, 0, 0, 1, 2, 2, 3, 3, 3, 3]
    cost = np.ones((4, 10))
    cost[frames, np.arange(10)] = 0.0
    i, j = warp(cost)
    assert (i.tolist(), j.tolist()) == (frames, list(range(10)))


def test_path_is_that_of_the_original():
    reference = pytest.importorskip("whisper.timing")
    rng = np.random.default_rng(0)
    for shape in ((5, 40), (40, 120), (12, 7)):
        for cost in (rng.normal(size=shape), rng.integers(0, 3, shape) - 1.0):  # with equal sums
            assert np.array_equal(np.stack(warp(cost)), reference.dtw_cpu(cost))


@pytest.mark.parametrize("width", [1, 3, 5, 7, 13])
@pytest.mark.parametrize("shape", [(1, 14), (4, 3, 40), (2, 3, 4, 8)])
def test_median(width, shape):
    torch.manual_seed(width)
    x = torch.randn(shape)
    if shape[-1] <= width // 2:
        assert median_filter(x, width) is x
        return
    half = width // 2
    padded = np.pad(x.numpy(), [(0, 0)] * (len(shape) - 1) + [(half, half)], mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, width, axis=-1)
    assert np.array_equal(median_filter(x, width).numpy(), np.median(windows, axis=-1))


def test_a_row_too_short_for_the_median():
    x = torch.randn(2, 3)
    assert median_filter(x, 7) is x


def test_attention_of_a_single_frame_has_no_nan():
    assert attention_matrix(torch.randn(2, 5, 1)).isfinite().all()


def test_alignments_together_and_alone(tokenizer):
    torch.manual_seed(0)
    dims = WhisperDims(80, 1500, 16, 2, 1, V, 448, 16, 2, 2)
    model = Whisper(dims, vocabulary=vocabulary_for(V)).eval()
    features = torch.randn(6, 1500, 16)
    texts = [tokenizer.encode(t) for t in (" One, two.", "", " A rather longer text.", " Five", " x", " y z")]
    frames = [3000, 3000, 900, 1, 2, 77]
    together = find_alignment(model, [tokenizer] * 6, texts, features, frames)
    for i in range(6):
        alone = find_alignment(model, [tokenizer], texts[i : i + 1], features[i : i + 1], frames[i : i + 1])
        assert [(w.word, w.start, w.end) for w in together[i]] == [(w.word, w.start, w.end) for w in alone[0]]
    assert together[1] == together[3] == []  # no text; less than two frames
    assert [w.word for w in together[0]] == [" One", ",", " two", "."]
    assert all(w.end <= frames[2] / 100 for w in together[2])
    assert [w.start for w in together[4]] == [0.0]


# Words.


def timing(word: str, start: float, end: float, *tokens: int) -> WordTiming:
    ids = tokens or (400,)
    return WordTiming(word, ids, tuple(-0.1 * token for token in ids), start, end, 0.9)


def words(*entries: str) -> list[WordTiming]:
    return [timing(word, i, i + 1, i) for i, word in enumerate(entries)]


def test_punctuation_goes_to_its_word():
    merged = merge_punctuations(
        words(' "', "Hello", ",", '"', " (", "yes", ")", "."), "\"'“¿([{-", "\"'.。,，)"
    )
    assert [m.word for m in merged] == ["", ' "Hello,"', "", "", "", " (yes).", "", ""]
    assert merged[1].tokens == (0, 1, 2, 3)
    assert [merged[1].logprobs, merged[5].logprobs] == [
        tuple(-0.1 * token for token in merged[i].tokens) for i in (1, 5)
    ]
    assert (merged[1].start, merged[1].end) == (1, 2)
    assert [len(m.tokens) for m in merged] == [0, 4, 0, 0, 0, 4, 0, 0]


def test_punctuation_is_merged_as_by_the_original():
    reference = pytest.importorskip("whisper.timing")
    rng = np.random.default_rng(1)
    pieces = [" a", "b ", ",", ' "', '"', " (", ".", "。", " -", "x"]
    for _ in range(200):
        chosen = [pieces[i] for i in rng.integers(0, len(pieces), rng.integers(0, 9))]
        theirs = [reference.WordTiming(w, [i], 0.0, 1.0, 0.5) for i, w in enumerate(chosen)]
        reference.merge_punctuations(theirs, "\"'“¿([{-", "\"'.。,，!！?？:：”)]}、")
        ours = merge_punctuations(words(*chosen), "\"'“¿([{-", "\"'.。,，!！?？:：”)]}、")
        assert [(w.word, list(w.tokens)) for w in ours] == [(w.word, w.tokens) for w in theirs]


def segment(start: float, end: float, n_tokens: int, seek: int = 0) -> Segment:
    return Segment(0, seek, start, end, "x", (50363, *[400] * n_tokens, 50400), 0.0, -0.1, 1.0, 0.0)


def test_words_are_shared_out_among_segments(tokenizer):
    alignment = [timing(f" w{i}", i * 0.4, i * 0.4 + 0.4) for i in range(5)]
    first, second = add_word_timestamps(
        [segment(0.1, 0.9, 2, 1000), segment(0.9, 2.5, 3, 1000)], alignment, tokenizer, last_speech=10.0
    )
    assert [w.word for w in first.words or ()] == [" w0", " w1"]
    assert [(w.start, w.end) for w in second.words or ()] == [(10.8, 11.2), (11.2, 11.6), (11.6, 12.0)]
    assert (second.start, second.end) == (10.8, 12.0)  # as its words
    assert last_word_end([first, second]) == 12.0
    assert add_word_timestamps([], [], tokenizer, last_speech=0.0) == []
    assert last_word_end([segment(0, 3.0, 1)]) == 3.0
    assert last_word_end([]) is None


def test_a_long_word_at_the_end_of_a_sentence_is_cut(tokenizer):
    alignment = [timing(" a", 0, 0.2), timing(".", 0.2, 2.0), timing(" b", 2.0, 3.5), timing(" c", 3.5, 3.7)]
    alignment += [timing(" d", 3.7, 3.9), timing(" e", 3.9, 4.1)]
    (found,) = add_word_timestamps([segment(0, 4.1, 6)], alignment, tokenizer, last_speech=0.0)
    assert [w.word for w in found.words or ()] == [" a.", " b", " c", " d", " e"]
    assert [(w.start, w.end) for w in found.words or ()][:2] == [(0.0, 0.2), (3.1, 3.5)]  # twice the median


def random_alignment(rng: np.random.Generator) -> list[tuple[str, int, float, float]]:
    n = int(rng.integers(1, 14))
    lengths = rng.choice([0.0, 0.02, 0.2, 0.4, 0.9, 2.5], n)
    ends = np.round(np.cumsum(lengths) + rng.choice([0.0, 1.5, 6.0]), 2)
    chosen = rng.choice([" a", " bc", ",", ".", ' "', "d", "?"], n)
    return [
        (str(word), int(rng.integers(1, 3)), float(end - length), float(end))
        for word, length, end in zip(chosen, lengths, ends, strict=True)
    ]


@pytest.mark.parametrize("last_speech", [0.0, 11.0, 25.0])
def test_corrections_are_those_of_the_original(tokenizer, monkeypatch, last_speech):
    reference = pytest.importorskip("whisper.timing")
    rng = np.random.default_rng(int(last_speech))
    for _ in range(150):
        entries = random_alignment(rng)
        n_tokens = sum(n for _, n, _, _ in entries)
        cut = int(rng.integers(0, n_tokens + 1))
        middle = float(rng.uniform(0, entries[-1][3] + 1))
        bounds = [(10 + rng.uniform(0, 2), 10 + middle, cut), (10 + middle, 40.0, n_tokens - cut)]
        theirs = [{"seek": 1000, "start": a, "end": b, "tokens": [400] * n} for a, b, n in bounds]
        alignment = [reference.WordTiming(w, [400] * n, a, b, 0.5) for w, n, a, b in entries]
        monkeypatch.setattr(reference, "find_alignment", lambda *_, found=alignment: found)
        reference.add_word_timestamps(
            segments=theirs,
            model=None,
            tokenizer=tokenizer,
            mel=None,
            num_frames=3000,
            last_speech_timestamp=last_speech,
        )
        ours = add_word_timestamps(
            [Segment(0, 1000, a, b, "", (400,) * n, 0.0, 0.0, 1.0, 0.0) for a, b, n in bounds],
            [WordTiming(w, (400,) * n, (-0.7,) * n, a, b, 0.5) for w, n, a, b in entries],
            tokenizer,
            last_speech=last_speech,
        )
        for one, other in zip(ours, theirs, strict=True):
            assert math.isclose(one.start, other["start"])
            assert math.isclose(one.end, other["end"])
            assert [word.to_dict() for word in one.words or ()] == other["words"]
