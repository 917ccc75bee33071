"""The frames of an MP3 are counted by their headers, and never more of them than a decoder finds."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile
from myna.apps.serve.audio.decode_worker import decoded
from myna.apps.serve.audio.mpeg import seconds_at_least
from myna.data.audio import AudioReader

ID3 = b"ID3\x04\0\0\0\0\x0f\x68" + b"\xff\xfb\x90\0" * 506  # whose content looks like frames
RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
UNHEARD = 8  # frames


def mp3(seconds: float, rate: int, mode: str = "CONSTANT", channels: int = 1, level: float = 0.5) -> bytes:
    """Noise that comes and goes, so that variable rates vary."""
    samples = np.random.default_rng(0).uniform(-0.3, 0.3, (round(seconds * rate), channels))
    samples *= np.sin(np.arange(len(samples)) / rate)[:, None] ** 4
    data = io.BytesIO()
    how = {"bitrate_mode": mode, "compression_level": level}
    with soundfile.SoundFile(data, "w", samplerate=rate, channels=channels, format="MP3", **how) as out:
        out.write(samples)
    return data.getvalue()


def mp2(seconds: float, rate: int) -> bytes:
    """Layer II."""
    av = pytest.importorskip("av")
    data = io.BytesIO()
    with av.open(data, "w", format="mp2") as out:
        stream = out.add_stream("mp2", rate=rate)
        stream.layout = "mono"
        for _ in range(round(seconds * rate / 1152)):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.int16), "s16", "mono")
            frame.sample_rate = rate
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return data.getvalue()


def decoded_seconds(data: bytes) -> tuple[float, float]:
    """What a decoder finds, and the seconds of a frame."""
    file = io.BytesIO(data)
    with AudioReader(file) as reader:
        rate = reader.info.sample_rate
        frame = (576 if rate < 32_000 else 1152) / rate
        return sum(block.shape[1] for block in reader.blocks(1.0)) / rate, frame


@pytest.mark.parametrize("mode", ["CONSTANT", "AVERAGE", "VARIABLE"])
@pytest.mark.parametrize("rate", RATES)
def test_it_is_as_long_as_it_is(rate, mode):
    data = mp3(6.0, rate, mode, channels=1 + rate % 3 % 2)
    for whole in (data, ID3 + data + b"TAG" + bytes(125)):
        found, frame = decoded_seconds(whole)
        assert found - UNHEARD * frame <= seconds_at_least(whole, 100.0) <= found
    assert seconds_at_least(b"\0" * 900 + data, 100.0) == seconds_at_least(ID3 + ID3 + data, 100.0)
    assert seconds_at_least(data, 3.0) == 3.0


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_layer_two(rate):
    data = mp2(6.0, rate)
    found, frame = decoded_seconds(data)
    assert found - UNHEARD * 2 * frame <= seconds_at_least(data, 100.0) <= found


@pytest.mark.parametrize("at", [0.3, 0.5, 0.9])
def test_counting_ends_at_damage(at):
    data = mp3(6.0, 16_000)
    cut = int(len(data) * at)
    for between in (b"", b"\xff" * 5_000, np.random.default_rng(1).bytes(500), ID3):
        damaged = data[:cut] + between + data[cut + 7 :]
        counted = seconds_at_least(damaged, 100.0)
        assert counted <= 6.0 * at
        assert counted > 6.0 * at - 0.5


def test_what_is_no_recording_has_no_length():
    for data in (
        b"",
        b"ID3",
        b"\xff",
        b"\xff\xfb",
        b"ID3\x04\0\0\x7f\x7f\x7f\x7f",
        b"\xff" * 100_000,
        bytes(100_000),
    ):
        assert seconds_at_least(data, 100.0) == 0.0
    free = b"\xff\xfb\x00\0" + bytes(413)  # frames whose length no header says
    assert seconds_at_least(free * 50, 100.0) == 0.0


def test_recordings_within_the_limit_are_not_refused():
    """Whatever they say of themselves: joined files have a table of the first one alone, or none."""
    short = mp3(3.0, 16_000, "VARIABLE")
    plain = mp3(3.0, 16_000)
    job = {"rate": None, "raw": None, "seconds": 3.2}
    for data in (short, plain, ID3 + plain, short + short):
        _, blocks = decoded(data, job)
        assert sum(map(len, blocks)) == pytest.approx(3 * 16_000, abs=UNHEARD * 576)
