"""Requests as other programs send them, by their sources: what they send is taken, what they read is there."""

from __future__ import annotations

import httpx
import pytest

from .conftest import SPEECH

OPEN_WEBUI = {
    "Content-Type": "application/json",
    "Authorization": "Bearer none",
    "X-OpenWebUI-User-Name": "Ada",
    "X-OpenWebUI-User-Id": "1",
    "X-OpenWebUI-User-Email": "ada@example.org",
    "X-OpenWebUI-User-Role": "user",
}


def test_open_webui_lists_and_speaks(server):
    """backend/open_webui/routers/audio.py: get_available_models, get_available_voices, speech."""
    models = httpx.get(server.url + "/v1/audio/models").json()["models"]
    assert "tts-1" in [model["id"] for model in models]
    voices = httpx.get(server.url + "/v1/audio/voices").json()["voices"]
    assert {voice["id"]: voice["name"] for voice in voices}["ada"] == "ada"
    body = {"model": "tts-1", "input": "Hello there.", "voice": "ada"}
    answer = httpx.post(server.url + "/v1/audio/speech", json=body, headers=OPEN_WEBUI, timeout=60)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "audio/mpeg"


def test_open_webui_transcribes(server):
    """The same file, transcribe: the file under a name of its own, and the model; newer versions send a language."""
    answer = httpx.post(
        server.url + "/v1/audio/transcriptions",
        headers={"Authorization": "Bearer none"},
        files={"file": ("6f9619ff-8b86-d011.wav", SPEECH.read_bytes())},
        data={"model": "whisper-1", "language": "en"},
        timeout=60,
    )
    assert "scanty" in answer.json()["text"]


@pytest.mark.parametrize("form", ["mp3", "wav"])
def test_silly_tavern_speaks(server, form):
    """src/endpoints/openai.js, custom.post('/generate-voice'): these five fields, and any key."""
    body = {"input": "Hello there.", "response_format": form, "voice": "ada", "speed": 1, "model": "tts-1"}
    headers = {"Authorization": "Bearer any", "Content-Type": "application/json"}
    answer = httpx.post(server.url + "/v1/audio/speech", json=body, headers=headers, timeout=60)
    assert answer.status_code == 200
    assert len(answer.content) > 1000


def test_kokoro_s_clients_speak(server):
    """Fields of Kokoro-FastAPI and vLLM that are not ours are left alone."""
    body = {
        "model": "myna",
        "input": "Hello there.",
        "voice": "ada",
        "response_format": "pcm",
        "stream": True,
    }
    body |= {"lang_code": "a", "volume_multiplier": 1.0, "normalization_options": {}, "task_type": "Base"}
    assert httpx.post(server.url + "/v1/audio/speech", json=body, timeout=60).status_code == 200
    assert "ada" in httpx.get(server.url + "/v1/audio/voices?legacy=true").json()["voices"]
