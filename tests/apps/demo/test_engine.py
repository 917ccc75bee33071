"""The page's engine with the package's own synthesis, voices and watermark; the models are tiny and have learned
nothing."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from myna.apps.demo.engine import Engine
from myna.apps.demo.samples import sample_recordings
from myna.codec.myna import MynaCodec, MynaConfig
from myna.errors import InputError, UsageError
from myna.marks.tags import is_synthetic
from myna.marks.watermark import detect_watermark
from myna.tts import speaker
from myna.tts.convert import Converter, load_decoder
from myna.tts.decoders.nar import NARConfig, NARModel
from myna.tts.decoders.nar_stream import NARDecoder
from myna.tts.lm.ar import ARConfig, ARModel
from myna.tts.presets import PRESETS, SpeechOptions
from myna.tts.valle import Valle

SPEECH = Path(__file__).resolve().parents[2] / "assets" / "speech.wav"
SMALL = {"width": 32, "depth": 1, "n_heads": 2, "n_kv_heads": 1, "hidden": 64, "text_depth": 1, "extra": 4}
CONSENT = "This voice is mine, or its owner agreed"


@pytest.fixture(scope="module")
def tiny_speaker() -> speaker.Speaker:
    torch.manual_seed(0)
    config = MynaConfig(
        width=32, latent_width=32, encoder_depth=(1, 1), decoder_depth=(1, 1), latent_dim=16, n_paths=1
    )
    codec = MynaCodec(config).eval()
    with torch.no_grad():
        codec.decoder.layers[-2].scale.fill_(0.5)  # loud enough to be heard
    rows = codec.rows()
    ar = ARModel(ARConfig(codebook_dim=16, **SMALL), rows)
    nar = NARModel(NARConfig(codebook_dim=16, condition=8, **SMALL), rows)
    return speaker.Speaker(Valle(codec, ar.eval(), {"nar": NARDecoder(nar.eval(), codec)}))


@pytest.fixture
def engine(tiny_speaker, tmp_path, monkeypatch) -> Engine:
    monkeypatch.setattr(speaker, "shared_speaker", lambda device="cpu": tiny_speaker)
    monkeypatch.setenv("MYNA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MYNA_CACHE", str(tmp_path / "cache"))
    return Engine()


@pytest.fixture
def ada(engine):
    return engine.make_voice(SPEECH, "ada", CONSENT, None)


def test_a_voice_is_made_kept_listed_and_removed(engine, ada):
    ours = [facts.name for facts in engine.voices()]
    assert ours == [voice.label.lower() for voice in sample_recordings()]  # those of the package
    assert all(facts.ours and facts.consent for facts in engine.voices())
    engine.save_voice(ada)
    first, *rest = engine.voices()
    assert (first.name, first.ours, first.problem, first.source) == ("ada", False, None, "speech.wav")
    assert first.consent == CONSENT
    assert 1 < first.seconds < 5
    assert [facts.name for facts in rest] == ours
    with pytest.raises(UsageError, match="already"):
        engine.save_voice(ada)
    engine.remove_voice("ada")
    assert [facts.name for facts in engine.voices()] == ours


def test_the_models_meet_the_same_object_until_the_voice_is_another(engine, ada):
    engine.save_voice(ada)
    voice = engine.load_voice("ada")
    assert engine.load_voice("ada").prompt() is voice.prompt()
    engine.remove_voice("ada")
    engine.save_voice(engine.make_voice(sample_recordings()[1].path, "ada", CONSENT, None))
    assert not engine.load_voice("ada").codes.equal(voice.codes)


def test_speech_is_marked_and_the_seed_decides(engine, ada, tmp_path):
    def said(seed: int) -> np.ndarray:
        chunks = list(engine.speak("One two three four. Five six seven.", ada, SpeechOptions("fast", seed)))
        assert chunks[-1].done == 1
        assert [chunk.done for chunk in chunks] == sorted(chunk.done for chunk in chunks)
        return np.concatenate([chunk.samples for chunk in chunks])

    one = said(5)
    np.testing.assert_array_equal(one, said(5))
    other = said(6)
    assert len(other) != len(one) or not np.array_equal(other, one)
    path = tmp_path / "said.wav"
    engine.write(path, one, ada)
    with soundfile.SoundFile(path) as file:
        assert is_synthetic(file.copy_metadata())
        assert len(file) == len(one)


def test_what_a_voice_was_made_from_is_marked_too(engine, ada):
    samples = engine.prompt(ada)
    assert len(samples) == pytest.approx(ada.codes.shape[1] * 480, abs=480)
    assert detect_watermark(np.tile(samples, 4), engine.sample_rate).found


def test_closing_stops_the_work(engine, ada):
    chunks = engine.speak("Word and word and word. " * 200, ada, SpeechOptions("standard", 1))
    next(chunks)
    began = time.perf_counter()
    chunks.close()
    assert time.perf_counter() - began < 10
    with pytest.raises(StopIteration):
        next(chunks)


def test_presets_are_those_of_the_command(engine):
    assert list(engine.presets) == list(PRESETS)
    assert next(iter(engine.presets)) == "standard"


def test_a_damaged_voice_is_listed_with_the_reason(engine, tmp_path):
    path = tmp_path / "home" / "voices" / "broken.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"nothing")
    facts = engine.voices()[0]
    assert facts.name == "broken"
    assert facts.problem
    with pytest.raises(InputError):
        engine.load_voice("broken")
    engine.remove_voice("broken")
    assert not path.exists()


def test_recordings_that_cannot_be_a_voice(engine, tmp_path):
    soundfile.write(tmp_path / "silence.wav", np.zeros(72_000), 24_000)
    with pytest.raises(InputError, match=r"silence\.wav"):
        engine.make_voice(tmp_path / "silence.wav", "x", CONSENT, None)


def test_the_models_that_ship_say_something(monkeypatch, tmp_path):
    monkeypatch.setenv("MYNA_CACHE", str(tmp_path / "cache"))
    engine = Engine()
    voice = engine.load_voice("nova")
    samples = np.concatenate(
        [
            chunk.samples
            for chunk in engine.speak("Hello there, how are you?", voice, SpeechOptions("standard", 1))
        ]
    )
    assert 0.8 < len(samples) / engine.sample_rate < 6
    assert np.abs(samples).max() > 0.05


def test_a_recording_is_converted_and_marked(engine, ada, save_tiny_flow, tmp_path):
    save_tiny_flow(tmp_path)
    engine._converter = Converter(load_decoder(folder=tmp_path), engine.speaker.models.codec)
    chunks = list(engine.convert(SPEECH, ada, 3))
    samples = np.concatenate([chunk.samples for chunk in chunks])
    assert len(samples) == soundfile.info(SPEECH).frames
    assert [chunk.done for chunk in chunks] == sorted(chunk.done for chunk in chunks)
    assert chunks[-1].done == 1
    assert detect_watermark(np.tile(samples, 3), 24_000).found
