"""`myna train`: which trainer a recipe is for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError
from .engine.recipe import read_key
from .engine.trainer import TrainingSummary


def train(recipe: str | Path, overrides: Sequence[str] = (), quiet: bool = False) -> TrainingSummary:
    """Train by a recipe (a path or the name of one that ships), or continue the run in its output folder.

    overrides: `key.subkey=value` each. Under torchrun, every process calls this. Raises MynaError with one
    line for whatever the user can mend.
    """
    kind = read_key(recipe, "kind", "codec")
    if kind in ("codec", "encodec", "dac"):
        from .models.codec_trainer import train as train_codec

        return train_codec(recipe, overrides, quiet)
    if kind in ("ar", "nar"):
        from .models.lm_trainer import train as train_lm

        return train_lm(recipe, overrides, quiet)
    if kind == "aligner":
        from .models.aligner_trainer import train as train_aligner

        return train_aligner(recipe, overrides, quiet)
    if kind == "vocoder":
        from .models.vocoder_trainer import train as train_vocoder

        return train_vocoder(recipe, overrides, quiet)
    raise InputError(
        f"recipe {recipe}: kind must be one of codec, encodec, dac, ar, nar, aligner, vocoder, got {kind!r}"
    )
