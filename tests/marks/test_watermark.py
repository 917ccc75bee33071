"""The watermark: nothing leaves without it, nobody hears it, and it is found again."""

from __future__ import annotations

import importlib.machinery
import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from myna.apps.cli import run
from myna.codec.registry import load_codec
from myna.data.audio import read_audio, write_audio
from myna.data.resample import resample
from myna.errors import MissingModelError, UsageError
from myna.marks import spread_spectrum
from myna.marks.tags import synthetic_tags
from myna.marks.watermark import WatermarkDetector, WatermarkStream, detect_watermark, filters, watermark
from myna.pretrained import perth

ASSETS = Path(__file__).resolve().parents[1] / "assets"
RATE = 24_000


@pytest.fixture(scope="module")
def speech() -> dict[str, np.ndarray]:
    return {
        name: read_audio(ASSETS / name, RATE).samples[0]
        for name in ("speech.wav", "lj.flac", "speechocean.flac")
    }


@pytest.fixture(scope="module")
def marked(speech) -> dict[str, np.ndarray]:
    return {name: watermark(samples, RATE) for name, samples in speech.items()}


@pytest.mark.parametrize("seed", range(3))
def test_cuts_leave_no_trace(speech, marked, seed):
    rng = np.random.default_rng(seed)
    samples = speech["lj.flac"]
    cuts = np.sort(rng.integers(0, len(samples), 40))
    stream = WatermarkStream(RATE)
    parts = [stream.push(part) for part in np.split(samples, cuts)]
    assert [len(part) for part in parts] == [len(part) for part in np.split(samples, cuts)]
    streamed = np.concatenate([*parts, stream.flush()])
    np.testing.assert_allclose(streamed, marked["lj.flac"], atol=1e-6)


def test_a_continued_output_goes_on_with_the_pattern(speech):
    silence = np.zeros(RATE, np.float32)
    samples = np.concatenate([silence, speech["lj.flac"]])
    whole = watermark(samples, RATE)
    continued = WatermarkStream(RATE, position=len(silence)).push(speech["lj.flac"])
    np.testing.assert_allclose(whole[len(silence) :], continued, atol=1e-6)


def test_speech_keeps_its_length_its_time_and_its_level(speech, marked):
    for name, samples in speech.items():
        other = marked[name]
        assert len(other) == len(samples)
        spectrum = np.fft.rfft(samples, 2 * len(samples)).conj() * np.fft.rfft(other, 2 * len(samples))
        lag = int(np.argmax(np.fft.irfft(spectrum)))
        assert min(lag, 2 * len(samples) - lag) <= 2
        levels = [10 * np.log10(np.mean(x**2)) for x in (samples, other)]
        assert abs(levels[1] - levels[0]) < 1
        assert not np.allclose(samples, other, atol=1e-3)


def test_no_filter_does_more_than_a_few_decibels():
    response = torch.fft.rfft(filters(RATE), 4096).abs().log10() * 20
    assert float(response.abs().max()) < 8
    assert float(response.square().mean().sqrt()) < 3
    frequencies = torch.arange(2049) * RATE / 4096
    assert (
        float(response[:, frequencies < 800].abs().max()) < 3.5
    )  # what speech is made of has the comb alone
    spectrum_db = spread_spectrum.gains_db(frequencies)
    inside = (frequencies > 1500) & (frequencies < 6000)
    assert (spectrum_db[:, frequencies < 800] == 0).all()
    # A band that goes up and down is as loud as before.
    power = (10 ** (spectrum_db / 10)).mean(0)[inside]
    torch.testing.assert_close(power.mean(), torch.tensor(1.0), rtol=0.05, atol=0)


def mp3(samples: np.ndarray) -> tuple[np.ndarray, int]:
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format="MP3", bitrate_mode="CONSTANT", compression_level=0.6)
    kbps = file.tell() * 8 / (len(samples) / RATE) / 1000
    assert 60 < kbps < 70
    file.seek(0)
    return soundfile.read(file, dtype="float32")


@pytest.mark.parametrize("way", ["as it is", "16 kHz", "44.1 kHz", "8 kHz", "MP3", "cut", "quiet"])
def test_the_mark_is_found(marked, way):
    for name, samples in marked.items():
        rate = {"16 kHz": 16_000, "44.1 kHz": 44_100, "8 kHz": 8_000}.get(way, RATE)
        heard = resample(samples[None], RATE, rate)[0]
        if way == "MP3":
            heard, rate = mp3(samples)
        elif way == "cut":
            heard = samples[7_777:]
        elif way == "quiet":
            heard = 0.05 * samples
        found = detect_watermark(heard, rate)
        assert found.found, (name, found)
        assert found.confidence > 0.95, (name, found)


def test_marks_of_earlier_versions_are_found(speech, monkeypatch):
    """Until 2026-11-29 all twelve bands moved by 2 dB, and Perth's comb was whole."""
    with monkeypatch.context() as patch:
        patch.setattr(spread_spectrum, "DEPTHS_DB", (2.0,) * spread_spectrum.BANDS)
        patch.setattr("myna.marks.watermark.COMB_SHARE", 1.0)
        filters.cache_clear()
        marked = {name: watermark(samples, RATE) for name, samples in speech.items()}
    filters.cache_clear()
    for name, samples in marked.items():
        found = detect_watermark(samples, RATE)
        assert found.found, (name, found)
        assert found.prominence > 5.3, (name, found)


def test_the_mark_outlives_our_codec(marked):
    codec = load_codec("myna-24k")
    samples = np.concatenate([marked["speech.wav"], marked["lj.flac"]])  # the pattern breaks at the seam
    coded = codec.reconstruct(torch.from_numpy(samples)[None, None])[0, 0].numpy()
    for first, last in ((0, len(marked["speech.wav"])), (len(marked["speech.wav"]), len(samples))):
        found = detect_watermark(coded[first:last], RATE)
        assert found.found, found


def test_nothing_is_found_where_nothing_is(speech):
    for name, samples in speech.items():
        found = detect_watermark(samples, RATE)
        assert not found.found, (name, found)
    rng = np.random.default_rng(0)
    for samples in (np.zeros(3 * RATE), 0.1 * rng.normal(size=3 * RATE), np.zeros(100)):
        assert not detect_watermark(samples.astype(np.float32), RATE).found


def test_the_detector_takes_any_blocks_and_may_pass_over_some(speech, marked):
    samples = np.tile(marked["lj.flac"], 2)
    whole = detect_watermark(samples, RATE)
    blocks = WatermarkDetector(RATE)
    for block in np.array_split(samples, 17):
        blocks.push(block)
    in_blocks = blocks.result()
    assert (in_blocks.found, in_blocks.seconds) == (whole.found, whole.seconds)
    assert in_blocks.prominence == pytest.approx(whole.prominence, abs=0.2)
    skipping = WatermarkDetector(RATE)
    one = watermark(np.tile(speech["lj.flac"][: 5 * RATE], 6), RATE)
    for i, block in enumerate(np.array_split(one, 6)):
        skipping.skip(len(block)) if i % 2 else skipping.push(block)
    result = skipping.result()
    assert result.found
    assert result.seconds == pytest.approx(15, abs=0.1)


def test_speech_that_cannot_be_marked_is_not_given_out(monkeypatch, tmp_path):
    with pytest.raises(UsageError, match="NaN"):
        WatermarkStream(RATE).push(np.array([0.1, np.nan], np.float32))
    with pytest.raises(UsageError, match="8000 Hz"):
        WatermarkStream(8_000)
    caches = (perth.comb, filters)
    try:
        for cached in caches:
            cached.cache_clear()
        monkeypatch.setattr(perth, "COMB", tmp_path / "perth_comb.txt")
        with pytest.raises(MissingModelError, match="install myna again"):
            WatermarkStream(RATE)
    finally:
        for cached in caches:
            cached.cache_clear()


def test_the_comb_that_ships_is_the_one_of_the_published_network():
    assert perth.comb() == pytest.approx(perth.measured_comb(), abs=1e-3)  # dB


def test_only_the_published_network_detects(monkeypatch, tmp_path, speech):
    sound = resample(speech["lj.flac"][None], RATE, perth.RATE)[0]
    perth.load_perth.cache_clear()
    try:
        monkeypatch.setattr(perth, "find_spec", lambda name: None)
        with pytest.raises(MissingModelError, match="pip install"):
            perth.confidence(sound)
        folder = tmp_path / "perth_net" / "pretrained" / "implicit"
        folder.mkdir(parents=True)
        spec = importlib.machinery.ModuleSpec("perth", None, is_package=True)
        spec.submodule_search_locations = [str(tmp_path)]
        monkeypatch.setattr(perth, "find_spec", lambda name: spec)
        with pytest.raises(MissingModelError, match="is missing"):
            perth.confidence(sound)
        (folder / "perth_net_250000.pth.tar").write_bytes(b"a dummy")
        with pytest.raises(MissingModelError, match="not the published"):
            perth.confidence(sound)
    finally:
        perth.load_perth.cache_clear()


def test_perth_itself_agrees(speech, marked, capsys):
    package = pytest.importorskip("perth")
    if package.PerthImplicitWatermarker is None:
        pytest.skip("resemble-perth cannot be imported here (it needs pkg_resources)")
    theirs = package.PerthImplicitWatermarker()
    capsys.readouterr()
    low = resample(speech["lj.flac"][None], RATE, 16_000)[0]
    own = resample(marked["lj.flac"][None], RATE, 16_000)[0]
    for samples in (low, own):
        score = float(theirs.get_watermark(samples, 16_000, round=False))
        assert perth.confidence(samples) == pytest.approx(score, abs=0.03)
    assert (
        theirs.get_watermark(marked["lj.flac"], RATE) == 1
    )  # ours is found by their detector, and theirs by ours
    assert perth.confidence(theirs.apply_watermark(low, 16_000)) > 0.95


def test_the_pattern_is_even_and_fixed():
    pattern = spread_spectrum.pattern()
    assert pattern.shape == (spread_spectrum.BANDS, spread_spectrum.CHIPS)
    assert abs(float(pattern.mean())) < 0.1
    assert pattern[0, :8].tolist() == [1, -1, -1, -1, -1, -1, 1, 1]


def test_info_says_what_it_is(marked, speech, tmp_path, capsys):
    write_audio(tmp_path / "said.wav", marked["lj.flac"], RATE, tags=synthetic_tags("ada"))
    write_audio(tmp_path / "real.flac", speech["lj.flac"], RATE)
    assert run(["info", str(tmp_path / "said.wav")]) == 0
    out = capsys.readouterr().out
    assert "found: myna said this" in out
    assert "Synthetic speech by Myna" in out
    assert run(["info", str(tmp_path / "real.flac")]) == 0
    out = capsys.readouterr().out
    assert "not found" in out
    assert "Synthetic" not in out
    assert run(["info", "--no-watermark", str(tmp_path / "said.wav")]) == 0
    assert "watermark" not in capsys.readouterr().out


def test_marked_speech_stays_within_full_scale(speech):
    clip = speech["speech.wav"]
    loud = clip / np.abs(clip).max() * 0.99
    marked = watermark(loud, 24_000)
    assert np.abs(marked).max() <= 1
    quiet = watermark(0.5 * loud, 24_000)
    bent = np.abs(marked) > 0.95
    assert 0 < bent.sum() < 0.01 * len(marked)
    np.testing.assert_allclose(marked[~bent], 2 * quiet[~bent], atol=1e-5)
    assert detect_watermark(marked, 24_000).found
