"""`/v1/audio/transcriptions` with OpenAI's own client, on Whisper tiny.en."""

from __future__ import annotations

import io
import re
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
import soundfile
from myna.apps.serve.routes import transcriptions
from myna.asr.vad import VadOptions, speech_spans
from myna.data.resample import resample

from .conftest import SPEECH

openai = pytest.importorskip("openai")
SAID = "out of the scanty"


@pytest.fixture
def client(server):
    return openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)


def hear(client, kind: str = "json", **more):
    return client.audio.transcriptions.create(
        model="whisper-1", file=SPEECH, response_format=kind, extra_body={"beam_size": 1}, **more
    )


def test_plain_answers(client):
    heard = hear(client)
    assert SAID in heard.text
    assert heard.usage.type == "duration"
    assert heard.usage.seconds == 8
    assert hear(client, "text").strip() == heard.text


def test_subtitles(client):
    srt, vtt = hear(client, "srt"), hear(client, "vtt")
    assert srt.startswith("1\n00:00:00,000 --> 00:00:")
    assert vtt.startswith("WEBVTT\n\n00:00.000 --> ")
    assert SAID in srt
    assert SAID in vtt
    assert all(float(time[-6:].replace(",", ".")) < 7.1 for time in re.findall(r"--> ([\d:,.]+)", srt))


def test_log_probabilities_of_tokens(client):
    heard = hear(client, include=["logprobs"])
    assert b"".join(bytes(map(int, token.bytes)) for token in heard.logprobs).decode().strip() == heard.text
    assert "".join(token.token for token in heard.logprobs).strip() == heard.text
    assert all(-20 < token.logprob <= 0 for token in heard.logprobs)
    assert np.mean([token.logprob for token in heard.logprobs]) > -1  # clear speech
    assert hear(client).logprobs is None
    *deltas, done = hear(client, include=["logprobs"], stream=True)
    streamed = [token.model_dump() for delta in deltas for token in delta.logprobs]
    assert streamed == [token.model_dump() for token in done.logprobs]
    with pytest.raises(openai.BadRequestError, match="use response_format json"):
        hear(client, "text", include=["logprobs"])


def test_languages_to_choose_from(client):
    assert hear(client, languages=["en", "de"]).text == hear(client).text
    with pytest.raises(openai.BadRequestError, match="no language 'xx'"):
        hear(client, languages=["en", "xx"])


def test_words_and_segments_with_their_times(client):
    heard = hear(client, "verbose_json", timestamp_granularities=["word", "segment"])
    assert (heard.task, heard.language, round(heard.duration, 2)) == ("transcribe", "english", 7.05)
    assert "".join(segment.text for segment in heard.segments).strip() == heard.text
    assert " ".join(word.word for word in heard.words).lower().count(SAID) == 1
    times = [time for word in heard.words for time in (word.start, word.end)]
    assert times == sorted(times)
    assert hear(client, "verbose_json").words is None


def test_a_verbose_answer_has_all_of_whisper_s_fields(server):
    answer = httpx.post(
        server.url + "/v1/audio/transcriptions",
        files={"file": SPEECH.read_bytes()},
        data={"beam_size": "1", "response_format": "verbose_json"},
        timeout=60,
    ).json()
    assert {name: type(value) for name, value in answer["segments"][0].items()} == {
        "id": int,
        "seek": int,
        "start": float,
        "end": float,
        "text": str,
        "tokens": list,
        "temperature": float,
        "avg_logprob": float,
        "compression_ratio": float,
        "no_speech_prob": float,
    }
    assert [segment["id"] for segment in answer["segments"]] == list(range(len(answer["segments"])))
    assert answer["usage"] == {"type": "duration", "seconds": 8}


def test_deltas_are_the_text(client):
    with client.audio.transcriptions.create(
        model="gpt-4o-transcribe", file=SPEECH, stream=True, extra_body={"beam_size": 1}
    ) as stream:
        events = list(stream)
    assert [event.type for event in events[-1:]] == ["transcript.text.done"]
    assert "".join(event.delta for event in events[:-1]) == events[-1].text
    assert SAID in events[-1].text


def test_raw_samples_and_other_formats(server):
    samples, rate = soundfile.read(SPEECH, dtype="float32")
    ogg = io.BytesIO()
    soundfile.write(ogg, samples, rate, format="OGG", subtype="VORBIS")
    raw = (resample(samples[None], rate, 16_000)[0] * 32767).astype("<i2").tobytes()
    for file in (("a.ogg", ogg.getvalue(), "audio/ogg"), ("a.pcm", raw, "audio/pcm")):
        answer = httpx.post(
            server.url + "/v1/audio/transcriptions", files={"file": file}, data={"beam_size": "1"}, timeout=60
        )
        assert "prison rations" in answer.json()["text"]  # Vorbis costs a word here and there


def test_silence_is_no_text_and_no_error(server):
    silence = io.BytesIO()
    soundfile.write(silence, np.zeros(16_000, np.float32), 16_000, format="WAV")
    data = {"beam_size": "1", "vad_filter": "true", "response_format": "verbose_json"}
    answer = httpx.post(
        server.url + "/v1/audio/transcriptions", files={"file": silence.getvalue()}, data=data, timeout=60
    )
    assert answer.status_code == 200
    assert answer.json()["text"] == ""


def test_silences_are_left_out_as_they_are_asked_for_and_keywords_are_hotwords(client, monkeypatch):
    asked: list[VadOptions] = []
    known: list[str | None] = []
    options = transcriptions._options

    def spans(samples, vad):
        asked.append(vad)
        return speech_spans(samples, vad)

    def noted(*args):
        made = options(*args)
        known.append(made.hotwords)
        return made

    monkeypatch.setattr(transcriptions, "speech_spans", spans)
    monkeypatch.setattr(transcriptions, "_options", noted)
    strategy = {"type": "server_vad", "silence_duration_ms": 700, "prefix_padding_ms": 250, "threshold": 0.4}
    heard = client.audio.transcriptions.create(
        model="whisper-1",
        file=SPEECH,
        chunking_strategy=strategy,
        extra_body={"beam_size": 1, "keywords": ["prison", "rations"]},
    )
    assert "prison rations" in heard.text  # hotwords change a word elsewhere
    assert asked == [VadOptions(threshold=0.4, min_silence=0.7, pad=0.25)]
    assert known == ["prison, rations"]


def test_requests_side_by_side_share_the_model_and_keep_their_texts(client, server):
    (recogniser,) = [entry.loading.result() for entry in server.house.recognition.pool._entries.values()]
    before = recogniser.shared.rounds, recogniser.shared.windows
    alone = hear(client).text
    with ThreadPoolExecutor(3) as threads:
        texts = list(threads.map(lambda _: hear(client).text, range(3)))
    assert texts == [alone] * 3
    rounds, windows = recogniser.shared.rounds - before[0], recogniser.shared.windows - before[1]
    assert 0 < rounds < windows


@pytest.mark.parametrize(
    ("files", "data", "status", "words"),
    [
        ({}, {"model": "whisper-1"}, 400, "form"),
        ({"other": b"x"}, {}, 400, "no file named file"),
        ({"file": b""}, {}, 400, "empty"),
        ({"file": b"no audio" * 99}, {}, 400, "not audio"),
        ({"file": SPEECH.read_bytes()[:3000]}, {}, 400, "truncated"),
        ({"file": SPEECH.read_bytes()}, {"model": "whisper-9"}, 404, "whisper-9"),
        ({"file": SPEECH.read_bytes()}, {"model": "/etc/passwd"}, 404, "no model named"),
        ({"file": SPEECH.read_bytes()}, {"model": "../weights/myna-ar.safetensors"}, 404, "no model named"),
        ({"file": SPEECH.read_bytes()}, {"language": "de"}, 400, "English only"),
        ({"file": SPEECH.read_bytes()}, {"language": "klingon"}, 400, "klingon"),
        ({"file": SPEECH.read_bytes()}, {"response_format": "docx"}, 400, "response_format"),
        ({"file": SPEECH.read_bytes()}, {"temperature": "7"}, 400, "temperature"),
        ({"file": SPEECH.read_bytes()}, {"chunking_strategy": "never"}, 400, "chunking_strategy"),
        ({"file": SPEECH.read_bytes()}, {"chunking_strategy": "{}"}, 400, "chunking_strategy"),
        ({"file": SPEECH.read_bytes()}, {"chunking_strategy": "{"}, 400, "chunking_strategy"),
        ({"file": SPEECH.read_bytes()}, {"keywords[]": "x" * 300}, 400, "keywords"),
        (
            {"file": SPEECH.read_bytes()},
            {"prompt": "x" * (2 << 20)},
            400,
            "the field prompt is longer than 1 MB",
        ),
        (
            {"file": SPEECH.read_bytes()},
            {"timestamp_granularities[]": "letter"},
            400,
            "timestamp_granularities",
        ),
    ],
)
def test_what_cannot_be_heard_is_one_sentence(server, files, data, status, words):
    answer = httpx.post(server.url + "/v1/audio/transcriptions", files=files, data=data, timeout=60)
    error = answer.json()["error"]
    assert answer.status_code == status, error
    assert words in error["message"]
    assert "\n" not in error["message"]


def test_an_english_model_does_not_translate(client):
    with pytest.raises(openai.BadRequestError, match="cannot translate"):
        client.audio.translations.create(model="tiny.en", file=SPEECH)
