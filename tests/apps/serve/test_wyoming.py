"""Home Assistant's protocol, with its own client."""

from __future__ import annotations

import asyncio
import socket

import numpy as np
import pytest
from myna.data.audio import read_audio
from myna.data.wav import to_int16
from myna.errors import UsageError

from .conftest import SPEECH

pytest.importorskip("wyoming")

from myna.apps.serve.wyoming import check_uri, serving
from wyoming.asr import Transcribe, Transcript
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.error import Error
from wyoming.info import Describe, Info
from wyoming.tts import (
    Synthesize,
    SynthesizeChunk,
    SynthesizeStart,
    SynthesizeStop,
    SynthesizeStopped,
    SynthesizeVoice,
)


@pytest.fixture
def port(serve):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = free.getsockname()[1]
    serve(beside=(lambda house: serving(f"tcp://127.0.0.1:{number}", house),))
    return number


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


def test_it_speaks(port):
    asked = Synthesize("One two three.", SynthesizeVoice(name="ada"))
    events = talk(port, [asked], AudioStop)
    start = AudioStart.from_event(events[0])
    assert (start.rate, start.width, start.channels) == (24_000, 2, 1)
    assert len(events) > 3
    assert len(sound(events)) > 10_000


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
