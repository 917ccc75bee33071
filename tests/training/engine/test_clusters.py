"""Two nodes on this machine, by the commands of the page: both end well, and write one run."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

from myna.tts.registry import load_ar

ENV = {**os.environ, "OMP_NUM_THREADS": "1"}
DOCS = Path(__file__).resolve().parents[3] / "docs" / "clusters.md"
SHORT = [
    "max_steps=2",
    "device=cpu",
    "schedule.decay=constant",
    "log_every=1",
    "data.held_out=null",
    "save_every_steps=2",
]


def test_two_nodes_by_the_commands_of_the_page(lm_tiny, tmp_path):
    page = DOCS.read_text("utf-8").replace("\\\n", " ")
    commands = [shlex.split(line) for line in page.splitlines() if re.match(r"torchrun --nnodes 2", line)]
    assert [command[command.index("--node-rank") + 1] for command in commands] == ["0", "1"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    here = {"--master-addr": "127.0.0.1", "--master-port": port, "--nproc-per-node": "1"}
    running = []
    for command in commands:
        for option, value in here.items():
            command[command.index(option) + 1] = value
        given = command[1 : command.index("train") + 1]
        whole = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            *given,
            "myna-ar-tiny",
            *lm_tiny,
            *SHORT,
            "-q",
        ]
        running.append(
            subprocess.Popen(whole, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    for one in running:
        _, said = one.communicate(timeout=600)
        assert one.returncode == 0, said[-2000:]
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["kind"] == "train"] == [1, 2]
    assert load_ar(tmp_path / "run" / "last.safetensors").config.name
