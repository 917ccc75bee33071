"""Uploads are decoded by processes that may die of them; the server does not."""

from __future__ import annotations

import asyncio
import errno
import gc
import io
import json
import os
import signal
import struct
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
from myna.apps.serve.audio import decoding
from myna.apps.serve.audio.decode_worker import decoded
from myna.apps.serve.audio.decoding import Decoders, DecodingLimits, _Worker
from myna.apps.serve.audio.stored import StoredSamples
from myna.data.audio import AudioReader
from myna.errors import InputError

MB = 1 << 20
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
    container, subtype = ("OGG", "OPUS") if form == "OPUS" else (form, None)
    samples = np.zeros((round(seconds * rate), channels), np.float32)
    # Block by block: libsndfile's Vorbis takes a minute at once on the stack.
    with soundfile.SoundFile(
        data, "w", samplerate=rate, channels=channels, format=container, subtype=subtype
    ) as out:
        for block in np.array_split(samples, max(1, len(samples) // 60_000)):
            out.write(block)
    return data.getvalue()


def aac(seconds: float, container: str) -> bytes:
    """Silence, as MPEG-4 or as bare AAC."""
    av = pytest.importorskip("av")
    data = io.BytesIO()
    with av.open(data, "w", format=container) as out:
        stream = out.add_stream("aac", rate=8_000)
        stream.layout = "mono"
        for _ in range(round(seconds * 8_000 / 1024)):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            frame.sample_rate = 8_000
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return data.getvalue()


def says(ogg: bytes, position: int) -> bytes:
    """The file with another position on its last page: so many samples of 48 kHz for Opus."""
    at = ogg.rindex(b"OggS")
    page = bytearray(ogg[at:])
    page[6:14] = struct.pack("<q", position)
    page[22:26] = bytes(4)
    checksum = 0
    for byte in page:
        checksum ^= byte << 24
        for _ in range(8):
            checksum = (checksum << 1 ^ (0x04C11DB7 if checksum >> 31 else 0)) & 0xFFFFFFFF
    page[22:26] = struct.pack("<I", checksum)
    return ogg[:at] + bytes(page)


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


@pytest.mark.parametrize("form", ["FLAC", "WAV", "CAF", "OGG", "OPUS", "MP3"])
def test_what_says_that_it_is_too_long_is_refused_before_it_is_unpacked(form, monkeypatch):
    """Otherwise decoding a few bombs keeps all other recordings waiting."""
    begun = []
    blocks = AudioReader.blocks

    def noted(reader, seconds):
        begun.append(reader.info.format)
        return blocks(reader, seconds)

    monkeypatch.setattr(AudioReader, "blocks", noted)
    job = {"rate": 16_000, "raw": None, "seconds": 2.0}
    with pytest.raises(InputError, match="longer than 2 s"):
        list(decoded(file(5.0, 8_000, form), job)[1])
    assert not begun
    shorter = 1.8 if form == "MP3" else 2.0  # an MP3 has whole frames
    (samples,) = decoded(file(shorter, 8_000, form), job)[1]
    assert len(samples) / 16_000 == pytest.approx(shorter, abs=0.2)


def test_what_is_decoded_is_in_the_memory_of_neither_process():
    """Half an hour, 115 MB of samples, where the whole process may have 320, what it imports included."""

    async def job(decoders):
        await decoders.decode(file(0.1, 8_000), 16_000)  # what is imported is there
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            with await decoders.store(long, 16_000) as samples:
                now, most = (n - before for n in tracemalloc.get_traced_memory())
                assert now < 2 * MB
                assert most < 16 * MB
                return len(samples), [samples[at : at + 3] for at in (0, 20_000_000, len(samples) - 3)]
        finally:
            tracemalloc.stop()

    long = file(1800.0, 16_000)
    n, some = run(job, DecodingLimits(megabytes=320))
    assert n == 1800 * 16_000
    assert np.array_equal(some, np.zeros((3, 3)))


@pytest.mark.parametrize("length", [0.3, 40.0])
def test_stored_samples_are_those_of_the_file(length):
    """In memory and on the disk. Slices are as an array's."""
    noise = np.random.default_rng(0).random(round(length * 16_000), np.float32) - np.float32(0.5)
    data = io.BytesIO()
    soundfile.write(data, noise, 16_000, format="WAV", subtype="FLOAT")

    async def job(decoders):
        samples = await decoders.store(data.getvalue(), 16_000)
        assert bool(samples._file._rolled) == (length > 17)
        whole, n = samples[:], len(samples)
        ends = (0, 1, 5, 4_000, n - 7, n - 1, n, n + 3)
        assert all(np.array_equal(samples[a:b], whole[a:b]) for a in ends for b in ends)
        with pytest.raises(ValueError, match="in a row"):
            samples[::2]
        samples.close()
        with pytest.raises(ValueError, match="closed"):
            samples[:5]
        return whole

    assert np.array_equal(run(job), noise)


def test_a_disk_that_is_full_ends_the_job_and_leaves_no_file(monkeypatch):
    made: list[StoredSamples] = []

    class Full(StoredSamples):
        def append(self, data):
            made.append(self)
            if len(self):
                raise OSError(errno.ENOSPC, "No space left on device")
            super().append(data)

    async def job(decoders):
        begun = decoders.pids
        with pytest.raises(OSError, match="space"):
            await decoders.decode(file(60.0), 16_000)
        assert decoders.pids == begun == []  # what it still had to say is nothing for the next
        monkeypatch.undo()
        return await decoders.decode(file(0.5))

    monkeypatch.setattr(decoding, "StoredSamples", Full)
    assert run(job).samples.shape == (1, 8000)
    assert len(made) == 2  # once: another try would not make room
    assert made[0]._file.closed


@pytest.mark.parametrize("claim", [9_000, 1 << 40, -4, "many"])
def test_a_process_that_is_broken_is_not_believed(claim, monkeypatch):
    """More samples than were asked for would fill the disk."""
    block = f"sys.stdout.write({json.dumps({'n': claim}) + chr(10)!r} + 36_000 * '0'); sys.stdout.flush()"
    begin = "import sys; sys.stdin.readline(); print('{\"rate\": 8000}')"
    code = f"{begin}; {block}; {block}; sys.stdin.read()"
    begun = []
    create = asyncio.create_subprocess_exec

    async def broken(*command, **more):
        begun.append(command)
        return await create(sys.executable, "-c", code, **more)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", broken)

    async def job(decoders):
        with pytest.raises(InputError, match="limits of memory and time"):
            await decoders.decode(b"x", seconds=1.0)

    run(job)
    assert len(begun) == 2


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
            await decoders.decode(bytes(200 << 20), raw=48_000)

    run(job, DecodingLimits(megabytes=500))


@pytest.mark.parametrize(
    "limits",
    [
        pytest.param(
            DecodingLimits(processor=1e-3),
            marks=pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="has no such timers"),
        ),
        DecodingLimits(patience=0.001),
    ],
)
def test_what_takes_too_long_is_not_tried_again(limits, monkeypatch):
    begun = []
    ask = _Worker._ask

    async def noted(worker, job, file):
        begun.append(job)
        return await ask(worker, job, file)

    monkeypatch.setattr(_Worker, "_ask", noted)

    async def slow(decoders):
        with pytest.raises(InputError, match="limits of memory and time"):
            await decoders.decode(file(100.0, 48_000))

    run(slow, limits)
    assert len(begun) == 1


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="has no such timers")
def test_who_waits_for_the_processor_has_not_used_it():
    """A process that others keep from the processor, here for longer than it may use it, goes on."""

    async def job(decoders):
        await decoders.start()
        (pid,) = decoders.pids
        await decoders.decode(file(0.1))  # what it imports is there
        os.kill(pid, signal.SIGSTOP)
        asked = asyncio.create_task(decoders.decode(file(0.5)))
        await asyncio.sleep(1.5)
        assert not asked.done()
        os.kill(pid, signal.SIGCONT)
        audio = await asked
        assert decoders.pids == [pid]
        return audio

    assert run(job, DecodingLimits(processor=1.0)).samples.shape == (1, 8000)


_BOMBS = {  # 3 to 10 minutes
    "vorbis": lambda: file(600.0, 8_000, "OGG"),
    "opus": lambda: file(180.0, 8_000, "OPUS"),
    "opus that says a year": lambda: says(file(1.0, 8_000, "OPUS"), 48_000 * 365 * 86_400),
    "mp3": lambda: file(600.0, 8_000, "MP3"),
    "flac": lambda: file(600.0, 8_000, "FLAC"),
    "aac": lambda: aac(600.0, "adts"),
    "m4a": lambda: aac(600.0, "mp4"),
}


@pytest.mark.parametrize("kind", _BOMBS)
def test_a_bomb_of_any_format_is_one_sentence(kind):
    bomb = _BOMBS[kind]()
    assert len(bomb) < 1 << 20

    async def job(decoders):
        await decoders.start()
        before = decoders.pids
        with pytest.raises(InputError, match=r"longer than 60 s|is not audio that can be read") as refused:
            await decoders.decode(bomb, 16_000)
        assert "\n" not in str(refused.value)
        assert decoders.pids == before  # it was refused, its process lives
        return await decoders.decode(file(0.5))

    assert run(job, DecodingLimits(seconds=60, megabytes=600)).samples.shape == (1, 8000)


def test_what_says_less_than_it_holds_is_no_longer_than_it_may_be():
    async def job(decoders):
        return await decoders.decode(says(file(180.0, 8_000, "OPUS"), 48_000), 16_000)

    assert run(job, DecodingLimits(seconds=60)).samples.shape[1] <= 60 * 16_000


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
