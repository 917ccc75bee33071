"""The floors of the house: an import never goes up, and models import neither trainers nor reports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# What each folder may import from, besides itself and the errors every user sees.
BELOW = {
    "errors": set(),
    "kernels": set(),
    "data": set(),
    "layers": {"kernels", "data"},
    "codec": {"layers", "kernels", "data"},
    "discriminators": {"layers", "kernels", "data"},
    "asr": {"layers", "kernels", "data"},
    "diffusion": {"layers", "kernels", "data"},
    "tts": {"codec", "discriminators", "asr", "diffusion", "layers", "kernels", "data"},
    "training": {
        "tts",
        "codec",
        "discriminators",
        "asr",
        "diffusion",
        "layers",
        "kernels",
        "data",
        "evaluation",
    },
    "evaluation": {
        "tts",
        "codec",
        "discriminators",
        "asr",
        "diffusion",
        "layers",
        "kernels",
        "data",
        "training",
    },
    "preparation": {"tts", "codec", "asr", "layers", "kernels", "data", "evaluation"},
    "weights": set(),
    "recipes": set(),
    "voices": set(),
}
BELOW["apps"] = set(BELOW)
EVERYWHERE = {"errors", ""}  # "" is the package itself: its version


def modules() -> Iterator[Path]:
    for folder in BELOW:
        yield from sorted((ROOT / folder).rglob("*.py"))


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Line and folder (of this house) of every import in a module, those inside functions included."""
    depth = len(path.relative_to(ROOT).parts)  # codec/base.py is two levels below the package's parent
    here = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            for name in node.names:
                if name.name == "myna" or name.name.startswith("myna."):
                    yield node.lineno, f"absolute:{name.name}"
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            if (node.module or "") == "myna" or (node.module or "").startswith("myna."):
                yield node.lineno, f"absolute:{node.module}"
        elif isinstance(node, ast.ImportFrom):
            assert node.level <= depth, f"{path}:{node.lineno} leaves the package"
            base = [*here[: len(here) - (node.level - 1)], *(node.module or "").split(".")]
            base = [part for part in base if part]
            if base:
                yield node.lineno, base[0]
            else:  # from .. import codec, from .. import __version__
                for name in node.names:
                    yield node.lineno, name.name if name.name in BELOW else ""


def faults(path: Path) -> list[str]:
    floor = path.relative_to(ROOT).parts[0]
    allowed = BELOW[floor] | EVERYWHERE | {floor}
    return [
        f"{path.relative_to(ROOT)}:{line} imports {target}"
        for line, target in imported(path)
        if target not in allowed
    ]


def test_no_import_goes_up():
    found = [fault for path in modules() for fault in faults(path)]
    assert not found, "\n".join(found)


def test_every_folder_with_code_has_a_floor():
    folders = {p.parent.relative_to(ROOT).parts[0] for p in ROOT.glob("*/**/__init__.py")} | {
        p.parent.name for p in ROOT.glob("*/__init__.py")
    }
    assert folders - {"tests", "benchmarks", "build"} <= set(BELOW)


@pytest.mark.parametrize(
    ("where", "line", "fault"),
    [
        ("layers/x.py", "from ..codec import Codec", "codec"),
        ("codec/formats/x.py", "from ...training.losses import si_sdr", "training"),
        ("data/x.py", "def f():\n    from ..layers import conv", "layers"),
        ("codec/x.py", "from .. import apps", "apps"),
        ("codec/x.py", "from myna.layers import conv", "absolute:myna.layers"),
    ],
)
def test_a_fault_would_be_found(where, line, fault, tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    path = tmp_path / where
    path.parent.mkdir(parents=True)
    path.write_text(line)
    assert [f.rsplit(" ", 1)[-1] for f in faults(path)] == [fault]
