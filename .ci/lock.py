"""Renew constraints.txt, then check it: `python .ci/lock.py [TORCH]` (needs uv and pip 25 or newer).

uv resolves every extra within pyproject.toml's ranges for all Python versions at once, and gives a version that differs
between them its marker. TORCH is the exact version to lock, the present one by default. pip's own resolver then has to
accept the file for each Python version. `--check` only does that.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONSTRAINTS = ROOT / "constraints.txt"
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
HEADER = """\
# The exact versions that Myna is tested with: pip install -c constraints.txt ...
# Made by .ci/lock.py from the ranges in pyproject.toml; change those, not this.
"""

# pip takes markers from the Python it runs on, whatever --python-version says, and refuses packages that come as
# source; for a dry run it need do neither.
AS_PYTHON = """
import sys
from pip._internal.cli import cmdoptions, main
from pip._vendor.packaging import markers

version, here = sys.argv.pop(1), markers.default_environment()
there = {**here, "python_version": version, "python_full_version": f"{version}.0"}
markers.default_environment = lambda: dict(there)
cmdoptions.check_dist_restriction = lambda *args, **kwargs: None
sys.exit(main.main(["install", "--dry-run", "-qq", "--ignore-installed", "--python-version", version, *sys.argv[1:]]))
"""


def resolve(torch: str) -> None:
    command = [
        "uv",
        "pip",
        "compile",
        "pyproject.toml",
        "--all-extras",
        "--universal",
        "--python-version",
        PYTHONS[0],
    ]
    options = ["--no-header", "--no-annotate", "--quiet", "--constraints", "-"]
    done = subprocess.run(
        [*command, *options],
        cwd=ROOT,
        input=f"torch=={torch}\n",
        text=True,
        check=True,
        stdout=subprocess.PIPE,
    )
    CONSTRAINTS.write_text(HEADER + done.stdout, encoding="utf-8")


def accepted(version: str) -> bool:
    wanted = ["-c", str(CONSTRAINTS), f"{ROOT}[test]"]
    done = subprocess.run([sys.executable, "-c", AS_PYTHON, version, *wanted], stdout=subprocess.DEVNULL)
    print(f"Python {version}: {'resolves' if done.returncode == 0 else 'FAILS'}", flush=True)
    return done.returncode == 0


def locked_torch() -> str:
    found = CONSTRAINTS.exists() and re.search(r"^torch==(\S+)", CONSTRAINTS.read_text("utf-8"), re.MULTILINE)
    return (
        found[1] if found else sys.exit("lock.py: there is no version of torch yet; give one, such as 2.13.0")
    )


def main() -> int:
    arguments = sys.argv[1:]
    if arguments != ["--check"]:
        resolve(arguments[0] if arguments else locked_torch())
    refused = [version for version in PYTHONS if not accepted(version)]
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
