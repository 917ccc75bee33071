"""The floors of the house: an import never goes up, no files import each other in a circle, and models import neither
trainers nor reports."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EVERYWHERE = {"errors", "version"}

_MODELS = {
    "kernels",
    "data",
    "layers",
    "pretrained",
    "marks",
    "codec",
    "discriminators",
    "asr",
    "diffusion",
    "tts",
}
# What each folder may import from, besides itself and what is everywhere.
BELOW = {
    "kernels": set(),
    "data": set(),
    "layers": {"kernels", "data"},
    "pretrained": {"layers", "kernels", "data"},
    "marks": {"pretrained", "layers", "kernels", "data"},
    "codec": {"marks", "pretrained", "layers", "kernels", "data"},
    "discriminators": {"layers", "kernels", "data"},
    "asr": {"pretrained", "layers", "kernels", "data"},
    "diffusion": {"layers", "kernels", "data"},
    "tts": _MODELS - {"tts"},
    "evaluation": _MODELS - {"discriminators"},
    "training": _MODELS | {"evaluation"},
    "preparation": (_MODELS - {"discriminators"}) | {"evaluation"},
    "weights": set(),
    "recipes": set(),
    "voices": set(),
}
BELOW["apps"] = set(BELOW)

# The same for the rooms of a folder, besides themselves. Files in the folder itself may import from all of its rooms;
# rooms import from those files only what is named here.
ROOMS = {
    "asr/vocabularies": set(),
    "asr/model": {"asr/adapters", "asr/vocabularies"},
    "asr/adapters": {"asr/model", "asr/vocabularies"},
    "asr/decoding": {"asr/model"},
    "asr/diarization": {"asr/options", "asr/transcript", "asr/vad"},
    "tts/text": set(),
    "tts/lm": {"tts/text"},
    "tts/decoders": {"tts/lm", "tts/text"},
    "tts/rerank": {"tts/lm", "tts/text", "tts/aligner"},
    "tts/finish": set(),
    "tts/voices": {"tts/finish", "tts/lm", "tts/text", "tts/aligner"},
    "training/engine": set(),
    "training/sets": set(),
    "training/models": {"training/engine", "training/sets"},
    "training/adapt": {"training/engine", "training/sets", "training/models"},
    "evaluation/measures": {"evaluation/clips"},
}


def modules() -> Iterator[Path]:
    for folder in BELOW:
        yield from sorted((ROOT / folder).rglob("*.py"))


@functools.cache
def imported(path: Path) -> tuple[tuple[int, tuple[str, ...]], ...]:
    """Line and place in this house, as ("codec", "base", "Codec"), of every import in a module, those inside functions
    included. Absolute ones are marked as such."""
    return tuple(_imported(path))


def _imported(path: Path) -> Iterator[tuple[int, tuple[str, ...]]]:
    here = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            absolute = [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            absolute = [node.module or ""]
        elif isinstance(node, ast.ImportFrom):
            assert node.level <= len(here) + 1, f"{path}:{node.lineno} leaves the package"
            base = (*here[: len(here) + 1 - node.level], *(node.module or "").split("."))
            for name in node.names:
                yield node.lineno, (*(part for part in base if part), name.name)
            continue
        else:
            continue
        for name in absolute:
            if name == "myna" or name.startswith("myna."):
                yield node.lineno, (f"absolute:{name}",)


def faults(path: Path) -> list[str]:
    floor, *rest = path.relative_to(ROOT).parts
    room = f"{floor}/{rest[0]}"
    found = []
    for line, place in imported(path):
        target, below = "/".join(place[:2]), place[0] == floor and room in ROOMS
        if place[0] not in BELOW[floor] | EVERYWHERE | {floor}:
            found.append((line, place[0]))
        elif below and target not in ROOMS[room] | {room}:
            found.append((line, target))
    return [f"{path.relative_to(ROOT)}:{line} imports {target}" for line, target in found]


def circle() -> list[str]:
    """Files that import each other in a circle, empty where none do."""
    graph: dict[str, set[str]] = {}
    for path in modules():
        own = graph.setdefault(str(path.relative_to(ROOT)), set())
        for _, place in imported(path):
            files = [
                ROOT.joinpath(*place).with_suffix(".py"),
                ROOT.joinpath(*place, "__init__.py"),
                ROOT.joinpath(*place[:-1]).with_suffix(".py"),
                ROOT.joinpath(*place[:-1], "__init__.py"),
            ]
            own.update(str(file.relative_to(ROOT)) for file in files if file.is_file())
        own.discard(str(path.relative_to(ROOT)))
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_no_import_goes_up():
    found = [fault for path in modules() for fault in faults(path)]
    assert not found, "\n".join(found)


def test_no_files_import_each_other_in_a_circle():
    assert not circle()


def test_every_folder_with_code_has_a_floor():
    folders = {
        folder.name
        for folder in ROOT.iterdir()
        if not folder.name.startswith(".") and any(folder.rglob("__init__.py"))  # .venv is nobody's floor
    }
    assert folders - {"tests", "benchmarks", "build"} <= set(BELOW)


@pytest.mark.parametrize(
    ("where", "line", "fault"),
    [
        ("layers/x.py", "from ..codec import Codec", "codec"),
        ("codec/formats/x.py", "from ...training.losses import si_sdr", "training"),
        ("evaluation/measures/x.py", "from ...training.engine import ema", "training"),
        ("tts/lm/x.py", "from ..decoders.nar import NARModel", "tts/decoders"),
        ("tts/decoders/x.py", "from ..valle import Valle", "tts/valle"),
        ("tts/decoders/x.py", "from .. import valle", "tts/valle"),
        ("data/x.py", "def f():\n    from ..layers import conv", "layers"),
        ("codec/x.py", "from .. import apps", "apps"),
        ("tts/x.py", "from .. import __version__", "__version__"),
        ("codec/x.py", "from myna.layers import conv", "absolute:myna.layers"),
    ],
)
def test_a_fault_would_be_found(where, line, fault, tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    path = tmp_path / where
    path.parent.mkdir(parents=True)
    path.write_text(line)
    assert [f.rsplit(" ", 1)[-1] for f in faults(path)] == [fault]


def test_a_circle_would_be_found(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    for name, line in (
        ("codec/a.py", "from .b import f"),
        ("codec/b.py", "from . import formats"),
        ("codec/formats/__init__.py", "def f():\n    from ..a import g"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(line)
    assert set(circle()) == {"codec/a.py", "codec/b.py", "codec/formats/__init__.py"}
