"""`myna-mel` on tiny random weights: the Codec contract, streaming, causality, its delay, its prefixes, its files."""

from __future__ import annotations

import io
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from myna.codec import registry
from myna.codec.api import compress, decompress
from myna.codec.base import Codes
from myna.codec.checkpoint import load_checkpoint, save_checkpoint, weights_hash
from myna.codec.formats import container, cut, open_compressed
from myna.codec.formats.context_model import ContextConfig, ContextModel, expected_shapes
from myna.codec.mel.codec import MelCodec, MelCodecConfig
from myna.codec.mel.speech_tokens import SILENCE, SpeechTokensConfig
from myna.codec.mel_vocoder import MelVocoderConfig
from myna.codec.precision import set_precision
from myna.data.audio import Audio
from myna.errors import InputError, MissingModelError, UsageError
from torch.nn import functional as F

from ..streams import assert_streams_like_offline

TINY = MelCodecConfig(
    tokens=SpeechTokensConfig(width=12, depth_before=1, depth=1, levels=(4, 3)),
    vocoder=MelVocoderConfig(width=12, depth=1, bands=24),
    width=16, fine_width=80, encoder_depth=1, decoder_depth=(1, 1), latent_dim=8, n_codebooks=4, codebook_dim=4,
)  # fmt: skip
FRAME = 960


def tiny(quantizer: str = "factorized", seed: int = 0) -> MelCodec:
    torch.manual_seed(seed)
    codec = MelCodec(replace(TINY, quantizer=quantizer))
    for parameter in codec.parameters():  # what starts at zero would hide mistakes
        if parameter.abs().sum() == 0:
            parameter.data.normal_(0, 0.3)
    codec.tokenizer.net.layers[-1].linear.weight.data.mul_(8)
    # Voiced throughout: where a network wavers, rounding would decide between pulses and none.
    codec.vocoder.net.layers[-1].linear.bias.data[160] = 4.0
    return codec.eval()


@pytest.fixture(scope="module", params=["factorized", "ema"])
def codec(request) -> MelCodec:
    return tiny(request.param)


def sound(n: int, rows: int = 1, seed: int = 0) -> torch.Tensor:
    """Noise and a tone in turns, loud and quiet, so that codes change."""
    generator = torch.Generator().manual_seed(seed)
    turns = torch.rand(2, rows, n // 2000 + 1, generator=generator).repeat_interleave(2000, -1)[..., :n]
    noise = torch.randn(rows, n, generator=generator)
    tone = torch.sin(2 * torch.pi * 150 * torch.arange(n) / 24_000)
    return (0.3 * (1e-4 ** turns[0]) * torch.where(turns[1] > 0.5, noise, tone))[:, None]


@pytest.mark.parametrize("n", [1, FRAME - 1, FRAME, FRAME + 1, 4000])
def test_lengths_are_exact(codec, n):
    codes = codec.encode(sound(n, 2))
    assert codes.codes.shape == (2, 4, -(-n // FRAME))
    assert codec.decode(codes).shape == (2, 1, n)


def test_contract(codec):
    assert (codec.frame_rate, codec.packet_frames, codec.codebook_size) == (25, 25, 12)
    assert codec.bitrates == (100.0, 200.0, 300.0, 400.0)
    assert codec.codebooks_for(250) == 2
    assert MelCodecConfig().codebook_size == 1000
    assert codec.rows().shape == (4, 12, 4 if codec.config.quantizer == "factorized" else 8)
    levels = codec.rows()[0, :, :2]
    assert torch.equal(codec.tokenizer.quantizer.tokens(levels), torch.arange(12))
    assert codec.latents(sound(4000)).shape == (1, 8, 5)
    assert len(codec.encode(sound(24_000)).codes[0, 0].unique()) > 2  # or nothing here tells anything


def test_the_full_size_says_250_bits_a_second_and_more_by_codebook():
    with torch.device("meta"):
        full = MelCodec()
    assert full.bitrates == tuple(250.0 * k for k in range(1, 9))
    own = sum(
        p.numel() for name, p in full.named_parameters() if not name.startswith(("tokenizer", "vocoder"))
    )
    assert own < 2.5e6


def test_streaming_equals_offline_for_any_chunks(codec):
    wav = sound(30_011, 2)
    whole = codec.encode(wav)
    loudest = float(codec.decode(whole).abs().max())
    assert loudest > 1e-3
    # Pitch is a phase that runs on: rounding adds up.
    streamed = assert_streams_like_offline(codec, wav, 6000, 2, 2e-2 * loudest)
    assert streamed.shape[-1] == whole.codes.shape[-1] * FRAME


def test_rows_of_a_batch_are_each_their_own(codec):
    wav = sound(9000, 3)
    together = codec.encode(wav).codes
    for row in range(3):
        assert torch.equal(codec.encode(wav[row : row + 1]).codes[0], together[row])


def test_blocks_have_no_seam(codec, monkeypatch):
    wav = sound(12_000)
    whole = codec.encode(wav)
    audio = codec.decode(whole)
    monkeypatch.setattr("myna.codec.mel.codec._BLOCK", 3)
    assert torch.equal(codec.encode(wav).codes, whole.codes)
    torch.testing.assert_close(codec.decode(whole), audio, atol=2e-2 * float(audio.abs().max()), rtol=0)


def test_the_future_never_changes_the_past_and_the_delay_is_what_is_declared(codec):
    wav = sound(24_000)
    other = wav.clone()
    other[..., 15_000:] = sound(9000, seed=5)
    a, b = codec.encode(wav), codec.encode(other)
    ahead = 392 + 3 * FRAME  # of a mel frame, and of the tokens
    safe = (15_000 - ahead) // FRAME
    assert torch.equal(a.codes[..., :safe], b.codes[..., :safe])
    assert not torch.equal(a.codes[..., safe + 1 :], b.codes[..., safe + 1 :])
    heard = 15_000 - codec.delay - FRAME
    one, two = codec.decode(a), codec.decode(b)
    torch.testing.assert_close(one[..., :heard], two[..., :heard], atol=2e-2 * float(one.abs().max()), rtol=0)


def test_what_is_certain_leaves_at_once(codec):
    encoder, decoder = codec.encoder_stream(), codec.decoder_stream()
    wav, codes, out = sound(20 * FRAME), 0, 0
    for i in range(0, wav.shape[-1], 240):
        found = encoder.push(wav[..., i : i + 240])
        codes += found.shape[-1]
        out += decoder.push(found).shape[-1]
        n = i + 240
        # Whole mel frames are known 392 samples later, tokens three frames after.
        mels = max(0, (n - 392) // 240)
        assert codes == max(0, mels // 4 - 3)
        assert out >= n - codec.delay - FRAME
        assert out <= max(0, n - codec.delay + FRAME)


def test_prefixes_are_those_of_encoding_at_a_lower_bitrate(codec):
    wav = sound(12_000)
    whole = codec.encode(wav)
    for k in (1, 2, 3):
        assert torch.equal(codec.encode(wav, k).codes, whole.codes[:, :k])
        assert codec.decode(whole.keep(k)).shape == wav.shape
    mels = [codec.decode_mel(whole.codes[:, :k]) for k in (1, 2, 4)]
    assert (mels[0] - mels[1]).abs().max() > 1e-3
    assert (mels[1] - mels[2]).abs().max() > 1e-3


def test_a_training_pass_is_what_is_heard(codec):
    mel = codec.vocoder.mel(sound(FRAME * 14, 3)[:, 0])
    codes = codec.encode_mel(mel)
    assert torch.equal(codes, codec.encode(sound(FRAME * 14, 3)).codes)
    with torch.no_grad():
        trained = codec(mel, torch.tensor([1, 2, 4]))
    assert torch.equal(trained.tokens, codes[:, 0])
    assert torch.equal(trained.quantizer.codes, codes[:, 1:])
    for row, k in enumerate((1, 2, 4)):
        heard = codec.decode_mel(codes[row : row + 1, :k])
        torch.testing.assert_close(trained.mel[row].clamp(min=SILENCE), heard[0], atol=1e-3, rtol=0)
    with torch.no_grad():
        known = codec(mel, 4, codes[:, 0])
    assert torch.equal(known.quantizer.codes, codes[:, 1:])


def test_gradients_reach_the_tokenizer_where_tokens_are_not_given(codec):
    mel = codec.vocoder.mel(sound(FRAME * 8)[:, 0])
    codec.zero_grad()
    codec(mel).mel.square().mean().backward()
    assert codec.tokenizer.net.layers[0].weight.grad.abs().max() > 0
    codec.zero_grad()
    codec(mel, None, codec.encode_mel(mel)[:, 0]).mel.square().mean().backward()
    assert codec.tokenizer.net.layers[0].weight.grad is None
    assert codec.said.table.weight.grad.abs().max() > 0
    codec.zero_grad()


def test_it_starts_as_a_transform_codec():
    """Mels of eight shapes in any mixture: eight latents hold them, and each codebook more says more."""
    torch.manual_seed(0)
    codec = MelCodec(replace(TINY, n_codebooks=6, codebook_dim=8)).eval()
    shapes = torch.randn(8, 80, 4)
    patches = -5 + torch.einsum("nk,kmt->nmt", torch.randn(3000, 8), shapes)
    tokens = ((patches.mean((1, 2)) + 5).sign() > 0).long() * 5 + 3  # say a little
    codec.init_from_data(patches, tokens)
    codec.deviation.fill_(1.0)
    codec.init_from_data(patches, tokens)
    x = patches[:500]
    with torch.no_grad():
        latents = codec.encoder(codec.normalized(x))
        exact = codec.mel_of(latents)
        said = codec.said.embedded(tokens[:500, None], codec.tokenizer.quantizer.vectors(tokens[:500, None]))
        codes = codec.quantizer.encode(latents - said)
        errors = [(codec.mel_of(said) - x).square().mean()]
        for k in range(1, 6):
            errors.append((codec.mel_of(said + codec.quantizer.decode(codes[:, :k])) - x).square().mean())
    spread = (x + 5).square().mean()
    assert (exact - x).square().mean() < 0.1 * spread
    assert errors[0] < spread
    assert all(after < before for before, after in pairwise(errors))


def test_a_checkpoint_rebuilds_the_codec_with_no_other_file(codec, tmp_path):
    path = tmp_path / "mel.safetensors"
    save_checkpoint(codec, path)
    again = load_checkpoint(path)
    assert isinstance(again, MelCodec)
    assert again.config == codec.config
    assert weights_hash(again) == weights_hash(codec)
    assert isinstance(registry.load_codec(path), MelCodec)


def test_precision_can_be_asked_for():
    codec = tiny()
    assert set_precision(codec, "auto").encoder == "float32"
    assert set_precision(codec, "int8").decoder == "int8"
    assert codec.decode(codec.encode(sound(4000))).isfinite().all()


def test_files_come_back(codec):
    samples = np.stack([sound(40_011)[0, 0].numpy(), sound(40_011, seed=3)[0, 0].numpy()])
    data = compress(Audio(samples, 16_000), codec, packet_seconds=1.0)
    opened = open_compressed(io.BytesIO(data))
    assert (opened.info.model, opened.info.entropy_coder) == ("myna-mel", "packed")
    assert (opened.info.n_codebooks, opened.info.codebook_size, opened.info.streams) == (4, 12, 2)
    back = decompress(data, codec)
    assert (back.samples.shape, back.sample_rate) == (samples.shape, 16_000)
    low = io.BytesIO()
    cut(io.BytesIO(data), low, n_codebooks=1)
    assert low.getvalue() == compress(Audio(samples, 16_000), codec, bitrate=100, packet_seconds=1.0)
    assert decompress(low.getvalue(), codec).samples.shape == samples.shape


def test_files_are_entropy_coded_where_a_model_was_trained(codec, tmp_path, monkeypatch):
    config = ContextConfig(n_codebooks=4, codebook_size=12, embedding=4, hidden=8, past=2)
    rng = np.random.default_rng(0)
    shapes = expected_shapes(config)
    tensors = {name: rng.integers(-100, 101, shape).astype(np.int32) for name, shape in shapes.items()}
    for k in range(4):
        tensors[f"heads.{k}.shifts"] = np.array([5, 4], dtype=np.int32)
    context = ContextModel(config, tensors, weights_hash(codec)[:16])
    (tmp_path / "next").mkdir()
    (tmp_path / "next" / "myna-mel.entropy.safetensors").write_bytes(context.to_bytes())
    audio = Audio(sound(24_000)[0].numpy(), 24_000)
    plain = decompress(compress(audio, codec), codec)
    monkeypatch.setattr(container.find_context_model, "__defaults__", (tmp_path, None))
    data = compress(audio, codec)
    assert open_compressed(io.BytesIO(data)).info.entropy_coder == "context"
    np.testing.assert_array_equal(decompress(data, codec).samples, plain.samples)


def test_weights_are_looked_for_where_they_ship_and_where_they_train(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_WEIGHTS", tmp_path)
    with pytest.raises(MissingModelError, match="myna train myna-mel-cpu") as caught:
        registry.load_codec("myna-mel")
    assert "\n" not in str(caught.value)
    with pytest.raises(MissingModelError, match="still to be trained"):
        registry.download("myna-mel")
    (tmp_path / "next").mkdir()
    save_checkpoint(tiny(seed=1), tmp_path / "next" / "myna-mel.safetensors")
    training = registry.load_codec("myna-mel")
    save_checkpoint(tiny(seed=2), tmp_path / "myna-mel.safetensors")
    shipped = registry.load_codec("myna-mel")
    assert weights_hash(training) == weights_hash(tiny(seed=1)) != weights_hash(shipped)


def test_what_cannot_be_coded_is_refused_in_one_line(codec):
    with pytest.raises(InputError, match="waveforms of shape"):
        codec.encode(torch.zeros(1, 2, 100))
    with pytest.raises(InputError, match=r"0\.\.11"):
        codec.decode(Codes(torch.full((1, 2, 3), 12), 100))
    with pytest.raises(InputError, match=r"codebooks 1\.\.4"):
        codec.decode_mel(torch.zeros(1, 5, 3, dtype=torch.long))
    with pytest.raises(UsageError, match="1 to 4 codebooks"):
        codec.encode(sound(1000), 5)
    with pytest.raises(UsageError, match="below the lowest"):
        codec.codebooks_for(50)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_codebooks": 1}, "at least 2"),
        ({"fine_width": 40}, "fine_width"),
        ({"width": 4}, "width at least latent_dim"),
        ({"quantizer": "other"}, "neither"),
        ({"tokens": SpeechTokensConfig(mel_bands=40)}, "40 mel bands"),
    ],
)
def test_dimensions_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)


def test_silence_pads_what_is_not_whole(codec):
    wav = sound(FRAME * 3 + 100)
    padded = F.pad(wav, (0, FRAME - 100))
    assert torch.equal(codec.encode(wav).codes, codec.encode(padded).codes)
