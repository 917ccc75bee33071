"""What recordings are decoded to lies on the disk, says what it says from memory, and is gone after every ending."""

from __future__ import annotations

import errno
import io
import tempfile
import threading
import tracemalloc

import httpx
import numpy as np
import pytest
import soundfile
from myna.apps.serve.audio import decoding
from myna.apps.serve.audio.stored import StoredSamples
from myna.apps.serve.engines.recognition import SharedWhisper
from myna.errors import InputError

from .conftest import SPEECH, Running
from .test_uploads import form, sent, status, until

MB = 1 << 20
FIELDS = {"beam_size": "1"}


class Noted(StoredSamples):
    """made: all of them."""

    made: list[Noted]

    def __init__(self, *args):
        super().__init__(*args)
        self.made.append(self)

    @property
    def is_open(self) -> bool:
        return not self._file.closed


@pytest.fixture
def stored(monkeypatch) -> list[Noted]:
    monkeypatch.setattr(Noted, "made", [], raising=False)
    monkeypatch.setattr(decoding, "StoredSamples", Noted)
    return Noted.made


def all_closed(stored: list[Noted]) -> None:
    until(lambda: stored and not any(one.is_open for one in stored))


@pytest.fixture(scope="module")
def recording() -> bytes:
    """Speech and silence, 18 s, which is too long for memory."""
    samples, rate = soundfile.read(SPEECH, dtype="float32")
    data = io.BytesIO()
    soundfile.write(data, np.pad(samples, (0, 18 * rate - len(samples))), rate, format="WAV")
    return data.getvalue()


def ask(server: Running, recording: bytes, **fields) -> httpx.Response:
    url = server.url + "/v1/audio/transcriptions"
    return httpx.post(url, files={"file": recording}, data=FIELDS | fields, timeout=120)


def test_the_text_is_that_of_samples_in_memory(server, stored, recording):
    fields = {"response_format": "verbose_json", "timestamp_granularities[]": "word"}
    told = ask(server, recording, **fields, vad_filter="true")
    assert [one._file._rolled for one in stored] == [True]
    all_closed(stored)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding.Decoders, "store", _whole(decoding.Decoders.store))
        again = ask(server, recording, **fields, vad_filter="true")
    assert again.json() == told.json()
    assert "out of the scanty" in told.json()["text"]


class _Closing(np.ndarray):
    """An array that can be closed."""

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        pass


def _whole(store):
    async def in_memory(*args):
        with await store(*args) as samples:
            return samples[:].view(_Closing)

    return in_memory


def test_who_speaks_leaves_no_file(server, stored, recording):
    answer = ask(server, recording, response_format="diarized_json")
    assert answer.json()["segments"][0]["speaker"] == "A"
    all_closed(stored)


@pytest.mark.parametrize("stream", ["false", "true"])
def test_a_failure_leaves_no_file(server, stored, recording, monkeypatch, stream):
    def failing(*args):
        assert [one.is_open for one in stored] == [True]
        raise InputError("no more")

    monkeypatch.setattr(SharedWhisper, "transcribe", failing)
    monkeypatch.setattr(SharedWhisper, "stream", failing)
    answer = ask(server, recording, stream=stream)
    assert "no more" in answer.text
    all_closed(stored)


@pytest.mark.parametrize("ending", ["client", "deadline", "server"])
def test_what_is_cut_off_leaves_no_file(serve, stored, recording, monkeypatch, ending):
    server = serve(limits={"deadline": 3.0 if ending == "deadline" else 600.0})
    entered, go_on = threading.Event(), threading.Event()

    def held(*args):
        entered.set()
        go_on.wait(60)
        raise InputError("nobody waits for it")

    monkeypatch.setattr("myna.asr.shared.answered", held)
    client = sent(server, "transcriptions", form("file", recording, list(FIELDS.items())))
    try:
        assert entered.wait(60)
        if ending != "deadline":
            assert [one.is_open for one in stored] == [True]
        if ending == "client":
            client.close()
        if ending == "server":
            server.server.should_exit = True
        all_closed(stored)
    finally:
        go_on.set()
        client.close()
    assert server.settled()


def test_a_full_disk_is_said(server, stored, recording, monkeypatch):
    class Full(tempfile.SpooledTemporaryFile):
        def rollover(self):
            raise OSError(errno.ENOSPC, "No space left on device", "/secret/place")

    with monkeypatch.context() as patch:
        patch.setattr("myna.apps.serve.audio.stored.SpooledTemporaryFile", Full)
        answer = ask(server, recording)
    assert answer.status_code == 507
    assert "disk" in answer.json()["error"]["message"]
    assert "secret" not in answer.text
    all_closed(stored)
    assert ask(server, recording).status_code == 200


def test_ten_minutes_are_not_in_the_memory_of_the_server(server, stored, monkeypatch):
    """Neither before nor while they are transcribed: 38 MB of samples, and half of that of a spectrogram."""
    held: list[int] = []
    mels: list[int] = []

    def looked(model, asked, fallback):
        held.append(tracemalloc.get_traced_memory()[1] - before)
        mels.extend(one.mel.untyped_storage().nbytes() for one in asked)
        raise InputError("enough")

    noise = np.random.default_rng(0).uniform(-0.1, 0.1, 8_000 * 600).astype(np.float32)
    data = io.BytesIO()
    soundfile.write(data, noise, 8_000, format="WAV")
    monkeypatch.setattr("myna.asr.shared.answered", looked)
    body = form("file", data.getvalue(), list(FIELDS.items()))
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        with sent(server, "transcriptions", body) as client:
            assert status(client) == 400
    finally:
        tracemalloc.stop()
    assert len(held) == len(mels) == len(stored) == 1
    assert len(stored[0]) == 16_000 * 600
    assert held[0] < 16 * MB
    assert mels[0] < 2 * MB
    all_closed(stored)


def test_a_voice_leaves_no_file(server, stored):
    fields = {"name": "stored", "consent": "The reader agreed in May"}
    url = server.url + "/v1/audio/voices"
    answer = httpx.post(url, files={"audio_sample": SPEECH.read_bytes()}, data=fields, timeout=120)
    assert answer.status_code == 200
    all_closed(stored)
