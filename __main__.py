"""The `myna` program, also as `python -m myna`."""

from __future__ import annotations

import sys

INTERRUPTED = 130  # 128 + SIGINT, as shells count


def main() -> None:
    """Run the command line; Ctrl-C is one line from the first moment, while everything is still being imported."""
    try:
        from .apps.cli import main as run

        run()
    except KeyboardInterrupt:
        print("myna: error: interrupted; nothing was left half written", file=sys.stderr)
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
