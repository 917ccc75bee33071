"""Which of several tries is heard."""

from __future__ import annotations

import numpy as np
import pytest
from myna.tts.candidates import Candidates


def part(value: float, n: int = 3) -> np.ndarray:
    return np.full(n, value, np.float32)


def test_a_single_try_is_heard_while_it_is_made():
    one = Candidates(1, lambda samples: pytest.fail("nobody asked for a score"))
    for value, ends in ((1, False), (2, False), (3, True)):
        np.testing.assert_array_equal(one.push(part(value), ends), part(value))


@pytest.mark.parametrize(("scores", "kept"), [((1, 3, 2), 1), ((5, 5, 5), 0), ((-3, -2, -1), 2)])
def test_the_best_try_is_heard_when_all_are_known(scores, kept):
    judged = iter(scores)
    tries = Candidates(len(scores), lambda samples: next(judged))
    heard = None
    for number in range(len(scores)):
        assert heard is None
        assert tries.push(part(number), False) is None
        heard = tries.push(part(number + 0.5), True)
    np.testing.assert_array_equal(heard, np.concatenate([part(kept), part(kept + 0.5)]))
