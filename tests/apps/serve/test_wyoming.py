"""Home Assistant's protocol, with its own client."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import socket
import tempfile
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from myna.apps.serve.options import Limits
from myna.apps.serve.problems import TooLargeError
from myna.apps.serve.voices import Voices
from myna.data.audio import read_audio
from myna.data.resample import resample
from myna.data.wav import to_int16
from myna.errors import InputError, UsageError
from myna.tts.presets import SpeechOptions
from myna.tts.text.long_text import split_text

from .conftest import SPEECH, Running, free_port
from .test_stored import Noted, all_closed

pytest.importorskip("wyoming")

from myna.apps.serve.wyoming import recording
from myna.apps.serve.wyoming.recording import Recording
from myna.apps.serve.wyoming.service import check_uri, serving
from wyoming.asr import Transcribe, Transcript
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.error import Error
from wyoming.event import Event
from wyoming.info import Describe, Info
from wyoming.tts import (
    Synthesize,
    SynthesizeChunk,
    SynthesizeStart,
    SynthesizeStop,
    SynthesizeStopped,
    SynthesizeVoice,
)


def begun(serve, **options) -> tuple[Running, int]:
    """A server, and its port for Wyoming."""
    number = free_port()
    return serve(beside=(lambda house: serving(f"tcp://127.0.0.1:{number}", house),), **options), number


@pytest.fixture
def served(serve) -> tuple[Running, int]:
    return begun(serve)


@pytest.fixture
def port(served) -> int:
    return served[1]


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    return read_audio(SPEECH, 16_000, mono=True).samples[0]


def talk(port: int, events: list, until: type) -> list:
    """What comes back, up to an event of a kind."""

    async def main():
        async with AsyncTcpClient("127.0.0.1", port) as client:
            for event in events:
                await client.write_event(event.event())
            found = []
            while True:
                event = await asyncio.wait_for(client.read_event(), 60)
                if event is None:
                    return found
                found.append(event)
                if until.is_type(event.type):
                    return found

    return asyncio.run(main())


def sound(events: list) -> bytes:
    return b"".join(AudioChunk.from_event(event).audio for event in events if AudioChunk.is_type(event.type))


def test_it_says_what_it_can(port):
    info = Info.from_event(talk(port, [Describe()], Info)[-1])
    assert "ada" in [voice.name for voice in info.tts[0].voices]
    assert info.tts[0].supports_synthesize_streaming
    assert "tiny.en" in [model.name for model in info.asr[0].models]


def test_it_speaks(port, engine):
    asked = Synthesize("One two three.", SynthesizeVoice(name="ada"))
    events = talk(port, [asked], AudioStop)
    start = AudioStart.from_event(events[0])
    assert (start.rate, start.width, start.channels) == (24_000, 2, 1)
    assert events[0].data["synthetic"].startswith("Synthetic speech")
    assert len(events) > 3
    voice = Voices(engine.speaker).find("ada")
    chunks = engine.say(split_text("One two three."), voice, SpeechOptions(), engine.ticket())
    assert sound(events) == to_int16(np.concatenate([chunk.samples for chunk in chunks])).tobytes()


def test_it_speaks_while_the_text_comes(port):
    voice = SynthesizeVoice(name="ada")
    pieces = [SynthesizeStart(voice=voice), SynthesizeChunk("One two three. Fo"), SynthesizeChunk("ur five.")]
    events = talk(
        port, [*pieces, Synthesize("One two three. Four five.", voice), SynthesizeStop()], SynthesizeStopped
    )
    assert sum(AudioStart.is_type(event.type) for event in events) == 2  # a sentence each; not said once more
    assert len(sound(events)) > 10_000


def test_it_hears(port):
    data = to_int16(read_audio(SPEECH, 16_000, mono=True).samples[0]).tobytes()
    form = {"rate": 16_000, "width": 2, "channels": 1}
    chunks = [AudioChunk(audio=data[i : i + 4096], **form) for i in range(0, len(data), 4096)]
    events = talk(port, [Transcribe(language="en"), AudioStart(**form), *chunks, AudioStop()], Transcript)
    assert "scanty" in Transcript.from_event(events[-1]).text


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ([Synthesize("Hello.", SynthesizeVoice(name="nobody"))], "nobody"),
        ([Synthesize("a" * 5000)], "at most 4096"),
        ([Transcribe(), AudioStop()], "16-bit samples"),
        ([Transcribe(name="/etc/passwd"), AudioChunk(16_000, 2, 1, b"\0" * 3200), AudioStop()], "no model named"),
    ],
)  # fmt: skip
def test_what_goes_wrong_is_a_sentence(port, events, words):
    answer = Error.from_event(talk(port, events, Error)[-1])
    assert words in answer.text


@pytest.mark.parametrize("uri", ["10300", "tcp://", "unix:///tmp/x", "tcp://127.0.0.1:999999"])
def test_another_address_is_refused(uri):
    with pytest.raises(UsageError, match="tcp://"):
        check_uri(uri)


def test_stereo_is_mixed_and_brought_to_the_rate(port):
    mono = to_int16(read_audio(SPEECH, 24_000, mono=True).samples[0])
    form = {"rate": 24_000, "width": 2, "channels": 2}
    data = np.repeat(mono, 2).tobytes()
    chunks = [AudioChunk(audio=data[i : i + 8192], **form) for i in range(0, len(data), 8192)]
    events = talk(port, [Transcribe(), AudioStart(**form), *chunks, AudioStop()], Transcript)
    assert "scanty" in Transcript.from_event(events[-1]).text


# ---- what it holds


@pytest.fixture
def stored(monkeypatch) -> list[Noted]:
    monkeypatch.setattr(Noted, "made", [], raising=False)
    monkeypatch.setattr(recording, "StoredSamples", Noted)
    return Noted.made


def recorded(samples: np.ndarray, rate: int = 16_000, channels: int = 1, size: int = 4096) -> list:
    """The events of a recording."""
    form = {"rate": rate, "width": 2, "channels": channels}
    data = to_int16(samples).tobytes()
    chunks = [AudioChunk(audio=data[i : i + size], **form) for i in range(0, len(data), size)]
    return [AudioStart(**form), *chunks, AudioStop()]


@pytest.mark.parametrize(
    ("rate", "channels", "size"), [(16_000, 1, 4096), (44_100, 2, 4097), (8_000, 3, 90_001)]
)
def test_a_recording_is_on_the_disk_as_it_was_in_memory(stored, rate, channels, size):
    """Whatever it is cut into: in the middle of a sample, too."""
    x = np.random.default_rng(0).uniform(-0.5, 0.5, (20 * rate, channels)).astype(np.float32)
    pcm = to_int16(x.reshape(-1))
    data = pcm.tobytes() + b"\0"  # and a byte too much

    async def main() -> np.ndarray:
        kept = Recording(rate, 2, channels, Limits())
        for i in range(0, len(data), size):
            await kept.push(data[i : i + size])
            assert len(kept._waiting) < size + (1 << 16)
        samples = (await kept.finished())[:]
        assert stored[0]._file._rolled
        kept.close()
        return samples

    whole = (pcm.astype(np.float32) / 32768).reshape(-1, channels).T.mean(axis=0, keepdims=True)
    assert np.array_equal(asyncio.run(main()), resample(whole, rate, 16_000)[0])
    all_closed(stored)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((0, 2, 1), "16-bit samples"),
        ((1, 2, 1), "not of 2 bytes, 1 Hz"),  # an hour would be sixteen thousand
        ((16_000, 4, 1), "not of 4 bytes"),
        ((16_000, 2, 0), "0 channels"),
        (("fast", 2, 1), "fast Hz"),
    ],
)
def test_what_is_no_recording_is_refused(stored, given: tuple[Any, Any, Any], words):
    with pytest.raises(UsageError, match=words):
        Recording(*given, Limits())
    assert not stored


@pytest.mark.parametrize("limits", [{"seconds": 2.0}, {"upload_bytes": 64_000}])
def test_a_recording_that_is_too_long_is_refused_when_it_has_become_so(stored, limits):
    async def main() -> None:
        kept = Recording(16_000, 2, 1, Limits(**limits))
        await kept.push(bytes(64_000))
        with pytest.raises(TooLargeError, match="in parts"):
            await kept.push(bytes(2))
        kept.close()

    asyncio.run(main())
    all_closed(stored)


def test_a_recording_leaves_no_file(port, stored, speech):
    assert "scanty" in Transcript.from_event(talk(port, recorded(speech), Transcript)[-1]).text
    assert [len(one) for one in stored] == [len(speech)]
    all_closed(stored)


def test_a_recording_that_is_begun_anew_leaves_no_file(port, stored, speech):
    events = [*recorded(np.zeros(16_000, np.float32))[:-1], *recorded(speech)]
    assert "scanty" in Transcript.from_event(talk(port, events, Transcript)[-1]).text
    assert len(stored) == 2
    all_closed(stored)


def test_a_full_disk_is_said(port, stored, speech, monkeypatch):
    class Full(tempfile.SpooledTemporaryFile):
        def write(self, *args):
            raise OSError(errno.ENOSPC, "No space left on device", "/secret/place")

    monkeypatch.setattr("myna.apps.serve.audio.stored.SpooledTemporaryFile", Full)
    error = Error.from_event(talk(port, recorded(speech), Error)[-1])
    assert (error.code, "disk" in error.text, "secret" in error.text) == ("insufficient_storage", True, False)
    all_closed(stored)


@pytest.fixture
def held(monkeypatch) -> Iterator[threading.Event]:
    """Set once a transcription computes, which it does until the test is over."""
    entered, go_on = threading.Event(), threading.Event()

    def answered(*args):
        entered.set()
        go_on.wait(60)
        raise InputError("nobody waits for it")

    monkeypatch.setattr("myna.asr.shared.answered", answered)
    yield entered
    go_on.set()


async def write_all(client: AsyncTcpClient, events: list) -> None:
    for event in events:
        await client.write_event(event.event())


@pytest.mark.parametrize("when", ["listening", "transcribing"])
def test_a_client_that_goes_leaves_no_file_and_no_place(served, stored, speech, held, when):
    running, port = served
    events = recorded(speech)

    async def main() -> None:
        async with AsyncTcpClient("127.0.0.1", port) as client:
            await write_all(client, events if when == "transcribing" else events[:-1])
            if when == "transcribing":
                await asyncio.to_thread(held.wait, 60)
            while not stored or running.house.admissions["session"].n_active != 1:
                await asyncio.sleep(0.01)
            assert stored[0].is_open

    asyncio.run(main())
    all_closed(stored)
    assert running.settled()
    assert held.is_set() == (when == "transcribing")


def test_the_end_of_the_server_is_said_and_leaves_no_file(served, stored, speech, held):
    running, port = served

    async def main() -> Error:
        async with AsyncTcpClient("127.0.0.1", port) as client:
            await write_all(client, recorded(speech))
            await asyncio.to_thread(held.wait, 60)
            running.server.should_exit = True
            event = await asyncio.wait_for(client.read_event(), 30)
            assert event is not None
            return Error.from_event(event)

    assert asyncio.run(main()).code == "server_closing"
    all_closed(stored)
    running.thread.join(20)
    assert not running.thread.is_alive()


def test_a_recording_that_does_not_go_on_is_ended(serve, stored, speech):
    _, port = begun(serve, limits={"stall": 0.2})
    error = Error.from_event(talk(port, recorded(speech)[:3], Error)[-1])
    assert "nothing of the recording came for 0.2 s" in error.text
    all_closed(stored)
    assert talk(port, [Describe()], Info)  # whoever only waits may do so


def test_no_more_listen_than_may_of_one_client(serve, stored):
    running, port = begun(serve, max_concurrency=1)
    start = AudioStart(16_000, 2, 1)

    async def main() -> Error:
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(AsyncTcpClient("127.0.0.1", port)) for _ in range(4)]
            for client in clients:
                await write_all(client, [start])
            answers = [asyncio.create_task(client.read_event()) for client in clients]
            (first,), rest = await asyncio.wait(answers, timeout=30, return_when=asyncio.FIRST_COMPLETED)
            assert len(rest) == running.house.admissions["session"].n_active == 3
            for task in rest:
                task.cancel()
            event = first.result()
            assert event is not None
            return Error.from_event(event)

    assert "as many as one may have" in asyncio.run(main()).text
    assert running.settled()


# ---- what is no event


def raw(port: int, data: bytes) -> Error:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(data)
        answer = b""
        while part := client.recv(1 << 16):
            answer += part
    head, _, rest = answer.partition(b"\n")
    return Error.from_event(Event("error", json.loads(rest[: json.loads(head)["data_length"]])))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"hello\n", "a line of JSON"),
        (b"[]\n", "a line of JSON"),
        (b"[" * 50_000 + b"\n", "a line of JSON"),
        (b"{}\n", "an object with a type"),
        (b'{"type": "describe", "data": [1]}\n', "data that are an object"),
        (b'{"type": "describe", "data_length": 4}\nnull', "a line of JSON"),
        (b'{"type": "describe", "data_length": -1}\n', "no number of bytes"),
        (b'{"type": "audio-chunk", "payload_length": "many"}\n', "no number of bytes"),
        (b'{"type": "audio-chunk", "payload_length": 2000000000}\n' + bytes(1 << 20), "at most 1048576"),
        (b"{" + b" " * 200_000 + b"\n", "64 KB"),
        (b'{"type": "audio-start", "data": {"rate": 16000}}\n', "audio-start lacks something"),
        (b'{"type": "transcribe", "data": {"name": ["a"]}}\n', "transcribe lacks something"),
        (b'{"type": "synthesize", "data": {"text": 5}}\n', "synthesize lacks something"),
        (b'{"type": "synthesize", "data": {"text": "a", "voice": {"name": 1}}}\n', "synthesize lacks something"),
        (
            b'{"type": "synthesize-start"}\n{"type": "synthesize-chunk", "data": {"text": "' + b"a" * 5000 + b'"}}\n',
            "a sentence has more than 4096",
        ),
    ],
)  # fmt: skip
def test_what_is_no_event_is_a_sentence(port, data, words):
    assert words in raw(port, data).text


def test_a_client_that_reads_nothing_is_cut_off(serve, monkeypatch):
    """Its place is free then, long before the deadline."""
    running, port = begun(serve, limits={"stall": 0.3})
    entered = threading.Event()

    async def full(event: Event, writer: asyncio.StreamWriter) -> None:
        entered.set()
        await asyncio.Event().wait()

    monkeypatch.setattr("wyoming.server.async_write_event", full)
    text = b'{"type": "synthesize", "data": {"text": "One two three.", "voice": {"name": "ada"}}}\n'
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        client.sendall(text)
        assert entered.wait(30)
        assert client.recv(1) == b""
    assert running.settled()
    counted = running.house.metrics.registry.get_sample_value
    assert counted("myna_requests_total", {"route": "wyoming-synthesize", "status": "504"}) == 1
