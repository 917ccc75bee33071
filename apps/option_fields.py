"""Parameters of a command out of the fields of dataclasses, so that an option is declared once.

A field with `help` in its metadata is an option; `asr.options.option` says what else may be there.
"""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

import typer


def parameters(kind: type) -> list[inspect.Parameter]:
    """Those of one dataclass, in the order of its fields, as typer reads them."""
    hints = typing.get_type_hints(kind)
    fields = [field for field in dataclasses.fields(kind) if "help" in field.metadata]
    return [_parameter(field, hints[field.name]) for field in fields]


def _parameter(field: dataclasses.Field[Any], hint: Any) -> inspect.Parameter:
    about = field.metadata
    names = about.get("names", ())
    if field.default is False and not names:
        names = (f"--{field.name.replace('_', '-')}",)  # a switch, without a --no- of its own
    shown = typer.Option(
        about.get("cli_default", field.default),
        *names,
        help=about["help"],
        metavar=about.get("metavar"),
        rich_help_panel=about.get("panel"),
    )
    return inspect.Parameter(
        field.name, inspect.Parameter.KEYWORD_ONLY, default=shown, annotation=about.get("type", hint)
    )


def with_options(
    *parts: tuple[type, str | None], arguments: list[inspect.Parameter]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command whose options are the fields of dataclasses.

    parts: each with the name of the option behind which its own stand in the help text (None: at the end).
    arguments: those that are no options. The function is called with a dict of what was given for each part, in order,
    then with the arguments.
    """
    listed: list[inspect.Parameter] = []
    for kind, behind in parts:
        names = [parameter.name for parameter in listed]
        at = len(listed) if behind is None else names.index(behind) + 1
        listed[at:at] = parameters(kind)
    own = {kind: [p.name for p in parameters(kind)] for kind, _ in parts}

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        def command(**given: Any) -> None:
            asked = [{name: given.pop(name) for name in own[kind]} for kind, _ in parts]
            function(*asked, **given)

        command.__doc__ = function.__doc__
        command.__signature__ = inspect.Signature([*arguments, *listed])  # pyright: ignore
        return command

    return decorate


def parsed(kind: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """What the dataclass takes, of what the command line gave: texts parsed, None (not given) left out. Raises what the
    fields' `parse` raises."""
    found = {}
    for field in dataclasses.fields(kind):
        value = given.get(field.name)
        if value is not None:
            parse = field.metadata.get("parse")
            found[field.name] = parse(field.name.replace("_", "-"), value) if parse else value
    return found
