"""Temporary files of outputs: what a killed process leaves is removed, what another is writing is not."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from myna.data.files import atomic_output

WRITER = """
import sys
from myna.data.files import atomic_output

with atomic_output(sys.argv[1]) as file:
    file.write(b"half of it")
    file.flush()
    print("writing", flush=True)
    sys.stdin.readline()
"""


def start_writer(path: Path) -> subprocess.Popen[str]:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout
    assert writer.stdout.readline() == "writing\n"
    return writer


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path):
    path = tmp_path / "out.myna"
    writer = start_writer(path)
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    assert [p.name for p in tmp_path.iterdir()] == [".out.myna.part"]
    with atomic_output(path) as file:
        file.write(b"whole")
    assert path.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [path]


def test_what_another_process_is_writing_is_left_to_it(tmp_path):
    path = tmp_path / "out.myna"
    writer = start_writer(path)
    with atomic_output(path) as file:
        file.write(b"ours")
    assert path.read_bytes() == b"ours"
    assert len(list(tmp_path.iterdir())) == 2
    writer.communicate("go on\n")
    assert writer.returncode != 0  # it was created meanwhile, and there was no --force
    assert path.read_bytes() == b"ours"
    assert list(tmp_path.iterdir()) == [path]


def test_the_last_to_finish_wins_with_force(tmp_path):
    path = tmp_path / "out.myna"
    with atomic_output(path, force=True) as first:
        first.write(b"first")
        with atomic_output(path, force=True) as second:
            second.write(b"second")
        assert path.read_bytes() == b"second"
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_links_of_that_name_are_not_followed(tmp_path):
    other = tmp_path / "other"
    other.write_bytes(b"somebody else's")
    (tmp_path / ".out.myna.part").symlink_to(other)
    with atomic_output(tmp_path / "out.myna") as file:
        file.write(b"whole")
    assert other.read_bytes() == b"somebody else's"
    assert (tmp_path / "out.myna").read_bytes() == b"whole"
