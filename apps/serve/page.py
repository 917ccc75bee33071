"""The demo page at "/", on the models of the server."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI

from ...data.environment import environment


@contextlib.contextmanager
def mounted(app: FastAPI) -> Iterator[FastAPI]:
    """The application with the page, as long as the block runs. Raises UsageError where Gradio or ffmpeg is missing."""
    from ..demo.engine import Engine
    from ..demo.server import page_environment
    from ..demo.workspace import Workspace

    with Workspace() as workspace, environment(page_environment(workspace)):
        import gradio

        from ..demo.look import CSS, theme
        from ..demo.page import build_page

        page: Any = build_page(Engine(), workspace)
        yield gradio.mount_gradio_app(
            app,
            page,
            path="",
            theme=theme(),
            css=CSS,
            show_error=False,
            footer_links=[],
            enable_monitoring=False,
            ssr_mode=False,
            mcp_server=False,
            max_file_size=200 * gradio.FileSize.MB,
        )


def is_installed() -> bool:
    """Whether the page's packages are there."""
    from importlib.util import find_spec

    return find_spec("gradio") is not None
