"""The house codec on tiny random weights: the Codec contract, streaming, causality, its declared delay."""

from dataclasses import replace

import pytest
import torch
from myna.codec import convolutional
from myna.codec.base import Codes
from myna.codec.myna import MynaCodec, MynaConfig
from myna.errors import InputError, UsageError

from .streams import assert_streams_like_offline

TINY = MynaConfig(
    hop=24, width=32, latent_width=24, encoder_depth=(1, 1), decoder_depth=(1, 1), expansion=2,
    latent_dim=8, codebook_size=16, codebook_dim=4, n_codebooks=3, rate_weight=0.0,
)  # fmt: skip


@pytest.fixture(params=[("factorized", 0), ("ema", 0), ("ema", 2)], ids=lambda made: f"{made[0]}-{made[1]}")
def codec(request) -> MynaCodec:
    torch.manual_seed(0)
    quantizer, look_ahead = request.param
    return MynaCodec(replace(TINY, quantizer=quantizer, look_ahead=look_ahead)).eval()


@pytest.mark.parametrize("n", [1, 47, 48, 49, 1000])
def test_lengths_are_exact(codec, n):
    codes = codec.encode(torch.randn(2, 1, n))
    assert codes.codes.shape == (2, 3, codec.n_frames(n))
    assert codec.decode(codes).shape == (2, 1, n)


def test_contract(codec):
    assert float(codec.frame_rate) == 500
    assert codec.bitrates == (2000.0, 4000.0, 6000.0)
    assert codec.codebooks_for(5000) == 2
    assert codec.delay == 24 + 48 * codec.config.look_ahead


def test_streaming_equals_offline_for_any_chunks(codec):
    assert_streams_like_offline(codec, torch.randn(2, 1, 1003), 200, 3, 1e-6)


def test_long_inputs_are_coded_in_blocks_of_bounded_size_without_a_seam(codec, monkeypatch):
    wav = torch.randn(2, 1, 48 * 40 + 5)
    whole = codec.encode(wav)
    assert torch.equal(whole.codes, codec.quantizer.encode(codec.latents(wav)))
    audio = codec.decode(whole)
    seen = []
    for part in (codec.encoder.layers[3], codec.decoder.layers[0]):

        def watched(x, *more, step=part.step):
            seen.append(x.shape[-1])
            return step(x, *more)

        monkeypatch.setattr(part, "step", watched)
    monkeypatch.setattr(convolutional, "LONG_BLOCK_FRAMES", 7)
    assert torch.equal(codec.encode(wav).codes, whole.codes)
    torch.testing.assert_close(codec.decode(whole), audio, atol=1e-6, rtol=0)
    assert len(seen) > 10
    assert max(seen) <= 2 * 7  # at the rate of the transforms


def test_a_code_frame_leaves_as_soon_as_its_samples_are_in(codec):
    encoder, decoder = codec.encoder_stream(), codec.decoder_stream()
    samples = 0
    for i in range(1, 6):
        codes = encoder.push(torch.randn(1, 1, codec.frame_size))
        assert codes.shape[-1] == 1
        samples += decoder.push(codes).shape[-1]
        assert samples == max(0, i * codec.frame_size - codec.delay)


def test_the_future_never_changes_the_past(codec):
    wav = torch.randn(1, 1, 960)
    other = wav.clone()
    other[..., 480:] = torch.randn(480)
    a, b = codec.encode(wav), codec.encode(other)
    assert torch.equal(a.codes[..., :10], b.codes[..., :10])
    heard, changed = codec.decode(a), codec.decode(Codes(b.codes, 960))
    certain = 480 - codec.delay
    torch.testing.assert_close(heard[..., :certain], changed[..., :certain])
    assert not torch.allclose(heard[..., 480:], changed[..., 480:])


def test_lower_bitrates_are_prefixes(codec):
    wav = torch.randn(1, 1, 500)
    searched = codec.encode(
        wav, search=True
    )  # whose beginnings decode, but need not be the best of their size
    assert codec.decode(searched.keep(1)).shape == wav.shape
    full = codec.encode(wav)
    assert torch.equal(codec.encode(wav, 2).codes, full.keep(2).codes)


def test_rows_restart_alone(codec):
    """A row that is reset in the middle of a batch hears nothing of its past, and its neighbour nothing at all."""
    from myna.layers.streaming import Stream

    z = torch.randn(2, codec.config.latent_dim, 12)
    stream = Stream(codec.decoder, 2)
    before = stream.push(z[..., :5])
    stream.reset(torch.tensor([True, False]))
    after = stream.push(z[..., 5:])
    fresh = Stream(codec.decoder, 1).push(z[:1, :, 5:])
    torch.testing.assert_close(after[:1], fresh)
    torch.testing.assert_close(torch.cat([before, after], -1)[1], Stream(codec.decoder, 2).push(z)[1])


def test_training_pass_mixes_quantized_and_unquantized(codec):
    wav = torch.randn(2, 1, 480)
    result = codec(wav, torch.tensor([3, 1]), torch.tensor([True, False]))
    assert result.wav.shape == wav.shape
    codes = codec.encode(wav, search=True)
    torch.testing.assert_close(
        result.wav[1:], codec.decode(Codes(codes.codes[1:, :1], 480)), atol=1e-5, rtol=1e-4
    )
    assert not torch.allclose(result.wav[:1], codec.decode(Codes(codes.codes[:1], 480)))
    warm = codec(wav, None, torch.ones(2, dtype=torch.bool))
    assert warm.quantizer is None


def test_nothing_is_kept_for_learning(codec):
    codes = codec.encode(torch.randn(1, 1, 100))
    assert not codec.decode(codes).requires_grad
    assert codec.latents(torch.randn(1, 1, 100)).requires_grad


def test_what_does_not_fit_is_refused_in_one_line(codec):
    with pytest.raises(InputError, match=r"shape \(batch, 1, samples >= 1\), got \(1, 2, 50\)"):
        codec.encode(torch.randn(1, 2, 50))
    for n_codebooks in (0, 4):
        with pytest.raises(UsageError, match=f"1 to 3 codebooks, asked for {n_codebooks}"):
            codec.encode(torch.randn(1, 1, 50), n_codebooks)
        with pytest.raises(UsageError, match="1 to 3 codebooks"):
            codec.encoder_stream(n_codebooks=n_codebooks)
    with pytest.raises(InputError, match=r"codes must lie in 0\.\.15"):
        codec.decode(Codes(torch.full((1, 3, 2), 16), 50))
    with pytest.raises(InputError, match=r"codebooks 1\.\.3"):
        codec.decoder_stream().push(torch.zeros(1, 4, 2, dtype=torch.long))


def test_a_silent_input_stays_finite(codec):
    assert torch.isfinite(codec.reconstruct(torch.zeros(1, 1, 480))).all()


def test_a_search_is_asked_for_by_call(codec):
    wav = torch.randn(1, 1, 3000)
    greedy, searched = codec.encode(wav), codec.encode(wav, search=True)
    assert torch.equal(greedy.codes, searched.codes) == (codec.quantizer.n_paths == 1)
    for search, whole in ((False, greedy), (True, searched)):
        stream = codec.encoder_stream(search=search)
        codes = torch.cat([stream.push(wav[..., :1234]), stream.push(wav[..., 1234:]), stream.flush()], -1)
        assert torch.equal(codes, whole.codes)
    assert codec.rows().shape[:2] == (codec.n_codebooks, codec.codebook_size)
    assert not codec.rows().requires_grad
