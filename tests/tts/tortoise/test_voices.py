from __future__ import annotations

import importlib.util
import pickle
import shutil
from pathlib import Path

import numpy as np
import published
import pytest
import torch
from myna.data.audio import read_audio, write_audio
from myna.errors import InputError, UsageError
from myna.tts.tortoise.conditioning import CLIP_RATE, resample
from myna.tts.tortoise.networks import Networks
from myna.tts.tortoise.voices import VoiceReader, read_clip

SPEECH = Path(__file__).parents[2] / "assets" / "speech.wav"
OTHER = SPEECH.with_name("lj.flac")
AGREED = "the speaker agreed on 3 May"


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    names = ("autoregressive", "diffusion", "random-autoregressive", "random-diffusion")
    folder = published.write(tmp_path_factory.mktemp("tortoise"), names)
    return VoiceReader(Networks(folder, precision="float32"))


def latents(voice):
    return torch.cat([voice.autoregressive, voice.diffusion], dim=1)


@pytest.fixture
def clips(tmp_path):
    folder = tmp_path / "ada"
    folder.mkdir()
    shutil.copy(SPEECH, folder / "a.wav")
    shutil.copy(OTHER, folder / "b.flac")
    return folder


def test_a_recording_and_a_folder_of_them(reader, clips):
    one, both = reader.read(clips / "a.wav", AGREED), reader.read(clips, AGREED)
    assert (one.name, both.name, both.consent) == ("a", "ada", AGREED)
    assert one.autoregressive.shape == (1, 64)
    assert one.diffusion.shape == (1, 128)
    other = reader.read(clips / "b.flac", AGREED)
    mean = (one.autoregressive + other.autoregressive) / 2
    assert torch.allclose(both.autoregressive, mean, atol=1e-5)


def test_a_mixture_is_the_mean(reader, clips):
    mixed = reader.read(f"{clips / 'a.wav'}&{clips / 'b.flac'}", AGREED)
    assert torch.allclose(latents(mixed), latents(reader.read(clips, AGREED)), atol=1e-5)
    assert mixed.name == "a & b"
    listed = reader.read([clips / "a.wav", clips / "b.flac"], AGREED)
    assert torch.equal(latents(listed), latents(mixed))
    odd = shutil.copy(clips / "a.wav", clips / "r&b.wav")
    assert torch.equal(latents(reader.read(odd, AGREED)), latents(reader.read(clips / "a.wav", AGREED)))
    with_nobody = reader.read(f"{clips / 'a.wav'} & random", AGREED, seed=4)
    parts = latents(reader.read(clips / "a.wav", AGREED)), latents(reader.read("random", seed=5))
    assert torch.allclose(latents(with_nobody), sum(parts) / 2, atol=1e-5)


def test_a_random_voice_by_its_seed(reader):
    a, b, c = (latents(reader.read("random", seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_latents_that_tortoise_saved(reader, tmp_path):
    saved = torch.randn(1, 64), torch.randn(1, 128)
    torch.save(saved, tmp_path / "pat.pth")
    voice = reader.read(tmp_path / "pat.pth", AGREED)
    assert torch.equal(latents(voice), torch.cat(saved, dim=1))
    torch.save((torch.randn(1, 9), saved[1]), tmp_path / "small.pth")
    with pytest.raises(InputError, match="latents of 9 and 128 numbers, expected 64 and 128"):
        reader.read(tmp_path / "small.pth", AGREED)


def test_latents_that_the_package_ships():
    """Saved on a GPU, by TorToise itself, of its published networks."""
    found = importlib.util.find_spec("tortoise")
    if found is None or found.origin is None:
        pytest.skip("tortoise-tts is not installed: pip install --no-deps tortoise-tts==3.0.0")

    class PublishedSizes:
        latent_sizes = (1024, 2048)

        def voice_fingerprint(self):
            return ""

    path = Path(found.origin).parent / "voices" / "cond_latent_example" / "pat.pth"
    voice = VoiceReader(PublishedSizes()).read(path, AGREED)  # pyright: ignore[reportArgumentType]
    assert voice.autoregressive.shape == (1, 1024)
    assert voice.diffusion.shape == (1, 2048)
    assert float(voice.autoregressive.std()) > 0.01


def test_a_file_of_latents_runs_nothing(reader, tmp_path):
    class Evil:
        def __reduce__(self):
            return (pytest.fail, ("it ran",))

    path = tmp_path / "evil.pth"
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(InputError, match="does not hold TorToise's two latents"):
        reader.read(path, AGREED)


def test_a_voice_is_kept_and_needs_no_audio(reader, clips, tmp_path):
    voice = reader.read(clips, AGREED)
    path = tmp_path / "ada.safetensors"
    voice.save(path)
    again = reader.read(path)
    assert torch.equal(latents(again), latents(voice))
    assert (again.name, again.consent, again.source) == ("ada", AGREED, voice.source)
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="damaged voice"):
        reader.read(path)


def test_a_kept_voice_is_not_used_with_other_networks(reader, clips, tmp_path):
    reader.read(clips, AGREED).save(tmp_path / "ada.safetensors")
    folder = tmp_path / "others"
    folder.mkdir()
    for index, name in enumerate(("autoregressive", "diffusion")):
        weights = published.weights(name, published.network(name, 7 + index))
        torch.save(weights, folder / published.FILES[name].name)
    with pytest.raises(InputError, match="made by other networks"):
        VoiceReader(Networks(folder, precision="float32")).read(tmp_path / "ada.safetensors")


def test_a_recording_needs_consent(reader, clips):
    for source in (clips, clips / "a.wav"):
        with pytest.raises(UsageError, match="speaker's consent"):
            reader.read(source)


def test_a_voice_of_the_package(reader):
    from myna.tts.voices.library import shipped_voices

    name = next(iter(shipped_voices()))
    assert reader.read(name).consent == shipped_voices()[name].consent


def test_a_name_is_never_a_path(reader, clips, monkeypatch):
    from myna.tts.voices.library import shipped_voices

    monkeypatch.setenv("MYNA_VOICES", str(clips.parent / "library"))
    monkeypatch.chdir(clips.parent)
    reader.read(clips, AGREED).save(clips.parent / "beside.safetensors")
    for name in (str(clips), "ada", "ada/a.wav", "../beside", "beside.safetensors", "nova&random", ""):
        with pytest.raises(UsageError):
            reader.known(name)
    (clips.parent / "nova").mkdir()  # what lies beside is not what is meant
    assert reader.known("nova").consent == shipped_voices()["nova"].consent
    assert torch.equal(latents(reader.known("random", 4)), latents(reader.read("random", seed=4)))
    (clips.parent / "library").mkdir()
    (clips.parent / "beside.safetensors").rename(clips.parent / "library" / "ada.safetensors")
    assert torch.equal(latents(reader.known("ada")), latents(reader.read(clips, AGREED)))


def test_a_stereo_clip_is_heard_by_its_first_channel(tmp_path):
    audio = read_audio(SPEECH)
    both = np.stack([audio.samples[0], np.zeros_like(audio.samples[0])])
    write_audio(tmp_path / "stereo.wav", both, audio.sample_rate, float32=True)
    expected = resample(torch.from_numpy(audio.samples[0].copy()), audio.sample_rate, CLIP_RATE)
    assert torch.allclose(read_clip(tmp_path / "stereo.wav"), expected.clamp(-1, 1), atol=1e-6)


def test_clips_that_cannot_be_used(reader, tmp_path):
    write_audio(tmp_path / "short.wav", 0.1 * np.ones(4800, np.float32), 24_000)
    with pytest.raises(InputError, match=r"is 0.20 s long; TorToise needs a clip of 1 s"):
        reader.read(tmp_path / "short.wav", AGREED)
    write_audio(tmp_path / "silent.wav", np.zeros(48_000, np.float32), 24_000)
    with pytest.raises(InputError, match="silent"):
        reader.read(tmp_path / "silent.wav", AGREED)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no recordings in"):
        reader.read(tmp_path / "empty", AGREED)
    with pytest.raises(InputError, match="no such file"):
        reader.read(tmp_path / "gone.wav", AGREED)
    with pytest.raises(UsageError, match="no voice named 'nobody'"):
        reader.read("nobody")
    with pytest.raises(UsageError, match="without a name"):
        reader.read("random&", AGREED)


def test_a_clip_too_short_costs_no_folder(reader, clips):
    write_audio(clips / "short.wav", 0.1 * np.ones(4800, np.float32), 24_000)
    voice = reader.read(clips, AGREED)
    assert "2 clips" in voice.source
    assert any("short.wav" in note for note in voice.notes)
