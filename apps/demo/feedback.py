"""What a visitor is told: one readable line for every error, times and sizes as people write them."""

from __future__ import annotations

import functools
import html
import inspect
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ...errors import MynaError

log = logging.getLogger("myna.demo")
UPLOADED = re.compile(r"\S*/gradio/[0-9a-f]{16,}/")  # the folder of an upload says nothing to a visitor


@contextmanager
def readable_errors() -> Iterator[None]:
    """Turn any exception into Gradio's message box: a user's mistake with its remedy, anything else with a hint
    where to look."""
    import gradio as gr

    try:
        yield
    except gr.Error:
        raise
    except MynaError as error:
        raise gr.Error(_line(error), title="That did not work", print_exception=False) from error
    except MemoryError as error:
        raise gr.Error("Out of memory: try something shorter.", print_exception=False) from error
    except Exception as error:
        log.exception("in the demo")  # the terminal of whoever runs the page, not the visitor
        message = (
            f"Unexpected {type(error).__name__}: {_line(error)[:300]}. The terminal of `myna demo` has more."
        )
        raise gr.Error(message, title="A fault of Myna's", print_exception=False) from error


def guarded(handler: Callable[..., Any]) -> Callable[..., Any]:
    """An event handler, or a generator of them, whose errors are readable."""
    if inspect.isgeneratorfunction(handler):

        @functools.wraps(handler)
        def generate(*args: Any, **kwargs: Any) -> Iterator[Any]:
            with readable_errors():
                yield from handler(*args, **kwargs)

        return generate

    @functools.wraps(handler)
    def call(*args: Any, **kwargs: Any) -> Any:
        with readable_errors():
            return handler(*args, **kwargs)

    return call


def _line(error: BaseException) -> str:
    """The message as HTML, which the message box takes: names of files are the visitor's own."""
    line = " ".join(str(error).split()) or type(error).__name__
    line = UPLOADED.sub("", line)
    if line.split()[0].isalpha():  # a word, not the name of a file
        line = line[0].upper() + line[1:]
    return html.escape(line)
