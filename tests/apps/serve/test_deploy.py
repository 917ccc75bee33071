"""The files of the deployment say what can be: Docker is not at hand, systemd's own judge may be."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"


def instructions() -> list[tuple[str, str]]:
    """Of the Dockerfile, in order."""
    text = (DEPLOY / "Dockerfile").read_text("utf-8")
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
    return [(words[0], words[1]) for line in lines if (words := line.split(None, 1))]


def given(kind: str) -> list[str]:
    return [words for name, words in instructions() if name == kind]


def test_the_health_check_is_python():
    (check,) = given("HEALTHCHECK")
    command = json.loads(check[check.index("CMD ") + 4 :])
    assert command[:2] == ["python", "-c"]
    compile(command[2], "HEALTHCHECK", "exec")
    assert "/ready" in command[2]


def copied(here: Path) -> None:
    """What `COPY .` takes along, the weights as empty files: to pack them takes longer than all of the rest."""
    ignored = (ROOT / ".dockerignore").read_text("utf-8").split()

    def leaves_out(folder: str, names: list[str]) -> set[str]:
        inside = Path(folder).relative_to(ROOT)
        return {
            name
            for name in names
            if any(fnmatch.fnmatch(str(inside / name), line.removeprefix("**/")) for line in ignored)
            or "__pycache__" in name
        }

    def copy(source: str, target: str) -> None:
        if source.endswith(".safetensors"):
            Path(target).touch()
        else:
            shutil.copyfile(source, target)

    shutil.copytree(ROOT, here, ignore=leaves_out, copy_function=copy)


def test_the_install_lines_run_in_a_fresh_folder(tmp_path):
    pytest.importorskip("setuptools")
    pytest.importorskip("wheel")
    (source, target), *_ = [words.split() for words in given("COPY")]
    assert source == "."
    copied(tmp_path / target.strip("/"))
    # The user is made by root, and what is not Python's is there already.
    (line,) = [line for line in given("RUN") if "useradd" not in line]
    line = line.replace("/src", str(tmp_path / "src"))
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "pip").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m pip "$@"\n', "utf-8")
    (programs / "pip").chmod(0o755)
    site = tmp_path / "site"
    offline = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PIP_NO_INDEX": "1",
        "PIP_NO_DEPS": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # which switches it off
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_TARGET": str(site),
        **dict(word.split("=", 1) for word in given("ARG")),
    }
    done = subprocess.run(
        ["sh", "-ec", line], cwd=tmp_path, env={**os.environ, **offline}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (tmp_path / "src").exists()
    weights = [file.name for file in (ROOT / "weights").glob("*.safetensors")]
    assert {file.name for file in (site / "myna" / "weights").glob("*.safetensors")} >= set(weights)
    (start,) = map(json.loads, given("ENTRYPOINT"))
    done = subprocess.run(
        [sys.executable, str(site / "bin" / start[0]), *start[1:], "--help"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site), "COLUMNS": "200"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "--api-key" in done.stdout
    inside = [sys.executable, "-c", "import myna.apps.serve.app as app; print(app.__file__)"]
    shown = subprocess.run(
        inside, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(site)}, capture_output=True, text=True
    )
    assert Path(shown.stdout.strip()).is_relative_to(site)


def test_the_compose_file_knows_its_service_and_its_volume():
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
    assert set(compose) == {"services", "volumes"}
    (service,) = compose["services"].values()
    assert {mount.split(":")[0] for mount in service["volumes"]} == set(compose["volumes"])
    assert re.fullmatch(r"\d+s", service["stop_grace_period"])
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in service["ports"])
    exposed = {port.rsplit(":", 1)[1] for port in service["ports"]}
    assert set(given("EXPOSE")) <= exposed
    assert service["command"][service["command"].index("--wyoming") + 1] in exposed


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not on this machine")
def test_systemd_takes_the_unit(tmp_path):
    text = (DEPLOY / "myna.service").read_text("utf-8")
    program = re.search(r"^ExecStart=(\S+) ", text, re.MULTILINE)
    assert program is not None
    unit = tmp_path / "myna.service"
    unit.write_text(text.replace(program.group(1), sys.executable), "utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
