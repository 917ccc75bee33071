"""`myna train`: which trainer a recipe is for."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from ..errors import InputError
from .engine.recipe import read_key
from .engine.trainer import TrainingSummary

# The module of training.models for each kind of recipe; imported where it is asked for.
TRAINERS = {
    "codec": "codec_trainer",
    "encodec": "codec_trainer",
    "dac": "codec_trainer",
    "ar": "lm_trainer",
    "nar": "lm_trainer",
    "aligner": "aligner_trainer",
    "mel-vocoder": "mel_vocoder",
    "mel-codec": "mel_codec",
    "mel-nar": "mel_nar",
    "flow": "flow",
    "tokens": "tokens",
    "token-ar": "token_ar",
    "clvp": "clvp",
}


def train(recipe: str | Path, overrides: Sequence[str] = (), quiet: bool = False) -> TrainingSummary:
    """Train by a recipe (a path or the name of one that ships), or continue the run in its output folder.

    overrides: `key.subkey=value` each. Under torchrun, every process calls this. Raises MynaError with one
    line for whatever the user can mend.
    """
    kind = read_key(recipe, "kind", "codec")
    if kind not in TRAINERS:
        raise InputError(f"recipe {recipe}: kind must be one of {', '.join(TRAINERS)}, got {kind!r}")
    trainer = import_module(f".models.{TRAINERS[kind]}", __package__)
    return trainer.train(recipe, overrides, quiet)
