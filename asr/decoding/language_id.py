"""Which language is spoken: what the model expects after the start of a transcript (Radford et al. 2022,
section 2.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import UsageError
from ..model.whisper import Whisper
from .prompts import tokenizer_of


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
        found.append((max(codes, key=by_code.__getitem__), by_code))
    return found
