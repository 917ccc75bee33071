"""What has been done so far, on disk: a run that was killed goes on where it was, and ends with the same bytes.

    OUT/.prepare/config.json       the options and the folder this work is for
                 units/ab/KEY.audio, KEY.json    a unit's result; the .json is written last and makes it valid
                 corpus/           the new corpus while it is written
                 ready.json        the new corpus is whole: what remains is to move it
                 lock              held by the run that works here

Every file appears under its name only when it is whole.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..data.files import atomic_output, output_errors
from ..errors import OutputError, UsageError
from .unit import Pipeline, Unit, UnitResult

FOLDER = ".prepare"
CONFIG = "prepare.json"  # beside the shards, the last file of a corpus to appear


class Journal:
    """The work folder of `out`."""

    def __init__(self, out: Path):
        self.out, self.root = out, out / FOLDER
        self.corpus = self.root / "corpus"

    def audio(self, unit: Unit) -> Path:
        return self.root / "units" / unit.key[:2] / f"{unit.key}.audio"

    def result(self, unit: Unit) -> UnitResult | None:
        """What a worker wrote, or None."""
        path = self.audio(unit)
        try:
            made = UnitResult.from_json(path.with_suffix(".json").read_text("utf-8"))
            size = path.stat().st_size
        except (OSError, ValueError, TypeError, KeyError):
            return None  # not there, or of another version
        return made if size == made.n_bytes else None

    def is_done(self, unit: Unit) -> bool:
        """Cheaper than asking for the result."""
        path = self.audio(unit)
        return path.is_file() and path.with_suffix(".json").is_file()

    def complete(self, unit: Unit, pipeline: Pipeline, skip: Mapping[str, str] | None = None) -> UnitResult:
        """Run a unit and write it down. Raises OutputError."""
        path = self.audio(unit)
        with output_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_output(path, force=True) as file:
            made = pipeline.run(unit, file, skip)
        write_text(path.with_suffix(".json"), made.to_json())
        return made

    def begin(self, config: Mapping[str, Any], force: bool) -> bool:
        """Make the folder ready for this configuration; False if the corpus is there already, made with it.

        Raises UsageError if there is something else and not `force`, and whatever `force` says if `out` holds files
        that are not ours; OutputError if it cannot be written.
        """
        with output_errors(self.out):
            if (self.root / "ready.json").exists():  # a run was killed just before its end
                self.publish(_read(self.root / "config.json") or {})
            finished, begun = _read(self.out / CONFIG), _read(self.root / "config.json")
            if self.out.is_dir():
                ours = {FOLDER, CONFIG, *(finished or {}).get("files", [])}
                foreign = sorted(name for name in os.listdir(self.out) if name not in ours)
                if foreign:
                    raise UsageError(
                        f"{self.out} holds {foreign[0]}, which is not of a corpus made here; name a new or empty folder"
                    )
            elif self.out.exists():
                raise UsageError(f"{self.out} is a file; name a folder for the corpus")
            if begun is not None and begun != config:
                if not force:
                    raise UsageError(
                        f"{self.out} holds an unfinished run with {_difference(begun, config)}; repeat it with its "
                        "options to go on, or give --force to start afresh"
                    )
                self.discard()
                begun = None
            if begun == config and finished is not None and not (self.root / "units").exists():
                self.discard()  # cut short while it tidied up
                begun = None
            if begun is None and finished is not None:
                made_with = finished.get("config")
                if made_with == config and not force:
                    return False
                if not force:
                    raise UsageError(
                        f"{self.out} holds a corpus made with {_difference(made_with or {}, config)}; give --force to "
                        "replace it, or another folder"
                    )
            (self.root / "units").mkdir(parents=True, exist_ok=True)
            write_text(self.root / "config.json", json.dumps(config, ensure_ascii=False))
            for left in self.root.rglob("*.part"):  # of a run that was killed
                left.unlink()
        return True

    def ready(self, facts: Mapping[str, Any]) -> None:
        """The corpus in `self.corpus` is whole. facts: what its configuration file is to say of it."""
        with output_errors(self.out):
            names = sorted(path.name for path in self.corpus.iterdir())
            old = (_read(self.out / CONFIG) or {}).get("files", [])
            write_text(self.root / "ready.json", json.dumps({"files": names, "old": old, "facts": facts}))

    def publish(self, config: Mapping[str, Any]) -> None:
        """Move the corpus that is `ready` to its place, the old one out of it, and forget the work.

        Whenever this is cut short, calling it again does the rest.
        """
        ready = _read(self.root / "ready.json") or {}
        with output_errors(self.out):
            (self.out / CONFIG).unlink(missing_ok=True)
            for name in set(ready["old"]) - set(ready["files"]):
                (self.out / name).unlink(missing_ok=True)
            for name in ready["files"]:
                if (self.corpus / name).exists():
                    os.replace(self.corpus / name, self.out / name)
            content = {"config": config, "facts": ready["facts"], "files": ready["files"]}
            write_text(self.out / CONFIG, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
            self.discard()

    def discard(self) -> None:
        """Remove all work, the file that says what it is for last but one, the folder last."""
        if self.root.exists():
            for path in sorted(self.root.iterdir()):
                if path.is_dir():
                    shutil.rmtree(path)
            for name in ("ready.json", "config.json", "lock"):
                (self.root / name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self.root.rmdir()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """While a run works here. Raises UsageError if another does. A run that is killed lets go."""
        with output_errors(self.out):
            existed = self.out.exists()
            self.root.mkdir(parents=True, exist_ok=True)
            file = open(self.root / "lock", "w")  # noqa: SIM115 (closed below)
        with file:
            try:
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except ImportError:  # no such locks on this system
                pass
            except OSError:
                raise UsageError(f"another myna prepare is working on {self.out}; wait for it") from None
            try:
                yield
            finally:
                if not (self.root / "config.json").exists():  # nothing was begun, or all is finished
                    (self.root / "lock").unlink(missing_ok=True)
                    for folder in [self.root] + [self.out] * (not existed):
                        with contextlib.suppress(OSError):
                            folder.rmdir()


def write_text(path: Path, text: str) -> None:
    """Whole or not at all, over what was there."""
    with atomic_output(path, force=True) as file:
        file.write(text.encode("utf-8", "backslashreplace"))


def read_config(out: Path) -> dict[str, Any] | None:
    """What a finished corpus says about itself."""
    return _read(out / CONFIG)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        return None
    except (OSError, ValueError) as error:
        raise OutputError(f"{path} cannot be read ({error}); remove it to start afresh") from None
    return content if isinstance(content, dict) else None


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """The first thing that differs, for people."""
    before, after = ({**config, **config.get("options", {})} for config in (old, new))
    for name in sorted((set(before) | set(after)) - {"options"}):
        if before.get(name) != after.get(name):
            if name == "listing":
                return "other recordings: the folder has changed since"
            return f"{name} {before.get(name)!r} instead of {after.get(name)!r}"
    return "another configuration"
