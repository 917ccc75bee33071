"""Whisper's two vocabularies, for checkpoints that carry none (OpenAI's `.pt`).

The bytes of every token, by id: `english` of GPT-2 (models named *.en), `multilingual` of all others. A file is their
lengths, one byte each, then the tokens themselves, all deflated; made from the `.tiktoken` files of openai-whisper
20250625 (MIT, see LICENSE here), of which ranks and ids are the same.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

N_ENGLISH = 50256  # tokens of text; ids from there on are special
N_MULTILINGUAL = 50257  # the last of them empty


def vocabulary_for(n_vocab: int) -> tuple[bytes, ...] | None:
    """The vocabulary of a published model by the rows of its embedding; None for any other number."""
    if n_vocab == 51864:
        return read_vocabulary("english")
    return read_vocabulary("multilingual") if n_vocab in (51865, 51866) else None


@lru_cache(maxsize=2)
def read_vocabulary(name: str) -> tuple[bytes, ...]:
    """The bytes of each token of "english" or "multilingual"."""
    packed = zlib.decompress((Path(__file__).parent / f"{name}.vocab").read_bytes())
    return unpack(packed, N_ENGLISH if name == "english" else N_MULTILINGUAL)


def pack(vocabulary: Sequence[bytes]) -> bytes:
    """The lengths, then the tokens. Raises ValueError for a token of more than 255 bytes."""
    return bytes(len(token) for token in vocabulary) + b"".join(vocabulary)


def unpack(packed: bytes, n_tokens: int) -> tuple[bytes, ...]:
    """What `pack` made. Raises ValueError if the bytes are not those of so many tokens."""
    lengths = packed[:n_tokens]
    if len(lengths) < n_tokens or n_tokens + sum(lengths) != len(packed):
        raise ValueError(f"{len(packed)} bytes are not a vocabulary of {n_tokens} tokens")
    tokens, at = [], n_tokens
    for length in lengths:
        tokens.append(packed[at : at + length])
        at += length
    return tuple(tokens)
