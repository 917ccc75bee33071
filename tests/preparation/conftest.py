"""Small folders of recordings, and a recogniser that does not listen."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from myna.data.resample import resample
from myna.preparation.options import PrepareOptions

ASSETS = Path(__file__).parents[1] / "assets"
QUIET = {"quality": False, "speakers": False, "phonemes": False}  # stages that need a model of their own


@pytest.fixture(scope="session")
def speech() -> np.ndarray:
    """Seven seconds of a real voice at 16 kHz, (N,) float32, speech from the first to the last second."""
    wav, rate = soundfile.read(ASSETS / "speech.wav", dtype="float32", always_2d=True)
    return resample(wav.T[:1], rate, 16000)[0]


@pytest.fixture
def script(tmp_path, monkeypatch):
    """Sets what the scripted recogniser hears, and gives it."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    path = tmp_path / "script.json"
    monkeypatch.setenv("MYNA_SCRIPT", str(path))

    def write(**heard):
        path.write_text(json.dumps(heard))
        from scripted import scripted

        return scripted

    return write


@pytest.fixture
def options() -> PrepareOptions:
    """Only what every machine has, and a model that is never looked for."""
    return PrepareOptions(source="test", model="scripted", batch_size=2, shard_mb=1, **QUIET)


@pytest.fixture
def save():
    """Writes (N,) or (N, C) samples to a file of any kind."""
    return write


def write(path: Path, wav: np.ndarray, rate: int = 16000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wav, rate)


@pytest.fixture
def folder(tmp_path, speech) -> Path:
    """Recordings of six lengths, in several formats and rates, one of which is no audio; one has a text."""
    root = tmp_path / "in"
    write(root / "a" / "one.wav", speech[: 2 * 16000])
    write(root / "a" / "two.flac", speech[16000 : 5 * 16000])
    write(root / "b" / "three.ogg", speech[: 3 * 16000])
    write(root / "b" / "four.wav", np.stack([speech[: 6 * 16000]] * 2, axis=1) * 0.3)
    write(root / "c" / "five.wav", resample(speech[None, 8000 : 8000 + 5 * 16000], 16000, 8000)[0], 8000)
    write(root / "silence.wav", np.zeros(3 * 16000, np.float32))
    (root / "c" / "bad.wav").write_bytes(b"this is no audio")
    (root / "c" / "five.txt").write_text("words of five\n")
    return root
