"""Outputs that are whole or absent: written under a temporary name, renamed when complete."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ..errors import InputError, OutputError, UsageError

try:
    import fcntl
except ImportError:  # Windows: temporary files get names of their own, and nobody's are removed
    fcntl = None


def check_output(path: str | Path, force: bool = False) -> None:
    """Refuse, before any work is done, an output that exists (unless `force`) or that is a folder."""
    path = Path(path)
    if path.is_dir():
        raise UsageError(f"{path} is a folder; give the name of a file to write")
    if path.exists() and not force and not _is_device(path):
        raise UsageError(f"{path} exists; give --force to overwrite it, or another name")


@contextlib.contextmanager
def atomic_output(path: str | Path, force: bool = False) -> Iterator[BinaryIO]:
    """Open `path` for writing through a temporary name in the same folder.

    The name appears only when the block ends without an exception; otherwise (Ctrl-C included) the temporary
    file is removed and a file that was there before stays as it was. What a killed process left of the same
    output is removed by the next that writes it. Devices and pipes are written directly.

    Raises UsageError if the file exists without `force`, OutputError if it cannot be written (no permission,
    no such folder, no space).
    """
    check_output(path, force)
    with output_errors(path):
        if _is_device(Path(path)):
            with open(path, "wb") as file:
                yield file
            return
        final = Path(path).resolve()  # through a symbolic link, to replace what it points to
        file, partial = _open_partial(final)
        held = os.dup(file.fileno())  # keeps the lock until the file has its name
        try:
            with file:
                yield file
                file.flush()
                os.fsync(file.fileno())  # a rename that survives a power cut must not name an empty file
            if fcntl is None:  # a file that is open cannot be renamed there
                os.close(held)
                held = -1
            if final.exists() and not force:
                raise UsageError(f"{path} was created meanwhile; give --force to overwrite it")
            os.replace(partial, final)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise
        finally:
            if held >= 0:
                os.close(held)


@contextlib.contextmanager
def output_errors(path: str | Path) -> Iterator[None]:
    """Turn what the system says about an output into one line."""
    try:
        yield
    except BrokenPipeError:
        raise  # whoever read our output has gone: not an error of ours, the command line ends quietly
    except OSError as error:
        raise OutputError(f"cannot write {path}: {_reason(error)}") from error


@contextlib.contextmanager
def input_errors(path: str | Path) -> Iterator[None]:
    """Turn what the system says about an input into one line."""
    try:
        yield
    except OSError as error:
        if isinstance(error, IsADirectoryError):
            raise InputError(f"{path} is a folder; expected a file") from error
        raise InputError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from error


def _open_partial(final: Path) -> tuple[BinaryIO, Path]:
    """A new file beside `final`, locked for as long as it is open, and its name.

    The name is always the same, so that what a killed process left is found, unless somebody else is writing
    the same output just now.
    """
    usual = final.with_name(f".{final.name[:200]}.part")
    other = final.with_name(f".{final.name[:200]}.{secrets.token_hex(4)}.part")
    _remove_abandoned(usual)
    with contextlib.suppress(FileExistsError):
        file = open(usual, "xb+")  # noqa: SIM115 (closed by the caller)
        # In between, somebody else may have taken it for an abandoned one.
        if _lock(file.fileno()) is not False and os.fstat(file.fileno()).st_nlink:
            return file, usual
        file.close()
    return open(other, "xb+"), other


def _remove_abandoned(partial: Path) -> None:
    """Remove a temporary file whose writer is dead: nobody holds its lock."""
    if fcntl is None or partial.is_symlink():
        return
    with contextlib.suppress(OSError), open(partial, "rb+") as file:
        if _lock(file.fileno()) and os.path.samestat(os.fstat(file.fileno()), os.stat(partial)):
            partial.unlink()


def _lock(descriptor: int) -> bool | None:
    """Whether nobody else holds the lock of an open file, which is ours until it is closed; None where there
    are no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_device(path: Path) -> bool:
    return path.exists() and not path.is_file() and not path.is_dir()


def _reason(error: OSError) -> str:
    remedies = {
        errno.ENOSPC: "no space left on the disk; free some, or write elsewhere",
        errno.EDQUOT: "the disk quota is used up; free some space, or write elsewhere",
        errno.EFBIG: "the file would be larger than this system allows; write elsewhere",
        errno.EACCES: "permission denied; choose a folder you can write to",
        errno.EPERM: "permission denied; choose a folder you can write to",
        errno.EROFS: "the disk is read-only; write elsewhere",
        errno.ENOENT: "its folder does not exist; create it first",
        errno.ENOTDIR: "its folder is a file; choose another place",
    }
    return remedies.get(error.errno or 0, (error.strerror or str(error)).lower())
