"""Word timestamps: the path of dynamic time warping through the decoder's attention to the audio
(Radford et al. 2022; Giorgino 2009), and openai-whisper's corrections of it.

Shapes: B windows, H alignment heads, T tokens, A frames of the encoder (20 ms).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .model.features import FRAMES_PER_SECOND
from .model.tokenizer import SECONDS_PER_TIMESTAMP, Tokenizer
from .model.whisper import Whisper
from .options import APPEND_PUNCTUATIONS, PREPEND_PUNCTUATIONS
from .transcript import Segment, Token, Word

SENTENCE_ENDS = ".。!！?？"

_TOKENS_PER_SECOND = round(1 / SECONDS_PER_TIMESTAMP)
_MEDIAN_WIDTH = 7  # frames
_LONGEST_MEDIAN = 0.7  # seconds
_MAX_ROWS = 4  # windows aligned at a time: their logits take up to 46 MB each
_TOLERANCE = 0.5  # seconds that a segment's and its words' times may differ


@dataclass(frozen=True)
class WordTiming:
    """A word of a window: its tokens and their log-probabilities, start and end in seconds of the window, mean
    probability of its tokens."""

    word: str
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    start: float
    end: float
    probability: float


@torch.inference_mode()
def find_alignment(
    model: Whisper,
    tokenizers: Sequence[Tokenizer],
    texts: Sequence[Sequence[int]],
    features: Tensor,
    n_frames: Sequence[int],
) -> list[list[WordTiming]]:
    """The words of B windows. tokenizers, texts (text tokens) and n_frames (mel frames that are the recording's): one a
    window; features (B, A, D). A window without text, or of less than two frames, has no words."""
    timings: list[list[WordTiming]] = [[] for _ in texts]
    rows = [i for i, text in enumerate(texts) if len(text) and n_frames[i] >= 2]
    for start in range(0, len(rows), _MAX_ROWS):
        part = rows[start : start + _MAX_ROWS]
        given = [
            [*tokenizers[i].sot_sequence_including_notimestamps, *texts[i], tokenizers[i].eot] for i in part
        ]
        longest = max(map(len, given))
        padded = [[*row, *[row[-1]] * (longest - len(row))] for row in given]
        logits, products = model.align(torch.tensor(padded, device=features.device), features[part])
        for i, scores, listening in zip(part, logits, products, strict=True):
            n_start, n_text = len(tokenizers[i].sot_sequence), len(texts[i])
            predicted = scores[n_start : n_start + n_text, : tokenizers[i].eot].softmax(1)
            text = torch.tensor(list(texts[i]), device=features.device)
            probabilities = predicted.gather(1, text[:, None])[:, 0].double().cpu().numpy()
            # The tokens before the text and its end take part in the standardising, not in the path.
            matrix = attention_matrix(listening[:, : n_start + n_text + 2, : n_frames[i] // 2])
            path = warp(-matrix[n_start:-1].double().cpu().numpy())
            timings[i] = _words(tokenizers[i], list(texts[i]), probabilities, *path)
    return timings


def attention_matrix(products: Tensor) -> Tensor:
    """Scaled dot products (H, T, A) -> (T, A): where each token listens; softmax, standardised over the tokens, median
    of 7 frames, mean of the heads."""
    weights = products.softmax(-1)
    std, mean = torch.std_mean(weights, dim=-2, keepdim=True, unbiased=False)
    # A frame to which all tokens listen alike (the only one of a very short window) tells none of them.
    weights = torch.where(std > 0, (weights - mean) / std, 0.0)
    return median_filter(weights, _MEDIAN_WIDTH).mean(0)


def median_filter(x: Tensor, width: int) -> Tensor:
    """The median of `width` (odd) values about each along the last dimension, mirrored at its ends; too short a row is
    left as it is.

    By minima and maxima of whole rows: the smallest and the largest of width // 2 + 2 values are not the median, and
    are given up for the next value until one is left. Ten times as fast as sorting.
    """
    half = width // 2
    if half == 0 or x.shape[-1] <= half:
        return x
    padded = F.pad(x.flatten(0, -2)[None], (half, half), mode="reflect")[0].view(*x.shape[:-1], -1)
    shifted = [padded[..., i : i + x.shape[-1]] for i in range(width)]
    kept, rest = shifted[: half + 2], shifted[half + 2 :]
    while True:
        kept = _without_extremes(kept)
        if not rest:
            return kept[0]
        kept.append(rest.pop())


def _without_extremes(values: list[Tensor]) -> list[Tensor]:
    """n tensors, at least 3 -> n - 2 that hold what is neither the smallest nor the largest at each place."""
    low, others = values[0], []
    for value in values[1:]:
        others.append(torch.maximum(low, value))
        low = torch.minimum(low, value)
    high, inner = others[0], []
    for value in others[1:]:
        inner.append(torch.minimum(high, value))
        high = torch.maximum(high, value)
    return inner


def warp(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cheapest monotonic path through cost (T, A), from its first corner to its last: indices of both sides.

    Sums are float32 and equal ones go to the right, as in openai-whisper. Cells of an antidiagonal depend only on the
    two before it and are computed at once.
    """
    n, m = cost.shape
    # Column i of line d is cell (i, d - i), with a border of infinity before the first of each.
    skewed = np.full((n + m - 1, n), np.inf)
    line, column = np.indices((n, m))
    skewed[line + column, line] = cost
    direction = np.empty(
        (n + m - 1, n), np.int8
    )  # 0: from both before, 1: from the token before, 2: the frame before
    before = np.full(n + 1, np.inf, np.float32)  # sums of line d - 1, entry 0 the border
    before2 = before.copy()
    before2[0] = 0.0  # the corner
    for d in range(n + m - 1):
        both, token, frame = before2[:-1], before[:-1], before[1:]
        cheapest = np.minimum(both, token)
        best = np.minimum(cheapest, frame)
        first = (both < token) & (both < frame)
        second = (token < both) & (token < frame)
        direction[d] = np.where(first, 0, np.where(second, 1, 2))
        after = np.full(n + 1, np.inf, np.float32)
        after[1:] = skewed[d] + np.where(first | second, best, frame)
        before2, before = before, after
    i, j = n - 1, m - 1
    path = [(i, j)]
    while i > 0 or j > 0:
        step = 2 if i == 0 else 1 if j == 0 else direction[i + j, i]
        i, j = i - (step != 2), j - (step != 1)
        path.append((i, j))
    indices = np.array(path[::-1])
    return indices[:, 0], indices[:, 1]


def _words(
    tokenizer: Tokenizer,
    text: list[int],
    probabilities: np.ndarray,
    at_token: np.ndarray,
    at_frame: np.ndarray,
) -> list[WordTiming]:
    """The words of a text along the path."""
    words, word_tokens = tokenizer.split_to_word_tokens([*text, tokenizer.eot])
    if len(words) <= 1:  # the end only
        return []
    begins = np.cumsum([0, *(len(tokens) for tokens in word_tokens[:-1])])
    first_frame = at_frame[np.diff(at_token, prepend=-1) > 0]
    times = first_frame[begins] / _TOKENS_PER_SECOND
    logprobs = np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))  # JSON has no infinity
    return [
        WordTiming(
            word,
            tuple(tokens),
            tuple(logprobs[a:b].tolist()),
            float(start),
            float(end),
            float(probabilities[a:b].mean()),
        )
        for word, tokens, start, end, a, b in zip(
            words, word_tokens, times, times[1:], begins, begins[1:], strict=False
        )
    ]


def merge_punctuations(words: Sequence[WordTiming], prepended: str, appended: str) -> list[WordTiming]:
    """Punctuation joined to the word that it belongs to, whose times stay; as many entries as before, of which the
    joined ones are empty."""
    merged = list(words)

    def join(gone: int, into: int) -> None:
        a, b = merged[min(gone, into)], merged[max(gone, into)]
        merged[into] = replace(
            merged[into], word=a.word + b.word, tokens=a.tokens + b.tokens, logprobs=a.logprobs + b.logprobs
        )
        merged[gone] = replace(merged[gone], word="", tokens=(), logprobs=())

    following = len(merged) - 1
    for i in range(len(merged) - 2, -1, -1):
        mark, word = merged[i], merged[following]
        if mark.word.startswith(" ") and mark.word.strip() in prepended:
            join(i, following)
        else:
            following = i
    previous = 0
    for i in range(1, len(merged)):
        word, mark = merged[previous], merged[i]
        if not word.word.endswith(" ") and mark.word in appended:
            join(i, previous)
        else:
            previous = i
    return merged


def add_word_timestamps(
    segments: Sequence[Segment],
    alignment: Sequence[WordTiming],
    tokenizer: Tokenizer,
    *,
    last_speech: float,
    prepend_punctuations: str = PREPEND_PUNCTUATIONS,
    append_punctuations: str = APPEND_PUNCTUATIONS,
) -> list[Segment]:
    """The segments of a window with their words, and with starts and ends moved to the words'.

    alignment: `find_alignment` of their text tokens.   last_speech: end of the last word before them, seconds. Words at
    the ends of sentences and after pauses, which the path draws out over the silence, are cut to twice the median.
    """
    if not segments:
        return []
    durations = np.array([timing.end - timing.start for timing in alignment])
    durations = durations[durations != 0]
    median = min(_LONGEST_MEDIAN, float(np.median(durations))) if len(durations) else 0.0
    timings = _cut_at_sentence_ends(alignment, 2 * median) if len(durations) else list(alignment)
    timings = merge_punctuations(timings, prepend_punctuations, append_punctuations)

    offset = segments[0].seek / FRAMES_PER_SECOND
    done, at = [], 0
    for segment in segments:
        n_tokens = sum(token < tokenizer.eot for token in segment.tokens)
        words: list[Word] = []
        while at < len(timings) and n_tokens > 0:
            timing = timings[at]
            if timing.word:
                start, end = (round(offset + time, 2) for time in (timing.start, timing.end))
                tokens = tuple(
                    Token(token, tokenizer.bytes_of(token), logprob)
                    for token, logprob in zip(timing.tokens, timing.logprobs, strict=True)
                )
                words.append(Word(timing.word, start, end, timing.probability, tokens))
            n_tokens -= len(timing.tokens)
            at += 1
        if words:
            segment = _fit(segment, words, median, last_speech)
            last_speech = segment.end
        done.append(replace(segment, words=tuple(words)))
    return done


def _cut_at_sentence_ends(alignment: Sequence[WordTiming], longest: float) -> list[WordTiming]:
    timings = list(alignment)
    for i in range(1, len(timings)):
        timing = timings[i]
        if timing.end - timing.start > longest:
            if timing.word in SENTENCE_ENDS:
                timings[i] = replace(timing, end=timing.start + longest)
            elif timings[i - 1].word in SENTENCE_ENDS:
                timings[i] = replace(timing, start=timing.end - longest)
    return timings


def _fit(segment: Segment, words: list[Word], median: float, last_speech: float) -> Segment:
    """The segment with its ends at its words', where they are near; words too long after a pause are cut, in place."""
    longest = 2 * median
    first = words[0]
    second = words[1] if len(words) > 1 else None
    too_long = first.end - first.start > longest or (
        second is not None and second.end - first.start > 2 * longest
    )
    if first.end - last_speech > 4 * median and too_long:
        if second is not None and second.end - second.start > longest:
            boundary = max(second.end / 2, second.end - longest)
            words[1] = replace(second, start=boundary)
            first = replace(first, end=boundary)
        first = words[0] = replace(first, start=max(0, first.end - longest))

    start, end = segment.start, segment.end
    if start < first.end and start - _TOLERANCE > first.start:
        words[0] = replace(first, start=max(0, min(first.end - median, start)))
    else:
        start = first.start
    last = words[-1]
    if end > last.start and end + _TOLERANCE < last.end:
        words[-1] = replace(last, end=max(last.start + median, end))
    else:
        end = last.end
    return replace(segment, start=start, end=end)
