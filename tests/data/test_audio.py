"""Audio in and out: exact samples, exact lengths, any cut, whole files or none."""

from __future__ import annotations

import io
import random
from pathlib import Path

import numpy as np
import pytest
import soundfile
from myna.data.audio import WRITABLE, AudioReader, open_writer, read_audio, write_audio
from myna.data.files import atomic_output
from myna.data.loudness import SILENCE, LoudnessMeter
from myna.data.resample import Resampler, resample, resampled_length
from myna.data.wav import WavReader, WavWriter
from myna.errors import InputError, OutputError, UsageError

ASSETS = Path(__file__).resolve().parents[1] / "assets"
RATES = [8000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000, 192_000]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("n", [1, 2, 100, 4801])
def test_resampled_there_and_back_has_the_same_length(rate, n):
    x = np.random.default_rng(n).standard_normal((2, n)).astype(np.float32)
    there = resample(x, rate, 24_000)
    assert there.shape == (2, resampled_length(n, rate, 24_000))
    assert n <= resample(there, 24_000, rate).shape[1] <= n + -(-rate // 24_000)


@pytest.mark.parametrize("rate", RATES)
def test_cuts_do_not_change_resampling(rate):
    x = np.random.default_rng(0).standard_normal((1, 20_000)).astype(np.float32)
    cut, resampler, at = random.Random(rate), Resampler(rate, 24_000, 1), 0
    pieces = []
    while at < x.shape[1]:
        n = cut.randint(0, 3000)
        pieces.append(resampler.push(x[:, at : at + n]))
        at += n
    pieces.append(resampler.flush())
    np.testing.assert_array_equal(np.concatenate(pieces, axis=1), resample(x, rate, 24_000))


def test_a_tone_survives_resampling_in_place():
    t = np.arange(48_000) / 48_000
    there = resample(np.sin(2 * np.pi * 440 * t)[None].astype(np.float32), 48_000, 24_000)
    expected = np.sin(2 * np.pi * 440 * np.arange(24_000) / 24_000)
    assert np.abs(there[0, 500:-500] - expected[500:-500]).max() < 1e-4


@pytest.mark.parametrize(
    ("kind", "subtype"),
    [("WAV", s) for s in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "IMA_ADPCM")]
    + [("WAVEX", "PCM_16"), ("RF64", "PCM_16"), ("FLAC", "PCM_24"), ("OGG", "VORBIS"), ("AIFF", "PCM_16")],
)
def test_samples_are_those_of_libsndfile(tmp_path, kind, subtype):
    x = np.random.default_rng(0).uniform(-0.9, 0.9, (4000, 2))
    soundfile.write(tmp_path / "x", x, 16_000, format=kind, subtype=subtype)
    expected = soundfile.read(tmp_path / "x", dtype="float32")[0].T
    np.testing.assert_array_equal(read_audio(tmp_path / "x").samples, expected)
    pipe = io.BufferedReader(_Pipe((tmp_path / "x").read_bytes()))
    np.testing.assert_array_equal(read_audio(pipe).samples, expected)


class _Pipe(io.RawIOBase):
    def __init__(self, data: bytes):
        self.data, self.random = io.BytesIO(data), random.Random(0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:  # type: ignore[override]
        piece = self.data.read(min(len(buffer), self.random.randint(1, 900)))
        buffer[: len(piece)] = piece
        return len(piece)


@pytest.mark.parametrize("float32", [False, True])
@pytest.mark.parametrize("known", [False, True])
def test_wav_to_a_pipe_and_to_a_file(float32, known):
    x = np.random.default_rng(0).uniform(-1, 1, (3, 777)).astype(np.float32)

    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    for file in (Pipe(), io.BytesIO()):
        writer = WavWriter(file, 11_025, 3, 777 if known else None, float32)
        for at in range(0, 777, 100):
            writer.write(x[:, at : at + 100])
        writer.close()
        reader = WavReader(io.BytesIO(file.getvalue()), "x")
        assert (reader.sample_rate, reader.channels) == (11_025, 3)
        assert reader.n_frames == (777 if known or not isinstance(file, Pipe) else None)
        np.testing.assert_allclose(reader.read(1000), x, atol=0 if float32 else 0.51 / 32768)
        if known or not isinstance(file, Pipe):  # libsndfile agrees
            assert soundfile.info(io.BytesIO(file.getvalue())).frames == 777


def test_sixteen_bits_are_clamped_not_wrapped(tmp_path):
    write_audio(tmp_path / "x.flac", np.array([[-2.0, -1.0, 0.0, 1.0, 2.0]]), 8000)
    samples = read_audio(tmp_path / "x.flac").samples[0]
    np.testing.assert_array_equal(samples * 32768, [-32768, -32768, 0, 32767, 32767])


def test_blocks_are_the_file(tmp_path):
    whole = read_audio(ASSETS / "speech.wav").samples
    with AudioReader(ASSETS / "speech.wav") as reader:
        blocks = list(reader.blocks(0.1))
    assert max(block.shape[1] for block in blocks) == 2400
    np.testing.assert_array_equal(np.concatenate(blocks, axis=1), whole)


@pytest.mark.parametrize("seconds", [0.01, 0.1, 1.0])
def test_blocks_of_an_mp3_are_the_file(tmp_path, capfd, seconds):
    speech = read_audio(ASSETS / "speech.wav").samples
    write_audio(tmp_path / "x.mp3", speech, 24_000)
    whole = soundfile.read(tmp_path / "x.mp3", dtype="float32")[0]
    with AudioReader(tmp_path / "x.mp3") as reader:
        blocks = list(reader.blocks(seconds))
    np.testing.assert_allclose(np.concatenate(blocks, axis=1)[0], whole, atol=1e-6)
    assert capfd.readouterr().err == ""  # libmpg123 complains on its own


def test_mono_and_rate_on_request():
    audio = read_audio(ASSETS / "speechocean.flac", sample_rate=24_000, mono=True)
    assert audio.sample_rate == 24_000
    assert audio.samples.shape == (1, 121_920)


def test_arbitrary_bytes_after_a_wav_signature_never_crash():
    wav = (ASSETS / "speech.wav").read_bytes()[:200]
    for position in range(len(wav)):
        for value in (0, 1, 0x7F, 0xFF):
            data = wav[:position] + bytes([value]) + wav[position + 1 :]
            try:
                with AudioReader(io.BytesIO(data)) as reader:
                    assert sum(block.shape[1] for block in reader.blocks()) <= 200
            except InputError as error:
                assert "\n" not in str(error)  # noqa: PT017


def test_output_is_whole_or_absent(tmp_path):
    path = tmp_path / "x"
    with pytest.raises(KeyboardInterrupt), atomic_output(path) as file:  # noqa: PT012
        file.write(b"half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    with atomic_output(path) as file:
        file.write(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole"
    with pytest.raises(UsageError, match="--force"), atomic_output(path):
        pass
    with pytest.raises(OutputError), atomic_output(path, force=True) as file:  # noqa: PT012
        file.write(b"other")
        raise OSError(28, "No space left on device")
    assert path.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [path]


def test_output_through_a_link_replaces_what_it_points_to(tmp_path):
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with atomic_output(tmp_path / "link", force=True) as file:
        file.write(b"new")
    assert (tmp_path / "real").read_bytes() == b"new"
    assert (tmp_path / "link").is_symlink()


def test_loudness_of_the_standard_tone():
    """BS.1770-4: a full-scale sine of 997 Hz in one channel measures -3.01 LUFS."""
    for rate in (16_000, 44_100, 48_000):
        tone = np.sin(2 * np.pi * 997 * np.arange(3 * rate) / rate)[None].astype(np.float32)
        meter = LoudnessMeter(rate, 1)
        for at in range(0, tone.shape[1], 7777):
            meter.push(tone[:, at : at + 7777])
        assert meter.loudness == pytest.approx(-3.01, abs=0.1)
    silent = LoudnessMeter(16_000, 1)
    silent.push(np.zeros((1, 100), np.float32))
    assert silent.loudness == SILENCE


@pytest.mark.parametrize("suffix", WRITABLE)
def test_tags_travel_with_the_file(tmp_path, suffix):
    path, samples = tmp_path / f"x{suffix}", 0.1 * np.sin(np.arange(24_001) / 20)[None]
    write_audio(path, samples, 24_000, tags={"comment": "synthetic é", "software": "myna"})
    with soundfile.SoundFile(str(path)) as sound:
        assert sound.copy_metadata()["comment"] == "synthetic é"
    assert read_audio(path).samples.shape == samples.shape
    np.testing.assert_allclose(read_audio(path).samples[0, 2000:20_000], samples[0, 2000:20_000], atol=0.01)


def test_tags_in_a_pipe_come_before_the_samples():
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    file = Pipe()
    writer = open_writer(file, 24_000, 1, tags={"comment": "synthetic"})
    assert b"ICMT" in file.getvalue()
    writer.write(np.full((1, 480), 0.25, np.float32))
    writer.close()
    audio = read_audio(io.BytesIO(file.getvalue()))
    np.testing.assert_array_equal(audio.samples, np.full((1, 480), 0.25))


def test_a_rate_that_mp3_does_not_have_is_one_line(tmp_path):
    with pytest.raises(UsageError, match=r"MP3 cannot hold .* 96000 Hz"):
        write_audio(tmp_path / "x.mp3", np.zeros((1, 100)), 96_000)
    assert list(tmp_path.iterdir()) == []
