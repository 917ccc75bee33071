"""Speech of Myna's stays recognisable through our own codec, however short: the file says so, the decoder marks it."""

from __future__ import annotations

import io
from pathlib import Path

import myna as package
import numpy as np
import pytest
from myna.codec.formats import open_compressed
from myna.codec.pipeline import decode_blocks
from myna.codec.registry import load_codec
from myna.data.audio import Audio, AudioReader, read_audio, write_audio
from myna.marks.tags import synthetic_tags
from myna.marks.watermark import detect_watermark, watermark

ASSETS = Path(__file__).resolve().parents[1] / "assets"
RATE = 24_000


def two_seconds(name: str, at: float = 0.5) -> np.ndarray:
    start = round(at * RATE)
    return read_audio(ASSETS / name, RATE).samples[0, start : start + 2 * RATE]


@pytest.mark.parametrize("name", ["speech.wav", "lj.flac", "speechocean.flac"])
def test_two_seconds_keep_the_mark_and_others_get_none(name):
    wav = two_seconds(name)
    marked = package.compress(Audio(watermark(wav, RATE)[None], RATE))
    assert open_compressed(io.BytesIO(marked)).info.synthetic
    assert detect_watermark(package.decompress(marked).samples[0], RATE).found
    plain = package.compress(Audio(wav[None], RATE))
    assert not open_compressed(io.BytesIO(plain)).info.synthetic
    assert not detect_watermark(package.decompress(plain).samples[0], RATE).found


def test_a_stretch_is_marked_as_in_the_whole():
    wav = np.tile(read_audio(ASSETS / "lj.flac", RATE).samples[0], 2)
    data = package.compress(Audio(watermark(wav, RATE)[None], RATE), packet_seconds=1.0)
    codec = load_codec()
    whole = np.concatenate(list(decode_blocks(open_compressed(io.BytesIO(data)), codec)), axis=1)
    piece = np.concatenate(
        list(decode_blocks(open_compressed(io.BytesIO(data)), codec, start=4.0, duration=1.0)), axis=1
    )
    np.testing.assert_allclose(piece[0], whole[0, 4 * RATE : 5 * RATE], atol=1e-4)


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_a_tag_is_enough(suffix, tmp_path):
    path = tmp_path / f"x{suffix}"
    write_audio(path, two_seconds("lj.flac"), RATE, tags=synthetic_tags("ann"))
    data = package.compress(path)
    assert open_compressed(io.BytesIO(data)).info.synthetic
    assert detect_watermark(package.decompress(data).samples[0], RATE).found


def test_a_pipe_that_cannot_be_read_twice_goes_by_its_tag(tmp_path):
    write_audio(tmp_path / "x.wav", two_seconds("lj.flac"), RATE, tags=synthetic_tags())

    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    data = package.compress(Pipe((tmp_path / "x.wav").read_bytes()))
    assert open_compressed(io.BytesIO(data)).info.synthetic


@pytest.mark.parametrize(
    ("old", "new"),
    [(b"INFO", b"XXXX"), (b"ICMT\x06\x00\x00\x00", b"ICMT\xff\xff\x00\x00")],
    ids=["no list of tags", "a tag longer than its list"],
)
def test_damaged_tags_are_no_reason_to_refuse_a_recording(tmp_path, old, new):
    path, wav = tmp_path / "x.wav", two_seconds("lj.flac")
    write_audio(path, wav, RATE, tags={"comment": "hello"})
    data = path.read_bytes()
    assert data.count(old) == 1
    with AudioReader(path) as reader:
        assert reader.info.tags == {"comment": "hello"}
    path.write_bytes(data.replace(old, new))
    with AudioReader(path) as reader:
        assert reader.info.tags == {}
        assert sum(block.shape[1] for block in reader.blocks()) == len(wav)
