from __future__ import annotations

import pytest
import torch
from myna.tts.lm.quantize import for_inference
from myna.tts.lm.token_ar import TokenAR, TokenARConfig


@pytest.fixture(scope="module")
def token_ar() -> TokenAR:
    """Its matrices are large enough to be quantised."""
    torch.manual_seed(0)
    small = {"levels": (4, 3), "speaker": 6, "width": 128, "depth": 2, "n_heads": 2, "n_kv_heads": 1}
    net = TokenAR(TokenARConfig(**small, hidden=128, text_depth=1, context=256, extra=4)).eval()
    with torch.no_grad():
        for block in net.transformer.blocks:
            block.attention.out.weight.normal_(0, 0.1)  # pyright: ignore
    return for_inference(net)  # pyright: ignore
