"""Which heads of a published model's cross-attention follow the words: (layer, head) pairs, as published with
openai-whisper (`_ALIGNMENT_HEADS` of its `__init__.py`). OpenAI's checkpoints do not carry them, nor do CTranslate2's
of before 2023.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .whisper import WhisperDims

Heads = tuple[tuple[int, int], ...]

# By model, "layer: heads" separated by semicolons.
_TABLE = {
    "tiny.en": "1: 0; 2: 0 5; 3: 0 1 2 3 4",
    "tiny": "2: 2; 3: 0 2 3 4 5",
    "base.en": "3: 3; 4: 7; 5: 1 5 7",
    "base": "3: 1; 4: 2 3 7; 5: 1 2 4 6",
    "small.en": "6: 6; 7: 0 3 8; 8: 2 5 7; 9: 0 4 8 10; 10: 0 1 2 3 6 11; 11: 2 4",
    "small": "5: 3 9; 8: 0 4 7 8; 9: 0 7 9; 10: 5",
    "medium.en": "11: 4; 14: 1 12 14; 15: 4; 16: 0 4 9; 17: 12 14; 18: 7 10 15; 20: 0 3 9 14; 21: 12",
    "medium": "13: 15; 15: 4 15; 16: 1; 20: 0; 23: 4",
    "large-v1": "9: 19; 11: 2 4 17; 22: 7 11 17; 23: 2 15",
    "large-v2": "10: 12; 13: 17; 16: 11 12 13; 17: 15 16; 18: 4 11 19; 19: 11; 21: 2 3; 22: 3 9 12; "
    "23: 5 7 13; 25: 5; 26: 1 12; 27: 15",
    "large-v3": "7: 0; 10: 17; 12: 18; 13: 12; 16: 1; 17: 14; 19: 11; 21: 4; 24: 1; 25: 6",
    "large-v3-turbo": "2: 4 11; 3: 3 6 11 14",
}

# Encoder layers, decoder layers, width and ids of the models that no other shares these with (large-v1 and v2 do).
_UNIQUE = {
    (4, 4, 384, 51864): "tiny.en",
    (4, 4, 384, 51865): "tiny",
    (6, 6, 512, 51864): "base.en",
    (6, 6, 512, 51865): "base",
    (12, 12, 768, 51864): "small.en",
    (12, 12, 768, 51865): "small",
    (24, 24, 1024, 51864): "medium.en",
    (24, 24, 1024, 51865): "medium",
    (32, 32, 1280, 51866): "large-v3",
    (32, 4, 1280, 51866): "large-v3-turbo",
}


def published_heads(name: str) -> Heads | None:
    """The heads of a model by its name, as OpenAI, Hugging Face or faster-whisper write it; None for any other."""
    name = name.removeprefix("faster-").removeprefix("whisper-")
    name = {"large": "large-v3", "turbo": "large-v3-turbo"}.get(name, name)
    if name not in _TABLE:
        return None
    pairs = []
    for entry in _TABLE[name].split("; "):
        layer, heads = entry.split(": ")
        pairs += [(int(layer), int(head)) for head in heads.split()]
    return tuple(pairs)


def find_heads(dims: WhisperDims, stated: Any = None, name: str | None = None) -> Heads | None:
    """The heads to use: those that the checkpoint states, else those of the model's name, else those of the only
    published model of its dimensions, else None, for what `Whisper` then takes.

    Heads that the model does not have are passed over: distilled models have been published with their teacher's.
    """
    for heads in (_pairs(stated), published_heads(name) if name else None):
        if heads and _has(dims, heads):
            return heads
    only = _UNIQUE.get((dims.n_audio_layer, dims.n_text_layer, dims.n_text_state, dims.n_vocab))
    return published_heads(only) if only and dims.n_audio_state == dims.n_text_state else None


def _has(dims: WhisperDims, heads: Sequence[tuple[int, int]]) -> bool:
    return all(0 <= layer < dims.n_text_layer and 0 <= head < dims.n_text_head for layer, head in heads)


def _pairs(stated: Any) -> Heads | None:
    """[[layer, head], ...] of a JSON file; None for anything else."""
    try:
        pairs = tuple((layer, head) for layer, head in stated)
    except (TypeError, ValueError):
        return None
    whole = all(type(layer) is int and type(head) is int for layer, head in pairs)
    return pairs if whole else None
