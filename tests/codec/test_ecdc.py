"""`.ecdc` against the `encodec` package: the same bytes and the same codes, with its language model too."""

from __future__ import annotations

import io

import pytest
import torch
from encodec import EncodecModel
from encodec.binary import read_ecdc_header
from encodec.compress import MODELS as REFERENCE_MODELS
from encodec.compress import compress, decompress
from encodec.model import LMModel
from encodec.quantization.ac import ArithmeticCoder, build_stable_quantized_cdf
from hypothesis import given, settings
from hypothesis import strategies as st
from myna.codec.encodec_lm import LMResult
from myna.codec.formats import EcdcFile, EcdcWriter, open_compressed
from myna.codec.formats.ecdc import MODELS, quantized_cdf
from myna.errors import CorruptStreamError, InputError, MissingModelError, UsageError

NAMES = {"encodec-24k": "encodec_24khz", "encodec-48k": "encodec_48khz"}


class ReferenceLM(torch.nn.Module):
    """The package's own language model behind our interface."""

    def __init__(self, model: LMModel):
        super().__init__()
        self.model = model

    def forward(self, previous, state=None):
        states, offset = state or (None, 0)
        probabilities, states, offset = self.model(previous, states, offset)
        return LMResult(probabilities, (states, offset))


@pytest.fixture(scope="module")
def models():
    """Reference codecs and language models of random weights, named like the published ones."""
    torch.manual_seed(0)
    found = {}
    for ours, make in (
        ("encodec-24k", EncodecModel.encodec_model_24khz),
        ("encodec-48k", EncodecModel.encodec_model_48khz),
    ):
        codec = make(pretrained=False).eval()
        codec.name = NAMES[ours]
        for layer in codec.quantizer.vq.layers:
            layer._codebook.embed.normal_(std=0.5)  # zeros as initialised: every code would be 0
        lm = LMModel(codec.quantizer.n_q, 1024, num_layers=1, dim=32, num_heads=4, past_context=30).eval()
        codec.get_lm_model = lambda lm=lm: lm
        found[ours] = (codec, ReferenceLM(lm).eval())
    return found


def audio(codec, seconds: float) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(codec.channels, int(seconds * codec.sample_rate)) * 0.1


@torch.inference_mode()
def reference(codec, wav, bandwidth: float, use_lm: bool):
    """(file bytes, segments) of the encodec package."""
    codec.set_target_bandwidth(bandwidth)
    return compress(codec, wav, use_lm=use_lm), codec.encode(wav[None])


def ours(name: str, segments, n_samples: int, lm, pieces: int | None = None) -> bytes:
    file = io.BytesIO()
    writer = EcdcWriter(file, name, n_samples, segments[0][0].shape[1], lm)
    for codes, scale in segments:
        for part in codes.split(pieces, dim=-1) if pieces else [codes]:
            writer.push(part, scale)
    writer.close()
    return file.getvalue()


CASES = [
    ("encodec-24k", 6.0, 0.31),
    ("encodec-24k", 1.5, 1.2345),
    ("encodec-48k", 6.0, 1.5),
    ("encodec-48k", 3.0, 0.992),  # the second segment is two samples beyond the overlap
]


@pytest.mark.parametrize(("name", "bandwidth", "seconds"), CASES)
@pytest.mark.parametrize("use_lm", [False, True])
def test_same_bytes_as_the_reference_and_back(models, name, bandwidth, seconds, use_lm):
    codec, lm = models[name]
    wav = audio(codec, seconds)
    data, segments = reference(codec, wav, bandwidth, use_lm)
    assert ours(name, segments, wav.shape[-1], lm if use_lm else None) == data
    opened = open_compressed(io.BytesIO(data), load_lm=lambda _: lm)
    packets = list(opened.packets())
    assert opened.damage == []
    expected = torch.cat([codes for codes, _ in segments], dim=-1)
    assert torch.equal(torch.cat([packet.codes for packet in packets], dim=-1), expected)
    if segments[0][1] is not None:
        assert [packet.scale.item() for packet in packets] == [scale.item() for _, scale in segments]
    info = opened.info
    assert (info.model, info.n_samples, info.n_codebooks) == (name, wav.shape[-1], expected.shape[1])
    assert opened.bitrate() == pytest.approx(8 * len(data) / (wav.shape[-1] / codec.sample_rate))


def test_the_reference_reads_what_we_write_with_its_language_model(models, monkeypatch):
    codec, lm = models["encodec-24k"]
    codec.set_target_bandwidth(3.0)
    wav = audio(codec, 0.5)
    with torch.inference_mode():
        segments = codec.encode(wav[None])
        expected = codec.decode(segments)[0, :, : wav.shape[-1]]
    monkeypatch.setitem(REFERENCE_MODELS, "encodec_24khz", lambda: codec)
    for use in (None, lm):
        decoded, rate = decompress(ours("encodec-24k", segments, wav.shape[-1], use))
        assert rate == 24_000
        assert torch.equal(decoded, expected)


@pytest.mark.parametrize("use_lm", [False, True])
def test_pieces_of_any_length_write_the_same(models, use_lm):
    codec, lm = models["encodec-24k"]
    _, segments = reference(codec, audio(codec, 0.7), 3.0, False)
    lm = lm if use_lm else None
    whole = ours("encodec-24k", segments, 16_800, lm)
    assert all(ours("encodec-24k", segments, 16_800, lm, pieces) == whole for pieces in (1, 3, 50))


def test_frames_are_counted_as_the_encoder_makes_them(models):
    codec, _ = models["encodec-24k"]
    codec.set_target_bandwidth(1.5)
    for n in (1, 319, 320, 321, 9600, 9601):
        with torch.inference_mode():
            ((codes, _),) = codec.encode(torch.randn(1, 1, n))
        assert list(MODELS["encodec_24khz"].segments(n)) == [codes.shape[-1]]
    assert list(MODELS["encodec_48khz"].segments(95_100)) == [150, 149, 1]


def test_distributions_are_quantised_like_the_reference():
    torch.manual_seed(3)
    probabilities = torch.softmax(4 * torch.randn(1024, 5), dim=0)
    found = quantized_cdf(probabilities)
    for k in range(5):
        assert torch.equal(found[:, k], build_stable_quantized_cdf(probabilities[:, k], 24, check=True))


def small_file(models, use_lm: bool, name: str = "encodec-24k"):
    codec, lm = models[name]
    wav = audio(codec, 0.05)
    data, segments = reference(codec, wav, 3.0, use_lm)
    return data, segments[0][0], lm


@pytest.mark.parametrize(
    ("name", "use_lm"), [("encodec-24k", False), ("encodec-24k", True), ("encodec-48k", False)]
)
def test_damage_and_truncation_at_every_byte(models, name, use_lm):
    data, codes, lm = small_file(models, use_lm, name)
    variants = [(data[:n], True) for n in range(len(data))]
    for at in range(len(data)):
        for mask in (0x01, 0x80, 0xFF):
            changed = bytearray(data)
            changed[at] ^= mask
            variants.append((bytes(changed), False))
    for variant, truncated in variants:
        try:
            opened = open_compressed(io.BytesIO(variant), load_lm=lambda _: lm)
            packets = list(opened.packets())
        except (CorruptStreamError, InputError) as error:
            assert "\n" not in str(error)  # noqa: PT017
            continue
        for packet in packets:
            assert ((packet.codes >= 0) & (packet.codes < 1024)).all()
            assert torch.isfinite(packet.scale).all() if packet.scale is not None else True
        if truncated:  # what is whole is given, and nothing else
            found = torch.cat([packet.codes for packet in packets], dim=-1) if packets else codes[..., :0]
            assert opened.damage or found.shape == codes.shape
            assert torch.equal(found, codes[..., : found.shape[-1]])


@given(st.binary(max_size=120))
@settings(max_examples=100, deadline=None)
def test_arbitrary_bytes(junk):
    header = b'ECDC\0\0\0\0\x36{"m": "encodec_24khz", "al": 4000, "nc": 4, "lm": false}'
    header = header[:5] + (len(header) - 9).to_bytes(4, "big") + header[9:]
    packets = list(open_compressed(io.BytesIO(header + junk)).packets())
    assert sum(packet.codes.shape[-1] for packet in packets) == min(8 * len(junk) // 40, 13)
    for start in (b"ECDC" + junk, b"ECDC\0\0\0\0" + junk):
        with pytest.raises(CorruptStreamError):
            open_compressed(io.BytesIO(start))


def facts(text: str) -> io.BytesIO:
    return io.BytesIO(b"ECDC\0" + len(text).to_bytes(4, "big") + text.encode())


def test_a_billion_frames_cost_nothing():
    opened = open_compressed(facts('{"m": "encodec_24khz", "al": 320000000000, "nc": 32, "lm": false}'))
    assert list(opened.packets()) == []
    assert "end" in str(opened.damage[0])


@pytest.mark.parametrize(
    "text",
    [
        '{"m": "encodec_24khz", "al": 1e9, "nc": 32, "lm": false}',
        '{"m": "encodec_24khz", "al": -1, "nc": 32, "lm": false}',
        '{"m": "encodec_24khz", "al": true, "nc": 32, "lm": false}',
        '{"m": "encodec_24khz", "al": 1, "nc": 33, "lm": false}',
        '{"m": "encodec_24khz", "al": 1, "nc": 0, "lm": false}',
        '{"m": "encodec_24khz", "al": 1, "nc": 1, "lm": 0}',
        '{"m": ["encodec_24khz"], "al": 1, "nc": 1, "lm": false}',
        '{"m": "encodec_16khz", "al": 1, "nc": 1, "lm": false}',
        '{"al": 1, "nc": 1, "lm": false}',
        "[" * 4000,
        "[]",
        "{}",
    ],
)
def test_impossible_facts_are_refused(text):
    with pytest.raises(CorruptStreamError):
        open_compressed(facts(text))


def test_a_missing_language_model_is_named():
    opened = EcdcFile(facts('{"m": "encodec_24khz", "al": 1, "nc": 1, "lm": true}'))
    with pytest.raises(MissingModelError, match="encodec-24k"):
        opened.packets()


def test_writer_refuses_what_the_format_cannot_hold():
    with pytest.raises(UsageError, match=r"\.myna"):
        EcdcWriter(io.BytesIO(), "myna-24k", 100, 8)
    with pytest.raises(UsageError, match="codebooks"):
        EcdcWriter(io.BytesIO(), "encodec-48k", 100, 17)
    writer = EcdcWriter(io.BytesIO(), "encodec-24k", 320, 2)
    with pytest.raises(UsageError, match="fewer"):
        writer.close()
    with pytest.raises(UsageError, match="do not fit"):
        writer.push(torch.zeros(1, 2, 2, dtype=torch.long))


def test_the_coder_alone_against_the_reference():
    """Peaked and flat distributions by turns, long enough to shift many bits."""
    torch.manual_seed(5)
    from myna.codec.formats.ecdc import _LMEncoder

    distributions = [torch.softmax(scale * torch.randn(1024, 2), dim=0) for scale in (0.1, 3, 12) * 40]
    symbols = torch.stack([torch.multinomial(p.T, 1)[:, 0] for p in distributions], dim=1)  # (2, 120)
    step = iter(distributions)
    encoder = _LMEncoder(lambda previous, state: LMResult(next(step)[None, :, :, None], None), 2)
    found = encoder.encode(symbols) + encoder.flush()
    file = io.BytesIO()
    coder = ArithmeticCoder(file)
    for t, p in enumerate(distributions):
        for k in range(2):
            coder.push(int(symbols[k, t]), build_stable_quantized_cdf(p[:, k], 24))
    coder.flush()
    assert found == file.getvalue()


def test_header_is_the_reference_header():
    file = io.BytesIO()
    EcdcWriter(file, "encodec-48k", 96_000, 4)
    file.seek(0)
    assert read_ecdc_header(file) == {"m": "encodec_48khz", "al": 96_000, "nc": 4, "lm": False}
