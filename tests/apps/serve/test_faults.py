"""What clients, disks and strangers do to a server: bounded work, nothing mixed up, every answer a sentence."""

from __future__ import annotations

import contextlib
import errno
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from myna.errors import OutputError

from .conftest import SPEECH, Running
from .test_uploads import until

LONG = "This is the first of many sentences, which go on and on. " * 40


def say(server: Running, text: str = "One two three.", **more) -> httpx.Response:
    body = {"input": text, "voice": "ada", "response_format": "pcm", **more}
    return httpx.post(server.url + "/v1/audio/speech", json=body, timeout=120)


@pytest.fixture
def slowly(engine, monkeypatch):
    """Every chunk of sound takes its time."""
    made = engine.speaker.models.sound

    def sound(*args):
        stream = made(*args)
        push = stream.push

        def slow(latents):
            time.sleep(0.1)
            return push(latents)

        stream.push = slow
        return stream

    monkeypatch.setattr(engine.speaker.models, "sound", sound)


def sentence(answer: httpx.Response) -> str:
    message = answer.json()["error"]["message"]
    assert message
    assert "\n" not in message
    assert "Traceback" not in message
    return message


def test_beyond_its_capacity_it_says_when_to_come_again(serve, slowly):
    server = serve(max_concurrency=1, queue=1)
    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(lambda n: say(server, LONG[:180], seed=n), range(6)))
    by_status = {status: [a for a in answers if a.status_code == status] for status in (200, 429)}
    assert len(by_status[200]) >= 2
    assert len(by_status[429]) >= 1
    assert len(answers) == sum(map(len, by_status.values()))
    for answer in by_status[429]:
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert "try again in" in sentence(answer)
    assert server.settled()
    assert say(server).status_code == 200


def test_who_goes_in_the_middle_ends_the_work_at_once(server, slowly):
    shared = server.house._speech.shared
    with httpx.stream(
        "POST",
        server.url + "/v1/audio/speech",
        json={"input": LONG, "voice": "ada", "response_format": "pcm"},
        timeout=60,
    ) as response:
        parts = response.iter_bytes()
        next(parts)
        assert server.house.admissions["speech"].n_active == 1
    assert server.settled()
    made = shared.frames_made
    time.sleep(0.3)
    assert shared.frames_made <= made + 1  # the step that was under way
    text = httpx.get(server.url + "/metrics").text
    assert 'myna_cancelled_total{route="speech"}' in text


def test_who_goes_while_waiting_gives_its_place_away(serve, slowly):
    server = serve(max_concurrency=1, queue=1)
    body = {"input": LONG, "voice": "ada", "response_format": "pcm"}
    with httpx.stream("POST", server.url + "/v1/audio/speech", json=body, timeout=60) as first:
        parts = first.iter_bytes()
        next(parts)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(server.url + "/v1/audio/speech", json=body, timeout=0.5)
        end = time.monotonic() + 10
        while server.house.admissions["speech"].n_waiting and time.monotonic() < end:
            time.sleep(0.02)
        assert server.house.admissions["speech"].n_waiting == 0
        assert server.house.admissions["speech"].n_active == 1
    assert server.settled()


def test_who_does_not_read_is_cut_off_and_the_others_are_not(serve):
    server = serve(limits={"stall": 0.5})
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.connect(("127.0.0.1", server.port))
    body = b'{"input": "%s", "voice": "ada", "response_format": "wav", "speed": 0.25}' % (
        LONG[:2000].encode()
    )
    slow.sendall(
        b"POST /v1/audio/speech HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    )
    assert say(server).status_code == 200
    assert server.settled(60)
    parts = []
    while part := _received(slow):
        parts.append(part)
    data = b"".join(parts)
    assert data.startswith(b"HTTP/1.1 200")
    assert not data.endswith(b"0\r\n\r\n")  # cut off: its client can tell
    slow.close()


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(1 << 16)
    except ConnectionError:
        return b""


def test_a_request_has_a_deadline(serve, slowly):
    server = serve(limits={"deadline": 4.0}, max_concurrency=1)
    body = {"input": LONG, "voice": "ada", "response_format": "pcm"}
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(lambda: httpx.post(server.url + "/v1/audio/speech", json=body, timeout=60))
        time.sleep(0.5)
        second = threads.submit(say, server)
        with pytest.raises(httpx.RemoteProtocolError):  # it had begun
            first.result()
        try:
            answer = second.result()
        except httpx.RemoteProtocolError:  # on a slow machine it had begun, too
            answer = None
    assert answer is None or answer.status_code in (200, 504)
    if answer is not None and answer.status_code == 504:
        assert "longer than 4 s" in sentence(answer)
    assert server.settled()


def test_two_gigabytes_are_refused_before_they_are_sent(server):
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(
            b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2147483648\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
        )
        connection.settimeout(20)
        answer = b""
        while part := _received(connection):
            answer += part
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"send less" in answer


def test_an_upload_without_end_is_refused_when_it_is_too_long(serve):
    server = serve(limits={"upload_bytes": 1 << 20})
    sent = 0

    def endless():
        nonlocal sent
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
        while sent < 1 << 30:
            sent += 1 << 16
            yield b"\0" * (1 << 16)

    headers = {"content-type": "multipart/form-data; boundary=x"}
    try:
        answer = httpx.post(
            server.url + "/v1/audio/transcriptions", content=endless(), headers=headers, timeout=60
        )
        assert answer.status_code == 413
        sentence(answer)
    except httpx.WriteError:  # the answer came while it was still sending
        pass
    assert sent < 1 << 27
    assert httpx.get(server.url + "/health").status_code == 200


@pytest.mark.parametrize("limits", [{"stall": 0.3}, {"deadline": 0.6}])
def test_an_upload_that_stops_coming_is_ended_and_leaves_its_place(serve, limits):
    """Also one that goes on so slowly that it has not come by the deadline."""
    server = serve(limits=limits)
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        client.sendall(
            b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
        )
        begun = time.monotonic()
        until(lambda: server.house.admissions["upload"].n_active == 1)
        client.settimeout(0.1)
        answer = b""
        while not answer and time.monotonic() < begun + 20:
            if "deadline" in limits:
                client.sendall(b"x")
            with contextlib.suppress(TimeoutError):
                answer = client.recv(1 << 16)
        client.settimeout(20)
        # a body may come apart from its head
        while not answer.endswith(b"}") and (more := client.recv(1 << 16)):
            answer += more
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"send it without pauses" in answer
    assert server.settled()


def test_no_more_uploads_come_at_a_time_than_can_wait(serve):
    server = serve(max_concurrency=1, queue=1)
    head = (
        b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n"
        b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
    )
    with contextlib.ExitStack() as stack:
        for n in range(2):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            client.sendall(head)
            until(lambda n=n: server.house.admissions["upload"].n_active == n + 1)
        answer = httpx.post(
            server.url + "/v1/audio/transcriptions", files={"file": SPEECH.read_bytes()}, timeout=60
        )
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) >= 1
    assert server.settled()


def test_a_text_that_is_too_long_is_refused_by_its_body(server):
    answer = httpx.post(server.url + "/v1/audio/speech", json={"input": "a" * (2 << 20), "voice": "ada"})
    assert answer.status_code == 413
    sentence(answer)


@pytest.mark.parametrize(
    "body", [b"", b"--x", b"--x\r\n\r\n", b"--x\r\nContent-Disposition: x\r\n\r\n\r\n--x--"]
)
def test_a_damaged_form_is_refused(server, body):
    answer = httpx.post(
        server.url + "/v1/audio/transcriptions",
        content=body,
        headers={"content-type": "multipart/form-data; boundary=x"},
    )
    assert answer.status_code == 400
    sentence(answer)


def test_a_full_disk_is_said(server, monkeypatch):
    from myna.tts.voices import library

    def full(voice, force=False):
        raise OutputError("cannot write /secret/place/x.safetensors: no space left on device")

    monkeypatch.setattr(library, "add_voice", full)
    answer = httpx.post(
        server.url + "/v1/audio/voices",
        data={"name": "reader", "consent": "The reader agreed in May"},
        files={"audio_sample": SPEECH.read_bytes()},
        timeout=60,
    )
    assert answer.status_code == 507
    assert "disk" in sentence(answer)
    assert "secret" not in answer.text


def test_a_disk_that_cannot_take_an_upload_is_said(server, monkeypatch):
    import starlette.formparsers as parsers

    class Full:
        def __init__(self, *args, **kwargs):
            self._rolled = True

        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self):
            pass

    monkeypatch.setattr(parsers, "SpooledTemporaryFile", Full)
    answer = httpx.post(
        server.url + "/v1/audio/transcriptions", files={"file": b"\0" * (3 << 20)}, timeout=60
    )
    assert answer.status_code == 507
    sentence(answer)


def test_what_nobody_foresaw_is_a_sentence_too(server, monkeypatch):
    def broken(*args, **more):
        raise ZeroDivisionError("a secret of the house")

    monkeypatch.setattr(server.house._speech.speaker.models, "sound", broken)
    answer = say(server)
    assert answer.status_code == 500
    assert "secret" not in sentence(answer)
    monkeypatch.undo()
    assert say(server).status_code == 200


def test_an_address_that_there_is_not_is_said(server):
    for method, path, status in (("GET", "/v1/nothing", 404), ("PUT", "/v1/models", 404), ("GET", "/x", 404)):
        answer = httpx.request(method, server.url + path)
        assert answer.status_code in (status, 405)
        sentence(answer)
