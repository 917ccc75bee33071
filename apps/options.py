"""Options that several commands share: rates, sizes, models, folders."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError, MissingModelError, UsageError

if TYPE_CHECKING:
    from ..codec.encodec_lm import EncodecLM

COMPRESSED = (".myna", ".ecdc", ".dac")
PIPE = "-"


def parse_bitrate(text: str | None) -> float | None:
    """ "4", "4k" or "4kbps" to 4000 bits a second. Raises UsageError."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:k|kbps|kbit/s)?", text.strip().lower())
    kbps = float(match.group(1)) if match else 0.0
    if not 0 < kbps <= 1000:
        raise UsageError(f"--bitrate {text} is not a bitrate; give it in kbps, for example --bitrate 2")
    return kbps * 1000


def parse_size(text: str | None) -> int | None:
    """ "20000", "20k" or "1.5M" to bytes. Raises UsageError."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]?)b?", text.strip().lower())
    n_bytes = (
        int(float(match.group(1)) * {"": 1, "k": 1e3, "m": 1e6, "g": 1e9}[match.group(2)]) if match else 0
    )
    if n_bytes < 1:
        raise UsageError(f"--target-size {text} is not a size; give bytes, or for example 20k or 1.5M")
    return n_bytes


def check_precision(precision: str, device: str) -> None:
    """Raises UsageError for a precision that there is not, or not on this device, before anything is loaded."""
    if precision != "auto":
        from ..kernels.precision import check_precision

        check_precision(precision, device)


def check_seconds(name: str, value: float | None) -> None:
    """Raises UsageError for a time that is not one."""
    if value is not None and not (math.isfinite(value) and value >= 0):
        raise UsageError(f"{name} {value:g} is not a time; give seconds from 0")


def language_model(codec: str, path: str | None = None) -> EncodecLM:
    """EnCodec's entropy model for its codec's name, or the one at `path` (its `.th`, or our checkpoint).

    Raises MissingModelError if it is not here or not that codec's, InputError if `path` holds something else,
    UsageError if the codec has none.
    """
    from ..codec.encodec_lm import ENCODEC_LM_24K, ENCODEC_LM_48K
    from ..codec.registry import load_encodec_lm

    wanted = {"encodec-24k": ENCODEC_LM_24K, "encodec-48k": ENCODEC_LM_48K}.get(codec)
    if wanted is None:
        raise UsageError(f"{codec} has no language model; --lm is for encodec-24k and encodec-48k")
    if path is None:
        try:
            return load_encodec_lm(wanted.name)
        except MissingModelError as error:
            raise MissingModelError(f"{error}, or give its file with --lm-model") from None
    found = load_encodec_lm(path)
    size, expected = ((c.name, c.n_codebooks, c.codebook_size) for c in (found.config, wanted))
    if size != expected:
        raise MissingModelError(
            f"{path} is a language model of {size[1]} codebooks of {size[2]}, {codec} needs {wanted.name} "
            f"of {expected[1]} of {expected[2]}; give that one with --lm-model"
        )
    return found


@dataclass(frozen=True)
class Job:
    """One file to work on."""

    source: Path
    target: Path


def jobs_in(
    folder: Path,
    output: Path | None,
    suffixes: Iterable[str],
    new_name: str,
    note: Callable[[str], None] | None = None,
) -> Iterator[Job]:
    """Every file below `folder` with one of `suffixes`, and where its result goes: the same tree
    below `output`, or beside it. `new_name` is a pattern of the stem: "{}.myna".

    A file that is named as the result of another one is left out, and `note` is told.
    Raises InputError if there is none, UsageError if two of them would give the same output.
    """
    wanted = tuple(suffixes)
    skipped = output.resolve() if output else None
    found: dict[Path, Path] = {}
    for source in sorted(folder.rglob("*")):
        if source.suffix.lower() not in wanted or not source.is_file() or source.name.startswith("."):
            continue
        if skipped and skipped != folder.resolve() and skipped in source.resolve().parents:
            continue
        target = (output or folder) / source.relative_to(folder).with_name(new_name.format(source.stem))
        if target in found:
            results = [path for path in (source, found[target]) if path.name == target.name]
            if len(results) == 1:
                other = source if results[0] != source else found[target]
                if note:
                    note(f"{results[0]} is left out: {other} is compressed anew")
                found[target] = other
                continue
            raise UsageError(f"{found[target]} and {source} would both become {target}; rename one of them")
        found[target] = source
    if not found:
        raise InputError(f"{folder} holds no files named {', '.join(wanted)}")
    for target, source in found.items():
        yield Job(source, target)
