"""A new decoder is a class and a row: this one, which hums, speaks through `myna say`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from myna.codec.myna import MynaCodec, MynaConfig
from myna.data.audio import read_audio
from myna.errors import MissingModelError
from myna.layers.lora import LoRAWeights
from myna.tts import registry, speaker
from myna.tts.decoders.base import Latents
from myna.tts.lm.adapter import Adapter
from myna.tts.lm.ar import ARConfig, ARModel
from myna.tts.lm.batch import Prompt
from myna.tts.presets import SpeechOptions
from myna.tts.registry import DecoderRow, load_decoders
from myna.tts.text.phones import Phones
from myna.tts.valle import Valle
from myna.tts.voices.voice import Voice, codec_hash, load_voice
from torch import Tensor

SMALL = {"width": 32, "depth": 1, "n_heads": 2, "n_kv_heads": 1, "hidden": 64, "text_depth": 1, "extra": 4}


class Hum:
    """A tone a phone, as loud as the prompt."""

    name, chunks = "hum", tuple[int, ...]()  # a whole sentence at once

    def __init__(self, frame_size: int):
        self.frame_size, self.heard = frame_size, []

    def check(self, ar: ARModel) -> None:
        if ar.config.n_coarse != 1:
            raise MissingModelError("the decoder hum reads one codebook")

    def read_voice(self, prompt: Prompt, wav: Tensor) -> float:
        return float(wav.abs().max())

    def stream(self, phones: Phones, voice: float | None, seed: int) -> HumStream:
        self.heard.append((len(phones), voice, seed))
        return HumStream(self.frame_size, 0.5 if voice is None else voice)

    def fingerprint(self) -> str:
        return "hum"


class HumStream:
    def __init__(self, frame_size: int, level: float):
        self.frame_size, self.level, self.turns = frame_size, level, 0.0

    def push(self, latents: Latents) -> np.ndarray:
        step = (200 + 10 * latents.pointer.double()) / 24_000
        turns = self.turns + step.repeat_interleave(self.frame_size).cumsum(0)
        self.turns = float(turns[-1]) if len(turns) else self.turns
        return (self.level * (2 * torch.pi * turns).sin()).float().numpy()

    def flush(self) -> np.ndarray:
        return np.zeros(0, np.float32)


@pytest.fixture
def hum(monkeypatch, tmp_path) -> Hum:
    """The decoder, registered; the models that ship are tiny ones, a voice is at ada.safetensors."""
    torch.manual_seed(0)
    config = MynaConfig(
        width=32, latent_width=32, encoder_depth=(1, 1), decoder_depth=(1, 1), latent_dim=16, n_paths=1
    )
    codec = MynaCodec(config).eval()
    ar = ARModel(ARConfig(codebook_dim=16, **SMALL), codec.rows()).eval()
    decoder = Hum(codec.frame_size)
    monkeypatch.setitem(registry.DECODERS, "hum", DecoderRow("hum", "it hums", lambda *_: decoder))
    monkeypatch.setattr(
        speaker,
        "load_models",
        lambda device, decoder=None, precision="auto": Valle(codec, ar, load_decoders(codec, ar)),
    )
    codes = torch.randint(0, 1024, (8, 60), generator=torch.Generator().manual_seed(1))
    monkeypatch.chdir(tmp_path)
    Voice("ada", codes, None, None, codec_hash(codec), "ada.wav", "2026-01-01", "Ada agreed in May").save(
        "ada.safetensors"
    )
    return decoder


def test_a_new_decoder_speaks(hum, myna):
    text = "One two three. Four five six!"
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        done = myna(
            "say", text, "-v", "ada.safetensors", "-o", f"{name}.wav", "--seed", seed, "--decoder", "hum"
        )
        assert done.code == 0, done
    a, b, c = (Path(f"{name}.wav").read_bytes() for name in "abc")
    assert a == b != c
    samples = read_audio("a.wav").samples[0]
    spectrum = np.abs(np.fft.rfft(samples))
    assert 200 <= np.argmax(spectrum) / len(samples) * 24_000 <= 400  # the tones, not the codec's noise
    (n_first, level, _), (n_second, *_) = hum.heard[:2]
    assert min(n_first, n_second) > 5
    assert level > 0
    assert len({seed for *_, seed in hum.heard}) == 4  # two sentences, two seeds


def test_a_draft_goes_on_only_in_the_same_voice(hum):
    """Of a voice, mel and speaker vector are heard as its codes are."""
    known = load_voice("ada.safetensors")
    heard = replace(known, mel=torch.zeros(80, 120), speaker=torch.ones(256) / 16)
    voices = (
        known,
        heard,
        replace(heard, mel=torch.ones(80, 120)),
        replace(heard, speaker=-torch.ones(256) / 16),
    )
    one = speaker.Speaker()
    options = SpeechOptions(decoder="hum")
    keys = [one.fingerprint([], voice, options, "") for voice in voices]
    assert len(set(keys)) == 4
    assert one.fingerprint([], replace(heard, name="other"), options, "") == keys[1]


def test_one_that_nobody_registered_is_one_line(hum, myna):
    myna("say", "Hi.", "-v", "ada.safetensors", "--decoder", "whistle").failed_with(
        2, "no decoder named 'whistle': choose one of flow, nar, hum"
    )


def test_adapters_of_a_decoder_that_is_gone_are_not_used_and_named_in_one_line(hum, myna):
    weights = LoRAWeights({"net": torch.ones(2, 3)}, {"net": torch.ones(4, 2)}, 1.0)
    voice = load_voice("ada.safetensors")
    replace(voice, name="old", adapters={"vocoder": Adapter(weights, "0123456789abcdef")}).save(
        "old.safetensors"
    )
    spoken = ("say", "One two three.", "--decoder", "hum", "--seed", 3)
    assert "not used" not in myna(*spoken, "-v", "ada.safetensors", "-o", "new.wav").err
    done = myna(*spoken, "-v", "old.safetensors", "-o", "old.wav")
    assert done.code == 0, done
    told = [line for line in done.err.splitlines() if "are not used" in line]
    assert len(told) == 1
    assert "its adapters of vocoder" in told[0]
    assert "myna voices adapt old RECORDINGS` again" in told[0]
    np.testing.assert_array_equal(read_audio("old.wav").samples, read_audio("new.wav").samples)
    assert "are not used" in myna("voices", "show", "old.safetensors").out
    assert set(load_voice("old.safetensors").adapters) == {"vocoder"}  # nothing of the user's is lost


def test_one_that_is_gone_is_one_line(hum, myna):
    myna("say", "Hi.", "-v", "ada.safetensors", "--decoder", "vocoder").failed_with(
        2, "the decoder vocoder is gone: flow took its place"
    )


def test_one_whose_weights_do_not_ship_says_how_they_are_trained(hum, myna):
    myna("say", "Hi.", "-v", "ada.safetensors", "--decoder", "nar").failed_with(
        4,
        "'nar' is not installed; there is flow, hum; its weights do not ship: train them (myna train recipes/myna-nar",
    )
