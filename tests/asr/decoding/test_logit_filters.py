"""What may not be sampled: each rule, for rows in different situations at once."""

from __future__ import annotations

import pytest
import torch
from myna.asr.decoding.logit_filters import (
    NoRepeatNgram,
    RepetitionPenalty,
    SuppressBlank,
    SuppressTokens,
    TimestampRules,
    filters_of,
    suppressed,
)
from myna.asr.decoding.options import DecodingOptions
from myna.errors import UsageError

V = 51864


@pytest.fixture
def time(tokenizer):
    """The token of a timestamp, by its index."""
    return lambda index: tokenizer.timestamp_begin + index


def allowed(logits: torch.Tensor) -> list[set[int]]:
    return [set(row.isfinite().nonzero()[:, 0].tolist()) for row in logits]


def after(rules, *sampled: list[int], likely: int | None = None) -> list[set[int]]:
    logits = torch.zeros(len(sampled), V)
    if likely is not None:
        logits[:, likely] = 20.0  # above all timestamps together
    rules(logits, torch.tensor(sampled))
    return allowed(logits)


def test_blank_only_at_the_beginning(tokenizer):
    rule = SuppressBlank(tokenizer)
    logits = torch.zeros(2, V)
    rule(logits, torch.empty(2, 0, dtype=torch.long))
    assert allowed(logits) == [set(range(V)) - {220, tokenizer.eot}] * 2
    logits = torch.zeros(1, V)
    rule(logits, torch.tensor([[5]]))
    assert allowed(logits) == [set(range(V))]


def test_suppressed_tokens_of_the_usual_list(tokenizer):
    """The symbols of faster-whisper's golden test, and the special tokens that are no text."""
    ids = suppressed(tokenizer, "-1")
    special = [tokenizer.sot, tokenizer.transcribe, tokenizer.translate, tokenizer.sot_lm, tokenizer.sot_prev]
    assert set(ids) == {*tokenizer.non_speech_tokens, *special, tokenizer.no_speech}
    assert {1, 2, 7, 8, 9, 10, 14, 25}.issubset(ids)
    assert tokenizer.eot not in ids
    assert suppressed(tokenizer, [-1, 500]) == sorted({*ids, 500})


@pytest.mark.parametrize("nothing", ["", None, [], ()])
def test_no_list_of_suppressed_tokens_leaves_the_special_ones(tokenizer, nothing):
    assert set(suppressed(tokenizer, nothing)) == {50257, 50357, 50358, 50359, 50360, 50361}


@pytest.mark.parametrize("bad", ["a,b", "3;4", [51864], "-2", 7])
def test_suppressed_tokens_that_are_none(tokenizer, bad):
    with pytest.raises(UsageError, match="suppress_tokens"):
        suppressed(tokenizer, bad)


def test_suppressed_tokens_are_forbidden():
    logits = torch.zeros(3, 10)
    SuppressTokens([0, 7])(logits, torch.empty(3, 0, dtype=torch.long))
    assert allowed(logits) == [{1, 2, 3, 4, 5, 6, 8, 9}] * 3


@pytest.mark.parametrize(("most", "last"), [(None, 1500), (50, 50), (0, 0)])
def test_a_window_begins_with_an_early_timestamp(tokenizer, time, most, last):
    logits = torch.zeros(2, V)
    TimestampRules(tokenizer, most)(logits, torch.empty(2, 0, dtype=torch.long))
    assert allowed(logits) == [set(range(time(0), time(last) + 1))] * 2


def test_after_a_first_timestamp_comes_text(tokenizer, time):
    (found,) = after(TimestampRules(tokenizer, 50), [time(3)])
    assert found == set(range(time(0))) - {tokenizer.no_timestamps}


def test_timestamps_come_in_pairs_and_do_not_decrease(tokenizer, time):
    rules = TimestampRules(tokenizer, 50)
    rows = [
        [time(0), 5, 6, time(9)],  # one that may end or begin again
        [time(0), 5, time(9), time(9)],  # a pair: text
        [time(0), 5, 6, 7],  # text: a later time
        [time(0), 5, time(1500), 9],
    ]
    single, pair, text, full = after(rules, *rows, likely=tokenizer.eot)
    special = set(range(tokenizer.eot + 1, time(0))) - {tokenizer.no_timestamps}
    # None but the end, or a time that is not before: special tokens are left to the list of suppressed ones.
    assert single == {tokenizer.eot} | special | set(range(time(9), V))
    assert pair == set(range(time(0))) - {tokenizer.no_timestamps}
    assert text == set(range(time(0))) - {tokenizer.no_timestamps} | set(range(time(1), V))
    assert full == set(range(time(0))) - {tokenizer.no_timestamps}


def test_timestamps_that_are_likelier_together(tokenizer, time):
    """1500 of them at 0 have a sum of log 1500 = 7.31: a text token must be above that."""
    rules = TimestampRules(tokenizer, 50)
    logits = torch.zeros(2, V)
    logits[0, 400], logits[1, 400] = 7.2, 7.4
    rules(logits, torch.tensor([[time(0), 5], [time(0), 5]]))
    first, second = allowed(logits)
    assert first == set(range(time(1), V))
    assert 400 in second
    assert time(1) in second


def test_repetition_penalty_spares_timestamps(tokenizer, time):
    logits = torch.zeros(2, V)
    logits[:, 5], logits[:, 6], logits[:, time(1)] = 4.0, -4.0, 4.0
    RepetitionPenalty(2.0, tokenizer.eot)(logits, torch.tensor([[5, 6, time(1)], [5, 5, 8]]))
    assert logits[:, 5].tolist() == [2.0, 2.0]  # once, however often it was sampled
    assert logits[:, 6].tolist() == [-8.0, -4.0]
    assert logits[:, time(1)].tolist() == [4.0, 4.0]


def test_no_ngram_twice(tokenizer, time):
    rule = NoRepeatNgram(2, tokenizer.eot)
    forbidden = [set(range(V)) - found for found in after(rule, [1, 2, 1, 3, 1], [1, 2, 3, 4, 5])]
    assert forbidden == [{2, 3}, set()]
    assert after(NoRepeatNgram(1, tokenizer.eot), [7, time(2)]) == [set(range(V)) - {7}]
    assert after(NoRepeatNgram(3, tokenizer.eot), [7, 7]) == [set(range(V))]


def test_filters_in_the_order_of_the_original(tokenizer):
    kinds = [type(f) for f in filters_of(tokenizer, DecodingOptions(), 0.02)]
    assert kinds == [SuppressBlank, SuppressTokens, TimestampRules]
    options = DecodingOptions(
        suppress_blank=False, without_timestamps=True, repetition_penalty=1.1, no_repeat_ngram_size=3
    )
    assert [type(f) for f in filters_of(tokenizer, options, 0.02)] == [
        RepetitionPenalty,
        NoRepeatNgram,
        SuppressTokens,
    ]
    rules = filters_of(tokenizer, DecodingOptions(max_initial_timestamp=0.5), 0.02)[-1]
    assert isinstance(rules, TimestampRules)
    assert rules.max_initial == 25
