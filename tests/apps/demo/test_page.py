"""The page without a browser: what its parts compute, what they refuse, what they leave behind."""

from __future__ import annotations

import io
import os
import socket
import sys
import wave

import numpy as np
import pytest
from myna.apps.demo.compress import at_bitrate, encode
from myna.apps.demo.engine import VoiceFacts
from myna.apps.demo.pictures import BANDS, mel_spectrogram
from myna.apps.demo.samples import sample_recordings
from myna.apps.demo.voices import facts
from myna.apps.demo.workspace import Workspace
from myna.data.audio import read_audio
from myna.errors import InputError, UsageError

VOICES = sample_recordings()


def test_a_tone_is_one_line_in_the_mel_spectrogram():
    at = np.arange(24_000) / 24_000
    mels = [
        int(mel_spectrogram(np.sin(2 * np.pi * hertz * at), 24_000)[:, 40].argmax())
        for hertz in (200, 1000, 4000, 11_000)
    ]
    assert mels == sorted(set(mels))
    top = 2595 * np.log10(1 + 12_000 / 700)
    expected = [2595 * np.log10(1 + f / 700) / top * BANDS for f in (200, 1000, 4000, 11_000)]
    np.testing.assert_allclose(mels, expected, atol=1.5)


def test_no_band_of_noise_is_empty():
    noise = np.random.default_rng(0).standard_normal(48_000).astype(np.float32)
    for rate in (8_000, 24_000, 48_000, 192_000):
        level = mel_spectrogram(noise, rate).mean(axis=1)
        assert level.max() - level.min() < 6  # dB: an even spectrum is an even picture


@pytest.mark.parametrize("n", [0, 1, 100, 24_000])
def test_any_length_can_be_drawn(n):
    pytest.importorskip("matplotlib")
    from myna.apps.demo.pictures import draw

    image = draw(np.zeros(n, np.float32), 24_000, "Nothing")
    assert image.mode == "RGBA"
    assert image.getpixel((2, 2))[3] == 0  # the page's own background, light or dark


def test_the_voices_to_click_are_there_and_short():
    for voice in VOICES:
        audio = read_audio(voice.path)
        assert 1 < audio.samples.shape[1] / audio.sample_rate < 10
        assert voice.said


def test_files_have_safe_names_and_go_with_the_page():
    with Workspace() as workspace:
        one, two = workspace.new("../../etc/a b.wav"), workspace.new("../../etc/a b.wav")
        assert one.name == two.name == "etc-a-b.wav"
        assert one != two
        assert workspace.folder in one.resolve().parents
        one.write_bytes(b"x")
    assert not workspace.folder.exists()


def test_a_lower_bitrate_is_smaller_and_as_long(tmp_path):
    said = []
    encoded = encode(VOICES[1].path, lambda share, what: said.append(what))
    assert said[0] == "Loading the codec"
    with Workspace() as workspace:
        sizes = []
        for kbps in (4, 1, 0.5):
            file, wav, _ = at_bitrate(encoded, kbps, workspace, lambda share, what: None)
            sizes.append(file.stat().st_size)
            assert read_audio(wav).samples.shape == read_audio(VOICES[1].path).samples.shape
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 3 * sizes[2]


def test_a_recording_too_long_for_a_page_is_refused_at_once(tmp_path):
    path = tmp_path / "long.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(2 * 8000 * 601))
    with pytest.raises(InputError, match=r"lasts 10 minutes.*myna compress"):
        encode(path, lambda share, what: None)


class TestWithGradio:
    """What needs Gradio, but no browser."""

    @pytest.fixture(autouse=True)
    def gradio(self):
        return pytest.importorskip("gradio")

    def test_the_chunks_of_a_stream_are_the_whole(self, tones, tmp_path):
        from myna.apps.demo.page import build_page
        from myna.apps.demo.speech import SpeechPanel

        with Workspace() as workspace:
            build_page(tones, workspace)
            import gradio as gr

            with gr.Blocks():
                panel = SpeechPanel("test", tones, workspace)
            voice = tones.make_voice(VOICES[0].path, "x", "", None)
            values = list(panel.run("d" * 83, voice, "it", "standard", 7))
            chunks = [read_wav(value[0]) for value in values if isinstance(value[0], bytes)]
            assert len(chunks) > 3
            assert 0.2 < len(chunks[0]) / 24_000 < 0.4  # the first comes soon
            whole = read_audio(values[-1][2].value["path"]).samples[0]
            np.testing.assert_allclose(np.concatenate(chunks), whole, atol=1e-4)
            assert len(whole) == 83 * 960
        assert tones.spoken[0][2].seed == 7

    def test_a_recording_comes_out_in_the_voice_as_long_as_it_was(self, tones):
        from myna.apps.demo.convert import check_talk
        from myna.apps.demo.speech import SpeechPanel

        with Workspace() as workspace:
            import gradio as gr

            with gr.Blocks():
                panel = SpeechPanel("test", tones, workspace)
            voice = tones.make_voice(VOICES[0].path, "x", "", None)
            talk = check_talk(str(VOICES[1].path))
            values = list(panel.show(lambda: tones.convert(talk, voice, 5), voice, "it", 5, "nothing"))
            whole = read_audio(values[-1][2].value["path"]).samples[0]
            assert len(whole) == read_audio(talk, 24_000).samples.shape[1]
            with pytest.raises(UsageError, match="nothing came"):
                list(panel.show(lambda: (chunk for chunk in ()), voice, "it", 5, "nothing came"))
        assert tones.converted == [(talk, voice, 5)]

    def test_recordings_that_a_page_does_not_convert(self, tmp_path):
        from myna.apps.demo.convert import check_talk

        with pytest.raises(UsageError, match="nothing to convert"):
            check_talk(None)
        path = tmp_path / "long.wav"
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(8000)
            file.writeframes(bytes(2 * 8000 * 121))
        with pytest.raises(UsageError, match=r"121 s.*myna convert"):
            check_talk(str(path))

    @pytest.mark.parametrize("text", [None, "", " \n\t", "x" * 5001])
    def test_texts_that_a_page_does_not_take(self, text):
        from myna.apps.demo.speech import check_text

        with pytest.raises(UsageError, match=r"there is no text yet|myna say"):
            check_text(text)

    @pytest.mark.parametrize("seed", [-1, 0.5, 2.0**31, float("nan"), float("inf")])
    def test_seeds_that_are_none(self, seed):
        from myna.apps.demo.speech import check_seed

        with pytest.raises(UsageError, match="not a seed"):
            check_seed(seed)

    def test_without_a_seed_there_is_another_each_time(self):
        from myna.apps.demo.speech import check_seed

        assert len({check_seed(None) for _ in range(8)}) > 1
        assert check_seed(3.0) == 3

    def test_errors_are_one_line_without_markup_or_places(self, gradio, caplog):
        from myna.apps.demo.feedback import guarded

        def fails():
            raise InputError("/tmp/myna-demo-x/gradio/0123456789abcdef0123/<b>.wav\nis empty")

        def breaks():
            yield 1
            raise KeyError("<script>")

        with pytest.raises(gradio.Error) as caught:
            guarded(fails)()
        assert caught.value.message == "&lt;b&gt;.wav is empty"
        assert not caplog.records
        with pytest.raises(gradio.Error) as caught:
            list(guarded(breaks)())
        assert "<script>" not in caught.value.message
        assert "KeyError" in caught.value.message
        assert len(caplog.records) == 1  # the terminal has all of it

    def test_a_port_that_is_taken(self, tones):
        from myna.apps.demo.server import serving

        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            with pytest.raises(UsageError, match=rf"{port}.*in use.*--port"), serving(tones, port=port):
                pass

    def test_an_address_that_is_not_ours(self, tones):
        from myna.apps.demo.server import serving

        for host in ("192.0.2.1", "no.such.host.invalid"):
            with pytest.raises(UsageError, match=rf"{host}.*--host"), serving(tones, host, 7999):
                pass

    def test_nothing_stays_behind(self, tones, monkeypatch):
        import urllib.request

        from myna.apps.demo.server import serving

        monkeypatch.setenv("http_proxy", "http://192.0.2.1:9")  # a proxy must not come between
        before = dict(os.environ)
        with serving(tones) as served:
            assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "0"
            folder = os.environ["GRADIO_TEMP_DIR"]
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(served.url) as answer:
                text = answer.read().decode()
        assert "Myna" in text
        assert "fonts.googleapis" not in text
        assert dict(os.environ) == before
        assert not os.path.exists(os.path.dirname(folder))

    def test_without_ffmpeg_the_one_of_the_package_is_taken(self, tones, monkeypatch, tmp_path):
        pytest.importorskip("imageio_ffmpeg")
        import shutil

        from myna.apps.demo.server import page_environment
        from myna.data.environment import environment

        monkeypatch.setenv("PATH", str(tmp_path))
        with Workspace() as workspace, environment(page_environment(workspace)):
            found = shutil.which("ffmpeg")
            assert found
            assert str(workspace.folder) in found
            assert os.access(found, os.X_OK)
        assert os.environ["PATH"] == str(tmp_path)


def test_without_gradio_the_remedy_is_said(tones, monkeypatch):
    from myna.apps.demo.server import serving

    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UsageError, match=r"pip install 'myna\[demo\]'"), serving(tones):
        pass


def read_wav(data: bytes) -> np.ndarray:
    return read_audio(io.BytesIO(data)).samples[0]


def test_the_page_says_what_of_a_voice_is_not_used():
    voice = VoiceFacts("me", 3.0, "me.wav", "2026-01-01", "mine", remarks=("<its adapters> are not used",))
    assert "<dt>note</dt><dd>&lt;its adapters&gt; are not used</dd>" in facts(voice)
