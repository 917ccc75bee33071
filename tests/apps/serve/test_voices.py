"""`/v1/audio/voices`: added with consent, listed, used, removed."""

from __future__ import annotations

import io

import httpx
import pytest
import soundfile
from myna.apps.serve.voices import OPENAI, Voices, resolve
from myna.data.audio import read_audio
from myna.tts.voices.library import shipped_voices

from .conftest import ASSETS, SPEECH

CONSENT = "The reader agreed in May 2026"


def add(server, **changes) -> httpx.Response:
    data = {"name": "reader", "consent": CONSENT, **changes}
    file = data.pop("file", SPEECH.read_bytes())
    part = data.pop("part", "audio_sample")
    return httpx.post(
        server.url + "/v1/audio/voices", data=data, files={part: ("../../x.wav", file)}, timeout=60
    )


def names(server) -> list[str]:
    return [voice["id"] for voice in httpx.get(server.url + "/v1/audio/voices").json()["voices"]]


def test_a_voice_is_added_used_and_removed(server, library):
    answer = add(server)
    assert answer.status_code == 200, answer.text
    made = answer.json()
    assert (made["object"], made["id"], made["consent"]) == ("audio.voice", "reader", CONSENT)
    assert (library / "reader.safetensors").is_file()
    assert sorted(path.name for path in library.iterdir()) == ["ada.safetensors", "reader.safetensors"]
    assert names(server)[:2] == ["ada", "reader"]
    assert "reader" in httpx.get(server.url + "/v1/audio/voices?legacy=true").json()["voices"]
    said = httpx.post(
        server.url + "/v1/audio/speech", json={"input": "Hello.", "voice": "reader"}, timeout=60
    )
    assert said.status_code == 200

    again = add(server)
    assert (again.status_code, again.json()["error"]["code"]) == (409, "already_exists")
    assert add(server, replace="true").status_code == 200

    assert httpx.delete(server.url + "/v1/audio/voices/reader").json()["deleted"] is True
    assert "reader" not in names(server)
    gone = httpx.post(server.url + "/v1/audio/speech", json={"input": "Hello.", "voice": "reader"})
    assert gone.status_code == 404
    assert httpx.delete(server.url + "/v1/audio/voices/reader").status_code == 404


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({"consent": ""}, 400, "consent"),
        ({"consent": "yes"}, 400, "consent"),
        ({"name": ""}, 400, "name"),
        ({"name": "../../etc/passwd"}, 400, "cannot name a voice"),
        ({"name": "/tmp/x"}, 400, "cannot name a voice"),
        ({"name": "nova"}, 409, "choose another name"),
        ({"part": "picture"}, 400, "no file"),
        ({"file": b""}, 400, "empty"),
        ({"file": b"no audio" * 100}, 400, "not audio"),
    ],
)
def test_what_cannot_be_a_voice_is_one_sentence(server, library, changes, status, words):
    answer = add(server, **changes)
    assert answer.status_code == status, answer.text
    assert words in answer.json()["error"]["message"]
    assert [path.name for path in library.iterdir()] == ["ada.safetensors"]


def test_a_recording_of_nothing_is_refused(server):
    silence = io.BytesIO()
    soundfile.write(silence, [0.0] * 48_000, 24_000, format="WAV")
    answer = add(server, file=silence.getvalue())
    assert answer.status_code == 400
    assert "silent" in answer.json()["error"]["message"] or "nothing" in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["..%2F..%2Fada", "%2Fetc%2Fpasswd", "ada.safetensors", "nobody", "nova"])
def test_nothing_else_can_be_removed(server, library, path):
    answer = httpx.delete(server.url + f"/v1/audio/voices/{path}")
    assert answer.status_code in (400, 404), answer.text
    assert (library / "ada.safetensors").is_file()


def test_openai_s_voices_stand_for_those_of_the_package(library):
    found = [resolve(name) for name in OPENAI]
    assert set(found) <= set(shipped_voices())
    assert len(set(found)) == len(shipped_voices())
    assert resolve("nova") == "nova"


def test_a_voice_is_read_once_and_again_when_it_has_changed(engine, library):
    voices = Voices(engine.speaker)
    first = voices.find("ada")
    assert voices.find("ada") is first
    audio = read_audio(ASSETS / "lj.flac")
    made = voices.add(audio, "lj", CONSENT, None, False)
    assert voices.find("lj").codes.equal(made.codes)
    again = voices.add(read_audio(SPEECH), "lj", CONSENT, None, True)
    assert voices.find("lj").codes.equal(again.codes)
    voices.remove("lj")
