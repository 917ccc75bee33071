"""`myna info`: what is inside a compressed file or a recording, without decoding it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import typer

from ..data.files import input_errors
from .console import Console, size
from .options import COMPRESSED


def command(
    file: str = typer.Argument(..., metavar="FILE", help="A .myna, .ecdc or .dac file, or a recording."),
    listen: bool = typer.Option(
        True,
        "--watermark/--no-watermark",
        help="Listen to a recording for the mark on speech that myna made.",
    ),
    json: bool = typer.Option(False, "--json", help="Print the facts as JSON."),
) -> None:
    """Say what is inside a file, without decoding it; of a recording also whether myna said it."""
    with input_errors(file):
        opened = open(file, "rb")  # noqa: SIM115 (closed by the next line)
    with opened:
        facts = compressed_facts(file, opened) if _is_compressed(file, opened) else audio_facts(file, listen)
    width = max(len(key) for key in facts)
    lines = [
        f"{key.replace('_', ' '):<{width}}  {_show(key, value)}"
        for key, value in facts.items()
        if value is not None
    ]
    Console(json=json).result(facts, "\n".join(lines))


def compressed_facts(name: str, opened: BinaryIO) -> dict[str, Any]:
    """What a compressed file states. Raises CorruptStreamError."""
    from ..codec.formats import open_compressed

    compressed = open_compressed(opened)
    info = compressed.info
    frame_rate = None if info.frame_rate is None else float(info.frame_rate)
    bits = (info.codebook_size - 1).bit_length()
    return {
        "file": name,
        "format": info.format,
        "model": info.model,
        "weights_hash": info.weights_hash or None,
        "duration": info.duration,
        "sample_rate": info.original_sample_rate,
        "channels": info.channels,
        "n_samples": info.n_samples,
        "codec_sample_rate": info.sample_rate or None,
        "frame_rate": frame_rate,
        "n_codebooks": info.n_codebooks,
        "codebook_size": info.codebook_size,
        "entropy_coder": info.entropy_coder,
        "synthetic": info.synthetic if info.format == "myna" else None,
        "bytes": Path(name).stat().st_size,
        "bitrate": compressed.bitrate(),
        "bitrate_before_entropy_coding": (
            None if frame_rate is None else info.streams * info.n_codebooks * bits * frame_rate
        ),
    }


def audio_facts(name: str, listen: bool = True) -> dict[str, Any]:
    """What a recording's header states and, if asked to `listen`, whether it is speech of ours. Raises InputError."""
    from ..data.audio import AudioReader

    n_bytes = Path(name).stat().st_size
    with AudioReader(name) as reader:
        info = reader.info
    duration = None if info.n_frames is None else info.n_frames / info.sample_rate
    return {
        "file": name,
        "format": info.format,
        "subtype": info.subtype,
        "duration": duration,
        "sample_rate": info.sample_rate,
        "channels": info.channels,
        "n_samples": info.n_frames,
        "bytes": n_bytes,
        "bitrate": 8 * n_bytes / duration if duration else None,
        **(synthetic_facts(name) if listen else {}),
    }


def synthetic_facts(name: str) -> dict[str, Any]:
    """Whether a recording says that it is synthetic, in its tags and by the watermark in its sound."""
    from ..data.audio import AudioReader
    from ..marks.search import listen
    from ..marks.tags import is_synthetic

    with AudioReader(name) as reader:
        tags, mark = reader.info.tags, listen(reader)
    return {
        "comment": tags.get("comment") or None,
        "synthetic_tag": is_synthetic(tags),
        "watermark": mark.found,
        "watermark_confidence": round(mark.confidence, 3),
        "watermark_prominence": round(mark.prominence, 2),
        "watermark_seconds": round(mark.seconds, 2),
    }


def _is_compressed(name: str, opened: BinaryIO) -> bool:
    """By its suffix or, whatever it is called, by its first bytes."""
    head = opened.read(6)
    opened.seek(0)
    return Path(name).suffix.lower() in COMPRESSED or head[1:5] == b"MYNA" or head[:4] == b"ECDC"


def _show(key: str, value: Any) -> str:
    if key == "duration":
        return f"{value:.3f} s"
    if key == "bytes":
        return f"{value} ({size(value)})"
    if key.startswith("bitrate"):
        return f"{value / 1000:.2f} kbps"
    if key.endswith("sample_rate"):
        return f"{value} Hz"
    if key == "watermark":
        return "found: myna said this" if value else "not found"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g} Hz" if key == "frame_rate" else str(value)
