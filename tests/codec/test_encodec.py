"""EnCodec and DAC as codecs and as streams, at tiny widths."""

from __future__ import annotations

import pytest
import torch
from myna.codec import Codec, Codes
from myna.codec.dac import DAC, DACConfig
from myna.codec.encodec import ENCODEC_48K, Encodec, EncodecConfig, SegmentedEncodec, build_encodec
from myna.codec.seanet import SEANetConfig
from myna.errors import InputError, UsageError
from torch import Tensor

TINY = EncodecConfig(seanet=SEANetConfig(n_filters=4, dimension=16), n_codebooks=4, codebook_size=64)
TINY_48K = EncodecConfig(
    name="encodec-48k",
    sample_rate=48_000,
    # One second of audio at a hundredth of the rate: 8 samples a frame, 150 frames a segment, overlap 12.
    seanet=SEANetConfig(
        channels=2, n_filters=4, dimension=8, ratios=(4, 2), causal=False, norm="time_group_norm"
    ),
    n_codebooks=3,
    codebook_size=64,
    segment=1200,
    normalize=True,
)
TINY_DAC = DACConfig(encoder_dim=4, latent_dim=8, decoder_dim=32, n_codebooks=4, codebook_size=64)
ODD_DAC = DACConfig(encoder_dim=4, encoder_rates=(2, 5), latent_dim=8, decoder_dim=16, decoder_rates=(5, 2))


def make(name: str) -> Codec:
    torch.manual_seed(0)
    codec = {
        "24k": lambda: Encodec(TINY),
        "48k": lambda: SegmentedEncodec(TINY_48K),
        "dac": lambda: DAC(TINY_DAC),
        "dac-odd": lambda: DAC(ODD_DAC),
    }[name]()
    for key, buffer in codec.named_buffers():
        if key.endswith("embed"):
            buffer.normal_(0, 0.3)
    return codec.eval()


every_codec = pytest.mark.parametrize("name", ["24k", "48k", "dac", "dac-odd"])


def encode_in_chunks(codec: Codec, wav: Tensor, sizes: list[int], k: int | None = None):
    stream, out, start = codec.encoder_stream(wav.shape[0], k), [], 0
    while start < wav.shape[-1]:
        size = sizes[len(out) % len(sizes)]
        out.append(stream.push(wav[..., start : start + size]))
        start += size
    return torch.cat([*out, stream.flush()], -1), getattr(stream, "scale", None)


def decode_in_chunks(codec: Codec, codes: Codes, sizes: list[int]) -> Tensor:
    stream, out, start, scale = codec.decoder_stream(codes.codes.shape[0]), [], 0, codes.scale
    while start < codes.codes.shape[-1]:
        size = sizes[len(out) % len(sizes)]
        chunk = codes.codes[..., start : start + size]
        out.append(stream.push(chunk) if scale is None else stream.push(chunk, scale))
        start, scale = start + size, None
    return torch.cat([*out, stream.flush()], -1)


@every_codec
@pytest.mark.parametrize("n", [1, 11, 1300, 3601])
@pytest.mark.parametrize("sizes", [[1, 700], [160], [480, 0, 333], [100_000]], ids=str)
def test_streams_give_what_the_whole_file_gives(name: str, n: int, sizes: list[int]):
    codec = make(name)
    wav = torch.randn(2, codec.channels, n) * 0.3
    whole = codec.encode(wav, 2)
    codes, scale = encode_in_chunks(codec, wav, sizes, 2)
    assert torch.equal(codes, whole.codes)
    if whole.scale is not None:
        torch.testing.assert_close(scale, whole.scale)
    audio = decode_in_chunks(codec, whole, [1, 2, 0, 5] if len(sizes) > 1 else [7])
    assert audio.shape[-1] >= n
    torch.testing.assert_close(audio[..., :n], codec.decode(whole), rtol=0, atol=1e-5)


@every_codec
@pytest.mark.parametrize("n", [1, 9, 10, 11, 1190, 1199, 1200, 1201, 2400])
def test_length_is_kept(name: str, n: int):
    codec = make(name)
    codes = codec.encode(torch.randn(1, codec.channels, n))
    assert codes.codes.dtype == torch.int64
    assert codes.n_samples == n
    assert codec.decode(codes).shape == (1, codec.channels, n)


@every_codec
def test_fewer_codebooks_are_the_first_ones(name: str):
    codec = make(name)
    wav = torch.randn(1, codec.channels, 2000)
    whole = codec.encode(wav)
    for k in range(1, codec.n_codebooks + 1):
        assert torch.equal(codec.encode(wav, k).codes, whole.codes[:, :k])
        assert codec.decode(whole.keep(k)).shape == wav.shape


def test_a_running_24k_stream_gives_a_frame_for_every_frame():
    codec = make("24k")
    encoder, decoder = codec.encoder_stream(), codec.decoder_stream()
    codes = [encoder.push(torch.randn(1, 1, 320)) for _ in range(40)]
    frames = [c.shape[-1] for c in codes]
    assert frames[10:] == [1] * 30
    assert sum(frames[:10]) == 10
    audio = [decoder.push(c).shape[-1] for c in codes]
    assert sum(audio[:20]) == 20 * 320
    assert audio[20:] == [320] * 20
    assert codec.delay == 0


def test_long_inputs_are_cut_into_blocks_without_a_seam(monkeypatch):
    from myna.codec import convolutional

    codec = make("24k")
    wav = torch.randn(1, 1, 320 * 50 + 17) * 0.3
    monkeypatch.setattr(convolutional, "BLOCK_FRAMES", 1000)
    whole = codec.encode(wav)
    audio = codec.decode(whole)
    monkeypatch.setattr(convolutional, "BLOCK_FRAMES", 3)
    monkeypatch.setattr(convolutional, "LONG_BLOCK_FRAMES", 7)
    assert torch.equal(codec.encode(wav).codes, whole.codes)
    torch.testing.assert_close(codec.decode(whole), audio, rtol=0, atol=1e-5)


@pytest.mark.parametrize("n", [1, 8, 1188, 1189, 1192, 1193, 1196, 1197, 1200, 1201, 2376, 2377, 2388, 3571])
def test_frames_of_segments_follow_from_their_sum(n: int):
    codec = make("48k")
    frames = [-(-min(1200, n - start) // 8) for start in range(0, n, 1188)]
    assert codec.segment_frames(sum(frames)) == frames


def test_segments_that_cannot_be_told_apart_are_refused():
    with pytest.raises(UsageError, match="overlap"):
        EncodecConfig(seanet=ENCODEC_48K.seanet, segment=48_000, overlap=0.5)
    with pytest.raises(UsageError, match="segment"):
        EncodecConfig(normalize=True)
    assert isinstance(build_encodec(TINY_48K), SegmentedEncodec)


def test_48k_without_its_loudness_is_refused():
    codec = make("48k")
    with pytest.raises(InputError, match="loudness"):
        codec.decode(Codes(torch.zeros(1, 2, 5, dtype=torch.int64), 40))


def test_48k_scale_carries_the_loudness():
    codec = make("48k")
    wav = torch.randn(1, 2, 2000)
    quiet, loud = codec.encode(wav * 0.01), codec.encode(wav)
    assert torch.equal(quiet.codes, loud.codes)
    torch.testing.assert_close(quiet.scale * 100, loud.scale, rtol=1e-4, atol=0)


def test_odd_strides_fall_short_and_are_filled():
    codec = make("dac-odd")
    codes = codec.encode(torch.randn(1, 1, 200))
    assert codec.decoder(codec.quantizer.decode(codes.codes)).shape[-1] < 200
    audio = codec.decode(codes)
    assert audio.shape[-1] == 200
    assert not audio[..., -2:].any()


@every_codec
def test_inputs_of_the_wrong_shape_are_refused_in_one_line(name: str):
    codec = make(name)
    for bad in (torch.randn(1, 3, 100), torch.randn(100), torch.randn(1, codec.channels, 0)):
        with pytest.raises(InputError, match="waveforms of shape") as error:
            codec.encode(bad)
        assert "\n" not in str(error.value)
    with pytest.raises(UsageError, match="codebooks"):
        codec.encode(torch.randn(1, codec.channels, 100), 99)
    with pytest.raises(UsageError, match="kbps"):
        codec.codebooks_for(1.0)
    for bad_codes in (
        torch.full((1, 1, 3), 5000),
        torch.full((1, 1, 3), -1),
        torch.zeros(1, 99, 3, dtype=torch.int64),
    ):
        with pytest.raises(InputError, match="codes"):
            codec.decode(Codes(bad_codes, 10))


@every_codec
def test_gradients_reach_the_encoder(name: str):
    codec = make(name)
    codec.latents(torch.randn(1, codec.channels, 500)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in codec.encoder.parameters())
