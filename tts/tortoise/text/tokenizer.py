"""Text tokens: byte-pair encoding of words (Sennrich et al. 2016) with TorToise's 215 merges.

0 [STOP], 1 [UNK], 2 a space, 3-13 signs, 14-39 letters, 40-254 merges in their order
"""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.resources import files
from itertools import pairwise

from ....errors import InputError
from .spelling import spell

STOP, UNKNOWN, SPACE = 0, 1, 2
MAX_TOKENS = 400  # the network's positions, less start and stops
_SIGNS, _LETTERS = "!'(),-./:;?", "abcdefghijklmnopqrstuvwxyz"
_FIRST_SIGN = 3
_FIRST_LETTER = _FIRST_SIGN + len(_SIGNS)


@lru_cache(maxsize=1)
def merges() -> tuple[tuple[str, str], ...]:
    """Pairs that become one token, the first first."""
    lines = files(__name__.rpartition(".")[0]).joinpath("merges.txt").read_text("utf-8").splitlines()
    pairs = (line.split(" ") for line in lines if line and not line.startswith("#"))
    return tuple((first, second) for first, second in pairs)


@lru_cache(maxsize=1)
def vocabulary() -> dict[str, int]:
    """Token to id, without the three that are no text."""
    tokens = (*_SIGNS, *_LETTERS, *(first + second for first, second in merges()))
    return {token: _FIRST_SIGN + index for index, token in enumerate(tokens)}


@lru_cache(maxsize=1)
def _ranks() -> dict[tuple[str, str], int]:
    return {pair: rank for rank, pair in enumerate(merges())}


@lru_cache(maxsize=4096)
def _encode_word(word: str) -> tuple[int, ...]:
    parts = list(word)
    ranks = _ranks()
    while len(parts) > 1:
        best = min(pairwise(parts), key=lambda pair: ranks.get(pair, len(ranks)))
        if best not in ranks:
            break
        joined, at = [], 0
        while at < len(parts):
            if tuple(parts[at : at + 2]) == best:
                joined.append(parts[at] + parts[at + 1])
                at += 2
            else:
                joined.append(parts[at])
                at += 1
        parts = joined
    return tuple(vocabulary().get(part, UNKNOWN) for part in parts)


def tokens(text: str) -> list[int]:
    """The ids of a text, cleaned first, however many."""
    ids: list[int] = []
    for piece in re.split(r"( )", spell(text)):
        if piece == " ":
            ids.append(SPACE)
            continue
        for word in re.findall(r"\w+|[^\w\s]+", piece):
            ids += _encode_word(word)
    return ids


def encode(text: str) -> list[int]:
    """What the networks are given of a text. Raises InputError for one too long, or without anything to say."""
    ids = tokens(text)
    if not any(token >= _FIRST_LETTER for token in ids):
        raise InputError(f"there is nothing to say in {text[:40]!r}; give at least one word in English")
    if len(ids) >= MAX_TOKENS:
        raise InputError(
            f"a sentence of {len(ids)} text tokens is too long for TorToise, which reads {MAX_TOKENS - 1}; "
            "put a full stop somewhere, or a bar | where it may be cut"
        )
    return ids


def decode(ids: list[int]) -> str:
    """The text of ids, as it was cleaned."""
    tokens = {index: token for token, index in vocabulary().items()} | {SPACE: " ", STOP: "", UNKNOWN: ""}
    return "".join(tokens[index] for index in ids)
