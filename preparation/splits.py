"""Which speakers are held out: whole ones, chosen by a hash of their names, so that nothing else decides.

A split that the layout gives holds for all that its speaker says; the most held-out one wins, so that nobody is in two.
Where no split is given, speakers are taken into test, then dev, as long as they fit into its share of the seconds, and
the one who says least if none fits. With fewer than three speakers no voice can be held out: recordings are instead.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from .options import PrepareOptions

HELD_OUT_FIRST = ("test", "dev", "train")


def assign(seconds: Mapping[str, float], given: Mapping[str, str], options: PrepareOptions) -> dict[str, str]:
    """Speakers (or recordings) and their seconds to splits.   given: splits of some of them, by the layout."""
    if set(given.values()) - {"train"}:
        return {name: given.get(name, "train") for name in seconds}
    splits = dict.fromkeys(seconds, "train")
    if len(seconds) < 3:
        return splits
    order = sorted(seconds, key=lambda name: hashlib.sha256(f"{options.seed} {name}".encode()).digest())
    total = sum(seconds.values())
    wanted = [(split, share) for split, share in (("test", options.test), ("dev", options.dev)) if share]
    for i, (split, share) in enumerate(wanted):
        free = [name for name in order if splits[name] == "train"]
        room, chosen = share * total, []
        most = len(free) - len(wanted[i:])  # someone must be left for each that comes after, and for train
        for name in free:
            if seconds[name] <= room and len(chosen) < most:
                chosen.append(name)
                room -= seconds[name]
        for name in chosen or [min(free, key=lambda name: (seconds[name], order.index(name)))]:
            splits[name] = split
    return splits


def most_held_out(one: str | None, other: str | None) -> str | None:
    """Of two splits, either of which may be unknown."""
    known = [split for split in HELD_OUT_FIRST if split in (one, other)]
    return known[0] if known else None
