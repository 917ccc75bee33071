"""Whether a recipe continues the run that it finds in its output folder, or would quietly train something else.

The recipe travels with the state (trainer.py). Some of it may differ when the run goes on: for how long, on what, how
often it is saved and judged, and where its files are. The rest is what the run is.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_jsonable_python


@dataclass(frozen=True)
class Change:
    """A key of the recipe, its value when the state was saved, and now."""

    key: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.key} was {json.dumps(self.before)}, is {json.dumps(self.now)}"


def describe(recipe: BaseModel) -> str:
    """Every value of a recipe but its output folder, as JSON: {"optimizer.lr": 0.001, ...}."""
    return json.dumps({key: value for key, value in _leaves(recipe).items() if key != "output"})


def changes(saved: str, recipe: BaseModel) -> list[Change]:
    """Where a recipe differs from what `describe` gave. Keys that only one of two versions of the program knows do not
    count."""
    before, now = json.loads(saved), json.loads(describe(recipe))
    return [Change(key, before[key], now[key]) for key in now if key in before and before[key] != now[key]]


def may_change(key: str, free: tuple[str, ...]) -> bool:
    """Whether a key is one of `free`, or of a section that is."""
    return any(key == name or key.startswith(name + ".") for name in free)


def _leaves(section: Any, name: str = "") -> dict[str, Any]:
    if isinstance(section, BaseModel):
        fields = {key: getattr(section, key) for key in type(section).model_fields}
    elif dataclasses.is_dataclass(section):
        fields = {field.name: getattr(section, field.name) for field in dataclasses.fields(section)}
    else:
        return {name: to_jsonable_python(section)}
    found: dict[str, Any] = {}
    for key, value in fields.items():
        found |= _leaves(value, f"{name}.{key}" if name else key)
    return found
