"""The package tortoise-tts 3.0.0 as a reference, beside today's torch and transformers, on random weights.

Installed with `pip install --no-deps tortoise-tts==3.0.0` (its own pins are of 2023) and einops,
rotary-embedding-torch, inflect, unidecode, librosa. Two modules that transformers has dropped are replaced by empty
ones, and torchaudio where it is absent: none of them is run.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from typing import Any

import pytest
import torch
from torch import nn


def module(name: str) -> Any:
    """A module of the reference; skips where it is not installed."""
    if importlib.util.find_spec("tortoise") is None:
        pytest.skip("tortoise-tts is not installed: pip install --no-deps tortoise-tts==3.0.0")
    parallel = types.ModuleType("transformers.utils.model_parallel_utils")
    parallel.get_device_map = parallel.assert_device_map = None  # pyright: ignore
    typical = types.ModuleType("tortoise.utils.typical_sampling")
    typical.TypicalLogitsWarper = None  # pyright: ignore
    stand_ins = [parallel, typical]
    if importlib.util.find_spec("torchaudio") is None:
        importlib.import_module("transformers")  # which looks for torchaudio itself
        stand_ins.append(types.ModuleType("torchaudio"))
    sys.modules.update({stand_in.__name__: stand_in for stand_in in stand_ins})
    try:
        return importlib.import_module(f"tortoise.{name}")
    except ImportError as error:
        pytest.skip(f"the reference cannot be imported: {error}")
    finally:
        for stand_in in stand_ins:
            del sys.modules[stand_in.__name__]


def randomise(model: nn.Module, seed: int = 0, deviation: float = 0.1) -> Any:
    """Every parameter random: several begin as zeros, which would hide what follows them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator) * deviation
            parameter.copy_(1 + noise if name.endswith("weight_g") else noise)
    model.eval()
    return model


def autoregressive(**changes: Any) -> Any:
    """A small UnifiedVoice."""
    settings = {
        "layers": 2,
        "model_dim": 128,
        "heads": 2,
        "max_text_tokens": 20,
        "max_mel_tokens": 30,
        "max_conditioning_inputs": 2,
        "number_text_tokens": 255,
        "start_text_token": 255,
        "checkpointing": False,
        "train_solo_embeddings": False,
    }
    return randomise(module("models.autoregressive").UnifiedVoice(**(settings | changes)))


def diffusion(**changes: Any) -> Any:
    settings = {
        "model_channels": 128,
        "num_layers": 2,
        "in_channels": 20,
        "out_channels": 40,
        "in_latent_channels": 48,
        "in_tokens": 65,
        "num_heads": 4,
        "layer_drop": 0,
        "unconditioned_percentage": 0,
    }
    return randomise(module("models.diffusion_decoder").DiffusionTts(**(settings | changes)))


def clvp() -> Any:
    return randomise(
        module("models.clvp").CLVP(
            dim_text=64,
            dim_speech=64,
            dim_latent=64,
            num_text_tokens=256,
            text_enc_depth=2,
            text_seq_len=350,
            text_heads=2,
            num_speech_tokens=300,
            speech_enc_depth=2,
            speech_heads=2,
            speech_seq_len=430,
            use_xformers=True,
        )
    )


def univnet() -> Any:
    generator = module("models.vocoder").UnivNetGenerator(noise_dim=8, channel_size=4, n_mel_channels=10)
    return randomise(generator)


def hifigan(channels: int = 32) -> Any:
    generator = module("models.hifigan_decoder").HifiganGenerator(
        in_channels=channels,
        out_channels=1,
        resblock_type="1",
        resblock_dilation_sizes=[[1, 3, 5]] * 3,
        resblock_kernel_sizes=[3, 7, 11],
        upsample_kernel_sizes=[16, 16, 4, 4],
        upsample_initial_channel=channels,
        upsample_factors=[8, 8, 2, 2],
        cond_channels=channels,
    )
    return randomise(generator)


def random_latents(channels: int = 32) -> Any:
    return randomise(module("models.random_latent_generator").RandomLatentConverter(channels))


def classifier() -> Any:
    return randomise(
        module("models.classifier").AudioMiniEncoderWithClassifierHead(
            2,
            spec_dim=1,
            embedding_dim=512,
            depth=5,
            downsample_factor=4,
            resnet_blocks=2,
            attn_blocks=4,
            num_attn_heads=4,
            base_channels=32,
            dropout=0,
            kernel_size=5,
            distribute_zero_label=False,
        )
    )
