"""One tiny codec and one way to run the command, for all tests of the command line."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from myna.apps.cli import run
from myna.codec.checkpoint import save_checkpoint
from myna.codec.myna import MynaCodec, MynaConfig


@dataclass(frozen=True)
class Outcome:
    """What a command left: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    def failed_with(self, code: int, *words: str) -> None:
        """Exit code, exactly one line that begins like all our errors, and no traceback."""
        assert self.code == code, self
        lines = self.err.strip().splitlines()
        assert len(lines) == 1, self
        assert lines[0].startswith("myna: error: "), self
        for word in words:
            assert word in lines[0], self


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of a randomly initialised codec of the house's shape."""
    torch.manual_seed(0)
    config = MynaConfig(
        width=32,
        latent_width=32,
        encoder_depth=(1, 1),
        decoder_depth=(1, 1),
        latent_dim=16,
        n_codebooks=4,
        n_paths=1,  # greedy, so that what is cut out of a file can be compared with what was encoded small
    )
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_checkpoint(MynaCodec(config).eval(), path)
    return str(path)


@pytest.fixture
def myna(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run a command line in this process."""

    def call(*args: object) -> Outcome:
        capsys.readouterr()
        code = run([str(arg) for arg in args])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Outcome(code, captured.out, captured.err)

    return call


@pytest.fixture
def spawn() -> Callable[..., subprocess.Popen]:
    """Start a command line in a process of its own, on one thread; standard error is kept."""

    def start(*args: object, **options: Any) -> subprocess.Popen:
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, "-m", "myna", *map(str, args)]
        return subprocess.Popen(command, env=env, stderr=subprocess.PIPE, **options)

    return start


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser of the system; Playwright's own download is not used."""
    pytest.importorskip("gradio", reason="Gradio is not installed: pip install 'myna[demo]'")
    pytest.importorskip("playwright", reason="Playwright is not installed: pip install 'myna[test]'")
    for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"):
        path = shutil.which(name)
        if path:
            return path
    pytest.skip("no Chromium on this machine: apt-get install chromium")


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder of small networks of TorToise with random weights, in the published layout."""
    path = Path(__file__).parents[1] / "tts" / "tortoise" / "published.py"
    spec = importlib.util.spec_from_file_location("published", path)
    assert spec is not None
    assert spec.loader is not None
    helper = importlib.util.module_from_spec(spec)
    sys.modules["published"] = helper
    spec.loader.exec_module(helper)
    return helper.write(tmp_path_factory.mktemp("published"))
