"""Which of several tries is heard."""

from __future__ import annotations

import numpy as np
import pytest
from myna.tts.candidates import Candidates
from myna.tts.rerank.ranking import Verdict


def part(value: float, n: int = 3) -> np.ndarray:
    return np.full(n, value, np.float32)


def test_a_single_try_is_heard_while_it_is_made():
    one = Candidates()
    for value, ends in ((1, False), (2, False), (3, True)):
        np.testing.assert_array_equal(one.push(part(value), ends), part(value))
    assert not one.best
    assert not one.failed


@pytest.mark.parametrize(
    ("totals", "missing", "kept", "failed"),
    [
        ((1, 3, 2), (0, 0, 0), 1, False),
        ((5, 5, 5), (0, 0, 0), 0, False),
        ((-3, -2, -1), (0, 0, 0), 2, False),
        ((9, 1, 8), (1, 0, 2), 1, False),  # all words come first
        ((1, 3, 2), (1, 2, 1), 1, True),
    ],
)
def test_the_best_try_is_kept(totals, missing, kept, failed):
    judged = iter([Verdict({"x": t}, t, m) for t, m in zip(totals, missing, strict=True)])
    tries = Candidates(lambda samples: next(judged))
    for number in range(len(totals)):
        assert tries.push(part(number), False) is None
        assert tries.push(part(number + 0.5), True) is None
    np.testing.assert_array_equal(tries.best, [part(kept), part(kept + 0.5)])
    assert tries.failed == failed
    tried = tries.tried(sample_rate=6)
    assert [one.chosen for one in tried] == [i == kept for i in range(len(totals))]
    assert [(one.seconds, one.total, one.missing) for one in tried] == [
        (1.0, t, m) for t, m in zip(totals, missing, strict=True)
    ]
