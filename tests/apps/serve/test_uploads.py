"""Uploads wait on the disk: nothing of them is in memory before its turn, and no file is left after any ending."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import io
import socket
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from tempfile import SpooledTemporaryFile

import httpx
import numpy as np
import pytest
import soundfile
from myna.apps.serve import diarized
from myna.apps.serve.engines.recognition import SharedWhisper
from myna.errors import InputError

from .conftest import SPEECH, Running

MB = 1 << 20
TRANSCRIPTION = ("transcriptions", "transcription", "file", {"beam_size": "1"})
VOICE = ("voices", "speech", "audio_sample", {"name": "reader", "consent": "The reader agreed in May"})
BOTH = pytest.mark.parametrize("route", [TRANSCRIPTION, VOICE], ids=["transcription", "voice"])


class Noted(SpooledTemporaryFile):
    """made: all of them.   n_read: bytes."""

    made: list[Noted]

    def __init__(self, *args, **more):
        super().__init__(*args, **more)
        self.n_read = 0
        self.made.append(self)

    def read(self, *args):
        data = super().read(*args)
        self.n_read += len(data)
        return data


@pytest.fixture
def files(monkeypatch) -> list[Noted]:
    """Those that requests are written to."""
    monkeypatch.setattr(Noted, "made", [], raising=False)
    monkeypatch.setattr("starlette.formparsers.SpooledTemporaryFile", Noted)
    monkeypatch.setattr(diarized.tempfile, "SpooledTemporaryFile", Noted)
    return Noted.made


@contextlib.contextmanager
def occupied(server: Running, kind: str) -> Iterator[None]:
    """Somebody else has the one slot."""
    loop = server.server.servers[0].get_loop()
    ended = asyncio.Event()

    async def hold(entered: asyncio.Event) -> None:
        async with server.house.admissions[kind].slot("somebody"):
            entered.set()
            await ended.wait()

    async def begin() -> asyncio.Task[None]:
        entered = asyncio.Event()
        task = asyncio.create_task(hold(entered))
        await entered.wait()
        return task

    async def end(task: asyncio.Task[None]) -> None:
        ended.set()
        await task

    task = asyncio.run_coroutine_threadsafe(begin(), loop).result(20)
    try:
        yield
    finally:
        asyncio.run_coroutine_threadsafe(end(task), loop).result(20)


def until(found, patience: float = 30.0) -> None:
    end = time.monotonic() + patience
    while not found():
        assert time.monotonic() < end
        time.sleep(0.01)


def waiting(server: Running, kind: str, n: int = 1) -> None:
    until(lambda: server.house.admissions[kind].n_waiting == n)


def closed(files: list[Noted]) -> bool:
    return all(file.closed for file in files)


def sent(server: Running, route: str, body: bytes) -> socket.socket:
    """A request that waits for nothing, and copies nothing."""
    connection = socket.create_connection(("127.0.0.1", server.port))
    connection.sendall(
        f"POST /v1/audio/{route} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n\r\n".encode()
    )
    connection.sendall(body)
    return connection


def status(connection: socket.socket) -> int:
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    return answer.status


def form(part: str, data: bytes, fields: list[tuple[str, str]]) -> bytes:
    head = b"--x\r\nContent-Disposition: form-data; name="
    parts = [head + f'"{name}"\r\n\r\n{value}\r\n'.encode() for name, value in fields]
    return b"".join([*parts, head, f'"{part}"; filename="a"\r\n\r\n'.encode(), data, b"\r\n--x--\r\n"])


@BOTH
def test_what_waits_is_not_in_memory(serve, files, route):
    path, kind, part, fields = route
    server = serve(max_concurrency=1, queue=8)
    data = b"no audio" * (6 * MB // 8)
    unknown = [(f"unknown_{i}", "x" * (MB // 2)) for i in range(4)]
    body = form(part, data, [*fields.items(), *unknown])
    with contextlib.ExitStack() as stack:
        with occupied(server, kind):
            tracemalloc.start()
            stack.callback(tracemalloc.stop)
            before = tracemalloc.get_traced_memory()[0]
            clients = [stack.enter_context(sent(server, path, body)) for _ in range(6)]
            waiting(server, kind, 6)
            held = tracemalloc.get_traced_memory()[0] - before
            assert held < 6 * MB, f"{held / 6 / MB:.1f} MB a client"
            assert len(files) == 6
            assert {file._rolled for file in files} == {True}
            assert {file.n_read for file in files} == {0}
            tracemalloc.reset_peak()
        assert [status(client) for client in clients] == [400] * 6
        # One after the other, block by block.
        assert tracemalloc.get_traced_memory()[1] - before < 12 * MB
    assert {file.n_read for file in files} == {len(data)}
    until(lambda: closed(files))
    assert server.settled()


def test_recordings_of_known_speakers_wait_on_the_disk_too(serve, files):
    server = serve(max_concurrency=1, queue=8)
    url = "data:audio/wav;base64," + base64.b64encode(b"no audio" * (2 * MB // 8)).decode()
    fields = [("response_format", "diarized_json")]
    for name in ("Ada", "Bea", "Cid"):
        fields += [("known_speaker_names[]", name), ("known_speaker_references[]", url)]
    body = form("file", SPEECH.read_bytes(), fields)
    with contextlib.ExitStack() as stack:
        with occupied(server, "transcription"):
            tracemalloc.start()
            stack.callback(tracemalloc.stop)
            before = tracemalloc.get_traced_memory()[0]
            clients = [stack.enter_context(sent(server, "transcriptions", body)) for _ in range(3)]
            waiting(server, "transcription", 3)
            held = tracemalloc.get_traced_memory()[0] - before
            assert held < 6 * MB, f"{held / 3 / MB:.1f} MB a client"
            assert len(files) == 3 * 4
            assert {file.n_read for file in files} == {0}
            clients[0].close()
            waiting(server, "transcription", 2)
        assert [status(client) for client in clients[1:]] == [400, 400]
    until(lambda: closed(files))
    assert server.settled()


@BOTH
def test_whoever_goes_while_waiting_leaves_no_file(serve, files, route):
    path, kind, part, fields = route
    server = serve(max_concurrency=1)
    with occupied(server, kind):
        client = sent(server, path, form(part, b"\0" * (2 * MB), list(fields.items())))
        waiting(server, kind)
        assert not closed(files)
        client.close()
        waiting(server, kind, 0)
        until(lambda: closed(files))
    assert len(files) == 1
    assert files[0].n_read == 0


@BOTH
def test_a_deadline_leaves_no_file(serve, files, route):
    path, kind, part, fields = route
    server = serve(limits={"deadline": 0.5}, max_concurrency=1)
    with occupied(server, kind):
        answer = httpx.post(
            f"{server.url}/v1/audio/{path}", data=fields, files={part: b"\0" * (2 * MB)}, timeout=60
        )
    assert answer.status_code == 504
    until(lambda: closed(files))
    assert [file.n_read for file in files] == [0]


@BOTH
def test_a_server_that_ends_leaves_no_file(serve, files, route):
    path, kind, part, fields = route
    server = serve(max_concurrency=1)
    with occupied(server, kind), ThreadPoolExecutor(1) as threads:
        url, upload = f"{server.url}/v1/audio/{path}", {part: b"\0" * (2 * MB)}
        answer = threads.submit(httpx.post, url, data=fields, files=upload, timeout=60)
        waiting(server, kind)
        server.server.should_exit = True
        assert answer.result().status_code == 503
        until(lambda: closed(files))
    assert [file.n_read for file in files] == [0]


@pytest.mark.parametrize(
    ("route", "fields", "expected"),
    [
        ("transcriptions", {"beam_size": "99"}, 400),
        ("transcriptions", {"model": "no-model"}, 404),
        ("transcriptions", {"language": "x" * 100}, 400),
        ("transcriptions", {"beam_size": "1"}, 400),
        ("voices", {"name": "reader"}, 400),
        ("voices", dict(VOICE[3]), 400),
    ],
)
def test_a_refusal_leaves_no_file(server, files, route, fields, expected):
    answer = httpx.post(
        f"{server.url}/v1/audio/{route}", data=fields, files={"file": b"no audio" * MB}, timeout=60
    )
    assert answer.status_code == expected, answer.text
    until(lambda: closed(files))
    assert len(files) == 1


def test_an_upload_that_breaks_off_leaves_no_file(server, files):
    body = form("file", b"\0" * (3 * MB), [])
    sent(server, "transcriptions", body).close()  # whole; then half of what was promised
    half = socket.create_connection(("127.0.0.1", server.port))
    half.sendall(
        f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n\r\n".encode()
    )
    half.sendall(body[: 2 * MB])
    until(lambda: len(files) == 2)
    half.close()
    until(lambda: closed(files))
    assert server.settled()


def test_a_recording_is_closed_as_soon_as_it_is_decoded(server, files, monkeypatch):
    seen = []

    async def transcribe(*args):
        seen.append((closed(files), [file.n_read for file in files]))
        raise InputError("enough")

    monkeypatch.setattr(SharedWhisper, "transcribe", transcribe)
    sound = io.BytesIO()
    soundfile.write(sound, np.zeros(16_000 * 40), 16_000, format="WAV")
    url = server.url + "/v1/audio/transcriptions"
    answer = httpx.post(url, files={"file": sound.getvalue()}, timeout=120)
    assert answer.status_code == 400
    assert seen == [(True, [len(sound.getvalue())])]
