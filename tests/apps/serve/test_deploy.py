"""The files of the deployment say what can be: Docker is not at hand, systemd's own judge may be."""

from __future__ import annotations

import json
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
