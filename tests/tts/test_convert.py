"""Speech in another voice, on tiny random models: as long as it was, the same however it comes, in stretches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from myna.codec.mel.speech_tokens import SpeechTokenizer, SpeechTokensConfig, TokenStream
from myna.codec.myna import MynaCodec, MynaConfig
from myna.data.audio import Audio, read_audio, write_audio
from myna.errors import InputError, MissingModelError
from myna.layers.mel import MelFrames, MelStream
from myna.marks.watermark import detect_watermark
from myna.tts import convert
from myna.tts.convert import Converter, Stretches, blocks_of, load_decoder
from myna.tts.decoders.flow.stream import FlowOptions, FlowStream
from myna.tts.registry import FLOW_FILES
from myna.tts.text.phones import Phones
from myna.tts.voices.voice import Voice, make_voice

SPEECH = Path(__file__).parents[1] / "assets" / "speech.wav"
CONSENT = "the reader of a public-domain recording"
PHONES = Phones(torch.tensor([[2, 20, 31, 2, 25, 40, 6], [0] * 7, [0] * 7]))


@pytest.fixture(scope="module")
def converter(save_tiny_flow, tmp_path_factory) -> Converter:
    folder = tmp_path_factory.mktemp("flow")
    save_tiny_flow(folder)
    config = MynaConfig(
        width=32, latent_width=32, encoder_depth=(1, 1), decoder_depth=(1, 1), latent_dim=16, n_codebooks=2
    )
    return Converter(load_decoder(folder=folder), MynaCodec(config).eval())


@pytest.fixture(scope="module")
def voice(converter: Converter) -> Voice:
    return make_voice(SPEECH, converter.codec, CONSENT, name="reader")


@pytest.fixture(scope="module")
def talk() -> np.ndarray:
    return read_audio(SPEECH, 24_000, mono=True).samples[0, : 3 * 24_000 + 77]


def converted(converter: Converter, wav: np.ndarray, voice: Voice, cut: int, seed: int = 0) -> np.ndarray:
    blocks = (wav[i : i + cut] for i in range(0, len(wav), cut))
    return np.concatenate(list(converter.stream(blocks, voice, seed)))


def test_it_is_as_long_as_it_was_and_the_same_however_it_comes(converter, voice, talk):
    whole = converted(converter, talk, voice, len(talk))
    assert len(whole) == len(talk)
    assert np.abs(whole).max() > 1e-3
    for cut in (977, 24_000):
        np.testing.assert_allclose(converted(converter, talk, voice, cut), whole, atol=1e-3)


def test_sound_comes_while_the_recording_does(converter, voice, talk):
    given = 0

    def blocks():
        nonlocal given
        for i in range(0, len(talk), 2400):
            given += 1
            yield talk[i : i + 2400]

    stream = converter.stream(blocks(), voice)
    next(stream)
    assert given < 12  # tenths of a second


def test_what_is_said_and_whose_voice_it_is_count(converter, voice, talk):
    whole = converted(converter, talk, voice, 24_000)
    np.testing.assert_array_equal(converted(converter, talk, voice, 24_000), whole)
    generator = np.random.default_rng(0)
    noise = (0.1 * generator.standard_normal(len(talk))).astype(np.float32)
    assert not np.allclose(converted(converter, noise, voice, 24_000), whole, atol=1e-3)
    assert not np.array_equal(converted(converter, talk, voice, 24_000, seed=1), whole)
    low = make_voice(
        Audio(np.repeat(read_audio(SPEECH).samples, 2, axis=1)[:, : 4 * 24_000], 24_000),
        converter.codec,
        CONSENT,
    )
    assert not np.allclose(converted(converter, talk, low, 24_000), whole, atol=1e-3)


def test_stretches_change_nothing_in_length(converter, voice, talk, monkeypatch):
    """A long recording is many stretches, each with the voice's prompt in front."""
    begun = []
    monkeypatch.setattr(convert, "_LONGEST", 20)
    monkeypatch.setattr(convert, "FlowStream", lambda *given: (begun.append(given), FlowStream(*given))[1])
    whole = converted(converter, talk, voice, len(talk))
    assert len(whole) == len(talk)
    assert len(begun) == -(-len(talk) // 960 // 20) or len(begun) == -(-(len(talk) // 960 + 1) // 20)
    assert len({given[-1] for given in begun}) == len(begun)  # noise of its own for each
    np.testing.assert_allclose(converted(converter, talk, voice, 5000), whole, atol=1e-3)


def test_a_call_gives_marked_speech(converter, voice, tmp_path):
    speech = converter.convert(SPEECH, voice)
    assert (speech.sample_rate, speech.voice) == (24_000, "reader")
    assert len(speech.samples) == read_audio(SPEECH).samples.shape[1]
    assert detect_watermark(np.tile(speech.samples, 3), 24_000).found
    other_rate = Audio(read_audio(SPEECH, 16_000).samples, 16_000)
    assert abs(len(converter.convert(other_rate, voice).samples) - len(speech.samples)) <= 2


def test_a_recording_is_read_as_one_channel_at_24_khz(tmp_path):
    samples = np.stack([np.linspace(-0.5, 0.5, 8000), np.zeros(8000)]).astype(np.float32)
    write_audio(tmp_path / "two.wav", samples, 8000)
    read = np.concatenate(list(blocks_of(tmp_path / "two.wav")))
    assert len(read) == 24_000
    np.testing.assert_allclose(np.concatenate(list(blocks_of(Audio(samples, 8000)))), read, atol=1e-3)
    assert np.abs(read[1000:-1000] - np.linspace(-0.25, 0.25, 24_000)[1000:-1000]).max() < 0.01


@pytest.mark.parametrize("silence", [0.0, 1e-4])
def test_silence_is_refused(converter, voice, silence):
    with pytest.raises(InputError, match="silent"):
        converter.convert(Audio(np.full((1, 24_000), silence, np.float32), 24_000), voice)


def test_what_is_no_sound_is_refused(converter, voice):
    with pytest.raises(InputError, match="NaN"):
        converter.convert(Audio(np.full((1, 2400), np.nan, np.float32), 24_000), voice)


def test_models_that_do_not_belong_together_are_refused(save_tiny_flow, tmp_path):
    with pytest.raises(MissingModelError, match=r"converted by myna-flow\.safetensors"):
        load_decoder(folder=tmp_path)
    save_tiny_flow(tmp_path, tokens_hash="0123456789abcdef")
    with pytest.raises(MissingModelError, match="trained on the tokens of 0123456789abcdef"):
        load_decoder(folder=tmp_path)
    assert (tmp_path / FLOW_FILES["flow"]).is_file()


# ---- the parts that stream


@pytest.mark.parametrize("cut", [1, 100, 241, 5000])
def test_mel_frames_of_a_stream(cut, talk):
    mel, wav = MelFrames(), torch.from_numpy(talk[:9_999])
    stream = MelStream(mel)
    parts = [stream.push(wav[i : i + cut]) for i in range(0, len(wav), cut)] + [stream.flush()]
    assert torch.cat(parts, dim=1).equal(mel(wav[None])[0]) or torch.allclose(
        torch.cat(parts, dim=1), mel(wav[None])[0], atol=1e-4
    )


@pytest.mark.parametrize("n", [0, 100, 240, 1300])
def test_mel_frames_of_little(n):
    mel, wav = MelFrames(), torch.randn(n)
    stream = MelStream(mel)
    parts = torch.cat([stream.push(wav), stream.flush()], dim=1)
    assert parts.shape == (80, n // 240)
    torch.testing.assert_close(parts, mel(wav[None])[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("cut", [1, 3, 8, 50])
def test_tokens_of_a_stream(cut):
    torch.manual_seed(0)
    tokenizer = SpeechTokenizer(SpeechTokensConfig(width=16, depth_before=1, depth=1)).eval()
    mel = torch.randn(80, 96) * 2 - 5
    stream = TokenStream(tokenizer)
    parts = [stream.push(mel[:, i : i + cut]) for i in range(0, 96, cut)] + [stream.flush()]
    with torch.inference_mode():
        whole = tokenizer.tokens(mel[None])[0]
    assert len(whole.unique()) > 5
    assert torch.cat(parts).equal(whole)


def test_stretches_end_in_pauses():
    """Speech with a pause of six tokens after 3 s, and another after 9: both end a stretch; then the longest."""
    loudness = [-5.0] * 75 + [-9.5] * 6 + [-5.0] * 144 + [-9.5] * 6 + [-5.0] * 600
    ends = Stretches().ends(loudness)
    assert ends == [79, 229, 479, 729]
    assert Stretches().ends([-5.0, -9.5] * 30) == []  # the gaps between words are none


def test_frames_of_no_phone_sound_as_frames_without_text(converter, voice):
    """What is not known of phones does not matter, whatever phones there are."""
    flow = converter.decoder.flow
    read = converter.decoder.read_voice(voice.prompt(), torch.zeros(24_000)).flow
    levels = torch.rand(30, 4) * 2 - 1

    def mel(phones):
        stream = FlowStream(flow, phones, read, FlowOptions(), 1)
        return torch.cat([stream.push(torch.full((60,), -1), levels), stream.flush()], dim=1)

    with torch.inference_mode():
        torch.testing.assert_close(mel(PHONES.tokens), mel(PHONES.tokens[:, :1]))
        stream = FlowStream(flow, PHONES.tokens, read, FlowOptions(), 1)
        known = torch.cat([stream.push(torch.arange(60) // 10, levels), stream.flush()], dim=1)
    assert not torch.allclose(known, mel(PHONES.tokens), atol=1e-3)
