"""Who speaks, by `/v1/audio/transcriptions`, with OpenAI's own client and its types, on Whisper tiny.en."""

from __future__ import annotations

import asyncio
import base64
import io
import threading
import time

import httpx
import numpy as np
import pytest
import soundfile
from myna.apps.serve import diarized
from myna.data.audio import read_audio

from .conftest import ASSETS, SPEECH

openai = pytest.importorskip("openai")
RATE = 16_000


def spoken(name: str) -> np.ndarray:
    return read_audio(ASSETS / name, RATE, mono=True).samples[0]


def wav(samples: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format="WAV")
    return file.getvalue()


def url(data: bytes, kind: str = "audio/wav") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


@pytest.fixture(scope="module")
def talk() -> bytes:
    """A reader, another speaker, the reader again."""
    pause = np.zeros(RATE // 4, np.float32)
    parts = [spoken(name) for name in ("lj.flac", "asr/so_014080103.opus", "speech.wav")]
    return wav(np.concatenate([parts[0], pause, parts[1], pause, parts[2]]))


@pytest.fixture(scope="module")
def linda() -> np.ndarray:
    return spoken("minute/01.ogg")[: 6 * RATE]


@pytest.fixture
def client(server):
    return openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)


def hear(client, talk, **more):
    return client.audio.transcriptions.create(
        model="gpt-4o-transcribe-diarize",
        file=("talk.wav", talk),
        response_format="diarized_json",
        chunking_strategy="auto",
        extra_body={"beam_size": 1},
        **more,
    )


def test_segments_have_their_speakers(client, talk):
    heard = hear(client, talk)
    assert isinstance(heard, openai.types.audio.TranscriptionDiarized)
    assert heard.task == "transcribe"
    assert heard.usage.seconds == 17
    assert heard.duration == pytest.approx(16.9, abs=0.2)
    assert [segment.id for segment in heard.segments] == [
        f"seg_{i + 1:03}" for i in range(len(heard.segments))
    ]
    assert {segment.type for segment in heard.segments} == {"transcript.text.segment"}
    assert "".join(segment.text for segment in heard.segments).strip() == heard.text
    speakers = [segment.speaker for segment in heard.segments]
    assert list(dict.fromkeys(speakers)) == ["A", "B"]
    assert speakers[0] == speakers[-1] == "A"
    times = [time for segment in heard.segments for time in (segment.start, segment.end)]
    assert times == sorted(times)
    assert times[-1] <= heard.duration


@pytest.mark.parametrize("stream", [False, True])
def test_known_speakers_have_their_names(client, talk, linda, stream):
    known = {"known_speaker_names": ["Linda"], "known_speaker_references": [url(wav(linda))]}
    heard = hear(client, talk, stream=stream, **known)
    segments = [e for e in heard if e.type == "transcript.text.segment"] if stream else heard.segments
    assert list(dict.fromkeys(segment.speaker for segment in segments)) == ["Linda", "A"]
    assert segments[-1].speaker == "Linda"


def test_events_are_the_answer(client, talk):
    whole = hear(client, talk)
    *events, done = hear(client, talk, stream=True)
    deltas, segments = events[::2], events[1::2]
    assert {event.type for event in deltas} == {"transcript.text.delta"}
    assert {event.type for event in segments} == {"transcript.text.segment"}
    assert [event.segment_id for event in deltas] == [event.id for event in segments]
    assert done.type == "transcript.text.done"
    assert "".join(event.delta for event in deltas) == done.text == whole.text
    assert [event.model_dump() for event in segments] == [segment.model_dump() for segment in whole.segments]


def test_silence_has_no_segments(client):
    heard = hear(client, wav(np.zeros(RATE, np.float32)))
    assert (heard.text, heard.segments) == ("", [])


def test_references_in_other_forms(client, server, talk, linda):
    """Ten seconds in stereo are long; raw samples; OGG."""
    ogg = io.BytesIO()
    soundfile.write(ogg, linda, RATE, format="OGG", subtype="VORBIS")
    stereo = io.BytesIO()
    long = np.resize(linda, 10 * RATE).repeat(3)
    soundfile.write(stereo, np.stack([long, long], 1), 48_000, format="WAV")
    raw = (linda * 32767).astype("<i2").tobytes()
    forms = (
        url(ogg.getvalue(), "audio/ogg"),
        url(stereo.getvalue(), "audio/wav;codecs=1"),
        url(raw, "audio/pcm"),
    )
    for reference in forms:
        heard = hear(client, talk, known_speaker_names=["Linda"], known_speaker_references=[reference])
        assert heard.segments[0].speaker == "Linda"


SHORT = url(wav(np.full(RATE, 0.1, np.float32)))
LONG = url(wav(np.full(11 * RATE, 0.1, np.float32)))
SILENT = url(wav(np.zeros(3 * RATE, np.float32)))
NO_AUDIO = url(b"no audio" * 99)


@pytest.mark.parametrize(
    ("names", "references", "words"),
    [
        (["Ada"], [], "1 entries and known_speaker_references 0"),
        ([], [SHORT], "0 entries and known_speaker_references 1"),
        (list("ABCDE"), [SHORT] * 5, "at most 4"),
        (["Ada", "Ada"], [SHORT] * 2, "two known speakers are named Ada"),
        ([" "], [SHORT], "no name of a speaker"),
        (["Ada"], [SHORT], "the reference of Ada lasts 1.0 s; give 2 to 10 s"),
        (["Ada"], [LONG], "the reference of Ada lasts 11.0 s; give 2 to 10 s"),
        (["Ada"], [SILENT], "nobody speaks in the reference of Ada"),
        (["Ada"], [NO_AUDIO], "the reference of Ada: the recording is not audio"),
        (["Ada"], ["data:audio/wav;base64,"], "the reference of Ada: the recording is empty"),
        (["Ada"], ["data:audio/wav;base64,?"], "not valid base64"),
        (["Ada"], ["file:///etc/passwd"], "no data URL"),
        (["Ada"], ["https://example.com/ada.wav"], "no data URL"),
        (["Ada"], ["x" * (5 << 20)], "maximum size"),
    ],
)
def test_known_speakers_that_cannot_be(server, names, references, words):
    data = {
        "response_format": "diarized_json",
        "known_speaker_names[]": names,
        "known_speaker_references[]": references,
    }
    error = refusal(server, "transcriptions", data)
    assert words in error["message"]
    assert "\n" not in error["message"]
    assert len(error["message"]) < 300


def test_what_does_not_go_together(server):
    known = {"known_speaker_names[]": ["Ada"], "known_speaker_references[]": [SHORT]}
    assert "go with response_format diarized_json" in refusal(server, "transcriptions", known)["message"]
    diarized = {"response_format": "diarized_json"}
    assert "translations do not tell who speaks" in refusal(server, "translations", diarized)["message"]
    logprobs = {**diarized, "include[]": "logprobs"}
    assert "use response_format json" in refusal(server, "transcriptions", logprobs)["message"]


def refusal(server, task: str, data: dict) -> dict:
    answer = httpx.post(
        f"{server.url}/v1/audio/{task}", files={"file": SPEECH.read_bytes()}, data=data, timeout=60
    )
    assert answer.status_code == 400, answer.text
    return answer.json()["error"]


def test_nobody_waits_for_the_speakers_of_who_has_gone(monkeypatch):
    began, ended = threading.Event(), threading.Event()

    def endless(samples, options, known, proceed):
        began.set()
        try:
            while True:
                proceed()
                time.sleep(0.001)
        finally:
            ended.set()

    monkeypatch.setattr(diarized, "find_turns", endless)

    async def leave() -> None:
        task = asyncio.create_task(diarized.who_speaks(np.zeros(1, np.float32), []))
        await asyncio.to_thread(began.wait, 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(leave())
    assert ended.wait(20)
