"""The WebSockets: speech from text in pieces, and realtime transcription."""

from __future__ import annotations

import asyncio
import base64
import json
import threading

import numpy as np
import pytest
from myna.apps.serve.routes.speech_socket import complete
from myna.asr.shared import CancelledError, given_up
from myna.data.audio import read_audio
from myna.data.wav import to_int16
from myna.tts.presets import SpeechOptions
from myna.tts.text.long_text import split_text
from starlette.websockets import WebSocket

from .conftest import SPEECH

sockets = pytest.importorskip("websockets.sync.client")
exceptions = pytest.importorskip("websockets.exceptions")


def connect(server, path: str, **more):
    return sockets.connect(f"ws://127.0.0.1:{server.port}{path}", max_size=None, **more)


def send(socket, kind: str, **fields) -> None:
    socket.send(json.dumps({"type": kind, **fields}))


def receive(socket, until: str) -> tuple[list[dict], bytes]:
    """Events up to one of a kind, and the bytes between them."""
    events, data = [], b""
    while not events or events[-1]["type"] != until:
        message = socket.recv(timeout=60)
        if isinstance(message, bytes):
            data += message
        else:
            events.append(json.loads(message))
            assert until == "error" or events[-1]["type"] != "error", events[-1]
    return events, data


# ---- speech


@pytest.mark.parametrize(
    ("text", "said", "left"),
    [
        ("Hello", "", "Hello"),
        ("Hello. ", "Hello. ", ""),
        ("Hello.", "", "Hello."),  # "Hello.5" may follow
        ("It is 3.5 m. And", "It is 3.5 m. ", "And"),
        ("See e.g. this one", "", "See e.g. this one"),
        ("One? Two! Three", "One? Two! ", "Three"),
        ("A title\n\nThen", "A title\n\n", "Then"),
    ],
)
def test_a_sentence_is_complete_when_nothing_can_change_it(text, said, left):
    assert complete(text) == (said, left)


def test_text_in_pieces_is_said_sentence_by_sentence(server):
    with connect(server, "/v1/audio/speech/stream") as socket:
        send(socket, "session.config", voice="ada", seed=5)
        (created,), _ = receive(socket, "session.created")
        assert (created["format"], created["sample_rate"]) == ("pcm", 24_000)
        for piece in ("One two", " three. Fo", "ur five six. Seven", " eight"):
            send(socket, "input.text", text=piece)
        first, sound = receive(socket, "audio.done")  # before the text has ended
        assert (first[0]["type"], first[0]["sentence_index"]) == ("audio.start", 0)
        assert [word["word"] for word in first[-1]["words"]] == ["One", "two", "three."]
        send(socket, "input.done")
        rest, more = receive(socket, "session.done")
        assert rest[-1]["total_sentences"] == 3
        assert [event["sentence_index"] for event in rest if event["type"] == "audio.done"] == [1, 2]

        # The first sentence is that of the whole text: seeds go on over the pieces.
        engine = server.house._speech
        voice = server.house._voices.find("ada")
        whole = engine.say(
            split_text("One two three. Four five six. Seven eight"),
            voice,
            SpeechOptions(seed=5),
            engine.ticket(),
        )
        expected = to_int16(np.concatenate([chunk.samples for chunk in whole]))
        said = np.frombuffer(sound + more, "<i2")
        n = len(np.frombuffer(sound, "<i2"))
        assert np.array_equal(said[:n], expected[:n])
        assert len(said) == len(expected)

        # It was flushed, not closed.
        send(socket, "input.text", text="Again.")
        send(socket, "input.done")
        again, data = receive(socket, "session.done")
        assert again[-1]["total_sentences"] == 1
        assert len(data) > 5_000


def test_one_file_of_another_format_for_each_text(server):
    with connect(server, "/v1/audio/speech/stream") as socket:
        send(socket, "session.config", voice="ada", response_format="wav")
        send(socket, "input.text", text="One two. Three four.")
        send(socket, "input.done")
        _, data = receive(socket, "session.done")
        assert data.count(b"RIFF") == 1
        assert data.startswith(b"RIFF")


def test_what_has_not_been_said_can_be_dropped(server):
    with connect(server, "/v1/audio/speech/stream") as socket:
        send(socket, "session.config", voice="ada")
        send(socket, "input.text", text="One two three. " * 60)
        receive(socket, "audio.done")
        send(socket, "input.cancel")
        receive(socket, "input.cancelled")
        send(socket, "input.text", text="The end.")
        send(socket, "input.done")
        events, _ = receive(socket, "session.done")
        assert events[-1]["total_sentences"] == 1
    assert server.settled()


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("no json", "JSON object"),
        ("[1]", "JSON object"),
        (b"\0\1", "not bytes"),
        ('{"type": "dance"}', "no event 'dance'"),
        ('{"type": "input.text"}', "needs a"),
        ('{"type": "session.config", "voice": "nobody"}', "nobody"),
        ('{"type": "session.config", "voice": "../x"}', "no voice"),
        ('{"type": "session.config", "response_format": "midi"}', "mp3"),
        ('{"type": "session.config", "speed": []}', "speed"),
        (json.dumps({"type": "input.text", "text": "a" * 5000}), "wait to be said"),
    ],
)
def test_a_wrong_event_is_a_sentence_and_the_connection_stays(server, message, words):
    with connect(server, "/v1/audio/speech/stream") as socket:
        socket.send(message)
        (error,), _ = receive(socket, "error")
        assert words in error["error"]["message"]
        send(socket, "session.config", voice="ada")
        receive(socket, "session.created")


def test_who_goes_ends_the_work(server):
    with connect(server, "/v1/audio/speech/stream") as socket:
        send(socket, "session.config", voice="ada")
        send(socket, "input.text", text="One two three. " * 60)
        receive(socket, "audio.start")
    assert server.settled()


def test_who_does_not_read_is_told_when_it_does_again(serve, monkeypatch):
    """Its slot is free long before the deadline."""
    server = serve(limits={"stall": 0.3})
    send_on = WebSocket.send

    async def full(socket, message):
        if message.get("bytes"):
            await asyncio.Event().wait()
        await send_on(socket, message)

    monkeypatch.setattr(WebSocket, "send", full)
    with connect(server, "/v1/audio/speech/stream") as socket:
        send(socket, "session.config", voice="ada")
        send(socket, "input.text", text="One two three. ")
        events, _ = receive(socket, "error")
        assert "does not read" in events[-1]["error"]["message"]
        assert server.house.admissions["speech"].n_active == 0
    assert server.settled()


@pytest.mark.parametrize(
    ("path", "broken", "event"),
    [
        ("/v1/audio/speech/stream", "speech_socket._Session._add", {"type": "input.text", "text": "One. "}),
        ("/v1/realtime", "realtime._Session._append", {"type": "input_audio_buffer.append", "audio": ""}),
    ],
)
def test_what_nobody_foresaw_is_a_sentence_and_closes_the_connection(
    server, monkeypatch, path, broken, event
):
    def fail(*args):
        raise ZeroDivisionError("secret")

    monkeypatch.setattr("myna.apps.serve.routes." + broken, fail)
    with connect(server, path) as socket:
        socket.send(json.dumps(event))
        events, _ = receive(socket, "error")
        assert events[-1]["error"]["message"] == "something went wrong in the server; its log says what"
        with pytest.raises(exceptions.ConnectionClosed) as closed:
            socket.recv(timeout=10)
        assert closed.value.rcvd.code == 1011
    assert server.settled()


@pytest.mark.parametrize(
    ("path", "event"),
    [("/v1/audio/speech/stream", "input.done"), ("/v1/realtime", "input_audio_buffer.clear")],
)
def test_events_that_wait_are_bounded(server, monkeypatch, path, event):
    monkeypatch.setattr("myna.apps.serve.routes.speech_socket.MOST_WAITING", 0)
    monkeypatch.setattr("myna.apps.serve.routes.realtime.MOST_WAITING", 0)
    with connect(server, path) as socket:
        send(socket, event)
        events, _ = receive(socket, "error")
        assert "too many events wait" in events[-1]["error"]["message"]


def test_keys_and_origins_are_asked_for_here_too(serve):
    server = serve(api_keys=("a-key-of-the-house",))
    with pytest.raises(exceptions.InvalidStatus), connect(server, "/v1/realtime"):
        pass
    with (
        pytest.raises(exceptions.InvalidStatus),
        connect(server, "/v1/realtime", origin="https://evil.example"),
    ):
        pass
    headers = {"Authorization": "Bearer a-key-of-the-house"}
    with connect(server, "/v1/realtime", additional_headers=headers) as socket:
        receive(socket, "session.created")
    offered = ["realtime", "openai-insecure-api-key.a-key-of-the-house"]
    with connect(server, "/v1/realtime", subprotocols=offered) as socket:
        assert socket.subprotocol == "realtime"
        receive(socket, "session.created")


# ---- realtime


def recording(rate: int = 24_000) -> list[str]:
    """The recording and two seconds of silence, in pieces of 200 ms as base64."""
    samples = read_audio(SPEECH, rate, mono=True).samples[0]
    samples = np.concatenate([np.zeros(rate // 2), samples, np.zeros(2 * rate)])
    data = to_int16(samples)
    return [
        base64.b64encode(data[i : i + rate // 5].tobytes()).decode() for i in range(0, len(data), rate // 5)
    ]


def test_a_window_under_way_ends_when_its_client_goes(server, monkeypatch):
    """Where it computes, it is told (`asr.shared.given_up`; tests/asr/test_shared.py has what it does then)."""
    begun, ended = threading.Event(), threading.Event()

    def push(self, samples):
        begun.set()
        gone = given_up.get()
        if gone is not None and gone.wait(20):
            ended.set()
        raise CancelledError

    monkeypatch.setattr("myna.apps.serve.routes.realtime._Turn.push", push)
    with connect(server, "/v1/realtime") as socket:
        receive(socket, "session.created")
        for audio in recording():
            send(socket, "input_audio_buffer.append", audio=audio)
        assert begun.wait(20)
        assert not ended.is_set()
    assert ended.wait(10)


def test_a_turn_is_found_heard_and_completed(server):
    with connect(server, "/v1/realtime?intent=transcription&model=tiny.en") as socket:
        (created,), _ = receive(socket, "session.created")
        assert created["session"]["type"] == "transcription"
        update = {
            "type": "transcription",
            "audio": {
                "input": {
                    "format": {"type": "audio/pcm", "rate": 24_000},
                    "transcription": {"model": "tiny.en", "language": "en"},
                    "turn_detection": {"type": "server_vad", "silence_duration_ms": 1000},
                }
            },
        }
        send(socket, "session.update", session=update)
        (updated,), _ = receive(socket, "session.updated")
        assert updated["session"]["audio"]["input"]["turn_detection"]["silence_duration_ms"] == 1000
        for audio in recording():
            send(socket, "input_audio_buffer.append", audio=audio)
        done = "conversation.item.input_audio_transcription.completed"
        events, _ = receive(socket, done)
    kinds = [event["type"] for event in events]
    order = [
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.created",
        done,
    ]
    assert [kind for kind in kinds if not kind.endswith("delta")] == order
    deltas = [event["delta"] for event in events if event["type"].endswith("delta")]
    assert "".join(deltas) == events[-1]["transcript"]
    assert "scanty" in events[-1]["transcript"]
    assert len({event["item_id"] for event in events if "item_id" in event}) == 1
    assert 0 <= events[0]["audio_start_ms"] < 1500
    assert all(event["content_index"] == 0 for event in events if event["type"].endswith("delta"))


def test_a_client_may_find_the_turns_itself(server):
    with connect(server, "/v1/realtime?intent=transcription") as socket:
        session = {"input_audio_format": "pcm16", "turn_detection": None}
        send(socket, "transcription_session.update", session=session)
        receive(socket, "transcription_session.updated")
        send(socket, "input_audio_buffer.commit")
        events, _ = receive(socket, "error")
        assert events[-1]["error"]["code"] == "input_audio_buffer_commit_empty"
        for audio in recording()[:20]:
            send(socket, "input_audio_buffer.append", audio=audio)
        send(socket, "input_audio_buffer.clear")
        receive(socket, "input_audio_buffer.cleared")
        for audio in recording():
            send(socket, "input_audio_buffer.append", audio=audio)
        send(socket, "input_audio_buffer.commit")
        events, _ = receive(socket, "conversation.item.input_audio_transcription.completed")
        assert "scanty" in events[-1]["transcript"]
        assert "input_audio_buffer.speech_started" not in [event["type"] for event in events]


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("{", "JSON object"),
        ('{"type": "response.create"}', "transcribe"),
        ('{"type": "input_audio_buffer.append", "audio": "%%"}', "base64"),
        ('{"type": "input_audio_buffer.append"}', "base64"),
        ('{"type": "session.update"}', "session"),
        ('{"type": "session.update", "session": {"input_audio_format": "g711_ulaw"}}', "audio/pcm"),
        ('{"type": "session.update", "session": {"turn_detection": {"threshold": 7}}}', "out of range"),
        (
            '{"type": "session.update", "session": {"input_audio_transcription": {"language": "de"}}}',
            "English",
        ),
    ],
)
def test_a_wrong_event_of_a_session_is_a_sentence(server, message, words):
    with connect(server, "/v1/realtime") as socket:
        receive(socket, "session.created")
        socket.send(message)
        events, _ = receive(socket, "error")
        assert words in events[-1]["error"]["message"]


def test_a_model_that_there_is_not_closes_the_connection(server):
    with connect(server, "/v1/realtime?model=/etc/passwd") as socket:
        events, _ = receive(socket, "error")
        assert "no model named" in events[-1]["error"]["message"]
        with pytest.raises(exceptions.ConnectionClosed):
            socket.recv(timeout=10)
