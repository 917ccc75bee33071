"""Whisper as Hugging Face's transformers lays it out: a folder of

    model.safetensors, or its shards and model.safetensors.index.json; pytorch_model.bin likewise
    config.json                  for the heads; without it they have 64 channels, as in every published model
    generation_config.json       alignment_heads
    vocab.json or tokenizer.json

or a safetensors file of it, with whatever of the others is beside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...data.checkpoint import read_safetensors, read_torch
from ...errors import InputError, MissingModelError
from ..model.whisper import Whisper
from .assemble import END_OF_TEXT, assemble, read_config, text_tokens

FILES = ("model.safetensors", "pytorch_model.bin")  # the first of them that is there is read

_PARTS = {
    "self_attn.q_proj": "attn.query",
    "self_attn.k_proj": "attn.key",
    "self_attn.v_proj": "attn.value",
    "self_attn.out_proj": "attn.out",
    "self_attn_layer_norm": "attn_ln",
    "encoder_attn.q_proj": "cross_attn.query",
    "encoder_attn.k_proj": "cross_attn.key",
    "encoder_attn.v_proj": "cross_attn.value",
    "encoder_attn.out_proj": "cross_attn.out",
    "encoder_attn_layer_norm": "cross_attn_ln",
    "fc1": "mlp.0",
    "fc2": "mlp.2",
    "final_layer_norm": "mlp_ln",
}
_OTHERS = {
    "encoder.embed_positions.weight": "encoder.positional_embedding",
    "decoder.embed_positions.weight": "decoder.positional_embedding",
    "decoder.embed_tokens.weight": "decoder.token_embedding.weight",
    "encoder.layer_norm.weight": "encoder.ln_post.weight",
    "encoder.layer_norm.bias": "encoder.ln_post.bias",
    "decoder.layer_norm.weight": "decoder.ln.weight",
    "decoder.layer_norm.bias": "decoder.ln.bias",
}
_LAYER = re.compile(r"(encoder|decoder)\.layers\.(\d+)\.(.+)\.(weight|bias)")
_EMBEDDING, _PROJECTION = "decoder.embed_tokens.weight", "proj_out.weight"


def is_hugging_face(weights: Iterable[str]) -> bool:
    """Whether weights are named as those of transformers' Whisper, with or without its head."""
    return any(str(key).removeprefix("model.") == _EMBEDDING for key in weights)


def load_hugging_face_folder(folder: Path, name: str) -> Whisper:
    """The model of a folder. Raises MissingModelError without weights in it, InputError where they are damaged."""
    for file in FILES:
        path = folder / file
        index = folder / f"{file}.index.json"
        if path.is_file():
            weights = _read(path)
        elif index.is_file():
            weights, path = _read_shards(index), index
        else:
            continue
        return load_hugging_face(weights, path, name)
    raise MissingModelError(
        f"no {' or '.join(FILES)} in {folder}; give a whole folder as Hugging Face lays it out"
    )


def load_hugging_face(weights: Mapping[str, Any], path: Path, name: str) -> Whisper:
    """The model of weights that have been read; the files beside `path` complete it. Raises InputError."""
    if not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in weights.items()):
        raise InputError(f"{path} holds something other than named weights; give the checkpoint of a Whisper")
    named = {key.removeprefix("model."): value for key, value in weights.items()}
    projection = named.pop(_PROJECTION, None)  # the embedding once more
    embedding = named.get(_EMBEDDING)
    if projection is not None and embedding is not None and not torch.equal(projection, embedding):
        raise InputError(
            f"{path}: its output projection is not its embedding, as in a Whisper; give another model"
        )
    config = read_config(path.parent / "config.json")
    if config.get("model_type", "whisper") != "whisper":
        raise InputError(
            f"{path.parent} holds a model of type {config['model_type']!r}, not a Whisper; give another"
        )
    stated = read_config(path.parent / "generation_config.json").get("alignment_heads")
    return assemble(
        {_name(key): value for key, value in named.items()},
        path,
        name,
        config.get("encoder_attention_heads"),
        config.get("decoder_attention_heads"),
        stated,
        _vocabulary(path.parent),
    )


def _name(key: str) -> str:
    """OpenAI's name for a weight; the same for what neither knows, which loading then refuses."""
    if match := _LAYER.fullmatch(key):
        part, layer, where, kind = match.groups()
        return f"{part}.blocks.{layer}.{_PARTS.get(where, where)}.{kind}"
    return _OTHERS.get(key, key)


def _read(path: Path) -> Mapping[str, Any]:
    return read_safetensors(path).weights if path.suffix == ".safetensors" else read_torch(path)


def _read_shards(index: Path) -> dict[str, Any]:
    files = read_config(index).get("weight_map")
    if not isinstance(files, Mapping) or not all(isinstance(file, str) for file in files.values()):
        raise InputError(f"{index} does not say which file holds which weights; download it again")
    weights: dict[str, Any] = {}
    for file in sorted(set(files.values())):
        if Path(file).name != file:
            raise InputError(f"{index} names {file!r}, which is not in its folder; download it again")
        path = index.parent / file
        if not path.is_file():
            raise MissingModelError(f"{path} is missing, {index.name} names it; download it as well")
        weights |= _read(path)
    missing = [key for key in files if key not in weights]
    if missing:
        raise InputError(f"{index} names {missing[0]}, which no file holds; download them again")
    return weights


def _vocabulary(folder: Path) -> tuple[bytes, ...] | None:
    """The text tokens of vocab.json, else of tokenizer.json; None without either."""
    for file, inside in (("vocab.json", ()), ("tokenizer.json", ("model", "vocab"))):
        path = folder / file
        if not path.is_file():
            continue
        ids: Any = read_config(path)
        added = ids.get("added_tokens", ()) if inside else ()
        for key in inside:
            ids = ids.get(key) if isinstance(ids, Mapping) else None
        if not isinstance(ids, Mapping) or not all(isinstance(i, int) for i in ids.values()):
            raise InputError(f"{path} does not give tokens their ids; download it again")
        ids = dict(ids)
        for token in added:  # the special ones, the end of text among them
            if isinstance(token, Mapping) and token.get("content") == END_OF_TEXT:
                ids[END_OF_TEXT] = token.get("id")
        tokens = sorted(ids, key=ids.__getitem__)
        if END_OF_TEXT in ids and [ids[t] for t in tokens[: ids[END_OF_TEXT]]] != list(
            range(ids[END_OF_TEXT])
        ):
            raise InputError(f"{path} leaves out some ids before the end of text; download it again")
        return text_tokens(tokens, path)
    return None
