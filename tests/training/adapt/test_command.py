"""`myna voices adapt` from the README to a voice that speaks, by tiny models; and what it refuses."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from myna.apps import voices_adapt as command
from myna.apps.cli import run
from myna.apps.voices_adapt import audio_files, progress_line, read_texts
from myna.errors import InputError
from myna.training.adapt.judge import Measured
from myna.training.adapt.loop import Progress
from myna.tts.voices.library import voice_path
from myna.tts.voices.voice import load_voice

from .conftest import MINUTE, tiny_models

ROOT = Path(__file__).resolve().parents[3]
TINY = """
kind: adapt
threads: 1
sentences: 1
last_sentences: 1
words_slack: 100
words_meanwhile: 100
ar: {max_steps: 2, measure_every: 1, warmup_steps: 1, lr: 0.01}
flow: {max_steps: 2, measure_every: 1, batch_frames: 800}
"""


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MYNA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MYNA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "home"


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> list[str]:
    """Options of a run by tiny models."""
    models = tiny_models()
    monkeypatch.setattr(command, "_models", lambda decoder: (models, "flow"))
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(TINY)
    return ["--recipe", str(recipe), "--model", "none", "-j", "1"]


def test_the_command_of_the_readme_and_the_voice_it_makes(tiny, capsys, monkeypatch):
    readme = (ROOT / "README.md").read_text("utf-8")
    line = next(line for line in readme.splitlines() if "voices adapt" in line and "tests/assets" in line)
    words = shlex.split(re.sub(r"\s#.*", "", line))
    assert words[:3] == ["myna", "voices", "adapt"]
    monkeypatch.chdir(ROOT)
    assert run([*words[1:], *tiny]) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    voice = load_voice(voice_path(words[3]))
    assert ("likeness" in out) == bool(voice.adapters)
    assert voice.consent
    assert voice_path(words[3]).stat().st_size < 3_000_000
    # The same command goes on with what is there, and ends at once.
    assert run([*words[1:], *tiny]) == 0
    again = load_voice(voice_path(words[3]))
    assert {part: one.weights.digest() for part, one in again.adapters.items()} == {
        part: one.weights.digest() for part, one in voice.adapters.items()
    }
    assert run(["voices", "adapt", words[3], "--reset"]) == 0
    assert not load_voice(voice_path(words[3])).adapters


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["me"], "no recordings are given"),
        (["me", "{empty}", "--consent", "I am the speaker"], "holds no audio"),
        (["me", "{empty}/none.wav", "--consent", "I am the speaker"], "cannot read"),
        (["me", str(MINUTE)], "consent"),
        (["me", str(MINUTE), "--consent", "I am the speaker", "--minutes", "0"], "--minutes 0"),
        (["me", "--reset"], "no voice of yours"),
        (["a/b", str(MINUTE)], "cannot name a voice"),
        (["me", str(MINUTE), "--consent", "I am the speaker", "--recipe", "nothing"], "nothing"),
    ],
)
def test_what_is_refused_at_once(arguments, says, tmp_path, capsys, home):
    (tmp_path / "empty").mkdir()
    code = run(["voices", "adapt", *(one.replace("{empty}", str(tmp_path / "empty")) for one in arguments)])
    said = capsys.readouterr().err
    assert code in (2, 3)
    assert says in said
    assert said.count("\n") == 1
    assert not (home / "voices").exists()


def test_a_clip_that_cannot_be_a_voice_is_no_prompt(tiny, capsys, monkeypatch, home):
    """Whether its text does not fit, or nothing of it can be used."""
    from myna.tts.voices import voice as voices

    make, tried = voices.make_voice, []

    def made(audio, *args, text=None, **more):
        tried.append(text)
        if text or len(tried) == 2:
            raise InputError("cannot be a voice")
        return make(audio, *args, text=text, **more)

    monkeypatch.setattr(voices, "make_voice", made)
    words = ["voices", "adapt", "me", str(MINUTE), "--consent", "I am the speaker"]
    assert run([*words, *tiny]) == 0, capsys.readouterr().err
    assert len(tried) > 4
    assert load_voice(voice_path("me")).text is None
    monkeypatch.setattr(voices, "make_voice", lambda *args, **more: made(*args, text="never"))
    assert run([*words[:2], "you", *words[3:], *tiny]) == 3
    assert "cannot be a voice" in capsys.readouterr().err
    assert not voice_path("you").exists()


def test_ten_seconds_of_speech_in_ten_minutes_of_noise(tiny, tmp_path, capsys, home):
    rate = 16_000
    rng = np.random.default_rng(0)
    wav = 0.01 * rng.normal(size=600 * rate).astype(np.float32)
    at = 5 * rate
    for name in ("01", "02"):
        speech, its = soundfile.read(MINUTE / f"{name}.ogg", dtype="float32")
        speech = speech[:: max(1, its // rate)][: 5 * rate]
        wav[at : at + len(speech)] += speech
        at += 200 * rate
    soundfile.write(tmp_path / "long.flac", wav, rate)
    words = ["voices", "adapt", "me", str(tmp_path / "long.flac"), "--consent", "I am the speaker"]
    assert run([*words, *tiny]) == 3
    said = capsys.readouterr().err.splitlines()[-1]
    assert "at least 30 s are needed" in said or "could be kept" in said
    assert not (home / "voices").exists()


def test_work_begun_without_a_package_is_begun_anew_with_it(monkeypatch):
    """`myna prepare` refuses to go on with other options, and this command has no --force."""
    files = audio_files([str(MINUTE)])
    here = command._key(files, None, None, "en")
    monkeypatch.setattr("myna.pretrained.dnsmos.missing", lambda: "speechmos")
    assert command._key(files, None, None, "en") != here


def test_texts_by_name_by_table_and_of_nobody(tmp_path):
    files = audio_files([str(MINUTE)])
    assert len(files) == 9
    table = tmp_path / "texts.csv"
    table.write_text("01|what is said\n02.ogg\tother words\nnobody|nothing\n")
    found = read_texts(table, files)
    assert {file.stem: text for file, text in found.items()} == {"01": "what is said", "02": "other words"}
    assert len(read_texts(MINUTE, files)) == 9
    one = tmp_path / "one.txt"
    one.write_text("All that\nis said.")
    assert read_texts(one, files[:1]) == {files[0]: "All that is said."}
    table.write_text("99|words of another\n")
    with pytest.raises(InputError, match="no text for any of the 9"):
        read_texts(table, files)
    with pytest.raises(InputError, match="cannot read"):
        read_texts(tmp_path / "missing.csv", files)


def test_a_full_disk_leaves_the_voice_as_it_was(tiny, minute, begun, capsys, monkeypatch):
    from myna.errors import OutputError
    from myna.training.adapt import loop

    def prepared(files, texts, place, *others) -> Path:
        """What the recordings come to, gathered already: the first test prepares them."""
        shutil.copytree(begun, place / "learned")
        return minute

    monkeypatch.setattr(command, "prepared", prepared)
    words = ["voices", "adapt", "me", str(MINUTE), "--consent", "I am the speaker"]
    monkeypatch.setattr(command, "_models", lambda decoder: (tiny_models(), "flow"))
    assert run([*words, *tiny]) == 0
    before = voice_path("me").read_bytes()

    def full(path, state):
        raise OutputError(f"cannot save the state of the run to {path}: no space left on device")

    monkeypatch.setattr(loop, "save_state", full)
    capsys.readouterr()
    assert run([*words, *tiny, "--work", str(voice_path("me").parent / "elsewhere")]) != 0
    assert "no space left" in capsys.readouterr().err.splitlines()[-1]
    assert voice_path("me").read_bytes() == before


def test_progress_says_likeness_before_and_now_and_the_time_left():
    line = progress_line(Progress("flow", 30, 1.0, Measured(0.61, -1), Measured(0.72, -1), 3.25))
    assert "likeness 0.610 before, 0.720 now" in line
    assert "3.2 min left" in line
