"""The program ends quickly, and still does what was asked to be done at its end."""

from __future__ import annotations

import subprocess
import sys

import pytest
from myna.version import __version__

# Runs the program with a handler that a command, or a library, would register.
PROGRAM = """
import atexit, sys
from myna.__main__ import main
from myna.apps import cli

run = cli.run

def with_handler(args):
    atexit.register(print, "cleaned up")
    return run(args)

cli.run = with_handler
main()
"""


@pytest.mark.parametrize(("option", "code"), [("--version", 0), ("--nonsense", 2)])
def test_handlers_run_and_the_exit_code_is_kept(option, code):
    done = subprocess.run([sys.executable, "-c", PROGRAM, option], capture_output=True, text=True)
    assert done.returncode == code
    assert done.stdout.splitlines()[-1] == "cleaned up"
    if code == 0:
        assert done.stdout.splitlines()[0] == f"myna {__version__}"


def test_an_exception_that_is_shown_ends_with_one(tmp_path):
    failing = PROGRAM.replace("return run(args)", "raise RuntimeError('a bug')")
    done = subprocess.run([sys.executable, "-c", failing, "--version"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "RuntimeError: a bug" in done.stderr
