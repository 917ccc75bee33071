"""The small stages: loudness, quality, voices, phonemes, duplicates, encoding, splits, shards."""

import hashlib
import io
import json
import tarfile

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from myna.errors import UsageError
from myna.preparation import level
from myna.preparation.duplicates import Seen, alike, audio_hash, fingerprint
from myna.preparation.encode import encode, file_rate, ogg_crc
from myna.preparation.options import PrepareOptions
from myna.preparation.phonemes import phonemes
from myna.preparation.shards import ShardWriter
from myna.preparation.speakers import embed, voice_of
from myna.preparation.splits import assign, most_held_out

RATE = 16000


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"min_seconds": 20.0}, "min_seconds"),
        ({"max_seconds": 31.0}, "max_seconds"),
        ({"max_cer": float("nan")}, "finite"),
        ({"format": "mp3"}, "format"),
        ({"dev": 0.6, "test": 0.5}, "shares"),
        ({"min_quality": 3.0, "quality": False}, "min_quality"),
        ({"source": "a/b"}, "source"),
        ({"language": "elvish"}, "elvish"),
        ({"sample_rate": 100}, "sample_rate"),
        ({"shard_mb": 0}, "shard_mb"),
    ],
)
def test_options_that_cannot_be(changes, word):
    with pytest.raises(UsageError, match=word):
        PrepareOptions(**changes)


def test_languages_are_kept_by_their_codes():
    options = PrepareOptions(language="German", languages=("de-AT", "english"))
    assert (options.language, options.languages) == ("de", ("de", "en"))


def test_loudness_is_brought_to_its_target_unless_the_peak_forbids(speech):
    quiet = level.measure(speech * 0.05, RATE, -23.0)
    assert quiet.loudness + quiet.gain_db == pytest.approx(-23, abs=0.02)
    again = level.measure(level.apply(speech * 0.05, quiet.gain_db), RATE, -23.0)
    assert again.loudness == pytest.approx(-23, abs=0.1)
    click = speech * 0.05
    click[1000] = 0.9
    held = level.measure(click, RATE, -10.0)
    assert np.abs(level.apply(click, held.gain_db)).max() <= level.PEAK + 1e-3
    assert level.measure(np.zeros(RATE, np.float32), RATE, -23.0).gain_db == 0
    assert level.measure(speech, RATE, None).gain_db == 0


def test_quality_is_that_of_the_authors_script(speech):
    pytest.importorskip("speechmos.dnsmos")
    from myna.evaluation.measures.perceptual import dnsmos
    from myna.pretrained import dnsmos as quality

    assert quality.dnsmos(speech) == pytest.approx(dnsmos(speech, RATE), abs=0.1)
    window = np.resize(speech, quality.WINDOW)
    assert quality.dnsmos(window) == pytest.approx(dnsmos(window, RATE), abs=1e-4)
    noise = np.random.default_rng(0).standard_normal(len(speech)).astype(np.float32)
    bad = quality.dnsmos(np.concatenate([speech, speech]) + 0.05 * np.concatenate([noise, noise]))
    assert bad is not None
    assert bad < quality.dnsmos(speech) - 0.3
    assert quality.dnsmos(np.zeros(RATE, np.float32)) is None


def test_a_voice_is_nearer_to_itself(speech):
    slow = np.interp(np.arange(0, len(speech), 0.7), np.arange(len(speech)), speech).astype(np.float32)
    one, other, low = (voice_of(embed(w)) for w in (speech[: 3 * RATE], speech[3 * RATE :] * 0.1, slow))
    assert np.linalg.norm(one) == pytest.approx(1, abs=1e-5)
    assert one @ other > one @ low + 0.1
    assert embed(np.zeros(RATE, np.float32)) is None
    assert embed(speech[RATE : RATE + 100]) is not None  # too short for a window of its own


def test_phonemes_are_ipa_of_what_is_said():
    assert phonemes("It costs $5.", "en") == phonemes("It costs five dollars.", "en")
    assert "ʃ" in (phonemes("Schule", "de") or "")
    assert phonemes("...", "en") is None
    assert phonemes("words", "xx") is None


def test_copies_are_found_and_other_sounds_are_not(speech, tmp_path):
    soundfile.write(tmp_path / "copy.mp3", speech, RATE)
    copy = soundfile.read(tmp_path / "copy.mp3", dtype="float32")[0]
    a = speech[RATE : 6 * RATE]
    shifted = copy[RATE + 300 : 6 * RATE + 900] * 0.4
    assert alike(fingerprint(a), fingerprint(shifted))
    noise = np.random.default_rng(0).standard_normal(len(a)).astype(np.float32)
    assert not alike(fingerprint(a), fingerprint(a[::-1].copy()))
    assert not alike(fingerprint(a), fingerprint(noise))
    assert not alike(fingerprint(speech[: 3 * RATE]), fingerprint(speech[3 * RATE : 6 * RATE]))
    assert not alike(fingerprint(a), fingerprint(speech[RATE : 3 * RATE]))  # a part of it
    assert isinstance(fingerprint(a[:10]), str)


def test_a_sentence_said_twice_is_no_duplicate(speech):
    seen = Seen()
    other = np.interp(np.arange(0, len(speech), 1.001), np.arange(len(speech)), speech[::-1]).astype(
        np.float32
    )

    def first(key, wav, text):
        return seen.first(key, len(wav) / RATE, audio_hash(wav), fingerprint(wav), text)

    assert first("a", speech, "Some words.") is None
    assert first("b", other, "some words") is None
    assert first("c", speech.copy(), "whatever") == "a"  # the same samples
    assert first("d", speech * 0.5, "SOME WORDS!") == "a"  # the same words in the same sound
    assert first("e", speech * 0.5, None) is None  # nothing said that it could be compared by


@pytest.mark.parametrize("format", ["flac", "opus"])
def test_files_have_the_same_bytes_every_time(speech, format):
    options = PrepareOptions(format=format)
    rate = file_rate(22_050, options)
    assert rate == {"flac": 22_050, "opus": 24_000}[format]
    one, other = (encode(speech, rate, "key", options) for _ in range(2))
    assert one == other
    wav, read_rate = soundfile.read(io.BytesIO(one), dtype="float32")
    assert (len(wav), read_rate) == (len(speech), rate)
    if format == "flac":
        assert np.abs(wav - speech).max() <= 1 / 32767
    assert encode(speech, rate, "other", options)[:4] == one[:4]


def test_ogg_checksums():
    """Against those that libsndfile wrote."""
    file = io.BytesIO()
    soundfile.write(file, np.zeros(4800, np.float32), 24_000, format="OGG", subtype="OPUS")
    page = bytearray(file.getvalue()[: 27 + 1 + 19])
    written = int.from_bytes(page[22:26], "little")
    page[22:26] = bytes(4)
    assert ogg_crc(bytes(page)) == written


def test_rates_are_not_raised():
    assert file_rate(8000, PrepareOptions()) == 8000
    assert file_rate(48_000, PrepareOptions()) == 24_000
    assert file_rate(11_025, PrepareOptions(format="opus")) == 12_000


@given(
    st.dictionaries(st.text("abcdef", min_size=1, max_size=4), st.floats(1, 1000), min_size=3, max_size=40)
)
@settings(deadline=None)
def test_every_split_has_speakers_and_no_more_than_its_share(seconds):
    options = PrepareOptions(dev=0.1, test=0.1)
    splits = assign(seconds, {}, options)
    assert set(splits) == set(seconds)
    assert set(splits.values()) == {"train", "dev", "test"}
    assert splits == assign(dict(reversed(seconds.items())), {}, options)
    for split in ("dev", "test"):
        chosen = [name for name in seconds if splits[name] == split]
        assert len(chosen) == 1 or sum(seconds[name] for name in chosen) <= 0.1 * sum(seconds.values()) + 1e-6


def test_splits_that_are_given_hold():
    assert assign({"a": 1, "b": 1, "c": 1}, {"a": "test"}, PrepareOptions()) == {
        "a": "test",
        "b": "train",
        "c": "train",
    }
    assert assign({"a": 1, "b": 1}, {}, PrepareOptions()) == {"a": "train", "b": "train"}
    only_train = assign(dict.fromkeys("abcd", 1.0), dict.fromkeys("abcd", "train"), PrepareOptions())
    assert sorted(only_train.values()) == ["dev", "test", "train", "train"]
    none_held_out = assign(dict.fromkeys("abcd", 1.0), {}, PrepareOptions(dev=0, test=0))
    assert set(none_held_out.values()) == {"train"}
    assert most_held_out("train", "dev") == "dev"
    assert most_held_out(None, None) is None


def test_shards_are_tars_of_a_bounded_size_and_resume(tmp_path):
    def write(folder):
        folder.mkdir(exist_ok=True)
        with ShardWriter(folder, "s-train", 40_000) as shards:
            return [
                shards.add(f"k{i}", "flac", bytes([i]) * 5000, {"key": f"k{i}", "text": "ä"})
                for i in range(20)
            ]

    names = write(tmp_path / "a")
    files = sorted((tmp_path / "a").iterdir())
    assert sorted(set(names)) == [file.name for file in files]
    assert all(file.stat().st_size <= 40_000 for file in files)
    found = {}
    for file in files:
        with tarfile.open(file) as tar:
            for member in tar.getmembers():
                assert (member.mtime, member.uid, member.uname) == (0, 0, "")
                found[member.name] = tar.extractfile(member).read()
    assert [name for name in found if name.endswith("flac")] == [f"k{i}.flac" for i in range(20)]
    assert found["k7.flac"] == bytes([7]) * 5000
    assert json.loads(found["k7.json"]) == {"key": "k7", "text": "ä"}

    before = {file.name: hashlib.sha256(file.read_bytes()).digest() for file in files}
    files[1].unlink()
    kept = files[0].stat().st_mtime_ns
    assert write(tmp_path / "a") == names
    assert {f.name: hashlib.sha256(f.read_bytes()).digest() for f in (tmp_path / "a").iterdir()} == before
    assert files[0].stat().st_mtime_ns == kept
