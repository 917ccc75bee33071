"""The README is true: its snippets run, its commands and options exist, its links lead somewhere."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
import typer
from myna.apps import cli
from myna.data.audio import read_audio

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


def commands() -> list[list[str]]:
    """Every `myna ...` in the shell blocks, without comments, split into words."""
    lines = [line.split(" #")[0] for block in blocks("bash") for line in block.splitlines()]
    parts = [part for line in lines for part in re.split(r"&&|\|", line)]
    words = [shlex.split(part) for part in parts]
    return [w for w in words if w and Path(w[0]).name == "myna"]


def test_the_main_job_and_the_snippets(tmp_path, monkeypatch, capsys):
    """In one folder and one namespace, in the order of the page."""
    shutil.copy(ROOT / "tests" / "assets" / "speech.wav", tmp_path)
    monkeypatch.chdir(tmp_path)
    for command in commands()[:3]:  # compress, decompress, say
        job = [word.replace("tests/assets/", "") for word in command[1:]]
        assert cli.run(job) == 0, capsys.readouterr().err
    assert read_audio("hello.wav").samples.shape[-1] > 24_000
    assert (tmp_path / "speech_decompressed.wav").stat().st_size == pytest.approx(
        (tmp_path / "speech.wav").stat().st_size, rel=0.01
    )
    names: dict[str, object] = {}
    for number, snippet in enumerate(blocks("python")):
        exec(compile(snippet, f"README.md, snippet {number}", "exec"), names)
    assert (tmp_path / "half.wav").stat().st_size == (tmp_path / "full.wav").stat().st_size
    assert names["n_frames"] == names["codes"].codes.shape[-1]  # pyright: ignore


def test_there_is_something_to_test():
    assert len(blocks("python")) >= 3
    assert {words[1] for words in commands()} >= {
        "compress",
        "decompress",
        "info",
        "evaluate",
        "train",
        "say",
        "transcribe",
        "voices",
        "demo",
    }


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_commands_and_options_exist(words):
    command, rest = typer.main.get_command(cli.program()), words[1:]
    while rest and hasattr(command, "commands"):
        assert rest[0] in command.commands, f"no command {rest[0]}"  # pyright: ignore
        command, rest = command.commands[rest[0]], rest[1:]  # pyright: ignore
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in rest if word.startswith("--")} <= known


@pytest.mark.parametrize("target", re.findall(r"\]\((?!https?:)([^)#]+)\)", README))
def test_links_lead_somewhere(target):
    assert (ROOT / target).exists()


def test_ci_runs_the_command_of_the_page():
    lines = [line for block in blocks("bash") for line in block.splitlines() if "pytest" in line]
    assert len(lines) == 1  # .ci/run takes the first
    assert ".venv/bin/pip install" in lines[0]
    assert "README.md" in (ROOT / ".ci" / "run").read_text("utf-8")


def test_the_tree_names_what_is_there():
    tree = README.split("## Where things are")[1].split("```")[1]
    folders = re.findall(r"^(\w+)/", tree, flags=re.MULTILINE)
    assert len(folders) > 10
    assert [folder for folder in folders if not (ROOT / folder).is_dir()] == []
