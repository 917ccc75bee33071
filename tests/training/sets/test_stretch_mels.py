"""Mel sets at other tempos: what is said and how it sounds stays, when it is said moves."""

from __future__ import annotations

import numpy as np
import pytest
from myna.errors import UsageError
from myna.training.sets.examples import ALL_SHOWN, Planner, select
from myna.training.sets.mel_set import MelItem, MelSet, MelUtterance, mel_set_bytes
from myna.training.sets.stretch_mels import main, stretched


def utterance(key: str, split: str = "train", n: int = 100, text: bool = True) -> MelUtterance:
    """Mels that rise evenly from 0 to 1, ten phones of equal length."""
    pointer = np.arange(n) * 10 // n if text else np.full(n, -1)
    phones = np.stack([np.arange(14, 24), np.zeros(10, int), np.zeros(10, int)])[:, : 10 * text]
    times = (np.arange(2 * n) + 0.5) / (2 * n)
    mel = np.repeat(times[:, None], 80, 1)
    item = MelItem(key, "synth", split, "s0", 1.0, 1.0, 12_000.0, -0.5)
    return MelUtterance(
        item, mel, np.where(times < 0.5, 100.0, 0.0), pointer, phones, np.eye(256)[1], mel[::2, :6]
    )


@pytest.mark.parametrize("tempo", [0.8, 1.0, 1.25])
def test_time_is_stretched_and_nothing_else(tempo):
    before = utterance("a")
    after = stretched(before, tempo)
    n = int(100 / tempo) // 2 * 2
    assert after.item.tempo == tempo
    assert after.mel.shape == (2 * n, 80)
    assert len(after.pointer) == len(after.content) == n
    times = (np.arange(2 * n) + 0.5) * tempo / 200
    np.testing.assert_allclose(after.mel[:, 3], times.clip(0.5 / 200, 199.5 / 200), atol=1e-6)
    assert set(np.unique(after.pitch)) == {0.0, 100.0}  # never between two
    assert abs(int((after.pitch > 0).sum()) - n) <= 1
    lasts = np.bincount(after.pointer, minlength=10)
    assert (np.diff(after.pointer) >= 0).all()
    assert (abs(lasts - 10 / tempo) <= 1.5).all()
    np.testing.assert_array_equal(after.speaker, before.speaker)
    if tempo == 1:
        np.testing.assert_allclose(after.mel, before.mel, atol=1e-6)
        np.testing.assert_array_equal(after.pointer, before.pointer)


def test_the_command_writes_what_is_trained_on_and_has_a_text(tmp_path, capsys):
    source, out = tmp_path / "mels.safetensors", tmp_path / "stretched.safetensors"
    said = [utterance("a"), utterance("b", "dev"), utterance("c", text=False), utterance("d")]
    source.write_bytes(mel_set_bytes(said))
    assert main([str(source), str(out), "--tempo", "0.8", "--tempo", "1.25"]) == 0
    found = MelSet([out])
    assert [(item.key, item.tempo) for item in found.items] == [
        *(("a", 0.8), ("d", 0.8)),
        *(("a", 1.25), ("d", 1.25)),
    ]
    assert found.n_frames.tolist() == [124, 124, 80, 80]
    assert main([str(source), str(out), "--tempo", "0.8"]) == 2  # it is there already
    assert main([str(source), str(tmp_path / "no.safetensors"), "--tempo", "3"]) == 2
    assert "a tempo is 0.5 to 2.0, got 3.0" in capsys.readouterr().err
    with pytest.raises(UsageError):
        stretched(said[0], 0.4)


def test_a_prompt_has_the_tempo_of_what_is_said_after_it(tmp_path):
    said = [utterance(key) for key in "abc"]
    path = tmp_path / "mels.safetensors"
    path.write_bytes(mel_set_bytes([*said, *(stretched(u, 1.25) for u in said)]))
    speech = MelSet([path])
    plans = Planner(speech, select(speech, "train", 0.0), ALL_SHOWN).draw(np.random.default_rng(0), 40)
    tempos = np.array([item.tempo for item in speech.items])
    assert (tempos[plans.utterance] == tempos[plans.prompt_utterance]).all()
    assert (plans.utterance != plans.prompt_utterance).all()
    assert len(set(tempos[plans.utterance])) == 2
