"""`.ecdc` and `.dac` pass both ways between our command and the programs that define them, their models
drawn at random and saved in the official formats; damage is one line or a result."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from encodec import EncodecModel
from encodec import modules as encodec_modules
from encodec.compress import MODELS as PACKAGE_MODELS
from encodec.compress import compress as package_compress
from encodec.compress import decompress as package_decompress
from encodec.model import LMModel
from encodec.quantization import ResidualVectorQuantizer
from myna.codec.checkpoint import save_checkpoint
from myna.codec.dac import DAC, DAC_16K
from myna.codec.registry import convert
from myna.data.audio import read_audio, write_audio

ASSETS = Path(__file__).resolve().parents[1] / "assets"


@dataclass(frozen=True)
class Published:
    """The package's model and language model, the `.th` of each, and a recording that fits the model."""

    model: EncodecModel
    path: Path
    lm_path: Path
    recording: Path


def narrow_encodec(stereo: bool) -> EncodecModel:
    """EnCodec of either kind, narrow, with random codebooks and weights at which signals keep their size."""
    norm, causal = ("time_group_norm", False) if stereo else ("weight_norm", True)
    sizes = {"channels": 1 + stereo, "norm": norm, "causal": causal, "dimension": 16, "n_filters": 4}
    encoder, decoder = encodec_modules.SEANetEncoder(**sizes), encodec_modules.SEANetDecoder(**sizes)
    quantizer = ResidualVectorQuantizer(dimension=16, n_q=16 if stereo else 32, bins=1024)
    if stereo:
        more = {"normalize": True, "segment": 1.0, "name": "encodec_48khz"}
        model = EncodecModel(encoder, decoder, quantizer, [3.0, 6.0], 48_000, 2, **more)
    else:
        model = EncodecModel(encoder, decoder, quantizer, [1.5, 6.0], 24_000, 1, name="encodec_24khz")
    for name, parameter in model.named_parameters():
        if name.endswith("weight_g"):
            parameter.data *= 1.6 * (0.7 + 0.6 * torch.rand_like(parameter))
    return model.eval()


@torch.no_grad()
def draw_codebooks(model: EncodecModel, wav: torch.Tensor) -> None:
    """Random codebooks of the size of what they quantise, so that the codes vary."""
    latents = model.encoder(wav[None])
    mean, std = latents.mean(dim=(0, 2)), latents.std(dim=(0, 2))
    for i, layer in enumerate(model.quantizer.vq.layers):
        entries = torch.randn(1024, len(mean)) * std * 0.8**i
        layer._codebook.embed.copy_(entries if i else mean + entries)
        layer._codebook.inited.fill_(1)


def published(folder: Path, stereo: bool) -> Published:
    torch.manual_seed(0)
    model = narrow_encodec(stereo)
    # The 24 kHz language model has its published dimensions: every layer and head as in the real file.
    sizes = {"num_layers": 2, "dim": 24} if stereo else {"num_layers": 5, "dim": 200}
    lm = LMModel(model.quantizer.n_q, 1024, past_context=int(3.5 * model.frame_rate), **sizes).eval()
    for head in lm.linears:
        head.weight.data *= 4  # distributions far from flat, so that a wrong one would show
    model.get_lm_model = lambda: lm
    speech = read_audio(ASSETS / "lj.flac", model.sample_rate).samples
    start, n = model.sample_rate, int((1.2 if stereo else 0.4) * model.sample_rate) + 7
    channels = [speech[:, start + 300 * c :][:, :n] for c in range(model.channels)]
    recording = np.concatenate(channels)
    write_audio(folder / "in.wav", recording, model.sample_rate, float32=True)
    draw_codebooks(
        model, torch.from_numpy(recording / np.sqrt(np.mean(recording**2)) if stereo else recording)
    )
    torch.save(model.state_dict(), folder / "model.th")
    torch.save(lm.state_dict(), folder / "lm.th")
    return Published(model, folder / "model.th", folder / "lm.th", folder / "in.wav")


@pytest.fixture(scope="module")
def mono(tmp_path_factory) -> Published:
    return published(tmp_path_factory.mktemp("24k"), stereo=False)


@pytest.fixture(scope="module")
def stereo(tmp_path_factory) -> Published:
    return published(tmp_path_factory.mktemp("48k"), stereo=True)


def theirs(made: Published, kbps: float, use_lm: bool) -> bytes:
    """The recording's `.ecdc` as the package writes it."""
    made.model.set_target_bandwidth(kbps)
    wav = torch.from_numpy(read_audio(made.recording).samples)
    return package_compress(made.model, wav, use_lm=use_lm)


def lm_options(made: Published, use_lm: bool) -> tuple[object, ...]:
    return ("--lm-model", made.lm_path) if use_lm else ()


@pytest.mark.parametrize("use_lm", [False, True], ids=["packed", "lm"])
@pytest.mark.parametrize(("kind", "kbps"), [("mono", 1.5), ("mono", 6.0), ("stereo", 6.0)])
def test_ecdc_both_ways(request, myna, monkeypatch, tmp_path, kind, kbps, use_lm):
    made: Published = request.getfixturevalue(kind)
    monkeypatch.setitem(PACKAGE_MODELS, made.model.name, lambda: made.model)
    model, lm = ("--model", made.path), lm_options(made, use_lm)

    ours = tmp_path / "ours.ecdc"
    outcome = myna("compress", made.recording, ours, *model, "--bitrate", kbps, *lm)
    assert outcome.code == 0, outcome
    reference = tmp_path / "theirs.ecdc"
    reference.write_bytes(theirs(made, kbps, use_lm))
    if kind == "mono":  # the other kind states a loudness whose last bit may differ
        assert ours.read_bytes() == reference.read_bytes()

    n = read_audio(made.recording).samples.shape[1]
    for file in (ours, reference):
        outcome = myna("decompress", file, file.with_suffix(".wav"), *model, *lm, "--float")
        assert outcome.code == 0, outcome
        assert outcome.err == ""
        audio = read_audio(file.with_suffix(".wav"))
        expected, rate = package_decompress(file.read_bytes())
        assert audio.sample_rate == rate == made.model.sample_rate
        assert audio.samples.shape == expected.shape == (made.model.channels, n)
        assert expected.std() > 1e-3
        np.testing.assert_allclose(audio.samples, expected.numpy(), rtol=0, atol=1e-4)


def test_language_model_converted_to_our_checkpoint(myna, mono, tmp_path):
    convert(mono.lm_path, tmp_path / "lm.safetensors")
    (tmp_path / "theirs.ecdc").write_bytes(theirs(mono, 1.5, use_lm=True))
    model, lm = ("--model", mono.path), ("--lm-model", tmp_path / "lm.safetensors")
    ours = ("compress", mono.recording, tmp_path / "ours.ecdc", *model, *lm, "--bitrate", 1.5)
    assert myna(*ours).code == 0
    assert (tmp_path / "ours.ecdc").read_bytes() == (tmp_path / "theirs.ecdc").read_bytes()
    assert myna("decompress", tmp_path / "theirs.ecdc", tmp_path / "x.wav", *model, *lm).code == 0


def test_language_model_that_is_missing_or_another(myna, mono, stereo, tmp_path, monkeypatch):
    monkeypatch.setenv("MYNA_CACHE", str(tmp_path / "cache"))
    (tmp_path / "x.ecdc").write_bytes(theirs(mono, 1.5, use_lm=True))
    out = tmp_path / "out"
    out.mkdir()
    compress = ("compress", mono.recording, out / "y.ecdc", "--model", mono.path)
    decompress = ("decompress", tmp_path / "x.ecdc", out / "y.wav", "--model", mono.path)
    remedies = ("encodec-lm-24k", "myna models download encodec-lm-24k", "--lm-model")
    myna(*compress, "--lm").failed_with(4, *remedies)
    myna(*decompress).failed_with(4, *remedies)
    for command in (compress, decompress):
        myna(*command, "--lm-model", tmp_path / "no.th").failed_with(4, "no.th")
        myna(*command, "--lm-model", mono.path).failed_with(3, "model.th", "language model")
        myna(*command, "--lm-model", stereo.lm_path).failed_with(4, "encodec-lm-24k", "16 codebooks")
    assert list(out.iterdir()) == []


def test_language_model_where_none_belongs(myna, mono, tiny_model, tmp_path):
    args = ("compress", mono.recording, tmp_path / "x.myna", "--model", tiny_model)
    myna(*args, "--lm-model", mono.lm_path).failed_with(2, ".ecdc")
    args = ("compress", mono.recording, tmp_path / "x.ecdc", "--model", tiny_model)
    myna(*args, "--lm-model", mono.lm_path).failed_with(2, "encodec-24k")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def dac_path(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("dac") / "dac.safetensors"
    save_checkpoint(DAC(replace(DAC_16K, encoder_dim=4, latent_dim=32, decoder_dim=64)).eval(), path)
    return path


def stereo_recording(path: Path, rate: int, n: int) -> Path:
    speech = read_audio(ASSETS / "lj.flac", rate).samples[:, rate:]
    write_audio(path, np.concatenate([speech[:, :n], speech[:, 500 : 500 + n]]), rate)
    return path


def test_dac_both_ways(myna, dac_path, tmp_path):
    rate, n = 22_050, 15_001
    source = stereo_recording(tmp_path / "in.wav", rate, n)
    outcome = myna("compress", source, tmp_path / "x.dac", "--model", dac_path, "--bitrate", 2)
    assert outcome.code == 0, outcome

    found = np.load(tmp_path / "x.dac", allow_pickle=True)[()]
    codes, facts = found["codes"], found["metadata"]
    assert set(found) == {"codes", "metadata"}
    assert (codes.dtype, codes.shape[:2]) == (np.uint16, (2, 4))
    assert abs(codes.shape[2] - n / rate * 50) <= 1
    assert codes.max() < 1024
    assert facts["input_db"].dtype == np.float32
    assert -60 < float(facts["input_db"][0]) < 0
    assert (facts["original_length"], facts["sample_rate"], facts["channels"]) == (n, rate, 2)
    assert facts["chunk_length"] == codes.shape[2]
    assert (facts["padding"], facts["dac_version"]) == (True, "1.0.0")

    with open(tmp_path / "theirs.dac", "wb") as file:  # as the original program saves it, by this NumPy
        np.save(file, found, allow_pickle=True)
    outputs = []
    for name in ("x", "theirs"):
        outcome = myna("decompress", tmp_path / f"{name}.dac", tmp_path / f"{name}.wav", "--model", dac_path)
        assert outcome.code == 0, outcome
        audio = read_audio(tmp_path / f"{name}.wav")
        assert (audio.sample_rate, audio.samples.shape) == (rate, (2, n))
        outputs.append(audio.samples)
    assert np.array_equal(*outputs)
    assert outputs[0].std() > 1e-3


def check_damaged(myna: Callable, folder: Path, name: str, data: bytes, *options: object) -> str:
    """Decompress it: one line and exit code 3, 4 or 5 with nothing left, or a whole recording that may come
    with a note. Returns what was said."""
    (folder / name).write_bytes(data)
    out = folder / "out.wav"
    outcome = myna("decompress", folder / name, out, *options, "--float", "--force", "--quiet")
    if outcome.code:
        outcome.failed_with(outcome.code)
        assert outcome.code in (3, 4, 5), outcome
        assert not out.exists()
    else:
        samples, _ = soundfile.read(out)
        assert np.isfinite(samples).all()
        assert samples.size
        out.unlink()
    return outcome.err


def flipped(data: bytes, at: int, mask: int) -> bytes:
    return data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :]


@pytest.mark.parametrize(
    ("kind", "use_lm"), [("mono", False), ("mono", True), ("stereo", False)], ids=["24k", "24k-lm", "48k"]
)
def test_damaged_ecdc(request, myna, tmp_path, kind, use_lm):
    made: Published = request.getfixturevalue(kind)
    wav = torch.from_numpy(read_audio(made.recording).samples[:, :2000])
    made.model.set_target_bandwidth(1.5 if kind == "mono" else 3.0)
    data = package_compress(made.model, wav, use_lm=use_lm)
    options = ("--model", made.path, *lm_options(made, use_lm))
    header = data.index(b"}") + 1
    assert check_damaged(myna, tmp_path, "x.ecdc", data, *options) == ""
    for at in [*range(4, header, 4), *range(header, len(data), 9)]:
        check_damaged(myna, tmp_path, "x.ecdc", flipped(data, at, 1 << at % 8), *options)
    for n in (header - 1, header, header + 3, header + 5, len(data) - 1):
        said = check_damaged(myna, tmp_path, "x.ecdc", data[:n], *options)
        assert "damaged" in said or use_lm  # the coder's last bits may not be needed
    (tmp_path / "x.ecdc").write_bytes(flipped(data, 12, 0xFF))
    myna("decompress", tmp_path / "x.ecdc", tmp_path / "y.wav", *options).failed_with(5, "header")


@pytest.mark.parametrize("loudness", [float("nan"), float("inf"), -0.5, 1e38])
def test_ecdc_of_impossible_loudness_is_silent_and_says_so(myna, stereo, tmp_path, loudness):
    data = theirs(stereo, 3.0, use_lm=False)
    header = data.index(b"}") + 1
    changed = data[:header] + struct.pack("!f", loudness) + data[header + 4 :]
    said = check_damaged(myna, tmp_path, "x.ecdc", changed, "--model", stereo.path)
    assert "loudness cannot be" in said


def test_damaged_dac(myna, dac_path, tmp_path):
    source = stereo_recording(tmp_path / "in.wav", 22_050, 3000)
    assert myna("compress", source, tmp_path / "x.dac", "--model", dac_path, "--bitrate", 1).code == 0
    data = (tmp_path / "x.dac").read_bytes()
    model = ("--model", dac_path)
    assert check_damaged(myna, tmp_path, "y.dac", data, *model) == ""
    for at in range(6, len(data), 8):
        check_damaged(myna, tmp_path, "y.dac", flipped(data, at, 1 << at % 8), *model)
    for n in (8, 100, len(data) // 2, len(data) - 1):
        (tmp_path / "y.dac").write_bytes(data[:n])
        myna("decompress", tmp_path / "y.dac", tmp_path / "y.wav", *model).failed_with(5)


@pytest.mark.parametrize(
    ("key", "value", "word"),
    [
        ("input_db", np.float32([3e38]), "loudness"),  # a gain beyond every float
        ("input_db", np.float32([-5000]), "loudness"),
        ("padding", False, "too short"),  # chunks of a few frames leave unpadded convolutions nothing
        ("original_length", 0, "original_length"),
        ("chunk_length", 10**9, "chunk_length"),
        ("dac_version", "9.9.9", "1.0.0"),
    ],
)
def test_dac_of_impossible_facts(myna, dac_path, tmp_path, key, value, word):
    source = stereo_recording(tmp_path / "in.wav", 22_050, 3000)
    assert myna("compress", source, tmp_path / "x.dac", "--model", dac_path, "--bitrate", 1).code == 0
    content = np.load(tmp_path / "x.dac", allow_pickle=True)[()]
    content["metadata"][key] = value
    with open(tmp_path / "y.dac", "wb") as file:
        np.save(file, content, allow_pickle=True)
    myna("decompress", tmp_path / "y.dac", tmp_path / "y.wav", "--model", dac_path).failed_with(5, word)
    assert not (tmp_path / "y.wav").exists()


def test_bad_file_of_a_folder_is_named(myna, mono, tmp_path):
    data = theirs(mono, 1.5, use_lm=False)
    (tmp_path / "good.ecdc").write_bytes(data)
    (tmp_path / "bad.ecdc").write_bytes(data[:20])
    outcome = myna("decompress", tmp_path, "--model", mono.path)
    assert outcome.code == 5, outcome
    assert f"{tmp_path / 'bad.ecdc'}: " in outcome.err
    assert (tmp_path / "good_decompressed.wav").exists()
