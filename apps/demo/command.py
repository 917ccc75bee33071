"""`myna demo`: the page in a browser, until Ctrl-C."""

from __future__ import annotations

import contextlib
import threading

import typer

from ...errors import MynaError, UsageError
from ..console import Console


def command(
    host: str = typer.Option(
        "127.0.0.1",
        help="Address to serve at; 0.0.0.0 for the whole network, where everybody may then use, add and remove voices.",
    ),
    port: int | None = typer.Option(None, help="Port to serve at.  [default: the first free one from 7860]"),
    share: bool = typer.Option(
        False,
        "--share/--no-share",
        help="A public address through Gradio's servers: everybody who has it can "
        "hear and clone with the voices of this machine.",
    ),
    open_browser: bool = typer.Option(False, "--open/--no-open", help="Open the page in the browser."),
    quiet: bool = typer.Option(False, "--quiet", "-q", help="Print nothing but the address."),
) -> None:
    """Serve the demo page: clone a voice, compress a recording, keep voices. Ctrl-C ends it.

    Nothing leaves the machine unless --share is given; what visitors upload is deleted when the page ends.
    """
    if port is not None and not 1 <= port <= 65535:
        raise UsageError(f"--port {port} is not a port; give 1 to 65535")
    from .engine import Engine
    from .server import serving

    engine = Engine()
    with serving(engine, host, port, share, open_browser) as served:
        Console().result({}, served.share_url or served.url)
        if not quiet:
            Console().note("the page is up; Ctrl-C ends it")
        try:
            engine.warm_up()
        except MynaError as error:  # the other tabs work all the same
            Console().note(str(error))
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
