"""The flow path put together, on tiny random models: text to samples, voices kept and read again, and what does
not fit."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from myna.codec.mel_vocoder import MelVocoderConfig
from myna.codec.myna import MynaCodec, MynaConfig
from myna.data.audio import read_audio
from myna.errors import InputError, MissingModelError
from myna.tts import registry
from myna.tts.decoders.base import Latents
from myna.tts.decoders.flow.sound import FlowSpeechDecoder, is_narrow
from myna.tts.flow_speech import FlowSpeech, load_flow_speech
from myna.tts.lm.ar import ARModel
from myna.tts.lm.batch import Prompt
from myna.tts.lm.sampling import SamplingOptions
from myna.tts.registry import FLOW_FILES
from myna.tts.text.phones import Phones
from myna.tts.voices.voice import heard, load_voice, make_voice

SPEECH = Path(__file__).parents[1] / "assets" / "speech.wav"
CONSENT = "the reader of a public-domain recording"
PHONES = Phones(torch.tensor([[2, 20, 31, 2, 25, 40, 6], [0] * 7, [0] * 7]))


@pytest.fixture(scope="module")
def codec() -> MynaCodec:
    torch.manual_seed(0)
    config = MynaConfig(
        width=32, latent_width=32, encoder_depth=(1, 1), decoder_depth=(1, 1), latent_dim=16, n_codebooks=2
    )
    return MynaCodec(config).eval()


@pytest.fixture(scope="module")
def speech(codec, save_tiny_flow, tmp_path_factory) -> FlowSpeech:
    folder = tmp_path_factory.mktemp("flow")
    save_tiny_flow(folder)
    return load_flow_speech(codec, folder=folder)


@pytest.fixture(scope="module")
def prompt() -> Prompt:
    samples = read_audio(SPEECH, 24_000, mono=True).samples[0, : 3 * 24_000]
    mel, speaker = heard(samples, 24_000)
    return Prompt(torch.zeros(2, 150, dtype=torch.long), mel=mel, speaker=speaker)


def said(speech: FlowSpeech, prompt: Prompt | None, cuts: int, seed: int = 3) -> np.ndarray:
    frames = list(speech.first_codes(PHONES, prompt, SamplingOptions(seed=seed)))
    sound = speech.sound(PHONES, prompt, seed=seed)
    parts = [sound.push(Latents.of(frames[i : i + cuts])) for i in range(0, len(frames), cuts)]
    return np.concatenate([*parts, sound.flush()])


def test_samples_are_the_same_however_they_are_asked_for(speech, prompt):
    whole = said(speech, prompt, 1000)
    frames = list(speech.first_codes(PHONES, prompt, SamplingOptions(seed=3)))
    assert len(whole) == len(frames) * 960
    for cuts in (1, 7):
        assert np.allclose(said(speech, prompt, cuts), whole, atol=1e-4)
    assert np.array_equal(said(speech, prompt, 1000), whole)


def test_the_voice_and_the_seed_count(speech, prompt):
    ours = said(speech, prompt, 1000)
    assert not np.array_equal(said(speech, prompt, 1000, seed=4)[: len(ours)], ours[: len(ours)])
    without = said(speech, None, 1000)
    assert len(without) != len(ours) or not np.allclose(without, ours, atol=1e-3)


def test_a_kept_voice_speaks_as_the_new_one(speech, codec, prompt, tmp_path, monkeypatch):
    monkeypatch.setenv("MYNA_HOME", str(tmp_path))
    voice = make_voice(SPEECH, codec, CONSENT, name="reader")
    assert voice.mel is not None
    assert voice.mel.shape[0] == 80
    assert voice.mel.shape[1] >= 100
    assert voice.speaker is not None
    assert abs(float(voice.speaker.float().norm()) - 1) < 1e-2
    voice.save(tmp_path / "reader.safetensors")
    again = load_voice(tmp_path / "reader.safetensors")
    assert np.array_equal(said(speech, again.prompt(), 1000), said(speech, voice.prompt(), 1000))


def test_a_voice_without_its_recording_is_read_from_its_codes(speech):
    old = Prompt(torch.randint(0, 16, (2, 100), generator=torch.Generator().manual_seed(0)))
    assert np.isfinite(said(speech, old, 1000)).all()


def test_models_that_do_not_belong_together_are_refused(save_tiny_flow, codec, tmp_path):
    save_tiny_flow(tmp_path, tokens_hash="0123456789abcdef")
    with pytest.raises(MissingModelError, match="trained on the tokens of 0123456789abcdef"):
        load_flow_speech(codec, folder=tmp_path)
    save_tiny_flow(tmp_path)
    (tmp_path / FLOW_FILES["vocoder"]).write_bytes((tmp_path / FLOW_FILES["tokens"]).read_bytes())
    with pytest.raises(InputError, match="holds tokens, expected mel-vocoder"):
        load_flow_speech(codec, folder=tmp_path)
    (tmp_path / FLOW_FILES["ar"]).unlink()
    with pytest.raises(MissingModelError, match=r"needs myna-token-ar\.safetensors"):
        load_flow_speech(codec, folder=tmp_path)


def test_an_ar_that_does_not_ship_speaks_through_what_does(save_tiny_flow, codec, tmp_path, monkeypatch):
    ships, trained = tmp_path / "weights", tmp_path / "next"
    ships.mkdir()
    trained.mkdir()
    monkeypatch.setattr(registry, "WEIGHTS", ships)
    monkeypatch.setattr(registry, "NEXT", trained)
    save_tiny_flow(ships)
    (ships / FLOW_FILES["ar"]).unlink()
    assert not registry.after_tokens("flow")
    assert registry.unheard(["vocoder", "ar", "flow"]) == ["vocoder"]
    with pytest.raises(MissingModelError, match=r"myna-token-ar\.safetensors, which is not in .*next"):
        load_flow_speech(codec)
    save_tiny_flow(trained)
    for role in ("flow", "tokens", "vocoder"):
        (trained / FLOW_FILES[role]).unlink()
    assert registry.after_tokens("flow")
    assert registry.after_tokens(None)
    assert registry.unheard(["vocoder", "ar", "flow"]) == ["vocoder", "ar"]
    assert isinstance(load_flow_speech(codec), FlowSpeech)


def test_a_decoder_alone_in_its_folder_speaks_through_the_vocoder_that_ships(save_tiny_flow, codec, tmp_path):
    save_tiny_flow(tmp_path)
    path = tmp_path / FLOW_FILES["flow"]
    ar = cast(ARModel, None)  # which it does not ask
    beside = registry.DECODERS["flow"].load(codec, ar, path, "cpu", "float32")
    (tmp_path / FLOW_FILES["vocoder"]).unlink()
    alone = registry.DECODERS["flow"].load(codec, ar, path, "cpu", "float32")
    widths = [cast(FlowSpeechDecoder, one).vocoder.config.width for one in (beside, alone)]
    assert widths == [16, MelVocoderConfig().width]


def test_recordings_of_16_khz_are_noticed():
    generator = torch.Generator().manual_seed(0)
    wide = torch.randn(80, 200, generator=generator) - 4
    narrow = wide.clone()
    narrow[68:] = -11.5
    assert is_narrow(narrow)
    assert not is_narrow(wide)
