"""Small networks with random weights, written as TorToise publishes its own: the files a user would have, without them.

Names of weights are turned around here by rules of their own; that they are the published ones is what
`test_parity.py` shows, where the package writes the files.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from myna.tts.tortoise.files import FILES
from myna.tts.tortoise.model.autoregressive import Autoregressive, AutoregressiveConfig
from myna.tts.tortoise.model.classifier import Classifier, ClassifierConfig
from myna.tts.tortoise.model.clvp import CLVP, CLVPConfig
from myna.tts.tortoise.model.diffusion_decoder import DiffusionDecoder, DiffusionDecoderConfig
from myna.tts.tortoise.model.hifigan import HiFiGAN, HiFiGANConfig
from myna.tts.tortoise.model.random_latents import RandomLatents, RandomLatentsConfig
from myna.tts.tortoise.model.univnet import UnivNet, UnivNetConfig
from torch import Tensor, nn

N_CODES = 300
CONFIGS: dict[str, Any] = {
    "autoregressive": AutoregressiveConfig(depth=2, width=64, n_heads=1, n_encoder_blocks=1, n_codes=N_CODES),
    "diffusion": DiffusionDecoderConfig(channels=64, depth=1, latent=64, n_heads=4, n_tokens=9),
    "clvp": CLVPConfig(width=64, latent=32, depth=2, n_heads=1, n_codes=N_CODES),
    "univnet": UnivNetConfig(noise_channels=8, channels=4, predictor_channels=8),
    "random-autoregressive": RandomLatentsConfig(64),
    "random-diffusion": RandomLatentsConfig(128),
    "hifigan": HiFiGANConfig(latent=64, voice=64, channels=32),
    "classifier": ClassifierConfig(channels=4, embedding=128, n_heads=1),
}
MODELS: dict[str, Callable[[Any], nn.Module]] = {
    "autoregressive": Autoregressive,
    "diffusion": DiffusionDecoder,
    "clvp": CLVP,
    "univnet": UnivNet,
    "random-autoregressive": RandomLatents,
    "random-diffusion": RandomLatents,
    "hifigan": HiFiGAN,
    "classifier": Classifier,
}
_ATTENTION = (
    (r"(blocks|conditioner|encoder|converter|attention|attn)\.(\d+)\.out\.", r"\1.\2.proj_out."),
    (r"\.attention\.out\.", ".attention.proj_out."),
    (r"\.relative\.", ".relative_pos_embeddings.relative_attention_bias."),
)
_TO_PUBLISHED: dict[str, tuple[tuple[str, Any], ...]] = {
    "autoregressive": (
        (r"^(blocks\.\d+)\.norm", r"gpt.\1.ln_"),
        (r"^(blocks\.\d+)\.qkv", r"gpt.\1.attn.c_attn"),
        (r"^(blocks\.\d+)\.out", r"gpt.\1.attn.c_proj"),
        (r"^(blocks\.\d+)\.up", r"gpt.\1.mlp.c_fc"),
        (r"^(blocks\.\d+)\.down", r"gpt.\1.mlp.c_proj"),
        (r"^gpt\.blocks", "gpt.h"),
        *_ATTENTION,
        (r"^voice_encoder\.conv", "conditioning_encoder.init"),
        (r"^voice_encoder\.blocks", "conditioning_encoder.attn"),
        (r"^code_(embedding|head)", r"mel_\1"),
        (r"^(text|code)_positions", r"\1_pos_embedding.emb"),
        (r"^code_pos", "mel_pos"),
        (r"^norm\.", "gpt.ln_f."),
    ),
    "diffusion": (
        *_ATTENTION,
        (r"\.norm1\.", ".in_layers.0."),
        (r"\.conv1\.", ".in_layers.2."),
        (r"\.norm2\.", ".out_layers.0."),
        (r"\.conv2\.", ".out_layers.3."),
        (r"(residual|layers\.\d+)\.time\.", r"\1.emb_layers.1."),
        (r"\.residual\.", ".resblk."),
        (r"\.attention\.", ".attn."),
        (r"^time\.layers", "time_embed"),
        (r"^input", "inp_block"),
        (r"^unconditioned$", "unconditioned_embedding"),
        (r"^condition_norm", "code_norm"),
        (r"^integrate\.", "integrating_conv."),
        (r"^integrator", "conditioning_timestep_integrator"),
        (r"^voice_encoder", "contextual_embedder"),
        (r"^token_input\.embedding", "code_embedding"),
        (r"^token_input\.blocks", "code_converter"),
        (r"^token_input\.mel_head", "mel_head"),
    ),
    "clvp": (
        (r"^(text|speech)\.embedding", r"\1_emb"),
        (r"^(text|speech)\.to_latent", r"to_\1_latent"),
        (r"^(text|speech)\.norm", r"\1_transformer.transformer.norm"),
        (r"^(text|speech)\.layers", r"\1_transformer.transformer.attn_layers.layers"),
        (r"\.(\d+)\.norm([12])\.weight", lambda m: f".{2 * int(m[1]) + int(m[2]) - 1}.0.0.g"),
        (r"layers\.(\d+)\.(q|k|v|out)\.", lambda m: f"layers.{2 * int(m[1])}.1.wrap.to_{m[2]}."),
        (r"\.(\d+)\.gate_up", lambda m: f".{2 * int(m[1]) + 1}.1.wrap.net.0.proj"),
        (r"\.(\d+)\.down", lambda m: f".{2 * int(m[1]) + 1}.1.wrap.net.3"),
    ),
    "univnet": (
        (r"\.predictor\.input", ".kernel_predictor.input_conv.0"),
        (r"\.predictor\.residuals\.(\d+)\.0", r".kernel_predictor.residual_convs.\1.1"),
        (r"\.predictor\.residuals\.(\d+)\.1", r".kernel_predictor.residual_convs.\1.3"),
        (r"\.predictor\.kernels", ".kernel_predictor.kernel_conv"),
        (r"\.predictor\.biases", ".kernel_predictor.bias_conv"),
        (r"\.up\.", ".convt_pre.1."),
        (r"\.convs\.(\d+)\.", r".conv_blocks.\1.1."),
        (r"^input", "conv_pre"),
        (r"^output", "conv_post.1"),
        (r"^blocks", "res_stack"),
    ),
    "random-autoregressive": ((r"^out", "layers.5"),),
    "random-diffusion": ((r"^out", "layers.5"),),
    "hifigan": (
        (r"^residuals\.(\d+)\.(\d+)", lambda m: f"resblocks.{3 * int(m[1]) + int(m[2])}"),
        (r"\.dilated\.", ".convs1."),
        (r"\.plain\.", ".convs2."),
        (r"^input", "conv_pre"),
        (r"^voice", "cond_layer"),
        (r"^output", "conv_post"),
    ),
    "classifier": (
        *_ATTENTION,
        (r"^input", "enc.init.0"),
        (r"^(levels\.\d+)\.(weight|bias)", r"\1.op.\2"),
        (r"^levels", "enc.res"),
        (r"\.norm1\.", ".in_layers.0."),
        (r"\.conv1\.", ".in_layers.2."),
        (r"\.norm2\.", ".out_layers.0."),
        (r"\.conv2\.", ".out_layers.3."),
        (r"^output", "enc.final"),
        (r"^attention", "enc.attn"),
    ),
}


def network(name: str, seed: int = 0) -> nn.Module:
    """A small network with random weights."""
    generator = torch.Generator().manual_seed(seed)
    model = MODELS[name](CONFIGS[name])
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
            if "norm" in key and key.endswith("weight"):
                parameter.add_(1)
        if isinstance(model, Autoregressive):
            model.code_head.bias[model.config.stop_code] = 3.0  # so that sentences end
    return model.eval()


def weights(name: str, model: nn.Module) -> dict[str, Tensor]:
    """A network's weights under their published names, in their published form."""
    found: dict[str, Tensor] = {}
    for ours, value in model.state_dict().items():
        key = ours
        for pattern, replacement in _TO_PUBLISHED[name]:
            key = re.sub(pattern, replacement, key)
        value = value.detach().clone()
        if name == "autoregressive" and re.search(r"gpt\.h.*(c_\w+)\.weight", key):
            value = value.T.contiguous()
        if name in ("univnet", "hifigan") and value.ndim == 3 and key != "cond_layer.weight":
            stem = key.removesuffix("weight")
            found[f"{stem}weight_g"] = value.flatten(1).norm(dim=1)[:, None, None]
            found[f"{stem}weight_v"] = value
            continue
        found[key] = value
    if name == "autoregressive":  # what old versions of transformers saved besides
        for layer in range(model.config.depth):  # pyright: ignore
            found[f"gpt.h.{layer}.attn.bias"] = torch.ones(1, 1, 9, 9, dtype=torch.uint8)
            found[f"gpt.h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    if name == "clvp":
        for side in ("text", "speech"):
            found[f"{side}_transformer.transformer.attn_layers.rotary_pos_emb.inv_freq"] = torch.ones(16)
    return found


def write(folder: Path, names: tuple[str, ...] = tuple(CONFIGS)) -> Path:
    """All files in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names):
        said: Any = weights(name, network(name, index))
        torch.save({"model_g": said} if name == "univnet" else said, folder / FILES[name].name)
    return folder
