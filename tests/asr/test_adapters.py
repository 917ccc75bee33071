"""Random models in every format: written by the packages that define it, read by us, and the same logits come out."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
import pytest
import torch
import whisper
from ctranslate2.converters.transformers import WhisperLoader
from myna.asr.adapters.ctranslate2 import VERSIONS, _Reader
from myna.asr.model.alignment_heads import find_heads, published_heads
from myna.asr.model.registry import load_whisper
from myna.asr.model.tokenizer import Tokenizer
from myna.asr.model.whisper import Whisper, WhisperDims
from myna.asr.vocabularies import read_vocabulary, vocabulary_for
from safetensors.torch import save_file
from torch import Tensor
from transformers import WhisperConfig, WhisperForConditionalGeneration
from whisper.model import ModelDimensions

HEADS = {"n_audio_head": 2, "n_text_head": 4}  # not those that the width would suggest
SHAPES = {
    # English; distilled, with a decoder of its own depth; large-v3's mels and languages.
    "english": {"n_mels": 80, "n_vocab": 51864, "n_audio_layer": 2, "n_text_layer": 2, **HEADS},
    "distilled": {"n_mels": 80, "n_vocab": 51865, "n_audio_layer": 3, "n_text_layer": 1, **HEADS},
    "large-v3": {"n_mels": 128, "n_vocab": 51866, "n_audio_layer": 1, "n_text_layer": 2, **HEADS},
}
WIDTH, FRAMES, CONTEXT = 32, 40, 12


def dims_of(shape: str) -> dict[str, int]:
    return {
        **SHAPES[shape],
        "n_audio_ctx": FRAMES // 2,
        "n_audio_state": WIDTH,
        "n_text_ctx": CONTEXT,
        "n_text_state": WIDTH,
    }


def openai_model(shape: str) -> whisper.model.Whisper:
    """openai-whisper's own class, weights drawn at random, rounded to float16 as published ones are."""
    torch.manual_seed(0)
    model = whisper.model.Whisper(ModelDimensions(**dims_of(shape)))
    for parameter in model.parameters():
        parameter.data = (torch.randn_like(parameter) * 0.2).half().float()
    return model.eval()


def hf_model(shape: str) -> WhisperForConditionalGeneration:
    """transformers' own class."""
    torch.manual_seed(0)
    dims = dims_of(shape)
    config = WhisperConfig(
        vocab_size=dims["n_vocab"],
        num_mel_bins=dims["n_mels"],
        d_model=WIDTH,
        encoder_layers=dims["n_audio_layer"],
        decoder_layers=dims["n_text_layer"],
        encoder_attention_heads=dims["n_audio_head"],
        decoder_attention_heads=dims["n_text_head"],
        encoder_ffn_dim=4 * WIDTH,
        decoder_ffn_dim=4 * WIDTH,
        max_source_positions=dims["n_audio_ctx"],
        max_target_positions=CONTEXT,
    )
    model = WhisperForConditionalGeneration(config)
    for name, parameter in model.named_parameters():
        if "encoder.embed_positions" not in name:
            parameter.data = (torch.randn_like(parameter) * 0.2).half().float()
    return model.eval()


def inputs(shape: str) -> tuple[Tensor, Tensor]:
    """mel (2, M, FRAMES) and tokens (2, 5)."""
    generator = torch.Generator().manual_seed(1)
    mel = torch.randn(2, SHAPES[shape]["n_mels"], FRAMES, generator=generator)
    return mel, torch.randint(SHAPES[shape]["n_vocab"], (2, 5), generator=generator)


def check(model: Whisper, shape: str, expected: Tensor) -> None:
    """Dimensions, vocabulary, dtype, and the logits (2, 5, V)."""
    assert model.dims == WhisperDims(**dims_of(shape))
    assert model.vocabulary == vocabulary_for(model.dims.n_vocab)
    assert not model.training
    assert all(v.dtype == torch.float32 and v.is_contiguous() for v in model.state_dict().values())
    assert len({v.untyped_storage().data_ptr() for v in model.state_dict().values()}) == len(
        model.state_dict()
    )
    mel, tokens = inputs(shape)
    with torch.inference_mode():
        logits = model.all_logits(tokens, model.init_state(model.encode(mel)))
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


def same_weights(a: Whisper, b: Whisper) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


# OpenAI


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("shape", SHAPES)
def test_openai_checkpoints(shape: str, dtype: torch.dtype, tmp_path):
    theirs = openai_model(shape)
    weights = {key: value.to(dtype) for key, value in theirs.state_dict().items()}
    path = tmp_path / "mine.pt"
    torch.save({"dims": dims_of(shape), "model_state_dict": weights}, path)
    # The encoder's positions are float32 in the one and float16 in the other, as in the published files.
    theirs.load_state_dict({key: value.float() for key, value in weights.items()})
    model = load_whisper(path)
    assert model.name == "mine"
    mel, tokens = inputs(shape)
    with torch.inference_mode():
        check(model, shape, theirs(mel, tokens))


def test_openai_checkpoints_of_an_old_torch(tmp_path):
    theirs = openai_model("english")
    package = {"dims": dims_of("english"), "model_state_dict": theirs.state_dict()}
    torch.save(package, tmp_path / "zip.pt")
    torch.save(package, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert same_weights(load_whisper(tmp_path / "zip.pt"), load_whisper(tmp_path / "old.pt"))


# Hugging Face


@pytest.mark.parametrize("shape", SHAPES)
def test_hugging_face_folders(shape: str, tmp_path):
    theirs = hf_model(shape)
    theirs.save_pretrained(tmp_path)
    mel, tokens = inputs(shape)
    with torch.inference_mode():
        expected = theirs(input_features=mel, decoder_input_ids=tokens).logits
    check(load_whisper(tmp_path), shape, expected)
    check(load_whisper(tmp_path / "model.safetensors"), shape, expected)


def test_hugging_face_shards_and_torch_files(tmp_path):
    theirs = hf_model("english")
    for folder, size in (("one", "1GB"), ("shards", "1MB")):
        theirs.save_pretrained(tmp_path / folder, max_shard_size=size)
    one, shards = load_whisper(tmp_path / "one"), load_whisper(tmp_path / "shards")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    assert same_weights(one, shards)

    config = (tmp_path / "one" / "config.json").read_text()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "config.json").write_text(config)
    torch.save(theirs.state_dict(), tmp_path / "bin" / "pytorch_model.bin")  # with the tied projection
    assert same_weights(one, load_whisper(tmp_path / "bin"))

    (tmp_path / "bins").mkdir()
    (tmp_path / "bins" / "config.json").write_text(config)
    keys = [key for key in theirs.state_dict() if key != "proj_out.weight"]
    files = {key: f"pytorch_model-0000{1 + i % 2}-of-00002.bin" for i, key in enumerate(keys)}
    for file in set(files.values()):
        part = {key: theirs.state_dict()[key] for key in keys if files[key] == file}
        torch.save(part, tmp_path / "bins" / file)
    index = tmp_path / "bins" / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": files}))
    assert same_weights(one, load_whisper(tmp_path / "bins"))


def test_the_bare_model_in_half_precision_without_a_configuration(tmp_path):
    theirs = hf_model("english").model  # no head, no "model." before the names
    weights = {key: value.half().contiguous() for key, value in theirs.state_dict().items()}
    wide = torch.cat([weights["encoder.conv1.bias"]] * 2)
    save_file(weights, tmp_path / "model.safetensors")
    assert len(wide) == 64  # one head where nothing else is said
    with pytest.raises(Exception, match="None heads"):
        load_whisper(tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(
        json.dumps({"encoder_attention_heads": 2, "decoder_attention_heads": 4, "model_type": "whisper"})
    )
    model = load_whisper(tmp_path / "model.safetensors")
    assert model.dims == WhisperDims(**dims_of("english"))
    assert all(
        torch.equal(model.decoder.state_dict()[ours], theirs.decoder.state_dict()[key].half().float())
        for ours, key in (
            ("blocks.1.cross_attn.key.weight", "layers.1.encoder_attn.k_proj.weight"),
            ("blocks.0.mlp.2.bias", "layers.0.fc2.bias"),
            ("ln.weight", "layer_norm.weight"),
        )
    )


def test_heads_stated_by_hugging_face(tmp_path):
    hf_model("english").save_pretrained(tmp_path)
    for stated, expected in (
        ([[0, 3], [1, 1]], ((0, 3), (1, 1))),
        ([[9, 0]], tuple((1, head) for head in range(4))),  # a teacher's, which this one does not have
        ("all", tuple((1, head) for head in range(4))),
        (None, tuple((1, head) for head in range(4))),
    ):
        (tmp_path / "generation_config.json").write_text(json.dumps({"alignment_heads": stated}))
        assert load_whisper(tmp_path).alignment_heads == expected


# CTranslate2

QUANTIZATIONS = [
    None,
    "float16",
    "bfloat16",
    "int8",
    "int8_float16",
    "int8_bfloat16",
    "int8_float32",
    "int16",
]


def as_characters(vocabulary: tuple[bytes, ...]) -> list[str]:
    """Tokens as GPT-2 writes them, by transformers."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    characters = bytes_to_unicode()
    return ["".join(characters[byte] for byte in token) for token in vocabulary]


def all_tokens(n_vocab: int) -> list[str]:
    multilingual = n_vocab > 51864
    theirs = whisper.tokenizer.get_encoding(
        "multilingual" if multilingual else "gpt2", n_vocab - 51765 - multilingual
    )
    vocabulary = read_vocabulary("multilingual" if multilingual else "english")
    special = [theirs.decode([i]) for i in range(len(vocabulary), n_vocab)]
    return as_characters(vocabulary) + special


def save_ctranslate2(theirs: WhisperForConditionalGeneration, folder: Path, quantization: str | None) -> None:
    """By the converter's own specification of the format."""
    spec = WhisperLoader().get_model_spec(theirs)
    n_vocab = theirs.config.vocab_size
    spec.register_vocabulary(all_tokens(n_vocab))
    spec.config.add_attribute("alignment_heads", [[0, 1]])
    spec.validate()
    spec.optimize(quantization)
    folder.mkdir(exist_ok=True)
    spec.save(str(folder))


@pytest.mark.parametrize(
    ("shape", "quantization"),
    [("english", q) for q in QUANTIZATIONS]
    + [(s, q) for s in ("distilled", "large-v3") for q in (None, "int8")],
)
def test_ctranslate2_folders_of_every_precision(shape: str, quantization: str | None, tmp_path):
    theirs = hf_model(shape)
    save_ctranslate2(theirs, tmp_path, quantization)
    model = load_whisper(tmp_path)
    assert model.alignment_heads == ((0, 1),)
    mel, tokens = inputs(shape)
    tokenizer = Tokenizer(model.vocabulary, model.dims.n_vocab)
    tokens[:, 3], tokens[:, 4] = (
        tokenizer.sot,
        tokenizer.no_timestamps,
    )  # without these it refuses to generate

    reader = ctranslate2.models.Whisper(str(tmp_path), compute_type="float32", intra_threads=1)
    encoded = np.array(reader.encode(ctranslate2.StorageView.from_array(mel.numpy())))
    with torch.inference_mode():
        features = model.encode(mel)
        torch.testing.assert_close(features, torch.from_numpy(encoded), atol=1e-3, rtol=1e-3)
        logits = model.all_logits(tokens, model.init_state(features))
    generated = reader.generate(
        ctranslate2.StorageView.from_array(encoded),
        tokens.tolist(),
        beam_size=1,
        max_length=tokens.shape[1] + 1,
        suppress_blank=False,
        suppress_tokens=[],
        return_logits_vocab=True,
    )
    # After the last token of the prompt: the format knows no other way to the logits.
    last = np.stack([np.array(row.logits[0][0]).reshape(-1) for row in generated])
    text = slice(0, len(model.vocabulary or ()))  # it holds timestamps back by itself
    torch.testing.assert_close(logits[:, -1, text], torch.from_numpy(last)[:, text], atol=2e-3, rtol=2e-3)
    if quantization is None:
        mel, tokens = inputs(shape)
        with torch.inference_mode():
            check(model, shape, theirs(input_features=mel, decoder_input_ids=tokens).logits)


def test_the_real_tiny_en():
    model = load_whisper("tiny.en")
    assert model.dims == WhisperDims(80, 1500, 384, 6, 4, 51864, 448, 384, 6, 4)
    assert model.vocabulary == read_vocabulary("english")
    assert model.alignment_heads == published_heads("tiny.en")


def test_vocabularies_beside_the_weights(tmp_path):
    theirs = hf_model("distilled")
    save_ctranslate2(theirs, tmp_path / "ct2", "int8")
    tokens = all_tokens(51865)
    tokens[100], tokens[50256 - 1] = tokens[50256 - 1], tokens[100]  # unlike the one that ships
    expected = [*read_vocabulary("multilingual")]
    expected[100], expected[50256 - 1] = expected[50256 - 1], expected[100]

    (tmp_path / "ct2" / "vocabulary.json").write_text(json.dumps(tokens))
    assert load_whisper(tmp_path / "ct2").vocabulary == tuple(expected)
    (tmp_path / "ct2" / "vocabulary.json").unlink()
    for ending in ("", "\n"):
        # The empty token of multilingual models is a blank line.
        (tmp_path / "ct2" / "vocabulary.txt").write_bytes(("\n".join(tokens) + ending).encode())
        assert load_whisper(tmp_path / "ct2").vocabulary == tuple(expected)

    theirs.save_pretrained(tmp_path / "hf")
    ids = {token: i for i, token in enumerate(tokens[:50258])}
    (tmp_path / "hf" / "vocab.json").write_text(json.dumps(ids))
    assert load_whisper(tmp_path / "hf").vocabulary == tuple(expected)
    (tmp_path / "hf" / "vocab.json").unlink()
    end = {"id": ids.pop("<|endoftext|>"), "content": "<|endoftext|>"}
    tokenizer = {"model": {"vocab": ids}, "added_tokens": [end]}
    (tmp_path / "hf" / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert load_whisper(tmp_path / "hf").vocabulary == tuple(expected)
    (tmp_path / "hf" / "tokenizer.json").unlink()
    assert load_whisper(tmp_path / "hf").vocabulary == read_vocabulary("multilingual")


# Layouts of model.bin that no converter writes any more.


def string(text: str) -> bytes:
    return struct.pack("<H", len(text.encode()) + 1) + text.encode() + b"\0"


def model_bin(
    variables: dict[str, np.ndarray], aliases: dict[str, str], version: int = 6, **other: Any
) -> bytes:
    """What the layout says, written from it."""
    kinds = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}
    out = struct.pack("<I", version) + string(other.get("spec", "WhisperSpec"))
    out += struct.pack("<II", other.get("revision", 3), len(variables))
    for name, value in sorted(variables.items()):
        out += string(name) + struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)
        if version < 4:
            out += struct.pack("<BI", value.itemsize, value.size)
        else:
            out += struct.pack("<BI", kinds[str(value.dtype)], value.nbytes)
        out += value.tobytes()
    if version >= 3:
        out += struct.pack("<I", len(aliases))
        for alias, name in aliases.items():
            out += string(alias) + string(name)
    return out


def read(data: bytes) -> dict[str, Tensor]:
    return _Reader(data, Path("model.bin")).read()  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_of_the_layout(version: int):
    values = {
        "a/weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.array(7, dtype=np.int16),
        "c/weight": np.array([[10, -20], [127, 3]], dtype=np.int8),
        "c/weight_scale": np.array([2.0, 4.0], dtype=np.float32),
        "d/weight": np.array([[1000, -500]], dtype=np.int16),
        "e": np.zeros((0, 4), dtype=np.float32),
    }
    aliases = {"x": "a/weight", "y": "c/weight", "y_scale": "c/weight_scale"}
    found = read(model_bin(values, aliases, version))
    assert found["a/weight"].tolist() == values["a/weight"].tolist()
    assert found["b"].shape == ()
    assert int(found["b"]) == 7
    assert found["c/weight"].tolist() == [[5.0, -10.0], [31.75, 0.75]]
    assert found["d/weight"].tolist() == [[1.0, -0.5]]  # the scale of old conversions
    assert found["e"].shape == (0, 4)
    assert "c/weight_scale" not in found
    if version >= 3:
        assert found["x"] is found["a/weight"]
        assert found["y"] is found["c/weight"]


def test_convolutions_have_a_scale_a_row_and_int16_one_in_all():
    values = {
        "conv": np.arange(12, dtype=np.int8).reshape(2, 3, 2),
        "conv_scale": np.array([1.0, 2.0], dtype=np.float32),
        "linear": np.array([[512, 1024]], dtype=np.int16),
        "linear_scale": np.array(1024, dtype=np.float32),
    }
    found = read(model_bin(values, {}))
    assert found["conv"][1].tolist() == [[3.0, 3.5], [4.0, 4.5], [5.0, 5.5]]
    assert found["linear"].tolist() == [[0.5, 1.0]]


# Alignment heads


def test_the_table_of_heads_is_the_published_one():
    for name, dump in whisper._ALIGNMENT_HEADS.items():
        dims = {"tiny": (4, 6), "base": (6, 8), "small": (12, 12), "medium": (24, 16), "large": (32, 20)}
        layers, heads = (4, 20) if "turbo" in name else dims[name.split("-")[0].split(".")[0]]
        theirs = whisper.model.Whisper.__new__(whisper.model.Whisper)
        torch.nn.Module.__init__(theirs)
        theirs.dims = ModelDimensions(80, 1, 1, 1, 1, 1, 1, 1, heads, layers)
        theirs.set_alignment_heads(dump)
        indices = theirs.alignment_heads.indices().T.tolist()
        assert published_heads(name) == tuple(map(tuple, indices)), name
    assert published_heads("faster-whisper-large-v2") == published_heads("large-v2")
    assert published_heads("whisper-tiny") == published_heads("tiny")
    assert published_heads("my-own") is None


@pytest.mark.parametrize(
    ("layers", "width", "heads", "n_vocab", "name"),
    [
        ((4, 4), 384, 6, 51864, "tiny.en"),
        ((6, 6), 512, 8, 51865, "base"),
        ((12, 12), 768, 12, 51864, "small.en"),
        ((24, 24), 1024, 16, 51865, "medium"),
        ((32, 32), 1280, 20, 51866, "large-v3"),
        ((32, 4), 1280, 20, 51866, "large-v3-turbo"),
        ((32, 32), 1280, 20, 51865, None),  # large-v1 or large-v2
        ((32, 2), 1280, 20, 51866, None),  # distilled
        ((12, 4), 768, 12, 51864, None),
    ],
)
def test_heads_by_name_by_dimensions_or_none(layers, width: int, heads: int, n_vocab: int, name: str | None):
    dims = WhisperDims(80, 1500, width, heads, layers[0], n_vocab, 448, width, heads, layers[1])
    assert find_heads(dims) == (published_heads(name) if name else None)
    assert find_heads(dims, [[1, 2]], "large-v2") == ((1, 2),)
    if layers == (32, 32) and n_vocab == 51865:
        assert find_heads(dims, None, "large-v1") == published_heads("large-v1")
        assert find_heads(dims, [[40, 0]], "large-v2") == published_heads("large-v2")
