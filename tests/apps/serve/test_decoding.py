"""Uploads are decoded by processes that may die of them; the server does not."""

from __future__ import annotations

import asyncio
import gc
import io
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from myna.apps.serve.audio.decode_worker import decoded
from myna.apps.serve.audio.decoding import Decoders, DecodingLimits
from myna.data.audio import AudioReader
from myna.errors import InputError

ASSETS = Path(__file__).parents[2] / "assets"


def run(job, limits: DecodingLimits | None = None):
    async def main():
        decoders = Decoders(limits, n_workers=1)
        try:
            return await job(decoders)
        finally:
            await decoders.close()

    return asyncio.run(main())


def file(seconds: float, rate: int = 16_000, form: str = "FLAC", channels: int = 1) -> bytes:
    data = io.BytesIO()
    soundfile.write(data, np.zeros((round(seconds * rate), channels), np.float32), rate, format=form)
    return data.getvalue()


def test_one_process_decodes_one_file_after_the_other():
    async def job(decoders):
        speech = (ASSETS / "speech.wav").read_bytes()
        first = await decoders.decode(speech, 16_000)
        pid = decoders.pids
        again = await decoders.decode(speech)
        raw = await decoders.decode(np.arange(-800, 800, dtype="<i2").tobytes(), raw=8_000)
        assert decoders.pids == pid
        return first, again, raw

    first, again, raw = run(job)
    own, rate = soundfile.read(ASSETS / "speech.wav", dtype="float32")
    assert np.array_equal(again.samples[0], own)
    assert again.sample_rate == rate
    assert first.samples.shape[1] == pytest.approx(len(own) * 16_000 / rate, abs=2)
    assert raw.samples[0] * 32768 == pytest.approx(np.arange(-800, 800))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"not audio at all" * 100, "not audio"),
        (b"RIFF\x24\x00\x00\x00WAVEfmt ", "WAV header"),
        (file(3.0)[:200], "recording"),
    ],
)
def test_what_is_no_audio_is_a_sentence(data, words):
    async def job(decoders):
        with pytest.raises(InputError, match=words) as raised:
            await decoders.decode(data)
        assert "\n" not in str(raised.value)
        return await decoders.decode(file(0.5))

    assert run(job).samples.shape == (1, 8000)


def test_a_bomb_of_silence_is_refused_long_before_it_is_unpacked():
    bomb = file(1200.0, 8_000)
    assert len(bomb) < 200_000

    async def job(decoders):
        with pytest.raises(InputError, match="longer than 60 s"):
            await decoders.decode(bomb)

    run(job, DecodingLimits(seconds=60))


@pytest.mark.parametrize(("form", "unpacked"), [("FLAC", False), ("WAV", False), ("OGG", True)])
def test_what_says_that_it_is_too_long_is_refused_before_it_is_unpacked(form, unpacked, monkeypatch):
    """Otherwise decoding a few bombs keeps all other recordings waiting. A lossy format only estimates its length."""
    begun = []
    blocks = AudioReader.blocks

    def noted(reader, seconds):
        begun.append(reader.info.format)
        return blocks(reader, seconds)

    monkeypatch.setattr(AudioReader, "blocks", noted)
    job = {"rate": 16_000, "raw": None, "seconds": 2.0}
    with pytest.raises(InputError, match="longer than 2 s"):
        decoded(file(5.0, 8_000, form), job)
    assert bool(begun) == unpacked
    assert len(decoded(file(2.0, 8_000, form), job)[0]) == pytest.approx(32_000, abs=2)


def test_a_process_that_is_killed_is_replaced_and_the_file_is_decoded(caplog):
    async def job(decoders):
        await decoders.start()
        (pid,) = decoders.pids
        os.kill(pid, signal.SIGKILL)
        audio = await decoders.decode(file(0.5))
        assert decoders.pids != [pid]
        return audio

    assert run(job).samples.shape == (1, 8000)
    assert not caplog.records  # asyncio gets its exit code


def test_what_takes_too_long_or_too_much_ends_its_process_only():
    async def job(decoders):
        with pytest.raises(InputError, match="memory"):
            await decoders.decode(file(1500.0, 48_000), 48_000)

    run(job, DecodingLimits(megabytes=500))

    async def slow(decoders):
        with pytest.raises(InputError, match="limits of memory and time"):
            await decoders.decode(file(0.5))

    run(slow, DecodingLimits(patience=0.001))


def test_a_recording_that_is_refused_is_gone_with_its_answer():
    """Without waiting for Python's collection of cycles: it may have 25 MB."""

    async def job(decoders):
        data = os.urandom(20_000)
        before = sys.getrefcount(data)
        with pytest.raises(InputError) as refused:
            await decoders.decode(data)
        del refused
        return sys.getrefcount(data) - before

    gc.disable()
    try:
        assert run(job) == 0
    finally:
        gc.enable()
