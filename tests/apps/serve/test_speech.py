"""`/v1/audio/speech` with OpenAI's own client: formats, streams, events, and what goes wrong."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from myna.apps.serve.audio.encoders import FORMATS
from myna.data.audio import read_audio
from myna.data.wav import to_int16
from myna.marks.watermark import detect_watermark
from myna.tts.presets import SpeechOptions
from myna.tts.text.long_text import split_text

openai = pytest.importorskip("openai")

TEXT = "One two three, four five six. Seven eight nine, and ten."


@pytest.fixture
def client(server):
    return openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)


def pcm(client, text: str = TEXT, **more) -> np.ndarray:
    said = client.audio.speech.create(model="tts-1", voice="ada", input=text, response_format="pcm", **more)
    return np.frombuffer(said.read(), "<i2")


def alone(server, text: str = TEXT, **options) -> np.ndarray:
    """What the engine says when nobody else is there."""
    engine = server.house._speech
    voice = asyncio.run(server.house.voices()).find("ada")
    chosen = SpeechOptions(**options)
    chunks = engine.say(split_text(text), voice, chosen, engine.ticket())
    return to_int16(np.concatenate([chunk.samples for chunk in chunks]))


def test_the_samples_are_those_of_the_engine(client, server):
    assert np.array_equal(pcm(client), alone(server))
    slow = pcm(client, speed=0.5, extra_body={"seed": 3, "preset": "fast"})
    assert np.array_equal(slow, alone(server, speed=0.5, seed=3, preset="fast"))


def test_requests_side_by_side_are_not_mixed_up(client, server):
    texts = [f"Number {n}, " + "and so on, " * (n % 3) + "the end." for n in range(8)]
    expected = [alone(server, text, seed=n) for n, text in enumerate(texts)]
    before = server.house._speech.shared.steps, server.house._speech.shared.frames_made
    with ThreadPoolExecutor(8) as threads:
        said = list(threads.map(lambda n: pcm(client, texts[n], extra_body={"seed": n}), range(8)))
    assert all(np.array_equal(a, b) for a, b in zip(said, expected, strict=True))
    steps, frames = (
        now - then
        for now, then in zip(
            (server.house._speech.shared.steps, server.house._speech.shared.frames_made), before, strict=True
        )
    )
    assert frames > 1.5 * steps  # they shared the steps


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_arrives_in_pieces(client, form):
    with client.audio.speech.with_streaming_response.create(
        model="tts-1", voice={"id": "ada"}, input=TEXT, response_format=form
    ) as response:
        assert response.headers["content-type"] == FORMATS[form].media_type
        assert "Synthetic speech" in response.headers["x-synthetic-speech"]
        assert "content-length" not in response.headers
        parts = list(response.iter_bytes())
    assert len(parts) > 1
    assert len(b"".join(parts)) > 4000


def test_what_leaves_is_watermarked(client):
    data = client.audio.speech.create(
        model="tts-1", voice="ada", input=TEXT * 3, response_format="flac"
    ).read()
    audio = read_audio(io.BytesIO(data))
    assert detect_watermark(audio.samples[0], audio.sample_rate).found


def test_the_asynchronous_client(server):
    async def main():
        async with openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
            said = await client.audio.speech.create(
                model="gpt-4o-mini-tts",
                voice="ada",
                input=TEXT,
                response_format="pcm",
                instructions="Softly.",
            )
            return await said.aread()

    assert np.array_equal(np.frombuffer(asyncio.run(main()), "<i2"), alone(server))


def events(server, **body) -> list[dict]:
    body = {"model": "tts-1", "input": TEXT, "voice": "ada", "stream_format": "sse", **body}
    answer = httpx.post(server.url + "/v1/audio/speech", json=body, timeout=60)
    assert answer.headers["content-type"].startswith("text/event-stream")
    return [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]


def test_events_carry_the_audio_and_what_it_cost(server):
    found = events(server, response_format="pcm")
    deltas = [event for event in found if event["type"] == "speech.audio.delta"]
    audio = b"".join(base64.b64decode(event["audio"]) for event in deltas)
    assert np.array_equal(np.frombuffer(audio, "<i2"), alone(server))
    assert {event["type"] for event in found} == {"speech.audio.delta", "speech.audio.done"}
    usage = found[-1]["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert usage["output_tokens"] > 50
    assert usage["input_tokens"] == len(TEXT) - 1  # sentences, without the space between them


@pytest.mark.parametrize("form", FORMATS)
def test_events_carry_every_format_to_its_last_byte(server, form):
    """Encoders keep some of a file back until its end."""
    found = events(server, response_format=form)
    audio = b"".join(base64.b64decode(event["audio"]) for event in found if "audio" in event)
    body = {"model": "tts-1", "input": TEXT, "voice": "ada", "response_format": form}
    whole = httpx.post(server.url + "/v1/audio/speech", json=body, timeout=60).content
    # The serial number of an Ogg stream is another each time.
    assert len(audio) == len(whole) if form == "opus" else audio == whole


def test_words_come_with_the_times_at_which_they_are_said(server):
    found = events(server, response_format="pcm", timestamp_granularities=["word"], speed=1.25)
    words = [word for event in found if event["type"] == "speech.audio.words" for word in event["words"]]
    assert [word["word"].strip(".,").lower() for word in words] == TEXT.replace(".", "").replace(
        ",", ""
    ).lower().split()
    times = [time for word in words for time in (word["start"], word["end"])]
    assert times == sorted(times)
    assert 0 <= times[0] < 0.5
    seconds = len(alone(server, speed=1.25)) / 24_000
    assert 0.7 * seconds < times[-1] <= seconds + 0.05


@pytest.mark.parametrize(
    ("body", "status", "code", "words"),
    [
        ({"voice": "nobody"}, 404, "voice_not_found", "no voice named 'nobody'; there are ada"),
        ({"voice": "../ada"}, 404, "voice_not_found", "no voice named"),
        ({"voice": "/etc/passwd"}, 404, "voice_not_found", "no voice named"),
        ({"model": "gpt-9"}, 404, "model_not_found", "gpt-9"),
        ({"input": ""}, 400, "invalid_value", "no text"),
        ({"input": "--- !!"}, 400, "invalid_value", "nothing to say"),
        ({"input": "a" * 5000}, 413, "request_too_large", "at most 4096"),
        ({"speed": 9}, 400, "invalid_value", "0.25 to 4"),
        ({"speed": "fast"}, 400, "invalid_value", "speed"),
        ({"response_format": "midi"}, 400, "invalid_value", "mp3, opus"),
        ({"preset": "louder"}, 400, "invalid_value", "louder"),
        ({"seed": -1}, 400, "invalid_value", "seed"),
        ({"decoder": "tape"}, 400, "invalid_value", "tape"),
        ({"decoder": "vocoder"}, 400, "invalid_value", "vocoder is gone: flow took its place"),
        ({"decoder": "flow"}, 404, "model_not_found", "'flow' is not installed; there is nar"),
        ({"language": "xx"}, 400, "invalid_value", "xx"),
    ],
)
def test_what_cannot_be_said_is_one_sentence(server, body, status, code, words):
    body = {"model": "tts-1", "input": "Hello.", "voice": "ada", **body}
    answer = httpx.post(server.url + "/v1/audio/speech", json=body, timeout=60)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code)
    assert words in error["message"]
    assert "\n" not in error["message"]
    assert set(error) == {"message", "type", "param", "code"}


def test_the_client_raises_its_own_errors(client):
    with pytest.raises(openai.NotFoundError, match="nobody"):
        client.audio.speech.create(model="tts-1", voice="nobody", input="Hello.")
    with pytest.raises(openai.BadRequestError, match=r"0\.25 to 4"):
        client.audio.speech.create(model="tts-1", voice="ada", input="Hello.", speed=9)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b'{"input": 3}', b'{"voice": {}}']
)
def test_a_body_that_is_none_is_refused(server, content):
    answer = httpx.post(
        server.url + "/v1/audio/speech", content=content, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
