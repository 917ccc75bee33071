"""The locked versions lie within the ranges for every Python, what runs needs neither torchaudio nor CUDA, and the
weights are no larger than promised."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PROJECT, TOOLS = PYPROJECT["project"], PYPROJECT["tool"]
LOCKED = [
    Requirement(line)
    for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    if line and not line.startswith("#")
]
DIRECT = [
    Requirement(line)
    for group in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    for line in group
    if not line.startswith("myna")
]

# Imports nothing of what is refused, then runs the commands of the first day.
WITHOUT = """
import shlex
import sys

class Refusal:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torchaudio", "triton", "nvidia", "cuda", "scipy"):
            raise ImportError(f"{name} is not to be imported")

sys.meta_path.insert(0, Refusal())
from myna.apps.cli import run

speech, = sys.argv[1:]
for command in (
    f"compress {speech} speech.myna -q",
    "decompress speech.myna speech.wav -q",
    "info speech.myna",
    f"say Yes. --voice {speech} --consent 'I am the speaker' -o yes.wav -q",
    "info yes.wav",
):
    assert run(shlex.split(command)) == 0, command

# What none of them needs stays unloaded: a start is half of a short sentence.
unneeded = ("myna.kernels.gpu", "myna.diffusion", "myna.training", "myna.evaluation", "myna.tts.tortoise.model")
loaded = [name for name in sys.modules if name.startswith(unneeded)]
assert not loaded, loaded
"""


def name_of(requirement: Requirement) -> str:
    return re.sub(r"[-_.]+", "-", requirement.name).lower()


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13", "3.14"])
def test_every_dependency_has_one_locked_version_within_its_range(python):
    here = {"python_version": python, "python_full_version": f"{python}.0"}
    for wanted in DIRECT:
        if wanted.marker and not wanted.marker.evaluate(here):
            continue
        locked = [
            pin
            for pin in LOCKED
            if name_of(pin) == name_of(wanted) and (pin.marker is None or pin.marker.evaluate(here))
        ]
        assert len(locked) == 1, f"{wanted.name} on Python {python}: {[str(pin) for pin in locked]}"
        (pin,) = locked[0].specifier
        assert pin.operator == "=="
        assert wanted.specifier.contains(pin.version, prereleases=True), f"{locked[0]} is not {wanted}"


def test_what_runs_needs_neither_torchaudio_nor_cuda(tmp_path):
    speech = ROOT / "tests" / "assets" / "speech.wav"
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(speech)],
        cwd=tmp_path,
        env={**os.environ, "MYNA_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_the_weights_in_the_package_are_at_most_95_mb_each_with_its_card():
    folders = {name: ROOT / name.partition(".")[2] for name in ("myna.weights", "myna.voices")}
    patterns = TOOLS["setuptools"]["package-data"]
    files = {
        name: [f for one in patterns[name] for f in folder.glob(one)] for name, folder in folders.items()
    }
    sizes = {file.name: file.stat().st_size for found in files.values() for file in found}
    assert sum(sizes.values()) <= 95e6, sizes
    # `weights/next/` is no package, so that nothing in it is copied.
    assert "myna.weights.next" not in TOOLS["setuptools"]["packages"]
    names = {file.name.partition(".")[0] for file in files["myna.weights"] if file.suffix == ".safetensors"}
    assert names == {file.stem for file in files["myna.weights"] if file.suffix == ".md"}


@pytest.mark.skipif(not torch.__version__.endswith("+cpu"), reason="this torch is not the CPU-only build")
def test_the_cpu_only_build_brings_no_cuda_libraries():
    names = {name.lower() for d in distributions() if (name := d.metadata["Name"])}
    assert not {name for name in names if name.startswith(("nvidia-", "cuda-"))}
