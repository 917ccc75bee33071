"""A command shows its own lines only, whatever a library warns of, until the user asks."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# A library that warns even where the filters were told not to.
WARNS = """
import sys, warnings
from myna.apps import cli

def library(*args, **options):
    warnings.simplefilter("always")
    warnings.warn("your tensor is deprecated")
    print("done")

cli.program = lambda names: library
cli.main()
"""


@pytest.mark.parametrize(
    ("flags", "debug", "shown"),
    [((), "", False), (("-W", "default"), "", True), ((), "1", True)],
    ids=["quiet", "-W", "MYNA_DEBUG"],
)
def test_warnings_of_libraries(flags, debug, shown):
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONWARNINGS", "MYNA_DEBUG")}
    if debug:
        environment["MYNA_DEBUG"] = debug
    command = [sys.executable, *flags, "-c", WARNS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    assert ("your tensor is deprecated" in done.stderr) is shown
    assert shown or done.stderr == ""


def test_the_filters_of_a_caller_are_as_before(monkeypatch):
    import warnings

    from myna.apps import cli

    before, show = list(warnings.filters), warnings.showwarning
    assert cli.run(["--version"]) == 0
    assert (list(warnings.filters), warnings.showwarning) == (before, show)
