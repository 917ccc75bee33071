"""Which speech tokens a model was trained on: its file says, by the hash of their tokenizer's weights."""

from __future__ import annotations

from pathlib import Path

from ...data.checkpoint import read_safetensors
from ...errors import MissingModelError
from ..checkpoint import weights_hash
from .speech_tokens import SpeechTokenizer


def check_trained_on(path: Path, tokenizer: SpeechTokenizer) -> str:
    """The hash of the tokenizer, on which the model in the file `path` was trained. Raises MissingModelError, one line,
    where it was another, InputError for a damaged file."""
    trained_on = read_safetensors(path).metadata.get("tokens_hash", "")
    here = weights_hash(tokenizer)
    if not trained_on or here[: len(trained_on)] != trained_on:
        raise MissingModelError(
            f"{path} was trained on the tokens of {trained_on or 'an unknown tokenizer'}, the tokenizer here is "
            f"{here[:16]}; use models that were trained together"
        )
    return here
