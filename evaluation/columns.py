"""A column of a report's table."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Column:
    """fields: of a row.   pattern: of these fields, in their order.   scale: what they are multiplied by."""

    title: str
    fields: tuple[str, ...]
    pattern: str
    scale: float = 1.0

    def cell(self, row: Any) -> str:
        """Empty where a field was not measured, n/a where that was not possible."""
        values = [getattr(row, field) for field in self.fields]
        if any(value is None for value in values):
            return ""
        if any(math.isnan(value) for value in values):
            return "n/a"
        return self.pattern.format(*(self.scale * value for value in values))
