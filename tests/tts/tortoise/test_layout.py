"""The networks at their published dimensions have as many tensors and numbers as the published files."""

from __future__ import annotations

import pytest
import torch
from myna.tts.tortoise.layout import LAYOUTS
from myna.tts.tortoise.model.random_latents import RandomLatentsConfig

PUBLISHED = {
    "autoregressive": (410, 421_526_786),
    "diffusion": (359, 292_334_380),
    "clvp": (451 - 2, 243_846_177 - 2 * 16),  # without two tables of rotary frequencies
    "univnet": (132, 14_865_506),
    "random-autoregressive": (12, 6_297_600),
    "random-diffusion": (12, 25_178_112),
    "hifigan": (236, 17_844_226),
    "classifier": (122, 15_224_002),
}


@pytest.mark.parametrize("network", LAYOUTS)
def test_the_dimensions_are_the_published_ones(network):
    layout = LAYOUTS[network]
    config = RandomLatentsConfig(2048) if network == "random-diffusion" else layout.config()
    with torch.device("meta"):
        weights = layout.model(config).state_dict()
    assert layout.dimensions(weights) == config  # and can be read off the shapes
    # Weight normalisation keeps a length beside every direction; the voice's convolution has none.
    lengths = [w.shape[0] for name, w in weights.items() if w.ndim == 3 and not name.startswith("voice")]
    lengths = lengths if layout.normed else []
    numbers = sum(w.numel() for w in weights.values()) + sum(lengths)
    assert (len(weights) + len(lengths), numbers) == PUBLISHED[network]
