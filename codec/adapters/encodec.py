"""EnCodec's checkpoints: the original `.th`, Hugging Face's safetensors, and the language model's `.th`.

Original                                    Hugging Face                        here
encoder.model.0.conv.conv.weight_g          encoder.layers.0.conv.weight_g      encoder.layers.0.weight
encoder.model.1.block.1.conv.conv.weight_v  encoder.layers.1.block.1.conv...    encoder.layers.1.body...
encoder.model.1.shortcut.conv.conv.bias     encoder.layers.1.shortcut.conv...   encoder.layers.1.skip.bias
decoder.model.3.convtr.norm.weight          decoder.layers.3.norm.weight        decoder.layers.3.layers.1...
quantizer.vq.layers.0._codebook.embed       quantizer.layers.0.codebook.embed   quantizer.codebooks.0.embed
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ...data.checkpoint import load_strictly
from ...errors import InputError
from ..encodec import ENCODEC_24K, ENCODEC_48K, Encodec, EncodecConfig, build_encodec
from ..encodec_lm import ENCODEC_LM_24K, ENCODEC_LM_48K, EncodecLM, EncodecLMConfig
from ..seanet import SEANetConfig
from .weights import fold_weight_norm

_NETWORK = re.compile(r"(encoder|decoder)\.(?:model|layers)\.(\d+)\.(?:block\.(\d+)\.|(shortcut)\.)?(.+)")
_CODEBOOK = re.compile(r"quantizer\.(?:vq\.)?layers\.(\d+)\._?codebook\.(\w+)")
_CONV = re.compile(r"(?:conv\.conv|convtr\.convtr|conv)\.(weight|bias)")
_NORM = re.compile(r"(?:conv\.|convtr\.)?norm\.(weight|bias)")


def is_encodec(keys: Mapping[str, Any]) -> bool:
    """Whether the keys are an EnCodec's, original or Hugging Face."""
    return any(_CODEBOOK.fullmatch(key) for key in keys)


def is_encodec_lm(keys: Mapping[str, Any]) -> bool:
    """Whether the keys are those of EnCodec's language model."""
    return "transformer.norm_in.weight" in keys and "emb.0.weight" in keys


def adapt_encodec(
    weights: Mapping[str, Tensor], path: str | Path, hf_config: Mapping[str, Any] | None = None
) -> Encodec:
    """The model of a checkpoint, on the CPU, ready to run.

    Dimensions are read off the weights. What they cannot tell (rate, padding, segments) comes from
    `hf_config`, Hugging Face's config.json, or else is that of the published model with the same
    normalisation.
    Raises InputError for weights that do not fit, or a config that asks for what is not supported.
    """
    folded = fold_weight_norm(weights)
    grouped = any(_NORM.fullmatch(found[5]) for key in folded if (found := _NETWORK.fullmatch(key)))
    renamed = {_rename(key, grouped, path): value for key, value in folded.items()}
    model = build_encodec(_config(renamed, grouped, hf_config, path))
    load_strictly(model, renamed, path)
    return model.eval()  # pyright: ignore[reportReturnType]


def _rename(key: str, grouped: bool, path: str | Path) -> str:
    if found := _CODEBOOK.fullmatch(key):
        return f"quantizer.codebooks.{found[1]}.{found[2]}"
    found = _NETWORK.fullmatch(key)
    if not found:
        raise InputError(f"{path}: {key} is no part of an EnCodec; give an EnCodec checkpoint")
    net, index, inner, shortcut, rest = found.groups()
    stem = f"{net}.layers.{index}."
    stem += f"body.layers.{inner}." if inner else "skip." if shortcut else ""
    if part := _CONV.fullmatch(rest):
        return f"{stem}layers.0.{part[1]}" if grouped else stem + part[1]
    if part := _NORM.fullmatch(rest):
        return f"{stem}layers.1.{part[1]}"
    return stem + rest  # the LSTM


def _config(
    weights: Mapping[str, Tensor], grouped: bool, hf: Mapping[str, Any] | None, path: str | Path
) -> EncodecConfig:
    """Dimensions from renamed weights."""
    try:
        conv = ".layers.0" if grouped else ""
        first = weights[f"encoder.layers.0{conv}.weight"]
        last_index = max(int(key.split(".")[2]) for key in weights if key.startswith("encoder.layers."))
        last = weights[f"encoder.layers.{last_index}{conv}.weight"]
        ups, blocks = [], 0
        for index in range(1, last_index):
            if f"decoder.layers.{index}.body.layers.1{conv}.weight" in weights:
                blocks += 1
            elif f"decoder.layers.{index}{conv}.weight" in weights:
                ups.append(weights[f"decoder.layers.{index}{conv}.weight"].shape[-1] // 2)
        inner = weights[f"encoder.layers.1.body.layers.1{conv}.weight"]
        n_codebooks = sum(key.endswith(".embed") for key in weights)
        codebook_size = weights["quantizer.codebooks.0.embed"].shape[0]
        published = ENCODEC_48K if grouped else ENCODEC_24K
        hf = hf or {}
        if hf.get("trim_right_ratio", 1.0) != 1.0 or hf.get("pad_mode", "reflect") not in (
            "reflect",
            "constant",
        ):
            raise InputError(f"{path}: only trim_right_ratio 1 with reflect or constant padding is supported")
        rate = int(hf.get("sampling_rate", published.sample_rate))
        segment = hf.get("chunk_length_s", published.segment and published.segment / published.sample_rate)
        return EncodecConfig(
            name=f"encodec-{rate // 1000}k",
            sample_rate=rate,
            seanet=SEANetConfig(
                channels=first.shape[1],
                dimension=last.shape[0],
                n_filters=first.shape[0],
                n_residual_layers=max(1, blocks // max(1, len(ups))),
                ratios=tuple(ups),
                kernel_size=first.shape[-1],
                last_kernel_size=last.shape[-1],
                residual_kernel_size=inner.shape[-1],
                dilation_base=int(hf.get("dilation_growth_rate", 2)),
                compress=inner.shape[1] // inner.shape[0],
                true_skip=f"encoder.layers.1.skip{conv}.weight" not in weights,
                n_lstm=sum(".lstm.weight_ih_l" in key for key in weights if key.startswith("encoder.")),
                causal=bool(hf.get("use_causal_conv", published.seanet.causal)),
                pad_mode=hf.get("pad_mode", "reflect"),
                norm="time_group_norm" if grouped else "none",
            ),
            n_codebooks=n_codebooks,
            codebook_size=codebook_size,
            segment=int(segment * rate) if segment else None,
            overlap=hf.get("overlap") or published.overlap,
            normalize=bool(hf.get("normalize", published.normalize)),
        )
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        raise InputError(
            f"{path}: an EnCodec checkpoint without {error}: it is incomplete, download it again"
        ) from None


def adapt_encodec_lm(weights: Mapping[str, Tensor], path: str | Path) -> EncodecLM:
    """EnCodec's language model from its `.th`. Attention reaches 3.5 s back: 75 or 150 frames a second are
    told apart by the number of codebooks (32 and 16)."""
    try:
        n_codebooks = sum(key.startswith("emb.") for key in weights)
        published = ENCODEC_LM_48K if n_codebooks == ENCODEC_LM_48K.n_codebooks else ENCODEC_LM_24K
        vocabulary, width = weights["emb.0.weight"].shape
        config = EncodecLMConfig(
            name=published.name,
            n_codebooks=n_codebooks,
            codebook_size=vocabulary - 1,
            width=width,
            n_layers=1
            + max(int(key.split(".")[2]) for key in weights if key.startswith("transformer.layers.")),
            hidden=weights["transformer.layers.0.linear1.weight"].shape[0],
            past_context=published.past_context,
        )
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: an EnCodec language model without {error}: download it again") from None
    model = EncodecLM(config)
    load_strictly(model, weights, path)
    return model.eval()
