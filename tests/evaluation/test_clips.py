import json

import numpy as np
import pytest
import soundfile
from myna.errors import InputError
from myna.evaluation.clips import load_clips


def test_a_shard_filtered_limited_and_cut(shard):
    clips = load_clips([shard], 24000)
    assert [c.key for c in clips] == ["clip0", "clip1", "clip2", "clip3"]
    assert [c.key for c in load_clips([shard], 24000, source="lj")] == ["clip0", "clip2"]
    assert [c.key for c in load_clips([shard], 24000, source="lj", split="dev")] == ["clip2"]
    assert [c.key for c in load_clips([shard], 24000, limit=2)] == ["clip0", "clip2"]  # spread, not the first
    short = load_clips([shard], 16000, max_seconds=0.25)[0]
    assert len(short.wav) == 4000
    assert clips[0].text == "one word"
    assert short.text is None  # it says more than is heard


def test_folders_patterns_and_sidecars(tmp_path, speech):
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    stereo = np.stack([speech[:8000], np.zeros(8000, np.float32)], axis=1)
    soundfile.write(folder / "one.wav", stereo, 24000, subtype="FLOAT")
    soundfile.write(tmp_path / "a" / "two.flac", speech[:8000], 24000)
    (folder / "one.txt").write_text("said once\n", "utf-8")
    (tmp_path / "a" / "two.json").write_text(json.dumps({"text": "said twice", "speaker": "x"}))
    clips = load_clips([tmp_path / "a"], 24000)
    assert [(c.key, c.text) for c in clips] == [("one", "said once"), ("two", "said twice")]
    np.testing.assert_allclose(clips[0].wav, speech[:8000] / 2, atol=1e-6)  # the mean of the channels
    assert [c.key for c in load_clips([str(tmp_path / "**" / "*.flac")], 24000)] == ["two"]


def test_a_cut_clip_is_the_beginning_of_the_whole_one(tmp_path, speech):
    soundfile.write(tmp_path / "long.wav", np.tile(speech, 12), 24000, subtype="FLOAT")
    (tmp_path / "long.txt").write_text("all of it", "utf-8")
    whole = load_clips([tmp_path], 16000)[0]
    assert whole.duration > 10
    for seconds in (0.5, 6.0, whole.duration, 2 * whole.duration):
        clip = load_clips([tmp_path], 16000, max_seconds=seconds)[0]
        np.testing.assert_array_equal(clip.wav, whole.wav[: int(seconds * 16000)])
        assert (clip.text is None) == (seconds < whole.duration)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.wav", None, "does not exist"),
        ("text.wav", b"this is no sound", "text.wav"),
        ("broken.tar", b"neither is this", "not a readable WebDataset shard"),
        ("folder", "folder", "no recordings in"),
    ],
)
def test_bad_data_is_one_line(tmp_path, name, content, message):
    path = tmp_path / name
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        load_clips([path], 24000)
    assert "\n" not in str(error.value)


def test_filters_that_leave_nothing_say_so(shard):
    with pytest.raises(InputError, match="source 'radio'"):
        load_clips([shard], 24000, source="radio")
