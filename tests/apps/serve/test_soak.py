"""Four times its capacity for ten seconds (.ci/run: twenty), of every kind of client: nothing lost, nothing mixed up,
nothing left.

By hand for longer, on the models that ship: python benchmarks/server.py --soak 600.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sys
from pathlib import Path

import pytest
import typer
from myna.apps import cli

from .conftest import free_port

SECONDS = float(os.environ.get("MYNA_SOAK_SECONDS", "10"))
SLOTS, PLACES = 3, 5


def benchmark():
    path = Path(__file__).parents[3] / "benchmarks" / "server.py"
    spec = importlib.util.spec_from_file_location("server_benchmark", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("home", [None, 10300])
def test_the_benchmark_starts_a_server_as_the_command_takes_it(home):
    name, *words = benchmark().arguments(8000, home)
    command = typer.main.get_command(cli.program()).commands[name]  # pyright: ignore[reportAttributeAccessIssue]
    given = command.make_context(name, words).params
    assert (given["port"], given["wyoming"], given["page"]) == (8000, home, False)


def test_four_times_what_it_can(serve):
    pytest.importorskip("wyoming")
    from myna.apps.serve.wyoming.service import serving

    module = benchmark()
    home = free_port()
    beside = (lambda house: serving(f"tcp://127.0.0.1:{home}", house),)
    server = serve(beside=beside, max_concurrency=SLOTS, queue=PLACES)
    soak = module.soak(server.url, os.getpid(), SECONDS, SLOTS + PLACES, voice="ada", home=home)
    found = asyncio.run(soak)
    assert found["wrong"] == []
    answers = found["answers"]
    # All kinds of clients were there, some had to come again, and those who came had their answers.
    assert {"speech 200", "speech 429", "decoders killed"} <= set(answers)
    assert any(kind.startswith("recording") for kind in answers)
    assert any(kind.startswith(("noise", "cut", "bomb")) for kind in answers)
    assert any(kind.startswith(("said at home", "home: server_busy")) for kind in answers)
    assert any(kind.startswith(("heard at home", "home: server_busy")) for kind in answers)
    assert set(found["left"].values()) == {0.0}
    # Bodies, queues and streams are bounded; so is what they take. 300 MB are four decoders.
    memory = found["memory_mb"]
    assert memory["most"] < memory["start"] + 1000
    assert server.settled()
