"""The draft of a long text: continued after any end, never mixed up, gone when the text is complete."""

from __future__ import annotations

import numpy as np
import pytest
from myna.errors import OutputError, UsageError
from myna.tts.draft import Draft
from myna.tts.finish.level import LevelState

LEVEL = LevelState(0.01, 2.0, 0.7)


def tone(n: int, value: float) -> np.ndarray:
    return np.full(n, value, np.float32)


def said(draft: Draft) -> np.ndarray:
    return np.concatenate([np.zeros((1, 0), np.float32), *draft.blocks()], axis=1)[0]


def test_goes_on_after_the_last_whole_sentence(tmp_path):
    output = tmp_path / "book.wav"
    with Draft(output, "key") as draft:
        draft.append(tone(100, 0.25))
        draft.commit(1, LEVEL)
        draft.append(tone(50, -0.5))  # a sentence that was not finished
    with Draft(output, "key") as draft:
        assert draft.resumed
        assert draft.state.n_sentences == 1
        assert draft.state.level == LEVEL
        draft.append(tone(30, 0.125))
        draft.commit(2, None)
        np.testing.assert_array_equal(said(draft), [*tone(100, 0.25), *tone(30, 0.125)])
        draft.remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("spoil", ["restart", "state", "foreign", "samples", "truncated"])
def test_begins_anew_when_there_is_nothing_to_go_on_with(tmp_path, spoil):
    """What cannot be read is kept aside, each time under another name; only --restart drops it."""
    output, restart = tmp_path / "book.wav", spoil == "restart"
    for n in (1, 2):
        with Draft(output, "key") as draft:
            draft.append(tone(100, 0.25))
            draft.commit(1, LEVEL)
        if spoil == "state":
            draft.note.write_text('{"key": "key", "n_sentences": 1')
        if spoil == "foreign":
            draft.note.write_text('{"key": "key", "n_sentences": 1, "n_samples": 100, "level": {"of": 2}}')
        if spoil == "samples":
            draft.audio.unlink()
        if spoil == "truncated":
            draft.audio.write_bytes(b"\0" * 199)
        before = {path.name: path.read_bytes() for path in (draft.note, draft.audio) if path.exists()}
        with Draft(output, "key", restart) as draft:
            assert not draft.resumed
            assert draft.state.n_sentences == 0
            assert said(draft).size == 0
            assert draft.aside == (None if restart else tmp_path / f".book.wav.draft.json.unreadable-{n}")
        left = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        kept = {} if restart else {f"{name}.unreadable-{n}": data for name, data in before.items()}
        assert kept.items() <= left.items()
        assert len(left) == n * len(kept)  # nothing said, nothing else kept


def test_what_was_said_of_another_text_is_not_lost(tmp_path):
    output = tmp_path / "book.wav"
    with Draft(output, "key") as draft:
        draft.append(tone(100, 0.25))
        draft.commit(2, LEVEL)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UsageError, match=r"2 sentences are kept; .*--restart") as error:
        Draft(output, "other")
    assert "\n" not in str(error.value)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    with Draft(output, "key") as draft:
        np.testing.assert_array_equal(said(draft), tone(100, 0.25))
    with Draft(output, "other", restart=True) as draft:
        assert not draft.resumed
    assert list(tmp_path.iterdir()) == []


def test_only_one_at_a_time(tmp_path):
    with Draft(tmp_path / "book.wav", "key"), pytest.raises(UsageError, match="another myna"):
        Draft(tmp_path / "book.wav", "key")


def test_a_folder_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(OutputError, match="folder does not exist"):
        Draft(tmp_path / "none" / "book.wav", "key")
