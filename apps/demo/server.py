"""Starting and ending the page: nothing it does leaves the machine, nothing of its visitors outlives it."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...data.environment import environment
from ...errors import UsageError
from .engine import Engine
from .workspace import Workspace

LOCAL = ("127.0.0.1", "localhost", "::1", "0.0.0.0")


@dataclass(frozen=True)
class Served:
    """A running page.   url: where.   share_url: the public address, if one was asked for and made."""

    url: str
    share_url: str | None
    page: Any


@contextlib.contextmanager
def serving(
    engine: Engine,
    host: str = "127.0.0.1",
    port: int | None = None,
    share: bool = False,
    browser: bool = False,
) -> Iterator[Served]:
    """Serve the page while the block runs.

    port: None for a free one from 7860 on. Raises UsageError if Gradio is missing, the port is taken or the
    host is not this machine's.
    """
    check_address(host, port)
    with Workspace() as workspace, environment(page_environment(workspace)):
        try:
            import gradio
        except ImportError as error:
            raise UsageError(f"the page needs Gradio ({error}); pip install 'myna[demo]'") from None
        from .look import CSS, theme
        from .page import build_page

        page = build_page(engine, workspace)
        try:
            _, url, share_url = page.launch(
                server_name=host,
                server_port=port,
                share=share,
                inbrowser=browser,
                prevent_thread_lock=True,
                quiet=True,
                show_error=False,
                footer_links=[],
                run_history=False,
                enable_monitoring=False,
                ssr_mode=False,
                mcp_server=False,
                theme=theme(),
                css=CSS,
                max_file_size=200 * gradio.FileSize.MB,
            )
        except OSError as error:  # taken meanwhile, or all of the hundred that Gradio tries
            raise _unusable(host, port, "no port is free") from error
        try:
            yield Served(url, share_url, page)
        finally:
            page.close(verbose=False)


def page_environment(workspace: Workspace) -> dict[str, str]:
    """What Gradio reads from the environment while the page runs."""
    path = os.environ.get("PATH", "")
    return {
        "GRADIO_ANALYTICS_ENABLED": "0",
        "GRADIO_TEMP_DIR": str(workspace.uploads),
        "HF_HUB_DISABLE_TELEMETRY": "1",  # Gradio sets it where analytics are off, and leaves it set
        "HF_HUB_OFFLINE": "1",
        "PATH": path if shutil.which("ffmpeg") else f"{_ffmpeg_folder(workspace)}{os.pathsep}{path}",
        # Gradio asks its own address whether it answers, and a proxy would not find it.
        **{name: ",".join(filter(None, [os.environ.get(name), *LOCAL])) for name in ("no_proxy", "NO_PROXY")},
    }


def _ffmpeg_folder(workspace: Workspace) -> Path:
    """A folder in which the ffmpeg of the package imageio-ffmpeg has the name that Gradio looks for."""
    try:
        import imageio_ffmpeg

        program = imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError):
        raise UsageError(
            "the page streams audio through ffmpeg, which is not here; "
            "pip install 'myna[demo]', or install ffmpeg"
        ) from None
    folder = workspace.folder / "bin"
    folder.mkdir()
    (folder / "ffmpeg").symlink_to(program)
    if not shutil.which("ffprobe"):
        # Where Gradio finds ffmpeg it also asks ffprobe, from 6.31 on, and takes its failure for a file that plays.
        probe = folder / "ffprobe"
        probe.write_text("#!/bin/sh\nexit 1\n", encoding="ascii")
        probe.chmod(0o755)
    return folder


def check_address(host: str, port: int | None) -> None:
    """Raises UsageError: asked here, since Gradio's server would print a traceback from its thread."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
    except OSError as error:
        raise _unusable(host, port, (error.strerror or str(error)).lower()) from None


def _unusable(host: str, port: int | None, reason: str) -> UsageError:
    at = f"{host}:{port}" if port else host
    return UsageError(f"cannot serve at {at} ({reason}); give another --port or --host")
