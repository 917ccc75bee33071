"""Published checkpoints against the implementations that published them: the same weights, drawn at random
and saved in the official formats, must give the same codes and the same audio."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from encodec import EncodecModel
from encodec import modules as encodec_modules
from encodec.model import LMModel
from encodec.quantization import ResidualVectorQuantizer
from myna.codec.dac import DAC_16K, DAC_24K, DAC_44K, DAC_44K_16KBPS
from myna.codec.encodec import ENCODEC_24K, ENCODEC_48K
from myna.codec.registry import load_codec, load_encodec_lm
from myna.errors import InputError
from torch import Tensor, nn

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

ODD_LENGTHS = (1, 2, 3, 15, 319, 320, 321, 4001)


def spread(model: nn.Module, seed: int = 0, gain: float = 1.6) -> nn.Module:
    """Random weights at which signals neither vanish nor explode, so that a difference would show."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("weight_g", "original0")):
                parameter.mul_(gain * (0.7 + 0.6 * torch.rand_like(parameter)))
            elif name.endswith("alpha"):
                parameter.uniform_(0.5, 1.5)
            elif name.endswith("bias"):
                parameter.uniform_(-0.1, 0.1)
            elif name.endswith("codebook.weight"):
                parameter.normal_()
        for name, buffer in model.named_buffers():
            if name.endswith("embed"):
                buffer.normal_(0, 0.2)
            elif name.endswith("inited"):
                buffer.fill_(1)
    return model.eval()


def tiny_encodec(stereo: bool) -> EncodecModel:
    norm, causal = ("time_group_norm", False) if stereo else ("weight_norm", True)
    sizes = {"channels": 1 + stereo, "norm": norm, "causal": causal, "dimension": 16, "n_filters": 4}
    encoder, decoder = encodec_modules.SEANetEncoder(**sizes), encodec_modules.SEANetDecoder(**sizes)
    quantizer = ResidualVectorQuantizer(dimension=16, n_q=16 if stereo else 32, bins=1024)
    if stereo:
        model = EncodecModel(
            encoder, decoder, quantizer, [3.0, 6.0, 12.0, 24.0], 48_000, 2, normalize=True, segment=1.0
        )
    else:
        model = EncodecModel(encoder, decoder, quantizer, [1.5, 3.0, 6.0, 12.0, 24.0], 24_000, 1)
    return spread(model)  # pyright: ignore[reportReturnType]


def assert_parity(reference: EncodecModel, codec, wav: Tensor, bandwidth: float) -> None:
    reference.set_target_bandwidth(bandwidth)
    with torch.no_grad():
        frames = reference.encode(wav)
        codes = torch.cat([codes for codes, _ in frames], -1)
        ours = codec.encode(wav, codec.codebooks_for(1000 * bandwidth))
        assert torch.equal(ours.codes, codes)
        if frames[0][1] is not None:
            torch.testing.assert_close(ours.scale, torch.cat([scale for _, scale in frames], -1))
        audio = codec.decode(ours)
        assert audio.shape == wav.shape
        if len(frames) > 1 and frames[-2][0].shape[-1] * 320 > 47520 + frames[-1][0].shape[-1] * 320:
            return  # the reference cannot decode an end that falls inside the overlap
        expected = reference.decode(frames)[..., : wav.shape[-1]]
    torch.testing.assert_close(audio, expected, rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def encodec_24k(tmp_path_factory):
    return saved(tiny_encodec(stereo=False), tmp_path_factory)


@pytest.fixture(scope="module")
def encodec_48k(tmp_path_factory):
    return saved(tiny_encodec(stereo=True), tmp_path_factory)


def saved(reference: EncodecModel, tmp_path_factory):
    path = tmp_path_factory.mktemp("encodec") / "model.th"
    torch.save(reference.state_dict(), path)
    return reference, load_codec(path)


@pytest.mark.parametrize("bandwidth", [1.5, 3.0, 6.0, 12.0, 24.0])
def test_encodec_24k_at_every_bitrate_and_length(encodec_24k, bandwidth: float):
    for n in ODD_LENGTHS:
        torch.manual_seed(n)
        assert_parity(*encodec_24k, torch.randn(2, 1, n) * 0.3, bandwidth)


def test_the_parity_input_makes_the_model_speak(encodec_24k):
    """Codes that were all alike, or audio that was all bias, would prove little."""
    codec = encodec_24k[1]
    codes = codec.encode(torch.randn(1, 1, 32_000) * 0.3)
    assert codes.codes[:, 0].unique().numel() > 4
    assert codec.decode(codes).std() > 1e-3


@pytest.mark.parametrize("bandwidth", [3.0, 6.0, 12.0, 24.0])
def test_encodec_48k_at_every_bitrate_and_short_lengths(encodec_48k, bandwidth: float):
    for n in (1, 7, 321, 4001):
        torch.manual_seed(n)
        assert_parity(*encodec_48k, torch.randn(2, 2, n) * 0.3, bandwidth)


@pytest.mark.parametrize(
    "n", [47_519, 47_520, 47_521, 47_680, 47_681, 47_840, 47_841, 48_000, 48_001, 95_100, 143_001]
)
def test_encodec_48k_at_every_kind_of_last_segment(encodec_48k, n: int):
    torch.manual_seed(n)
    assert_parity(*encodec_48k, torch.randn(1, 2, n) * 0.3, 6.0)


@pytest.mark.parametrize("config", [ENCODEC_24K, ENCODEC_48K], ids=lambda c: c.name)
def test_full_size_encodec(config, tmp_path):
    make = EncodecModel.encodec_model_24khz if config is ENCODEC_24K else EncodecModel.encodec_model_48khz
    reference = spread(make(pretrained=False), gain=1.2)
    torch.save(reference.state_dict(), tmp_path / "full.th")
    codec = load_codec(tmp_path / "full.th")
    assert codec.config == config
    assert codec.name == config.name
    assert_parity(reference, codec, torch.randn(1, config.seanet.channels, 9001) * 0.3, 24.0)


@pytest.mark.parametrize("kind", ["24k", "48k", "32k"])
def test_hugging_face_encodec(kind: str, tmp_path):
    sizes = {"num_filters": 4, "hidden_size": 16}
    if kind == "48k":
        sizes |= {"sampling_rate": 48_000, "audio_channels": 2, "normalize": True, "chunk_length_s": 1.0}
        sizes |= {"overlap": 0.01, "norm_type": "time_group_norm", "use_causal_conv": False}
        sizes |= {"target_bandwidths": [3.0, 6.0, 12.0, 24.0]}
    if kind == "32k":  # the shape of MusicGen's
        sizes |= {"sampling_rate": 32_000, "upsampling_ratios": [8, 5, 4, 4], "pad_mode": "constant"}
        sizes |= {"use_conv_shortcut": False, "use_causal_conv": False, "target_bandwidths": [2.0]}
    reference = spread(transformers.EncodecModel(transformers.EncodecConfig(**sizes)))
    reference.save_pretrained(tmp_path)
    codec = load_codec(tmp_path)
    assert codec.name == f"encodec-{kind}"
    bandwidth = reference.config.target_bandwidths[-1]
    for n in (1, 321, 5001):
        wav = torch.randn(1, codec.channels, n) * 0.3
        with torch.no_grad():
            encoded = reference.encode(wav, bandwidth=bandwidth)
            expected = reference.decode(encoded.audio_codes, encoded.audio_scales)[0][..., :n]
        codes = codec.encode(wav, encoded.audio_codes.shape[2])
        assert torch.equal(codes.codes, encoded.audio_codes[0])
        torch.testing.assert_close(codec.decode(codes), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("name", "n_codebooks"), [("encodec-lm-24k", 32), ("encodec-lm-48k", 16)])
def test_encodec_language_model_to_the_last_bit(name: str, n_codebooks: int, tmp_path):
    """Bit for bit, step by step and past its context: the arithmetic coder needs no less."""
    torch.manual_seed(0)
    context = 262 if n_codebooks == 32 else 525
    reference = LMModel(n_codebooks, 64, num_layers=2, dim=24, past_context=context).eval()
    torch.save(reference.state_dict(), tmp_path / "lm.th")
    lm = load_encodec_lm(tmp_path / "lm.th")
    assert (lm.config.name, lm.config.past_context) == (name, context)
    previous = torch.randint(0, 65, (1, 4, context + 30))
    with torch.no_grad():
        whole = lm(previous).probabilities
        assert torch.equal(whole, reference(previous)[0])
        states, offset, state = None, 0, None
        for t in range(previous.shape[-1]):
            expected, states, offset = reference(previous[..., t : t + 1], states, offset)
            result = lm(previous[..., t : t + 1], state)
            state = result.state
            assert torch.equal(result.probabilities, expected)


DAC_SIZES = {
    "dac-16k": (DAC_16K, (2, 4, 5, 8)),
    "dac-24k": (DAC_24K, (2, 4, 5, 8)),
    "dac-44k": (DAC_44K, (2, 4, 8, 8)),
}


def tiny_dac(name: str):
    config, rates = DAC_SIZES[name]
    model = transformers.DacModel(
        transformers.DacConfig(
            encoder_hidden_size=4,
            decoder_hidden_size=32,
            downsampling_ratios=list(rates),
            n_codebooks=config.n_codebooks,
            sampling_rate=config.sample_rate,
        )
    )
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.ndim == 3 and parameter.shape[0] > 1:
            nn.init.normal_(parameter, 0, 0.6 / (parameter.shape[1] * parameter.shape[2]) ** 0.5)
    return spread(model)


def original_dac_package(model, weight_norm: bool = True) -> dict:
    """What the publisher's package holds, from Hugging Face's names."""
    n, out = len(model.config.downsampling_ratios), {}
    for key, value in model.state_dict().items():
        key = re.sub(
            r"^(encoder|decoder)\.(conv1|snake1|conv2)\.",
            lambda m: {
                "encoder": f"encoder.block.{ {'conv1': 0, 'snake1': n + 1, 'conv2': n + 2}[m[2]] }.",
                "decoder": f"decoder.model.{ {'conv1': 0, 'snake1': n + 1, 'conv2': n + 2}[m[2]] }.",
            }[m[1]],
            key,
        )
        if m := re.match(
            r"(encoder|decoder)\.block\.(\d+)\.(res_unit(\d)\.)?(snake1|conv1|snake2|conv2|conv_t1)\.(.+)",
            key,
        ):
            net = "encoder.block" if m[1] == "encoder" else "decoder.model"
            if m[3]:
                unit = int(m[4]) + (-1 if m[1] == "encoder" else 1)
                place = f"{unit}.block.{['snake1', 'conv1', 'snake2', 'conv2'].index(m[5])}"
            else:
                place = {"encoder": {"snake1": 3, "conv1": 4}, "decoder": {"snake1": 0, "conv_t1": 1}}[m[1]][
                    m[5]
                ]
            key = f"{net}.{int(m[2]) + 1}.block.{place}.{m[6]}"
        if weight_norm and key.endswith("weight") and value.ndim == 3:
            length = value.norm(dim=(1, 2), keepdim=True)
            out[key + "_g"], out[key + "_v"] = length, value * 3  # the direction's own length does not matter
        else:
            out[key] = value
    kwargs = {"encoder_dim": 4, "sample_rate": model.config.sampling_rate, "latent_dim": None}
    return {"state_dict": out, "metadata": {"kwargs": kwargs}}


@pytest.mark.parametrize("name", DAC_SIZES)
@pytest.mark.parametrize("layout", ["original", "huggingface"])
def test_dac_at_every_bitrate_and_length(name: str, layout: str, tmp_path):
    reference = tiny_dac(name)
    path = tmp_path / "weights.pth" if layout == "original" else tmp_path
    if layout == "original":
        torch.save(original_dac_package(reference), path)
    else:
        reference.save_pretrained(path)
    codec = load_codec(path)
    assert codec.sample_rate == DAC_SIZES[name][0].sample_rate
    hop = codec.frame_size
    for n_codebooks in {1, 2, codec.n_codebooks // 2, codec.n_codebooks}:
        for n in (1, hop - 1, hop, hop + 1, 7 * hop + 13):
            torch.manual_seed(n)
            wav = torch.randn(2, 1, n) * 0.3
            with torch.no_grad():
                whole = nn.functional.pad(wav, (0, -n % hop))
                codes = reference.encode(whole, n_quantizers=n_codebooks).audio_codes
                expected = reference.decode(audio_codes=codes).audio_values[:, None, :n]
            ours = codec.encode(wav, n_codebooks)
            assert torch.equal(ours.codes, codes)
            audio = codec.decode(ours)
            assert audio.shape == wav.shape
            m = expected.shape[-1]
            torch.testing.assert_close(audio[..., :m], expected, rtol=0, atol=1e-4)
            assert not audio[..., m:].any()
    assert expected.std() > 1e-3


@pytest.mark.parametrize("config", [DAC_16K, DAC_24K, DAC_44K, DAC_44K_16KBPS], ids=lambda c: c.name)
def test_published_dac_dimensions(config):
    """The parameter counts of the published models (76.65 M for 44.1 kHz)."""
    from myna.codec.dac import DAC

    with torch.device("meta"):
        count = sum(p.numel() for p in DAC(config).parameters())
    millions = {"dac-16k": 74.2, "dac-24k": 74.7, "dac-44k": 76.65, "dac-44k-16kbps": 64.2}
    assert count / 1e6 == pytest.approx(millions[config.name], abs=0.06)


def test_weights_that_do_not_fit_are_named(encodec_24k, tmp_path):
    weights = encodec_24k[0].state_dict()
    missing = {k: v for k, v in weights.items() if k != "encoder.model.4.shortcut.conv.conv.bias"}
    torch.save(missing, tmp_path / "missing.th")
    with pytest.raises(InputError, match=r"missing encoder\.layers\.4\.skip\.bias"):
        load_codec(tmp_path / "missing.th")
    torch.save({**weights, "encoder.extra": torch.zeros(1)}, tmp_path / "extra.th")
    with pytest.raises(InputError, match=r"encoder\.extra"):
        load_codec(tmp_path / "extra.th")
    torch.save({k: v for k, v in weights.items() if not k.endswith("weight_v")}, tmp_path / "half.th")
    with pytest.raises(InputError, match="incomplete"):
        load_codec(tmp_path / "half.th")


def test_hugging_face_config_that_is_not_supported(tmp_path):
    reference = transformers.EncodecModel(transformers.EncodecConfig(num_filters=4, hidden_size=16))
    reference.save_pretrained(tmp_path)
    config = json.loads(Path(tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "trim_right_ratio": 0.5}))
    with pytest.raises(InputError, match="trim_right_ratio"):
        load_codec(tmp_path)
