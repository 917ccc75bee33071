"""`myna convert` with tiny models: files, pipes, consent, marks, bad input."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from myna.apps.cli import run
from myna.codec.myna import MynaCodec, MynaConfig
from myna.data.audio import read_audio, write_audio
from myna.marks.tags import is_synthetic
from myna.marks.watermark import detect_watermark
from myna.tts import convert
from myna.tts.convert import Converter, load_decoder
from myna.tts.voices.voice import make_voice

SPEECH = Path(__file__).parents[1] / "assets" / "speech.wav"
CONSENT = "I am the speaker and agree"


@pytest.fixture(scope="module")
def tiny(save_tiny_flow, tmp_path_factory) -> Converter:
    torch.manual_seed(0)
    config = MynaConfig(
        width=32, latent_width=32, encoder_depth=(1, 1), decoder_depth=(1, 1), latent_dim=16, n_codebooks=2
    )
    folder = tmp_path_factory.mktemp("flow")
    save_tiny_flow(folder)
    return Converter(load_decoder(folder=folder), MynaCodec(config).eval())


@pytest.fixture(autouse=True)
def here(tiny, tmp_path, monkeypatch):
    """An empty folder with a voice and a recording; the models that ship are tiny ones."""
    monkeypatch.setattr(convert, "Converter", lambda device: tiny)
    monkeypatch.setenv("MYNA_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    make_voice(SPEECH, tiny.codec, CONSENT, name="ada").save("ada.safetensors")
    write_audio("talk.wav", read_audio(SPEECH).samples[:, : 2 * 24_000], 24_000)


def test_a_file_becomes_a_marked_file_of_its_length(myna):
    done = myna("convert", "talk.wav", "--voice", "ada.safetensors", "-o", "out.flac", "--json")
    assert done.code == 0, done
    report = json.loads(done.out)
    assert report["voice"] == "ada"
    assert (report["n_samples"], report["sample_rate"]) == (48_000, 24_000)
    assert report["real_time_factor"] > 0
    assert 0 < report["first_audio"] <= report["elapsed"]
    with soundfile.SoundFile("out.flac") as sound:
        assert (len(sound), sound.samplerate) == (48_000, 24_000)
        assert is_synthetic(sound.copy_metadata())
    assert detect_watermark(np.tile(read_audio("out.flac").samples[0], 6), 24_000).found


def test_the_name_is_the_inputs_and_nothing_is_overwritten(myna):
    assert myna("convert", "talk.wav", "-v", "ada.safetensors", "-q").code == 0
    assert Path("talk_converted.wav").is_file()
    before = Path("talk_converted.wav").read_bytes()
    myna("convert", "talk.wav", "-v", "ada.safetensors").failed_with(2, "talk_converted.wav", "--force")
    assert myna("convert", "talk.wav", "-v", "ada.safetensors", "-f", "-q").code == 0
    assert Path("talk_converted.wav").read_bytes() == before
    assert myna("convert", "talk.wav", "-v", "ada.safetensors", "-f", "-q", "--seed", 1).code == 0
    assert Path("talk_converted.wav").read_bytes() != before


def test_a_voice_from_a_recording_needs_consent(myna):
    myna("convert", "talk.wav", "-v", SPEECH).failed_with(2, "consent")
    assert not Path("talk_converted.wav").exists()
    assert myna("convert", "talk.wav", "-v", SPEECH, "--consent", CONSENT, "-q").code == 0


class Stdio:
    """Stands in for sys.stdin and sys.stdout: `.buffer` is what the command uses."""

    def __init__(self, data: bytes = b""):
        self.buffer = io.BytesIO(data)

    def write(self, text: str) -> int:
        return self.buffer.write(text.encode())

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return False


def test_a_pipe_becomes_a_pipe(myna, monkeypatch):
    assert myna("convert", "talk.wav", "-v", "ada.safetensors", "-q", "-o", "file.wav").code == 0
    out = Stdio()
    monkeypatch.setattr("sys.stdin", Stdio(Path("talk.wav").read_bytes()))
    monkeypatch.setattr("sys.stdout", out)
    assert run(["convert", "-", "-v", "ada.safetensors", "-q"]) == 0
    piped, rate = soundfile.read(io.BytesIO(out.buffer.getvalue()), dtype="float32")
    assert rate == 24_000
    np.testing.assert_allclose(piped, read_audio("file.wav").samples[0], atol=2 / 32768)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("gone.wav", "-v", "ada.safetensors"), 3, ("gone.wav",)),
        (("text.txt", "-v", "ada.safetensors"), 3, ("text.txt",)),
        (("empty.wav", "-v", "ada.safetensors"), 3, ("empty.wav",)),
        (("silent.wav", "-v", "ada.safetensors"), 3, ("silent",)),
        (("talk.wav", "-v", "nobody"), 2, ("no voice named 'nobody'",)),
        (("talk.wav", "-v", "gone.safetensors"), 4, ("gone.safetensors",)),
        (("talk.wav", "-v", "ada.safetensors", "-o", "out.xyz"), 2, (".xyz",)),
        (("talk.wav", "-v", "ada.safetensors", "--seed", "-1"), 2, ("seed",)),
        (("-", "-v", "-"), 2, ("standard input",)),
        ((".", "-v", "ada.safetensors"), 3, ()),
    ],
)
def test_bad_input_is_one_line(myna, arguments, code, words):
    Path("text.txt").write_text("no sound")
    Path("empty.wav").write_bytes(b"")
    write_audio("silent.wav", np.zeros((1, 24_000), np.float32), 24_000)
    before = sorted(path.name for path in Path().iterdir())
    myna("convert", *arguments).failed_with(code, *words)
    assert sorted(path.name for path in Path().iterdir()) == before  # nothing is left half written
