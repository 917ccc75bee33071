"""Where a run starts from weights: whether they have the dimensions that its recipe asks for."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields
from pathlib import Path
from typing import Any

from ...errors import UsageError


def check_dimensions(
    given: Any,
    wanted: Any,
    path: str | Path,
    key: str = "init_from",
    section: str = "model",
    free: Collection[str] = (),
) -> None:
    """Compare the configuration of a file with a recipe's, two dataclasses of one kind.

    key, section: where the recipe names the file, and has its dimensions.   free: fields that may differ, since no
    weight depends on them. Raises UsageError with the first field that differs.
    """
    for field in fields(wanted):
        mine, theirs = getattr(wanted, field.name), getattr(given, field.name)
        if mine != theirs and field.name not in free:
            raise UsageError(
                f"{key} {path} has {field.name} {theirs}, the recipe's {section} {mine}; make them equal"
            )
