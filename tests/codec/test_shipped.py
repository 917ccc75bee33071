"""The weights that ship, on real speech from people who were not in their training."""

from pathlib import Path

import numpy as np
import pytest
import torch
from myna.codec import Codes, api
from myna.codec.checkpoint import codes_hash
from myna.codec.formats.context_model import ContextModel
from myna.codec.pipeline import FILE_PACKET_SECONDS
from myna.codec.registry import load_codec
from myna.data.audio import read_audio
from myna.evaluation.measures.perceptual import pesq_wb, stoi

ROOT = Path(__file__).parents[2]
ASSETS = ROOT / "tests" / "assets"


@pytest.fixture(scope="module", params=["myna-24k-v2", "myna-24k"])
def codec(request):
    return load_codec(request.param)


def test_the_entropy_model_belongs_to_the_weights(codec):
    """Exported weights without a new entropy model would silently be packed at full size."""
    model = ContextModel.load(ROOT / "weights" / f"{codec.name}.entropy.safetensors")
    assert codes_hash(codec).startswith(model.codec_hash)
    assert len(model.codec_hash) == 16


@pytest.mark.parametrize(
    ("name", "least_pesq", "least_stoi"), [("lj.flac", 2.0, 0.88), ("speechocean.flac", 1.1, 0.82)]
)
def test_speech_survives_at_four_kbps(codec, name, least_pesq, least_stoi):
    speech = read_audio(ASSETS / name, codec.sample_rate, mono=True).samples
    codes = codec.encode(torch.from_numpy(speech)[None], search=True)
    heard = codec.decode(codes)[0].numpy()
    assert heard.shape == speech.shape
    assert pesq_wb(speech[0], heard[0], codec.sample_rate) > least_pesq
    assert stoi(speech[0], heard[0], codec.sample_rate) > least_stoi
    fewer = codec.decode(codes.keep(2))[0].numpy()
    assert 0.6 < stoi(speech[0], fewer[0], codec.sample_rate) < stoi(speech[0], heard[0], codec.sample_rate)


def test_a_recording_becomes_a_file_of_less_than_four_kbps_and_comes_back(codec):
    data = api.compress(ASSETS / "speech.wav", model=codec)
    seconds = read_audio(ASSETS / "speech.wav").samples.shape[-1] / 24_000
    assert 8 * len(data) / seconds < 0.95 * codec.bitrates[-1]  # and headers, without entropy coding more
    back = api.decompress(data, model=codec)
    wav = torch.from_numpy(read_audio(ASSETS / "speech.wav").samples)[None]
    model = ContextModel.load(ROOT / "weights" / f"{codec.name}.entropy.safetensors")
    stream = codec.packet_stream(1, codec.n_codebooks, round(FILE_PACKET_SECONDS * codec.frame_rate), model)
    codes = torch.cat([stream.push(wav), stream.flush()], dim=-1)
    whole = codec.decode(Codes(codes, wav.shape[-1]))
    np.testing.assert_allclose(back.samples, whole[0].numpy().clip(-1, 1), atol=1e-4)


def test_streams_of_20_ms_give_the_same(codec):
    wav = torch.from_numpy(read_audio(ASSETS / "lj.flac", codec.sample_rate, mono=True).samples)[
        None, :, :48_000
    ]
    whole = codec.encode(wav)
    encoder, decoder = codec.encoder_stream(), codec.decoder_stream()
    codes = [encoder.push(chunk) for chunk in wav.split(480, -1)] + [encoder.flush()]
    heard = torch.cat([decoder.push(c) for c in codes] + [decoder.flush()], -1)[..., : wav.shape[-1]]
    assert torch.equal(torch.cat(codes, -1), whole.codes)
    torch.testing.assert_close(heard, codec.decode(whole), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["lj.flac", "speechocean.flac"])
def test_the_default_keeps_more_of_speech_than_the_one_before(name):
    after, before = load_codec(), load_codec("myna-24k")
    speech = read_audio(ASSETS / name, after.sample_rate, mono=True).samples
    kept = []
    for codec in (after, before):  # 4 kbps of each before entropy coding
        heard = codec.decode(codec.encode(torch.from_numpy(speech)[None], 8, search=True))
        kept.append(stoi(speech[0], heard[0, 0].numpy(), codec.sample_rate))
    assert kept[0] > kept[1]


def test_files_of_before_are_read_as_they_were():
    """`before.myna` was made from `lj.flac` by the weights of 2026-11-21, which had 16 bits."""
    back = api.decompress(ASSETS / "before.myna")
    speech = read_audio(ASSETS / "lj.flac").samples
    assert back.samples.shape == speech.shape
    assert pesq_wb(speech[0], back.samples[0], back.sample_rate) == pytest.approx(3.025, abs=0.03)
    assert stoi(speech[0], back.samples[0], back.sample_rate) == pytest.approx(0.941, abs=0.003)
