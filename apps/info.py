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
    json: bool = typer.Option(False, "--json", help="Print the facts as JSON."),
) -> None:
    """Say what is inside a file, without decoding it."""
    with input_errors(file):
        opened = open(file, "rb")  # noqa: SIM115 (closed by the next line)
    with opened:
        facts = compressed_facts(file, opened) if _is_compressed(file, opened) else audio_facts(file)
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
        "bytes": Path(name).stat().st_size,
        "bitrate": compressed.bitrate(),
        "bitrate_before_entropy_coding": (
            None if frame_rate is None else info.streams * info.n_codebooks * bits * frame_rate
        ),
    }


def audio_facts(name: str) -> dict[str, Any]:
    """What a recording's header states. Raises InputError."""
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
    return f"{value:g} Hz" if key == "frame_rate" else str(value)
