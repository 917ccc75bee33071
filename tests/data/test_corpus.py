"""Corpora: decoded once, batches as functions of the step, bad shards skipped and counted."""

import io
import json
import tarfile

import numpy as np
import pytest
import soundfile as sf
import torch
from myna.data import corpus as corpus_module
from myna.data.augment import AugmentOptions, augment, change_speed
from myna.data.corpus import Crops, Prefetch, held_out, open_corpus
from myna.errors import InputError, UsageError

RATE = 8000


def tone(frequency, seconds=1.0, rate=RATE):
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate).astype(np.float32)


def opus(wav, rate=RATE):
    file = io.BytesIO()
    sf.write(file, wav, rate, format="OGG", subtype="OPUS")
    return file.getvalue()


def add(tar, name, data):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def shard(path, source, split="train", frequencies=(200, 300), seconds=1.0, rate=RATE):
    with tarfile.open(path, "w") as tar:
        for f in frequencies:
            meta = {"source": source, "split": split, "speaker": str(f), "sample_rate": rate}
            add(tar, f"{source}-{f}.opus", opus(tone(f, seconds, rate), rate))
            add(tar, f"{source}-{f}.json", json.dumps(meta).encode())


@pytest.fixture
def folder(tmp_path):
    shard(tmp_path / "a-000.tar", "a")
    shard(tmp_path / "b-000.tar", "b", frequencies=(400,), seconds=3.0)
    shard(tmp_path / "b-dev.tar", "b", "dev", frequencies=(250, 350, 450))
    return tmp_path


def load(folder, **kwargs):
    return open_corpus(folder, RATE, folder / "cache", **kwargs)


def test_recordings_come_out_as_they_went_in(folder):
    corpus = load(folder)
    assert (len(corpus.items), corpus.sources) == (6, ("a", "b"))
    assert corpus.hours == pytest.approx((5 * 1 + 3) / 3600, rel=0.01)
    item = next(i for i in corpus.items if i.key == "b-400")
    wav = corpus.read(item, 0, item.length)
    assert np.corrcoef(wav[1000:20000], tone(400, 3.0)[1000:20000])[0, 1] > 0.99
    assert item.bandwidth == RATE / 2


def test_reading_beyond_an_item_gives_zeros_not_its_neighbour(folder):
    corpus = load(folder)
    item = corpus.items[0]
    wav = corpus.read(item, -10, item.length + 20)
    assert not wav[:10].any()
    assert not wav[-10:].any()
    np.testing.assert_array_equal(wav[10:-10], corpus.read(item, 0, item.length))


def test_other_rates_and_channels_are_converted(tmp_path):
    stereo = np.stack([tone(300, rate=16000), np.zeros(16000, np.float32)], axis=1)
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        add(tar, "k.opus", opus(stereo, 16000))
        add(tar, "k.json", json.dumps({"sample_rate": 16000}).encode())
    corpus = load(tmp_path)
    assert corpus.items[0].length == pytest.approx(RATE, abs=10)
    assert float(np.abs(corpus.read(corpus.items[0], 2000, 4000)).max()) == pytest.approx(0.25, abs=0.03)


def test_a_corpus_is_decoded_once(folder, monkeypatch):
    calls = []
    load(folder, progress=lambda done, total: calls.append(done / total))
    assert calls == sorted(calls)
    assert calls[-1] == 1
    monkeypatch.setattr(corpus_module, "_decode", lambda *_: pytest.fail("decoded again"))
    assert len(load(folder).items) == 6


def test_a_changed_corpus_is_decoded_again(folder):
    load(folder)
    shard(folder / "c-000.tar", "c")
    assert load(folder).sources == ("a", "b", "c")
    assert not list((folder / "cache").glob(".*"))


def test_decoding_that_breaks_off_leaves_nothing(folder, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load(folder, progress=interrupted)
    assert list((folder / "cache").iterdir()) == []


def test_bad_items_and_shards_are_skipped_and_counted(folder):
    good = (folder / "a-000.tar").read_bytes()
    (folder / "c-random.tar").write_bytes(bytes(range(256)) * 8)
    with tarfile.open(folder / "a-000.tar") as tar:
        last = tar.getmembers()[-2]  # the second recording
    (folder / "d-truncated.tar").write_bytes(good[: last.offset_data + last.size // 2])
    damaged = bytearray(good)
    damaged[last.offset + 150] ^= 0xFF  # in its header
    (folder / "d-damaged.tar").write_bytes(damaged)
    with tarfile.open(folder / "e-items.tar", "w") as tar:
        add(tar, "garbage.opus", b"OggS and nothing more")
        add(tar, "garbage.json", b"{}")
        add(tar, "alone.opus", opus(tone(200)))
        add(tar, "nojson.opus", opus(tone(200)))
        add(tar, "nojson.json", b"{ no")
        add(tar, "nosound.json", b"{}")
        add(tar, "fine.opus", opus(tone(200)))
        add(tar, "fine.json", b'{"source": "e"}')
    corpus = load(folder)
    assert [item.key for item in corpus.items if item.source == "e"] == ["fine"]
    assert corpus.skipped.shards == 3
    assert corpus.skipped.items == 4
    assert [item.key for item in corpus.items].count("a-200") == 3  # what comes before the damage is used
    assert "skipped" in str(corpus.skipped)
    assert str(corpus.skipped).count("\n") == 0
    assert load(folder).skipped == corpus.skipped  # from the cache, too


@pytest.mark.parametrize("content", [b"", b"not a tar", bytes(10240)])
def test_a_corpus_of_bad_shards_only_is_one_line(tmp_path, content):
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(InputError, match="no recording of the corpus could be read"):
        load(tmp_path)


def test_a_missing_corpus_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"is not there; set data\.corpus"):
        load(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"has no \.tar shards"):
        load(tmp_path)


def test_select_keeps_what_is_asked_for(folder):
    corpus = load(folder)
    assert {item.split for item in corpus.select(("dev",)).items} == {"dev"}
    assert {item.source for item in corpus.select(("train",), ("b",)).items} == {"b"}
    with pytest.raises(InputError, match="the corpus has nothing for"):
        corpus.select(("test",))


AUGMENT = AugmentOptions((-10, 6), (0.85, 1.18), 0.5, 0.5)


def test_batches_are_a_function_of_seed_step_and_rank(folder):
    corpus = load(folder).select(("train",))
    crops = Crops(corpus, 4000, 3, seed=1, augment=AUGMENT)
    batch = crops.batch(7, 1)
    assert batch.wav.shape == (3, 1, 4000)
    assert batch.wav.dtype == torch.float32
    crops.batch(3)
    again = Crops(load(folder).select(("train",)), 4000, 3, seed=1, augment=AUGMENT).batch(7, 1)
    assert torch.equal(batch.wav, again.wav)
    assert torch.equal(batch.bandwidth, again.bandwidth)
    others = [
        crops.batch(8, 1),
        crops.batch(7, 0),
        Crops(corpus, 4000, 3, seed=2, augment=AUGMENT).batch(7, 1),
    ]
    assert not any(torch.equal(batch.wav, other.wav) for other in others)


def source_of(wav):
    """The tones of source b are at 400 Hz, those of a below."""
    return "b" if np.argmax(np.abs(np.fft.rfft(wav))) * RATE / len(wav) > 350 else "a"


@pytest.mark.parametrize(
    ("weights", "share"),
    [(None, 3 / 5), ({"a": 1.0, "b": 1.0}, 0.5), ({"a": 9.0, "b": 1.0}, 0.1), ({"b": 2.0}, 1.0)],
)
def test_sources_are_drawn_by_weight_or_by_length(folder, weights, share):
    crops = Crops(load(folder).select(("train",)), 1600, 300, weights=weights)
    drawn = [source_of(wav) for wav in crops.batch(0).wav[:, 0].numpy()]
    assert drawn.count("b") / len(drawn) == pytest.approx(share, abs=0.1)


def test_impossible_weights_are_refused(folder):
    corpus = load(folder).select(("train",))
    with pytest.raises(UsageError, match="source 'c' has a weight but no recordings; the corpus has a, b"):
        Crops(corpus, 100, 1, weights={"c": 1.0})
    with pytest.raises(UsageError, match="must be positive"):
        Crops(corpus, 100, 1, weights={"a": 0.0})


def test_recordings_shorter_than_a_crop_lie_within_it(folder):
    wav = Crops(load(folder).select(("train",), ("a",)), 3 * RATE, 4).batch(0).wav
    filled = (wav != 0).float().mean(dim=-1)
    torch.testing.assert_close(filled, torch.full_like(filled, 1 / 3), atol=0.02, rtol=0)


def test_silence_is_drawn_again(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        add(tar, "k.opus", opus(np.concatenate([np.zeros(RATE, np.float32), tone(300)])))
        add(tar, "k.json", b"{}")
    corpus = load(tmp_path)

    def silent(min_rms):
        wav = Crops(corpus, 800, 40, min_rms=min_rms).batch(0).wav
        return int((wav.square().mean(dim=-1).sqrt() < 0.01).sum())

    assert silent(0.0) > 5
    assert silent(0.01) == 0


def test_held_out_crops_are_fixed_and_take_from_every_source(folder):
    corpus = load(folder)
    one, two = (held_out(corpus, 4, 2000) for _ in range(2))
    assert torch.equal(one.batch.wav, two.batch.wav)
    assert one.batch.wav.shape == (4, 1, 2000)
    assert set(one.sources) == {"a", "b"}


def test_gain_stays_in_range_and_never_clips():
    rng = np.random.default_rng(0)
    options = AugmentOptions(gain_db=(-10, 6))
    loud = [np.abs(augment(lambda n: tone(300)[:n] * 1.9, 800, options, rng).wav).max() for _ in range(50)]
    assert max(loud) <= 1 + 1e-6
    quiet = [np.abs(augment(lambda n: tone(300)[:n], 800, options, rng).wav).max() / 0.5 for _ in range(200)]
    assert 10 ** (-10 / 20) <= min(quiet) < 0.4
    assert 1.6 < max(quiet) <= 10 ** (6 / 20)


def test_speed_moves_every_frequency():
    fast = change_speed(tone(1000, 4.0), 1.18)
    assert len(fast) == pytest.approx(4 * RATE / 1.18, abs=2)
    peak = np.argmax(np.abs(np.fft.rfft(fast))) * RATE / len(fast)
    assert peak == pytest.approx(1180, abs=2)


def test_no_augmentation_changes_nothing():
    wav = tone(300)
    result = augment(lambda n: wav[:n], 800, AugmentOptions(), np.random.default_rng(0))
    np.testing.assert_array_equal(result.wav, wav[:800])
    assert result.speed == 1


def test_prefetch_gives_each_step_its_own_and_passes_errors_on():
    def make(step):
        if step == 3:
            raise InputError("no more")
        return step * step

    ahead = Prefetch(make)
    assert [ahead[step] for step in range(3)] == [0, 1, 4]
    with pytest.raises(InputError, match="no more"):
        ahead[3]
    ahead.close()
