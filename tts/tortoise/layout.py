"""The published checkpoints' names of weights, and ours; dimensions read off the shapes.

TorToise's files are flat state dictionaries of `torch.save`, vocoder.pth one level down. The autoregressive one has 60
buffers besides, which older versions of transformers saved with GPT-2 and no model needs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ...codec.adapters.weights import fold_weight_norm
from .model.autoregressive import Autoregressive, AutoregressiveConfig
from .model.classifier import Classifier, ClassifierConfig
from .model.clvp import CLVP, HEAD_DIM, CLVPConfig
from .model.diffusion_decoder import DiffusionDecoder, DiffusionDecoderConfig
from .model.hifigan import HiFiGAN, HiFiGANConfig
from .model.random_latents import RandomLatents, RandomLatentsConfig
from .model.univnet import UnivNet, UnivNetConfig

Weights = Mapping[str, Tensor]
Rules = tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]  # (pattern, replacement), in order


@dataclass(frozen=True)
class Layout:
    """How one network's published file is laid out.

    rules: from their names to ours.   surplus: a pattern of names that hold nothing a model needs.   transposed: a
    pattern of our names whose matrices were kept the other way around.   normed: weights are in two parts, length and
    direction.   inside: the key under which the weights lie.
    """

    config: type
    model: Callable[[Any], nn.Module]
    dimensions: Callable[[Weights], Any]  # of our names
    rules: Rules
    surplus: str | None = None
    transposed: str | None = None
    normed: bool = False
    inside: str | None = None

    def translate(self, weights: Weights) -> dict[str, Tensor]:
        """Weights under our names; what no rule knows keeps its own."""
        if self.normed:
            weights = fold_weight_norm(weights)
        ours = {}
        for name, value in weights.items():
            if self.surplus and re.fullmatch(self.surplus, name):
                continue
            for pattern, replacement in self.rules:
                name = re.sub(pattern, replacement, name)
            if self.transposed and re.fullmatch(self.transposed, name):
                value = value.T
            ours[name] = value
        return ours


_ATTENTION: Rules = (
    (r"\.proj_out\.", ".out."),
    (r"\.relative_pos_embeddings\.relative_attention_bias\.", ".relative."),
)
_RESIDUAL: Rules = (
    (r"\.in_layers\.0\.", ".norm1."),
    (r"\.in_layers\.2\.", ".conv1."),
    (r"\.out_layers\.0\.", ".norm2."),
    (r"\.out_layers\.3\.", ".conv2."),
    (r"\.emb_layers\.1\.", ".time."),
)


def _count(weights: Weights, pattern: str) -> int:
    """Layers: one more than the largest number in the place of the group, 0 where there is none."""
    found = (re.match(pattern, name) for name in weights)
    return max((int(match[1]) + 1 for match in found if match), default=0)


def _autoregressive(w: Weights) -> AutoregressiveConfig:
    width = w["code_embedding.weight"].shape[1]
    return AutoregressiveConfig(
        depth=_count(w, r"blocks\.(\d+)\."),
        width=width,
        n_heads=max(1, width // 64),
        n_mels=w["voice_encoder.conv.weight"].shape[1],
        n_encoder_blocks=_count(w, r"voice_encoder\.blocks\.(\d+)\."),
        n_text_tokens=w["text_embedding.weight"].shape[0] - 1,
        max_text_tokens=w["text_positions.weight"].shape[0] - 2,
        n_codes=w["code_embedding.weight"].shape[0] - 2,
        max_codes=w["code_positions.weight"].shape[0] - 4,
    )


def _clvp(w: Weights) -> CLVPConfig:
    return CLVPConfig(
        width=w["text.embedding.weight"].shape[1],
        latent=w["text.to_latent.weight"].shape[0],
        depth=_count(w, r"text\.layers\.(\d+)\."),
        n_heads=w["text.layers.0.q.weight"].shape[0] // HEAD_DIM,
        n_text_tokens=w["text.embedding.weight"].shape[0],
        n_codes=w["speech.embedding.weight"].shape[0],
    )


def _diffusion(w: Weights) -> DiffusionDecoderConfig:
    return DiffusionDecoderConfig(
        channels=w["input.weight"].shape[0],
        depth=_count(w, r"layers\.(\d+)\.attention\."),
        n_mels=w["input.weight"].shape[1],
        latent=w["latent_conditioner.0.weight"].shape[1],
        n_heads=w["latent_conditioner.1.relative.weight"].shape[1],
        n_tokens=w["token_input.embedding.weight"].shape[0],
    )


def _univnet(w: Weights) -> UnivNetConfig:
    channels, noise, _ = w["input.weight"].shape
    n_blocks, n_convs = _count(w, r"blocks\.(\d+)\."), _count(w, r"blocks\.0\.convs\.(\d+)\.")
    return UnivNetConfig(
        n_mels=w["blocks.0.predictor.input.weight"].shape[1],
        noise_channels=noise,
        channels=channels,
        dilations=tuple(3**i for i in range(n_convs)),
        strides=tuple(w[f"blocks.{i}.up.weight"].shape[2] // 2 for i in range(n_blocks)),
        predictor_channels=w["blocks.0.predictor.input.weight"].shape[0],
    )


def _hifigan(w: Weights) -> HiFiGANConfig:
    channels, latent, _ = w["input.weight"].shape
    kernels = tuple(w[f"ups.{i}.weight"].shape[2] for i in range(_count(w, r"ups\.(\d+)\.")))
    n_residuals = _count(w, r"residuals\.0\.(\d+)\.")
    return HiFiGANConfig(
        latent=latent,
        voice=w["voice.weight"].shape[1],
        channels=channels,
        factors=tuple(kernel // 2 for kernel in kernels),
        kernels=kernels,
        residual_kernels=tuple(w[f"residuals.0.{j}.plain.0.weight"].shape[2] for j in range(n_residuals)),
    )


def _random(w: Weights) -> RandomLatentsConfig:
    return RandomLatentsConfig(channels=w["out.weight"].shape[0], depth=_count(w, r"layers\.(\d+)\."))


def _classifier(w: Weights) -> ClassifierConfig:
    embedding = w["head.weight"].shape[1]
    return ClassifierConfig(
        channels=w["input.weight"].shape[0],
        depth=_count(w, r"levels\.(\d+)\.") // 3,
        kernel=w["levels.0.conv1.weight"].shape[2],
        embedding=embedding,
        n_attention=_count(w, r"attention\.(\d+)\."),
        n_heads=max(1, embedding // 128),
        n_classes=w["head.weight"].shape[0],
    )


def _pair(match: re.Match[str]) -> str:
    return f"layers.{int(match[1]) // 2}"


_RANDOM = Layout(RandomLatentsConfig, RandomLatents, _random, ((r"^layers\.5\.", "out."),))

LAYOUTS: dict[str, Layout] = {
    "autoregressive": Layout(
        AutoregressiveConfig,
        Autoregressive,
        _autoregressive,
        (
            (r"^conditioning_encoder\.init\.", "voice_encoder.conv."),
            (r"^conditioning_encoder\.attn\.", "voice_encoder.blocks."),
            *_ATTENTION,
            (r"^mel_(embedding|head)\.", r"code_\1."),
            (r"^text_pos_embedding\.emb\.", "text_positions."),
            (r"^mel_pos_embedding\.emb\.", "code_positions."),
            (r"^gpt\.h\.", "blocks."),
            (r"\.ln_([12])\.", r".norm\1."),
            (r"\.attn\.c_attn\.", ".qkv."),
            (r"\.attn\.c_proj\.", ".out."),
            (r"\.mlp\.c_fc\.", ".up."),
            (r"\.mlp\.c_proj\.", ".down."),
            (r"^gpt\.ln_f\.", "norm."),
        ),
        surplus=r"gpt\.h\.\d+\.attn\.(bias|masked_bias)",
        transposed=r"blocks\.\d+\.(qkv|out|up|down)\.weight",
    ),
    "clvp": Layout(
        CLVPConfig,
        CLVP,
        _clvp,
        (
            (r"^(text|speech)_emb\.", r"\1.embedding."),
            (r"^to_(text|speech)_latent\.", r"\1.to_latent."),
            (r"^(text|speech)_transformer\.transformer\.", r"\1."),
            # Attention and feed-forward layers are counted through, and are one layer here.
            (
                r"\.attn_layers\.layers\.(\d+)\.0\.0\.g$",
                lambda m: f".{_pair(m)}.norm{int(m[1]) % 2 + 1}.weight",
            ),
            (r"\.attn_layers\.layers\.(\d+)\.1\.wrap\.to_", lambda m: f".{_pair(m)}."),
            (r"\.attn_layers\.layers\.(\d+)\.1\.wrap\.net\.0\.proj\.", lambda m: f".{_pair(m)}.gate_up."),
            (r"\.attn_layers\.layers\.(\d+)\.1\.wrap\.net\.3\.", lambda m: f".{_pair(m)}.down."),
        ),
        surplus=r"\w+_transformer\.transformer\.attn_layers\.rotary_pos_emb\.inv_freq",
    ),
    "diffusion": Layout(
        DiffusionDecoderConfig,
        DiffusionDecoder,
        _diffusion,
        (
            *_ATTENTION,
            *_RESIDUAL,
            (r"^inp_block\.", "input."),
            (r"^time_embed\.", "time.layers."),
            (r"^unconditioned_embedding$", "unconditioned"),
            (r"^code_norm\.", "condition_norm."),
            (r"^integrating_conv\.", "integrate."),
            (r"^contextual_embedder\.", "voice_encoder."),
            (r"^conditioning_timestep_integrator\.", "integrator."),
            (r"\.resblk\.", ".residual."),
            (r"\.attn\.", ".attention."),
            (r"^code_embedding\.", "token_input.embedding."),
            (r"^code_converter\.", "token_input.blocks."),
            (r"^mel_head\.", "token_input.mel_head."),
        ),
    ),
    "univnet": Layout(
        UnivNetConfig,
        UnivNet,
        _univnet,
        (
            (r"^conv_pre\.", "input."),
            (r"^conv_post\.1\.", "output."),
            (r"^res_stack\.", "blocks."),
            (r"\.convt_pre\.1\.", ".up."),
            (r"\.conv_blocks\.(\d+)\.1\.", r".convs.\1."),
            (r"\.kernel_predictor\.", ".predictor."),
            (r"\.input_conv\.0\.", ".input."),
            (r"\.residual_convs\.(\d+)\.1\.", r".residuals.\1.0."),
            (r"\.residual_convs\.(\d+)\.3\.", r".residuals.\1.1."),
            (r"\.kernel_conv\.", ".kernels."),
            (r"\.bias_conv\.", ".biases."),
        ),
        normed=True,
        inside="model_g",
    ),
    "random-autoregressive": _RANDOM,
    "random-diffusion": _RANDOM,
    "hifigan": Layout(
        HiFiGANConfig,
        HiFiGAN,
        _hifigan,
        (
            (r"^conv_pre\.", "input."),
            (r"^cond_layer\.", "voice."),
            (r"^conv_post\.", "output."),
            # Three blocks after every upsampling.
            (r"^resblocks\.(\d+)\.", lambda m: f"residuals.{int(m[1]) // 3}.{int(m[1]) % 3}."),
            (r"\.convs1\.", ".dilated."),
            (r"\.convs2\.", ".plain."),
        ),
        normed=True,
    ),
    "classifier": Layout(
        ClassifierConfig,
        Classifier,
        _classifier,
        (
            *_ATTENTION,
            *_RESIDUAL,
            (r"^enc\.init\.0\.", "input."),
            (r"^enc\.res\.", "levels."),
            (r"\.op\.", "."),
            (r"^enc\.final\.", "output."),
            (r"^enc\.attn\.", "attention."),
        ),
    ),
}
