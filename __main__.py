"""The `myna` program, also as `python -m myna`."""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import sys

INTERRUPTED = 130  # 128 + SIGINT, as shells count
_OBJECTS_OF_A_START, _OBJECTS = 500_000, 20_000  # that are new, after which cycles are looked for
_code: int | None = None  # of the program, once it is known


def main() -> None:
    """Run the command line; Ctrl-C is one line from the first moment, while everything is still being imported."""
    global _code
    # A start leaves 320,000 objects and frees few: no cycles are looked for until then, and later less often
    # than every 700 objects (saves a fifth of the start); nor is the interpreter taken apart at the end (an eighth).
    gc.set_threshold(_OBJECTS_OF_A_START, *gc.get_threshold()[1:])
    gc.callbacks.append(_started)
    atexit.register(_end)  # before all others, so that it runs after them
    try:
        from .apps.cli import main as run

        run()
    except SystemExit as stop:
        _code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        raise
    except KeyboardInterrupt:
        print("myna: error: interrupted; nothing was left half written", file=sys.stderr)
        _code = INTERRUPTED
        sys.exit(INTERRUPTED)


def _started(phase: str, info: dict[str, int]) -> None:
    """After the first look for cycles: what is there by then stays, and need not be looked at again."""
    if phase == "stop":
        gc.callbacks.remove(_started)
        gc.freeze()
        gc.set_threshold(_OBJECTS, *gc.get_threshold()[1:])


def _end() -> None:
    """End the process when everything else is done: other threads were waited for, temporary files are gone."""
    if _code is None:  # an exception on its way out, which Python has yet to show
        return
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # a pipe that nobody reads, a stream that is closed
            stream.flush()
    os._exit(_code)


if __name__ == "__main__":
    main()
