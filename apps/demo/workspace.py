"""The files of a running page, in one temporary folder that goes when the page ends."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import tempfile
import time
from pathlib import Path

KEPT_SECONDS = 3600.0  # Gradio serves its own copies; those here are only for it to copy


class Workspace:
    """Names for new files; recordings of visitors stay no longer than the page runs.

    >>> with Workspace() as workspace:
    ...     path = workspace.new("speech.wav")
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="myna-demo-"))

    @property
    def uploads(self) -> Path:
        """Where Gradio keeps what visitors send and get."""
        return self.folder / "gradio"

    def new(self, name: str) -> Path:
        """A path that nobody else has, ending in `name` made safe: what a download will be called."""
        self._sweep()
        folder = self.folder / "made" / secrets.token_hex(16)
        folder.mkdir(parents=True)
        safe = re.sub(r"[^\w.-]+", "-", name).strip("-.") or "file"
        return folder / safe[-80:]

    def _sweep(self) -> None:
        old = time.time() - KEPT_SECONDS
        for folder in (self.folder / "made").glob("*"):
            with contextlib.suppress(OSError):
                if os.path.getmtime(folder) < old:
                    shutil.rmtree(folder)

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Workspace:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
