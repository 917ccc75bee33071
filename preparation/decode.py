"""Any recording to mono blocks: what libsndfile reads directly, the rest (m4a, video) through ffmpeg if it is there."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..data.audio import SUFFIXES as SOUND_SUFFIXES
from ..data.audio import AudioReader
from ..data.files import input_errors
from ..errors import InputError

BY_FFMPEG = (".m4a", ".aac", ".mp4", ".m4b", ".mkv", ".mov", ".webm", ".wma", ".amr", ".3gp", ".ac3")
SUFFIXES = (*SOUND_SUFFIXES, *BY_FFMPEG)


@contextlib.contextmanager
def open_mono(path: Path) -> Iterator[tuple[int, Iterator[np.ndarray]]]:
    """The rate in Hz and the blocks (n,) float32, channels averaged. Constant memory, any length.

    Raises InputError as AudioReader does, and where ffmpeg is needed but not there.
    """
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(_through_ffmpeg(path)) if path.suffix.lower() in BY_FFMPEG else path
        reader = stack.enter_context(AudioReader(source))  # pyright: ignore[reportArgumentType]
        yield reader.info.sample_rate, (block.mean(axis=0) for block in reader.blocks())


@contextlib.contextmanager
def _through_ffmpeg(path: Path) -> Iterator[object]:
    program = _ffmpeg()
    if program is None:
        raise InputError(f"{path} needs ffmpeg to be read; install it, or pip install imageio-ffmpeg")
    with input_errors(path):
        path.open("rb").close()
    command = [
        program,
        "-v",
        "error",
        "-nostdin",
        "-i",
        str(path.resolve()),
        "-vn",
        "-f",
        "wav",
        "-c:a",
        "pcm_s16le",
    ]
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen([*command, "-"], stdout=subprocess.PIPE, stderr=said) as run,
    ):
        assert run.stdout is not None
        try:
            yield _Named(run.stdout, str(path))
            run.stdout.read()
            failed = run.wait() != 0
        except InputError:  # of the WAV that ffmpeg did not write, most likely
            if run.wait() == 0:
                raise
            failed = True
        finally:
            run.kill()
        if failed:
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines()
            raise InputError(f"{path} cannot be decoded: {lines[-1] if lines else 'ffmpeg does not say why'}")


class _Named:
    """A pipe with the name of the file behind it, for messages."""

    def __init__(self, file, name: str):
        self.name, self.read = name, file.read
        self.read1 = file.read1


@lru_cache(maxsize=1)
def _ffmpeg() -> str | None:
    if found := shutil.which("ffmpeg"):
        return found
    try:
        import imageio_ffmpeg

        return imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError):
        return None
