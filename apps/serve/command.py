"""`myna serve`: the server, until Ctrl-C or SIGTERM."""

from __future__ import annotations

import contextlib
import os

import typer

from ...errors import UsageError
from ..console import Console


def command(
    host: str = typer.Option(
        "127.0.0.1", help="Address to serve at; 0.0.0.0 for the whole network: give --api-key, too."
    ),
    port: int = typer.Option(8000, help="Port to serve at."),
    api_key: list[str] = typer.Option(
        [],
        "--api-key",
        envvar="MYNA_API_KEY",
        help="A key that every request has to carry; may be given several times.  [default: none is asked for]",
        show_envvar=True,
    ),
    cors: list[str] = typer.Option(
        [], "--cors", help="An origin whose pages may use the server; * for all.  [default: none]"
    ),
    max_concurrency: int | None = typer.Option(
        None, help="Requests of a kind that are worked on at a time.  [default: 4 a core]"
    ),
    queue: int = typer.Option(64, help="Requests of a kind that wait; more are turned away."),
    voices: str | None = typer.Option(
        None, metavar="DIR", help="Folder of the voices.  [default: the library of `myna voices`]"
    ),
    model: str | None = typer.Option(
        None, help="Whisper for clients that name none.  [default: the best on this machine]"
    ),
    max_models: int = typer.Option(2, help="Whispers kept in memory."),
    max_upload: int = typer.Option(25, help="MB of a recording."),
    max_characters: int = typer.Option(4096, help="Characters of a text."),
    deadline: float = typer.Option(600.0, help="Seconds until a request is ended."),
    wyoming: int | None = typer.Option(
        None, help="Port for Home Assistant's protocol, which knows no keys; 10300 is usual.  [default: none]"
    ),
    page: bool = typer.Option(True, "--page/--no-page", help="The demo at /, where Gradio is installed."),
    quiet: bool = typer.Option(False, "--quiet", "-q", help="Print nothing but the address."),
) -> None:
    """Serve speech, transcription and voices to OpenAI's clients. Ctrl-C ends it.

    myna serve --api-key "$KEY"

    Only programs of this machine reach it unless --host says otherwise, and no page of a website unless --cors does.
    """
    from .memory import few_arenas
    from .options import Limits, ServeOptions

    limits = Limits(characters=max_characters, upload_bytes=max_upload << 20, deadline=deadline)
    given = {} if max_concurrency is None else {"max_concurrency": max_concurrency}
    options = ServeOptions(
        host=host,
        port=port,
        api_keys=tuple(api_key),
        cors=tuple(cors),
        queue=queue,
        models=max_models,
        default_model=model,
        page=page,
        limits=limits,
        **given,
    )
    few_arenas()
    if voices is not None:
        os.environ["MYNA_VOICES"] = voices
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"the server needs FastAPI and uvicorn ({error}); pip install 'myna[serve]'"
        ) from None
    from ..demo.server import check_address
    from .app import build_app
    from .page import is_installed, mounted
    from .server import Server

    check_address(host, port)
    app = build_app(options)
    if wyoming is not None:
        from .wyoming.service import serving

        check_address(host, wyoming)
        app.state.beside.append(lambda house: serving(f"tcp://{host}:{wyoming}", house))
    console = Console(quiet)
    if not options.is_local and not options.api_keys:
        console.note(
            f"everybody who reaches {host} can use, add and remove voices; --api-key asks them for a key"
        )
    with contextlib.ExitStack() as stack:
        if page and is_installed():
            app = stack.enter_context(mounted(app))
        server = Server(app, host, port, is_program=True)
        Console().result({}, f"http://{'[' + host + ']' if ':' in host else host}:{port}")
        server.run()
