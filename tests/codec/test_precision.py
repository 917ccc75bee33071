"""Codecs whose products are in another precision: what is turned, and how far the sound is from float32's."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from myna.codec import precision
from myna.codec.base import Codes
from myna.codec.dac import DAC, DACConfig
from myna.codec.encodec import ENCODEC_48K, Encodec, EncodecConfig, build_encodec
from myna.codec.precision import CodecPrecision, candidates, set_precision
from myna.codec.registry import load_codec
from myna.data.audio import read_audio
from myna.errors import UsageError
from myna.kernels.int8 import int8_engine
from myna.layers import Conv1d

SPEECH = Path(__file__).parents[1] / "assets" / "speech.wav"
SMALL_DAC = DACConfig(
    encoder_dim=32, encoder_rates=(2, 4), latent_dim=64, decoder_dim=512, decoder_rates=(4, 2), n_codebooks=4
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MYNA_CACHE", str(tmp_path))
    return tmp_path


def decibels(y: torch.Tensor, exact: torch.Tensor) -> float:
    return float(10 * torch.log10((y - exact).double().square().sum() / exact.double().square().sum()))


def made(name: str) -> Any:
    torch.manual_seed(0)
    if name == "myna-24k":
        codec = load_codec(name)
        wav = torch.from_numpy(read_audio(SPEECH, 24_000, mono=True).samples)[None, :, :24_000]
        return codec, codec.encode(wav)
    codec = (Encodec() if name == "encodec" else DAC(SMALL_DAC)).eval()
    return codec, Codes(torch.randint(1024, (1, 4, 12)), 12 * codec.frame_size)


@pytest.mark.parametrize("name", ["myna-24k", "encodec", "dac"])
def test_bf16_stays_within_50_decibels_and_float32_as_it_was(name):
    codec, codes = made(name)
    exact = codec.decode(codes)
    assert set_precision(codec, "bf16") == CodecPrecision("bf16", "bf16")
    turned = [part for part in candidates(codec.decoder).values() if part.products == "bf16"]
    assert turned
    y = codec.decode(codes)
    assert not torch.equal(y, exact)
    assert decibels(y, exact) < -50
    streamed = codec.decoder_stream()
    parts = [streamed.push(codes.codes[..., :5]), streamed.push(codes.codes[..., 5:]), streamed.flush()]
    whole = torch.cat(parts, dim=-1)[..., : codes.n_samples]
    assert decibels(whole, exact[..., : whole.shape[-1]]) < -50
    assert set_precision(codec, "float32") == CodecPrecision("float32", "float32")
    assert torch.equal(codec.decode(codes), exact)


def test_a_codec_that_stores_loudness_is_measured_too():
    torch.manual_seed(0)
    seanet = replace(ENCODEC_48K.seanet, n_filters=8, dimension=16)
    codec = build_encodec(EncodecConfig(seanet=seanet, segment=48_000, normalize=True)).eval()
    assert set_precision(codec, "bf16").decoder == "bf16"


def test_codes_are_those_of_float32_unless_asked_otherwise():
    codec, _ = made("myna-24k")
    wav = torch.from_numpy(read_audio(SPEECH, 24_000, mono=True).samples)[None, :, :48_000]
    codes = codec.encode(wav, search=True).codes
    assert set_precision(codec, "auto").encoder == "float32"
    assert torch.equal(codec.encode(wav, search=True).codes, codes)
    set_precision(codec, "bf16")
    other = codec.encode(wav, search=True).codes
    first = (other[:, 0] == codes[:, 0]).double().mean()
    assert 0.8 < float(first) <= 1  # later codes follow from what the first leave over
    set_precision(codec, "float32")
    assert torch.equal(codec.encode(wav, search=True).codes, codes)


@pytest.mark.skipif(int8_engine() is None, reason="no products in 8 bits here")
def test_8_bits_are_rough():
    codec, codes = made("myna-24k")
    exact = codec.decode(codes)
    set_precision(codec, "int8")
    assert -45 < decibels(codec.decode(codes), exact) < -25


def test_what_was_measured_is_kept(cache, monkeypatch):
    codec, _ = made("dac")
    set_precision(codec, "bf16")
    turned = {name for name, part in candidates(codec.decoder).items() if part.products == "bf16"}
    (kept,) = (cache / "precision").iterdir()
    assert set(json.loads(kept.read_text())["bf16"]) == turned
    again, _ = made("dac")  # the same weights
    monkeypatch.setattr(precision, "_measured", lambda *_: pytest.fail("measured again"))
    set_precision(again, "bf16")
    assert {name for name, part in candidates(again.decoder).items() if part.products == "bf16"} == turned
    kept.write_text("not JSON")
    monkeypatch.setattr(precision, "_measured", lambda *_: [])
    once_more, _ = made("dac")
    set_precision(once_more, "bf16")
    assert all(part.products == "float32" for part in candidates(once_more.decoder).values())


def test_weights_are_left_alone():
    codec, _ = made("dac")
    before = {name: value.clone() for name, value in codec.state_dict().items()}
    set_precision(codec, "bf16")
    after = codec.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_only_large_products_inside_residual_branches():
    codec, _ = made("dac")
    for part in candidates(codec.decoder).values():
        assert isinstance(part, Conv1d)
        assert part.in_channels >= 128
        assert part.kernel_size == 7


def test_a_precision_that_there_is_not():
    codec, _ = made("encodec")
    with pytest.raises(UsageError, match="int4"):
        set_precision(codec, "int4")
