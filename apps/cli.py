"""`myna`: one program, a module a command. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import importlib
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

import typer

from ..errors import MynaError
from ..version import __version__
from .console import PIPE_CLOSED, complain, own_lines_only, shows_warnings, silence_stdout

OUT_OF_MEMORY = "out of memory; close other programs, use a smaller model or another --device"
INTERRUPTED, TERMINATED = 130, 143  # 128 + the signal, as shells count

# In the order of the help text: module and name, of a function or of a typer.Typer, which is a group of commands.
_COMMANDS = {
    "compress": (".compress", "command"),
    "decompress": (".decompress", "command"),
    "info": (".info", "command"),
    "say": (".say", "command"),
    "convert": (".convert", "command"),
    "transcribe": (".transcribe", "command"),
    "models": (".models", "app"),
    "voices": (".voices", "app"),
    "demo": (".demo.command", "command"),
    "serve": (".serve.command", "command"),
    "prepare": (".prepare", "command"),
    "train": (".train", "train"),
    "evaluate": (".evaluate", "app"),
}


def _version(wanted: bool) -> None:
    if wanted:
        print(f"myna {__version__}")
        raise typer.Exit


def _options(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    pass


def program(names: Iterable[str] = _COMMANDS) -> typer.Typer:
    """The program with some of its commands: to import and to build all of them takes a fifth of a second."""
    built = typer.Typer(
        name="myna",
        help="Compress speech, clone a voice, write down what is said. Offline, streaming, on a CPU or a GPU.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",  # otherwise "[default: ...]" would be taken for a style, and vanish
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    built.callback()(_options)
    for name in names:
        module, attribute = _COMMANDS[name]
        command: Callable[..., Any] | typer.Typer = getattr(
            importlib.import_module(module, __package__), attribute
        )
        if isinstance(command, typer.Typer):
            built.add_typer(command, name=name)
        else:
            built.command(name)(command)
    return built


class _Terminated(BaseException):
    """SIGTERM, raised so that partial outputs are removed on the way out."""


def run(args: list[str]) -> int:
    """Run one command line; every failure is one line on standard error and an exit code."""
    with own_lines_only():
        return _run(args)


def _run(args: list[str]) -> int:
    try:
        asked = program(args[:1] if args and args[0] in _COMMANDS else _COMMANDS)
        code = asked(args, prog_name="myna", standalone_mode=False)
        if code == INTERRUPTED:  # typer catches Ctrl-C itself
            complain("interrupted; nothing was left half written")
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except MynaError as error:
        complain(str(error))
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        complain("interrupted; nothing was left half written")
        return INTERRUPTED
    except _Terminated:
        complain("terminated; nothing was left half written")
        return TERMINATED
    except BrokenPipeError:
        silence_stdout()
        return PIPE_CLOSED
    except MemoryError:
        complain(OUT_OF_MEMORY)
        return 1
    except Exception as error:
        if hasattr(error, "format_message"):  # typer's own: an unknown option, a missing argument
            complain(f"{error.format_message()} (see `{_help_for(error)}`)")  # pyright: ignore
            return 2
        if os.environ.get("MYNA_DEBUG"):
            raise
        if isinstance(error, OSError):
            complain(f"{error.filename or 'the system'}: {error.strerror or error}")
            return 1
        # torch's own, of a GPU and of the CPU, are no MemoryError.
        if isinstance(error, RuntimeError) and re.search("out of memory|can't allocate memory", str(error)):
            complain(OUT_OF_MEMORY)
            return 1
        complain(f"unexpected {type(error).__name__}: {error}; MYNA_DEBUG=1 shows where, please report it")
        return 1


def main() -> None:
    """The `myna` program."""
    if not shows_warnings():
        os.environ["PYTHONWARNINGS"] = "ignore"  # of the processes that a command starts
    signal.signal(signal.SIGTERM, _terminate)
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except OSError:
        silence_stdout()
    if code in (INTERRUPTED, TERMINATED) and threading.active_count() > 1:
        # A second Ctrl-C did not wait for a thread that computes, and the interpreter would abort on it.
        os._exit(code)
    sys.exit(code)


def _terminate(signum: int, frame: Any) -> None:
    raise _Terminated


def _help_for(error: Any) -> str:
    context = getattr(error, "ctx", None)
    return f"{context.command_path if context else 'myna'} --help"


if __name__ == "__main__":
    main()
