"""Codes to bytes and back: `.myna`, EnCodec's `.ecdc`, DAC's `.dac`.

Reading, any format, from a file or a pipe:

>>> with open("speech.myna", "rb") as file:
...     compressed = open_compressed(file)
...     codec = load_codec(compressed.info.model)
...     for packet in compressed.packets():     # packet.codes: (S, K, T), as soon as they have arrived
...         ...
...     for damage in compressed.damage: print(damage)

Writing `.myna`, to a file or a pipe:

>>> writer = MynaWriter(file, header_for(codec, n_codebooks=8, original_sample_rate=44100, channels=2))
>>> writer.push(codes)                          # (S, K, t), any t: a packet leaves as soon as it is full
>>> writer.close(n_samples)                     # exact length at the original rate

A lower bitrate, or a stretch of time, out of a file without decoding: `cut(source, destination,
n_codebooks=4)`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO

from ...errors import InputError
from . import dac_file, ecdc, header
from .base import CompressedFile, Damage, FileInfo, Packet
from .container import MynaFile, MynaWriter, cut, header_for, read_some
from .dac_file import DacContent, DacFile, read_dac, write_dac
from .ecdc import EcdcFile, EcdcWriter, LanguageModel
from .header import Header

_SIGNATURES = {"myna": header.MAGIC, "ecdc": ecdc.MAGIC, "dac": dac_file.MAGIC}
SNIFF_BYTES = max(len(signature) for signature in _SIGNATURES.values())


def sniff(first_bytes: bytes) -> str | None:
    """ "myna", "ecdc" or "dac" by the first SNIFF_BYTES bytes of a file; None for anything else."""
    for name, signature in _SIGNATURES.items():
        if first_bytes.startswith(signature):
            return name
    return None


def open_compressed(
    file: BinaryIO, load_lm: Callable[[str], LanguageModel] | None = None, prefix: bytes = b""
) -> CompressedFile:
    """Open a compressed file of any format, seekable or not.

    load_lm: gives EnCodec's language model for a registry name, asked only by an `.ecdc` that was written
    with it.
    prefix: bytes that were already read from `file` (to sniff).
    Raises InputError when it is none of the formats, CorruptStreamError when its header is damaged.
    """
    while len(prefix) < SNIFF_BYTES and (more := read_some(file, SNIFF_BYTES - len(prefix))):
        prefix += more
    kind = sniff(prefix)
    if kind == "myna":
        return MynaFile(file, prefix)
    if kind == "ecdc":
        return EcdcFile(file, prefix, load_lm)
    if kind == "dac":
        return DacFile(file, prefix)
    what = "it is empty" if not prefix else "it begins like none of .myna, .ecdc and .dac"
    raise InputError(f"not a compressed file: {what}; to compress a recording use `myna compress`")


__all__ = [
    "SNIFF_BYTES",
    "CompressedFile",
    "DacContent",
    "DacFile",
    "Damage",
    "EcdcFile",
    "EcdcWriter",
    "FileInfo",
    "Header",
    "LanguageModel",
    "MynaFile",
    "MynaWriter",
    "Packet",
    "cut",
    "header_for",
    "open_compressed",
    "read_dac",
    "sniff",
    "write_dac",
]
