"""Level, pauses and tempo: what they promise, and that the cuts between chunks do not change them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from myna.tts.finish.level import TARGET, Leveller, LevelState, active_level, start_state
from myna.tts.finish.pauses import Trimmer
from myna.tts.finish.tempo import Tempo

RATE = 24_000


def voice(seconds: float, level: float = 0.1, pitch: float = 120.0) -> np.ndarray:
    """A buzz that swells and fades four times a second, as speech does."""
    t = np.arange(round(seconds * RATE)) / RATE
    buzz = sum(np.sin(2 * np.pi * pitch * h * t) / h for h in range(1, 12))
    return (level * buzz * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * t))).astype(np.float32)


def run(shaper: Any, x: np.ndarray, cuts: list[int]) -> np.ndarray:
    parts = [shaper.push(part) for part in np.split(x, cuts)]
    if hasattr(shaper, "flush"):
        parts.append(shaper.flush())
    return np.concatenate(parts)


SHAPERS: dict[str, Callable[[], Any]] = {
    "level": lambda: Leveller(RATE, start_state(-35.0)),
    "trim": lambda: Trimmer(RATE),
    "faster": lambda: Tempo(RATE, 1.3),
    "slower": lambda: Tempo(RATE, 0.7),
    "as it is": lambda: Tempo(RATE, 1.0),
}


@pytest.mark.parametrize("name", SHAPERS)
def test_the_cuts_between_chunks_change_nothing(name):
    silence = np.zeros(RATE // 5, np.float32)
    x = np.concatenate([silence, voice(0.7), silence, voice(0.5), silence])
    whole = run(SHAPERS[name](), x, [])
    rng = np.random.default_rng(0)
    for _ in range(3):
        cuts = sorted(rng.integers(0, len(x), 40))
        np.testing.assert_allclose(run(SHAPERS[name](), x, [*cuts, cuts[-1]]), whole, atol=1e-6)


def test_quiet_and_loud_voices_come_out_at_one_level():
    levels = []
    for gain in (0.02, 0.05, 0.2):
        x = voice(4, gain)
        levels.append(active_level(Leveller(RATE, start_state(active_level(x, RATE))).push(x), RATE))
    assert np.allclose(levels, TARGET, atol=0.7), levels


def test_a_level_that_the_prompt_did_not_have_is_followed():
    leveller = Leveller(RATE, start_state(-23.0))
    quiet = voice(16, 0.03)
    out = leveller.push(quiet)
    before, after = (active_level(part, RATE) or 0 for part in (quiet, out[-2 * RATE :]))
    assert before < TARGET - 10
    assert abs(after - TARGET) < 3
    assert np.abs(np.diff(out)).max() < 3 * np.abs(np.diff(voice(1, 0.1))).max()  # no steps in the gain


def test_pauses_do_not_raise_the_level():
    leveller = Leveller(RATE, start_state(-23.0))
    gain = leveller.state.gain
    leveller.push(np.full(5 * RATE, 1e-3, np.float32))
    assert leveller.state.gain == pytest.approx(gain, rel=1e-6)


def test_the_level_goes_on_where_it_was():
    x = voice(2, 0.02)
    one = Leveller(RATE, start_state(-30.0))
    whole = one.push(x)
    first = Leveller(RATE, start_state(-30.0))
    head = first.push(x[:RATE])
    second = Leveller(RATE, LevelState(**first.state.to_dict()))
    tail = second.push(x[RATE:])
    # The gain on its way within the step is not kept, its end is: a step later they agree.
    np.testing.assert_allclose(
        np.concatenate([head, tail])[RATE + RATE // 10 :], whole[RATE + RATE // 10 :], rtol=0.02
    )


def test_nothing_is_louder_than_full_scale():
    leveller = Leveller(RATE, LevelState(1e-6, 0.0, 10.0))
    out = leveller.push(voice(0.2, 0.9))
    assert np.abs(out).max() <= 0.951


def test_silence_has_no_level():
    assert active_level(np.zeros(RATE), RATE) is None
    assert active_level(np.zeros(0), RATE) is None


@pytest.mark.parametrize(("before", "after"), [(0.0, 0.0), (0.3, 0.8), (0.02, 0.01)])
def test_the_ends_become_short_and_the_middle_stays(before, after):
    said = voice(0.5)
    gap = np.zeros(round(0.4 * RATE), np.float32)
    middle = np.concatenate([said, gap, said])
    x = np.concatenate([np.zeros(round(before * RATE)), middle, np.zeros(round(after * RATE))])
    out = run(Trimmer(RATE, lead=0.05, tail=0.12), x, [])
    expected = min(before, 0.05) + len(middle) / RATE + min(after, 0.12)
    assert len(out) / RATE == pytest.approx(expected, abs=0.012)
    at = round(min(before, 0.05) * RATE) + 1000
    start = round(before * RATE) + 1000
    best = min(np.abs(out[at + d : at + d + 9000] - x[start : start + 9000]).max() for d in range(-300, 300))
    assert best < 1e-6


def test_a_sentence_cut_within_a_sound_does_not_click():
    out = run(Trimmer(RATE), voice(0.3, 0.3), [])
    assert abs(out[0]) < 0.02
    assert abs(out[-1]) < 0.001
    ends = np.concatenate([[0.0], out, [0.0]])
    assert np.abs(np.diff(ends))[[0, -1]].max() < 0.02


def test_only_silence_is_nothing():
    assert len(run(Trimmer(RATE), np.zeros(RATE, np.float32), [5000])) == 0
    assert len(run(Trimmer(RATE), np.zeros(0, np.float32), [])) == 0


@pytest.mark.parametrize("speed", [0.5, 0.8, 1.25, 2.0])
def test_tempo_changes_the_length_and_not_the_pitch(speed):
    x = voice(1.5, 0.1, pitch=110)
    out = run(Tempo(RATE, speed), x, [])
    assert len(out) == round(len(x) / speed)

    def pitch(y: np.ndarray) -> float:
        y = y[RATE // 10 : RATE // 10 + RATE // 4]
        same = np.correlate(y, y, "full")[len(y) :]
        return RATE / (int(np.argmax(same[150:400])) + 151)

    assert pitch(out) == pytest.approx(pitch(x), rel=0.02)
    inner = out[1000:-1000]
    assert np.abs(np.diff(inner)).max() < 1.5 * np.abs(np.diff(x)).max()
    assert np.sqrt(np.mean(inner**2)) == pytest.approx(float(np.sqrt(np.mean(x**2))), rel=0.1)
