"""Small trees of the shape in which each corpus comes, and what is read from them."""

import json

import numpy as np
import pytest
from myna.errors import InputError, UsageError
from myna.preparation.readers import read_folder

NOISE = np.zeros(160, np.float32)


@pytest.fixture
def tree(tmp_path, save):
    """Makes files: audio by its suffix, text otherwise."""

    def make(**files):
        for name, content in files.items():
            path = tmp_path / name
            if content is None:
                save(path, NOISE)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(content, encoding="utf-8")
        return tmp_path

    return make


def read(root, layout="auto"):
    listing = read_folder(root, layout, "src")
    return (
        listing.layout,
        {r.path: (r.text, r.speaker, r.language, r.split) for r in listing.recordings},
        listing,
    )


def test_plain(tree):
    root = tree(
        **{
            "x/a.wav": None,
            "x/a.txt": "\ufeffWhat  is\nsaid. ",
            "x/b.flac": None,
            "empty.txt": "",
            "empty.wav": None,
        }
    )
    (root / ".hidden.wav").write_bytes(b"")
    layout, found, listing = read(root)
    assert layout == "plain"
    assert found == {
        "empty.wav": (None, None, None, None),
        "x/a.wav": ("What is said.", None, None, None),
        "x/b.flac": (None, None, None, None),
    }
    assert [r.key for r in listing.recordings] == ["src_empty", "src_x_a", "src_x_b"]


def test_folders_that_are_speakers(tree):
    root = tree(**{"ann/x/a.wav": None, "ann/x/a.txt": "Yes.", "bob/b.wav": None, "c.wav": None})
    assert read(root)[0] == "plain"
    layout, found, _ = read(root, "speakers")
    assert layout == "speakers"
    assert found == {
        "ann/x/a.wav": ("Yes.", "ann", None, None),
        "bob/b.wav": (None, "bob", None, None),
        "c.wav": (None, None, None, None),
    }


@pytest.mark.parametrize("above", ["", "LibriSpeech/"])
def test_librispeech(tree, above):
    files = {
        f"{above}train-clean-100/19/198/19-198-0000.flac": None,
        f"{above}train-clean-100/19/198/19-198-0001.flac": None,
        f"{above}train-clean-100/19/198/19-198.trans.txt": "19-198-0000 NORTHANGER ABBEY\n"
        "19-198-0001 THIS LITTLE WORK\n19-198-0002 GONE\n",
        f"{above}dev-clean/84/121123/84-121123-0000.flac": None,
        f"{above}dev-clean/84/121123/84-121123.trans.txt": "84-121123-0000 GO DO YOU HEAR\n",
        f"{above}SPEAKERS.TXT": "; nothing",
    }
    layout, found, listing = read(tree(**files))
    assert layout == "librispeech"
    assert found == {
        f"{above}dev-clean/84/121123/84-121123-0000.flac": ("GO DO YOU HEAR", "84", "en", "dev"),
        f"{above}train-clean-100/19/198/19-198-0000.flac": ("NORTHANGER ABBEY", "19", "en", "train"),
        f"{above}train-clean-100/19/198/19-198-0001.flac": ("THIS LITTLE WORK", "19", "en", "train"),
    }
    assert [(one.reason, one.path) for one in listing.dropped] == [
        ("missing", f"{above}train-clean-100/19/198/19-198-0002")
    ]


def test_a_subset_of_librispeech_knows_its_split_by_its_own_name(tree):
    root = tree(**{"test-other/1/2/1-2-0000.flac": None, "test-other/1/2/1-2.trans.txt": "1-2-0000 YES"})
    assert read(root / "test-other")[1] == {"1/2/1-2-0000.flac": ("YES", "1", "en", "test")}


def test_libritts(tree):
    name = "test-clean/1089/134686/1089_134686_000001_000001"
    root = tree(**{
        f"{name}.wav": None,
        f"{name}.normalized.txt": "He hoped there would be stew for dinner.",
        f"{name}.original.txt": "He hoped there'd be stew for dinner.",
        "test-clean/1089/134686/1089_134686.trans.tsv": "x",
    })  # fmt: skip
    layout, found, _ = read(root)
    assert layout == "libritts"
    assert found == {f"{name}.wav": ("He hoped there would be stew for dinner.", "1089", "en", "test")}


def test_ljspeech(tree):
    root = tree(**{
        "LJSpeech-1.1/wavs/LJ001-0001.wav": None,
        "LJSpeech-1.1/wavs/LJ001-0002.wav": None,
        "LJSpeech-1.1/metadata.csv": 'LJ001-0001|in 1455 "A"|in fourteen fifty-five "A"\n'
        "LJ001-0002|plain|\nLJ001-0003|gone|gone\n",
    })  # fmt: skip
    layout, found, listing = read(root)
    assert layout == "ljspeech"
    assert found == {
        "LJSpeech-1.1/wavs/LJ001-0001.wav": ('in fourteen fifty-five "A"', "lj", "en", None),
        "LJSpeech-1.1/wavs/LJ001-0002.wav": ("plain", "lj", "en", None),
    }
    assert len(listing.dropped) == 1


def test_vctk(tree):
    root = tree(**{
        "txt/p225/p225_001.txt": "Please call Stella.\n",
        "txt/p226/p226_001.txt": "Ask her.\n",
        "wav48_silence_trimmed/p225/p225_001_mic1.flac": None,
        "wav48_silence_trimmed/p225/p225_001_mic2.flac": None,
        "wav48_silence_trimmed/p315/p315_002_mic2.flac": None,
        "speaker-info.txt": "ID  AGE  GENDER  ACCENTS  REGION COMMENTS\np225  23  F    English    Southern  England\n",
    })  # fmt: skip
    layout, found, listing = read(root)
    assert layout == "vctk"
    assert found == {
        "wav48_silence_trimmed/p225/p225_001_mic1.flac": ("Please call Stella.", "p225", "en", None),
        "wav48_silence_trimmed/p315/p315_002_mic2.flac": (None, "p315", "en", None),
    }
    assert listing.recordings[0].extra == {"age": 23, "gender": "f", "accent": "English"}
    assert [one.path for one in listing.dropped] == ["txt/p226/p226_001"]


def test_common_voice(tree):
    head = "client_id\tpath\tsentence\tup_votes\tage\tgender\taccents\tlocale\n"
    row = "{}\t{}.mp3\t{}\t2\tfourties\tmale\t\tde\n"
    root = tree(**{
        "cv-corpus/de/clips/c1.mp3": None,
        "cv-corpus/de/clips/c2.mp3": None,
        "cv-corpus/de/clips/c3.mp3": None,
        "cv-corpus/de/clips/bad.mp3": None,  # in invalidated.tsv only
        "cv-corpus/de/validated.tsv": head + row.format("A" * 128, "c1", "Eins.")
        + row.format("B" * 128, "c2", '"Zwei".') + row.format("C" * 128, "c3", "Drei."),
        "cv-corpus/de/train.tsv": head + row.format("A" * 128, "c1", "Eins."),
        "cv-corpus/de/test.tsv": head + row.format("B" * 128, "c2", '"Zwei".') + row.format("D" * 128, "gone", "Vier."),
        "cv-corpus/de/invalidated.tsv": head + row.format("E" * 128, "bad", "?"),
    })  # fmt: skip
    layout, found, listing = read(root)
    assert layout == "commonvoice"
    assert found == {
        "cv-corpus/de/clips/c1.mp3": ("Eins.", "A" * 16, "de", "train"),
        "cv-corpus/de/clips/c2.mp3": ('"Zwei".', "B" * 16, "de", "test"),
        "cv-corpus/de/clips/c3.mp3": ("Drei.", "C" * 16, "de", None),
    }
    assert listing.recordings[0].extra == {"gender": "male", "age": "fourties"}
    assert [one.path for one in listing.dropped] == ["cv-corpus/de/clips/gone.mp3"]


def test_librilight(tree):
    name = "small/100/sea_fairies_0812_librivox_64kb_mp3/01_baum_sea_fairies_64kb"
    facts = {"speaker": "100", "book_meta": {"title": "x"}, "snr": 5.1, "voice_activity": [[0.1, 3.2]]}
    layout, found, _ = read(tree(**{f"{name}.flac": None, f"{name}.json": json.dumps(facts)}))
    assert layout == "librilight"
    assert found == {f"{name}.flac": (None, "100", "en", None)}


def test_json_beside_audio_alone_is_not_librilight(tree):
    assert read(tree(**{"a.flac": None, "a.json": '{"x": 1}'}))[0] == "plain"


def test_keys_are_unique_and_fit_for_webdataset(tree):
    long = "d" * 90
    root = tree(
        **{"a.b c.wav": None, "a_b_c.flac": None, "ä.wav": None, "ö.wav": None, f"{long}/x.wav": None}
    )
    keys = [r.key for r in read_folder(root, "auto", "src").recordings]
    assert len(set(keys)) == 5
    assert all(
        set(key) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") for key in keys
    )
    assert max(map(len, keys)) <= 80


@pytest.mark.parametrize(
    ("files", "layout", "kind", "words"),
    [
        ({"a.txt": "x"}, "auto", InputError, "holds no audio"),
        ({"a.wav": None}, "librispeech", UsageError, "not arranged as librispeech"),
        ({"a.wav": None}, "kaldi", UsageError, "unknown layout 'kaldi'"),
        (
            {"1/2/1-2.trans.txt": "1-2-0000 X", "other.wav": None},
            "auto",
            InputError,
            "none of its recordings",
        ),
    ],
)
def test_refusals(tree, files, layout, kind, words):
    with pytest.raises(kind, match=words):
        read_folder(tree(**files), layout)


def test_a_missing_folder_and_a_file(tmp_path):
    with pytest.raises(InputError, match="is not there"):
        read_folder(tmp_path / "no")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        read_folder(tmp_path / "file")


def test_a_text_that_is_not_utf8_costs_its_recording(tree):
    root = tree(**{"a.wav": None, "b.wav": None})
    (root / "a.txt").write_bytes(b"\xff\xfe\x00bad")
    listing = read_folder(root, "auto", "src")
    assert [r.path for r in listing.recordings] == ["b.wav"]
    assert listing.dropped[0].path == "a.wav"
    assert "UTF-8" in listing.dropped[0].detail
