"""The TorToise tab without a browser, on small networks in the published layout."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from myna.apps.demo import tortoise as tab
from myna.apps.demo.workspace import Workspace
from myna.data.audio import AudioReader, read_audio
from myna.errors import UsageError
from myna.tts.tortoise.presets import TortoiseOptions
from myna.tts.tortoise.speaker import TortoiseSpeaker

SPEECH = Path(__file__).parents[2] / "assets" / "speech.wav"


@pytest.fixture(scope="module")
def speaker(published):
    return TortoiseSpeaker(folder=published, precision="float32")


def test_candidates_have_players_and_scores(speaker):
    options = TortoiseOptions("ultra_fast", 1, 4, 3)
    with Workspace() as workspace:
        voice = tab.read_voice(speaker, tab.RANDOM, None, False, 1)
        seen = list(tab.say(speaker, "Hello.", voice, options, workspace))
        players = seen[-1][1]
        assert players[0].title == "The text"
        assert len(players) == 1 + tab.N_KEPT
        assert "score" in players[1].title
        assert players[1].title.endswith("the best")
        assert "candidates, 4 of 4" in seen[0][0]
        samples = [read_audio(one.path).samples[0] for one in players]
        n = min(map(len, samples[:2]))
        assert np.abs(samples[0][:n] - samples[1][:n]).max() < 1e-3
        with AudioReader(players[1].path) as reader:
            assert reader.info.sample_rate == 24_000


def test_who_goes_ends_the_work(speaker, monkeypatch):
    decoded = []
    decode = TortoiseSpeaker._decode
    monkeypatch.setattr(TortoiseSpeaker, "_decode", lambda self, *a: decoded.append(1) or decode(self, *a))
    with Workspace() as workspace:
        voice = tab.read_voice(speaker, tab.RANDOM, None, False, 1)
        options = TortoiseOptions("ultra_fast", 1, 3, 3)
        saying = tab.say(speaker, "One. Two. Three. Four. Five.", voice, options, workspace)
        next(saying)
        saying.close()
        time.sleep(1)
        assert len(decoded) < 15


_LEAVES_IN_THE_MIDDLE = """
import sys, time
from types import SimpleNamespace
from myna.apps.demo.tortoise import say
from myna.tts.tortoise.presets import TortoiseOptions
class Speaker:
    sample_rate = 24_000
    def say(self, text, voice, options, kept, report):
        try:
            while True:
                report(0, "candidates", 1, 2)
                time.sleep(0.3)  # a step
        finally:
            print("ended")
saying = say(Speaker(), "Hello.", SimpleNamespace(name="ann"), TortoiseOptions(), None)
next(saying)
sys.exit(7)
"""


def test_a_program_that_ends_in_the_middle_waits_for_the_step():
    """Its thread would be ended in the middle of torch's code, and the program with it."""
    done = subprocess.run([sys.executable, "-c", _LEAVES_IN_THE_MIDDLE], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (7, "ended\n", "")


def test_what_is_missing_is_said(speaker):
    with pytest.raises(UsageError, match="no voice yet"):
        tab.read_voice(speaker, tab.CLIPS, None, True, 0)
    with pytest.raises(UsageError, match="tick the box"):
        tab.read_voice(speaker, tab.CLIPS, [str(SPEECH)], False, 0)
    assert tab.read_voice(speaker, tab.CLIPS, [str(SPEECH)], True, 0).name == "speech"


def test_the_tab_is_there_where_the_files_are(published, tmp_path, monkeypatch, tones):
    pytest.importorskip("gradio")
    from myna.apps.demo.page import build_page

    def labels() -> list[str]:
        with Workspace() as workspace:
            blocks = build_page(tones, workspace).blocks.values()
        return [block.label for block in blocks if type(block).__name__ == "Tab"]

    monkeypatch.setenv("MYNA_CACHE", str(tmp_path))
    assert "TorToise" not in labels()
    (tmp_path / "tortoise").symlink_to(published)
    assert "TorToise" in labels()
