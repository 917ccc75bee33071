"""The README's ten lines talk to a server, and the deployment's files say what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer
from myna.apps import cli
from myna.data.audio import read_audio

pytest.importorskip("openai")
yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parents[3]


def test_the_ten_lines_of_the_readme(server, engine, tmp_path, monkeypatch, capsys):
    (snippet,) = re.findall(
        r"^```py\n(.*?)^```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    assert "http://127.0.0.1:8000" in snippet
    monkeypatch.chdir(tmp_path)
    # The models of the tests have one voice.
    snippet = snippet.replace("http://127.0.0.1:8000", server.url).replace('voice="nova"', 'voice="ada"')
    exec(compile(snippet, "README.md", "exec"), {})
    assert read_audio("said.wav").samples.shape[1] > 12_000
    assert capsys.readouterr().out.endswith("\n")  # what was heard of noise


def options() -> set[str]:
    command = typer.main.get_command(cli.program()).commands["serve"]  # pyright: ignore
    return {option for parameter in command.params for option in parameter.opts}


def test_the_files_of_the_deployment_start_what_there_is():
    docker = (ROOT / "deploy" / "Dockerfile").read_text("utf-8")
    unit = (ROOT / "deploy" / "myna.service").read_text("utf-8")
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text("utf-8"))["services"]["myna"]
    said = [*re.findall(r"--[a-z-]+", docker.split("ENTRYPOINT")[1]), *compose["command"]]
    said += re.findall(r"--[a-z-]+", unit.split("ExecStart=")[1].splitlines()[0])
    assert {word for word in said if word.startswith("--")} <= options()
    assert all(port.startswith("127.0.0.1:") for port in compose["ports"])  # no further than this machine
    assert (
        (ROOT / "deploy" / compose["build"]["context"] / compose["build"]["dockerfile"]).resolve().is_file()
    )
    extras = re.search(r"/src/myna\[(.*?)\]", docker)
    assert extras is not None
    assert {"serve", "demo"} == set(extras.group(1).split(","))


def test_every_option_of_the_page_about_the_server_exists():
    page = (ROOT / "docs" / "server.md").read_text("utf-8")
    said = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", page)) - {"--help"}
    benchmark = (ROOT / "benchmarks" / "server.py").read_text("utf-8")
    of_the_benchmark = set(re.findall(r"add_argument\(\"(--[a-z-]+)\"", benchmark))
    assert "--clients" in of_the_benchmark
    said -= of_the_benchmark
    said -= {"--head", "--address", "--http-host"}  # of Ray
    assert said <= options()
