"""Recipes: strict YAML files, one for each thing that can be trained.

    include: myna-24k.yaml        # optional: start from another recipe, of the same folder
    seed: 1                       # and say what differs; of another `kind`, whose `model` is left out

A key that no one reads, a number where a word belongs, a range upside down: each is one line that names the
key.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic_core import PydanticCustomError

from ...errors import InputError, UsageError

SHIPPED = Path(__file__).resolve().parents[2] / "recipes"
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # safe either way; in C ten times as fast


class Section(BaseModel):
    """A part of a recipe: frozen, and without room for keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Recipe = TypeVar("Recipe", bound=Section)
Options = TypeVar("Options")


def strict(options: type[Options]) -> Any:
    """An options dataclass, and those in it, as a part of a recipe: `spectral: strict(SpectralLossOptions) =
    SpectralLossOptions()`."""

    def refuse_unknown(value: Any, kind: Any = options) -> Any:
        if isinstance(value, dict) and dataclasses.is_dataclass(kind):
            kinds = get_type_hints(kind)
            names = [f.name for f in dataclasses.fields(kind)]
            for key, inner in value.items():
                if key not in names:
                    raise PydanticCustomError(
                        "unknown",
                        "unknown key {key} (known: {known})",
                        {"key": str(key), "known": ", ".join(sorted(names))},
                    )
                refuse_unknown(inner, kinds[key])
        return value

    return Annotated[options, BeforeValidator(lambda value: refuse_unknown(value))]


def find_recipe(name: str | Path) -> Path:
    """A path, or the name of a recipe that ships ("myna-24k"). Raises UsageError listing those."""
    path = Path(name)
    if path.is_file():
        return path
    shipped = SHIPPED / (path.name if path.suffix else f"{path.name}.yaml")
    if path.parent in (Path("."), Path("recipes")) and shipped.is_file():
        return shipped
    known = ", ".join(sorted(p.stem for p in SHIPPED.glob("*.yaml")))
    raise UsageError(f"recipe {name} is not there; give a .yaml file or one of {known}")


def load_recipe(name: str | Path, schema: type[Recipe], overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe, apply `key.subkey=value` overrides, and check it against `schema`.

    Raises InputError for a file that is not YAML or does not fit, UsageError for an override that does not
    fit.
    """
    path = find_recipe(name)
    values = _read(path, seen=())
    _build(schema, values, lambda problem: InputError(f"{path}: {problem}"))
    for override in overrides:
        key, sign, text = override.partition("=")
        if not sign or not key:
            raise UsageError(
                f"override {override!r} is not of the form key=value, for example max_steps=1000"
            )
        try:
            _set(values, key.split("."), yaml.load(text, _LOADER))
        except yaml.YAMLError as error:
            raise UsageError(f"override {override!r}: {text!r} is not a YAML value") from error
    return _build(schema, values, lambda problem: UsageError(f"{path} with {' '.join(overrides)}: {problem}"))


def read_key(name: str | Path, key: str, default: Any = None) -> Any:
    """One value of a recipe that is still to be checked. Raises as `load_recipe` does."""
    return _read(find_recipe(name), seen=()).get(key, default)


def _read(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path in seen:
        raise InputError(f"recipe {path} includes itself by way of {seen[-1]}")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _LOADER)
    except OSError as error:
        raise InputError(f"cannot read recipe {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        where = f", line {line + 1}" if line is not None else ""
        raise InputError(f"recipe {path}{where} is not YAML") from error
    if not isinstance(values, dict):
        raise InputError(f"recipe {path} must be a list of `key: value` lines")
    base = values.pop("include", None)
    if base is None:
        return values
    included = _read(path.parent / str(base), (*seen, path))
    if "kind" in values and values["kind"] != included.get("kind"):
        included.pop("model", None)
    return _merge(included, values)


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _set(values: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        if not isinstance(values.get(key), dict):
            values[key] = {}
        values = values[key]
    values[keys[-1]] = value


def _build(schema: type[Recipe], values: dict[str, Any], fail: Callable[[str], Exception]) -> Recipe:
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise fail(_problem(schema, error)) from error


def _problem(schema: type[BaseModel], error: ValidationError) -> str:
    """The first problem in one line that names the key."""
    first = error.errors()[0]
    *parents, last = (str(part) for part in first["loc"]) if first["loc"] else ("recipe",)
    key = ".".join([*parents, last])
    if first["type"] == "extra_forbidden":
        return f"unknown key {key} (known here: {', '.join(_known(schema, parents))})"
    if first["type"] == "missing":
        return f"key {key} is missing"
    text = first["msg"].removeprefix("Value error, ")
    given = first.get("input")
    shown = (
        "" if isinstance(given, dict) or first["type"] in ("unknown", "value_error") else f", got {given!r}"
    )
    return f"{key}: {text[0].lower() + text[1:]}{shown}"


def _known(schema: type[BaseModel], parents: list[str]) -> list[str]:
    """The keys of the section that `parents` lead to."""
    here: Any = schema
    for parent in parents:
        annotation = (
            here.model_fields[parent].annotation if parent in getattr(here, "model_fields", {}) else None
        )
        options = [annotation, *getattr(annotation, "__args__", ())]
        here = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)
        if here is None:
            return []
    return sorted(here.model_fields)
