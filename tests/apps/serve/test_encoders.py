"""What leaves the server is a file of its format, whole, of the right length, tagged, and begins before it ends."""

from __future__ import annotations

import io

import numpy as np
import pytest

av = pytest.importorskip("av")

from myna.apps.serve.audio.encoders import FORMATS, find_format  # noqa: E402
from myna.errors import UsageError  # noqa: E402
from myna.marks.tags import SYNTHETIC, synthetic_tags  # noqa: E402

RATE = 24_000


def tone(seconds: float = 1.5) -> np.ndarray:
    t = np.arange(round(seconds * RATE)) / RATE
    return (0.3 * np.sin(2 * np.pi * 220 * t)).astype(np.float32)


def encoded(name: str, chunk: int = 3000) -> tuple[list[bytes], bytes]:
    encoder = find_format(name).encoder(RATE, synthetic_tags("ada"))
    x = tone()
    parts = [encoder.push(x[i : i + chunk]) for i in range(0, len(x), chunk)]
    return parts, encoder.flush()


def decoded(data: bytes, name: str) -> tuple[np.ndarray, int]:
    if name == "pcm":
        return np.frombuffer(data, "<i2").astype(np.float32) / 32768, RATE
    with av.open(io.BytesIO(data)) as container:
        frames = list(container.decode(audio=0))
        rate = frames[0].sample_rate
        to_float = av.AudioResampler("flt", "mono", rate)
        parts = [part.to_ndarray()[0] for frame in frames for part in to_float.resample(frame)]
    return np.concatenate(parts), rate


@pytest.mark.parametrize("name", FORMATS)
def test_the_file_is_whole_and_says_the_same(name):
    parts, last = encoded(name)
    x, rate = decoded(b"".join([*parts, last]), name)
    assert len(x) / rate == pytest.approx(1.5, abs=0.1)
    middle = x[len(x) // 3 : 2 * len(x) // 3]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert np.argmax(spectrum) * rate / len(middle) == pytest.approx(220, abs=3)
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.3 / 2**0.5, rel=0.1)


@pytest.mark.parametrize("name", FORMATS)
def test_the_first_bytes_leave_before_half_a_second_is_said(name):
    parts, _ = encoded(name)
    early = b"".join(parts[:4])
    assert len(early) > 200
    if name != "flac":  # it needs the end of a block
        x, rate = decoded(early, name)
        assert len(x) > 0.1 * rate


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "pcm"])
def test_every_file_says_that_it_is_synthetic(name):
    parts, last = encoded(name)
    assert SYNTHETIC.encode() in b"".join([*parts, last]).replace(b"\0", b"") or SYNTHETIC.encode(
        "utf-16-le"
    ) in b"".join([*parts, last])


def test_the_header_of_a_wave_in_a_stream_is_one_and_open():
    parts, last = encoded("wav")
    data = b"".join([*parts, last])
    assert data[:8] == b"RIFF\xff\xff\xff\xff"
    assert data.count(b"WAVE") == 1


def test_another_format_is_refused_with_those_there_are():
    with pytest.raises(UsageError, match="mp3, opus"):
        find_format("ogg-vorbis")
