"""Which language is spoken: what the model expects after the start of a transcript (Radford et al. 2022,
section 2.3)."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from ...errors import UsageError
from ..model.languages import find_language
from ..model.whisper import Whisper
from .prompts import tokenizer_of


def likeliest(probabilities: Mapping[str, float], among: Collection[str] = ()) -> str:
    """The code of the likeliest language, among some by code or name; none: all. Raises UsageError for one that Whisper
    does not know."""
    codes = list(map(find_language, among)) or probabilities
    return max(codes, key=lambda code: probabilities.get(code, 0.0))


@torch.inference_mode()
def detect_language(model: Whisper, features: Tensor) -> list[tuple[str, dict[str, float]]]:
    """features (B, 1500, D) -> the likeliest language of each, and the probability of every one by its code.

    Raises UsageError for a model of English alone.
    """
    if not model.dims.is_multilingual:
        raise UsageError(
            f"{model.name} knows only English and cannot tell languages; use a multilingual model"
        )
    tokenizer = tokenizer_of(model)
    start = torch.full((len(features), 1), tokenizer.sot, device=features.device)
    logits, _ = model.step(start, model.init_state(features))
    tokens = torch.tensor(tokenizer.all_language_tokens, device=features.device)
    probabilities = logits[:, tokens].softmax(1).tolist()
    codes = tokenizer.all_language_codes
    found = []
    for row in probabilities:
        by_code = dict(zip(codes, row, strict=True))
        found.append((likeliest(by_code), by_code))
    return found
