"""TorToise behind the server: small networks of random weights in the cache, as `myna models convert` leaves them."""

from __future__ import annotations

import base64
import io
import json
import os
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile
from myna.apps.serve.engines.speech import Ticket
from myna.apps.serve.house import House
from myna.apps.serve.options import ServeOptions
from myna.apps.serve.voices import OPENAI, resolve
from myna.data.audio import read_audio
from myna.data.wav import to_int16
from myna.errors import MissingModelError
from myna.marks.tags import is_synthetic
from myna.tts.tortoise import generate, presets
from myna.tts.tortoise.adapter import convert_folder
from myna.tts.tortoise.presets import TortoiseOptions, TortoisePreset
from myna.tts.tortoise.speaker import TortoiseSpeaker
from myna.tts.tortoise.text.passages import split
from myna.tts.voices.library import add_voice

from .conftest import SPEECH, Running, free_port, running
from .test_sockets import connect, receive, send

TEXT = "Hello there. How are you?"
AGREED = "the speaker agreed on 3 May"


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Presets of few candidates and steps."""
    small = {
        "ultra_fast": TortoisePreset("", 2, 3, False),
        "fast": TortoisePreset("", 3, 2, True),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, preset in small.items():
            patch.setitem(presets.PRESETS, name, preset)
        yield


@pytest.fixture(scope="module")
def speaker(library: Path, published: Path) -> TortoiseSpeaker:
    """In Python, on the networks in the cache, where the server finds them, too. The library has a voice of it: ann."""
    convert_folder(published, Path(os.environ["MYNA_CACHE"]) / "tortoise")
    speaker = TortoiseSpeaker()
    add_voice(replace(speaker.voice(SPEECH, AGREED), name="ann"))
    return speaker


@pytest.fixture(scope="module")
def tortoise(server: Running, speaker: TortoiseSpeaker) -> Running:
    return server


@pytest.fixture
def alone(speaker: TortoiseSpeaker) -> Callable[..., np.ndarray]:
    def say(text: str = TEXT, voice: str = "ann", preset: str = "ultra_fast", **options) -> np.ndarray:
        known = speaker.voice(voice, seed=options.get("seed", 0))
        chunks = speaker.chunks(split(text), known, TortoiseOptions(preset, **options))
        return to_int16(np.concatenate([chunk.samples for chunk in chunks]))

    return say


def ask(server: Running, text: str = TEXT, **more) -> httpx.Response:
    body = {"model": "tortoise", "input": text, "voice": "ann", "response_format": "pcm", **more}
    return httpx.post(server.url + "/v1/audio/speech", json=body, timeout=120)


def pcm(server: Running, text: str = TEXT, **more) -> np.ndarray:
    answer = ask(server, text, **more)
    assert answer.status_code == 200, answer.text
    return np.frombuffer(answer.content, "<i2")


def error(answer: httpx.Response) -> dict:
    found = answer.json()["error"]
    assert "\n" not in found["message"]
    assert "Traceback" not in found["message"]
    return found


def listed(server: Running) -> dict[str, bool]:
    """What speaks, and whether it is loaded."""
    models = httpx.get(server.url + "/v1/models").json()["data"]
    assert httpx.get(server.url + "/v1/audio/models").json()["models"] == models
    return {model["id"]: model["loaded"] for model in models if model["task"] == "speech"}


def until(found: Callable[[], bool], patience: float = 60.0) -> None:
    end = time.monotonic() + patience
    while not found():
        assert time.monotonic() < end
        time.sleep(0.01)


# ---- what it says


def test_the_samples_are_those_of_python(tortoise, alone):
    answer = ask(tortoise, response_format="wav")
    assert answer.headers["content-type"] == "audio/wav"
    assert "Synthetic speech" in answer.headers["x-synthetic-speech"]
    said = read_audio(io.BytesIO(answer.content))
    assert said.sample_rate == 24_000
    assert np.array_equal(to_int16(said.samples[0]), alone())
    with soundfile.SoundFile(io.BytesIO(answer.content)) as file:
        assert is_synthetic({"comment": file.comment})
        assert file.comment.endswith("Voice: ann")


@pytest.mark.parametrize(
    "fields",
    [{"seed": 3, "speed": 1.5}, {"preset": "fast", "temperature": 0.2}, {"preset": "streaming"}],
    ids=str,
)
def test_fields_that_it_knows_are_followed(tortoise, alone, fields):
    said = pcm(tortoise, **fields)
    assert np.array_equal(said, alone(**fields))
    assert not np.array_equal(said, alone())


def test_events_carry_the_audio_and_what_it_cost(tortoise, alone):
    answer = ask(tortoise, stream_format="sse")
    found = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
    audio = b"".join(base64.b64decode(event["audio"]) for event in found[:-1])
    assert np.array_equal(np.frombuffer(audio, "<i2"), alone())
    assert found[-1]["type"] == "speech.audio.done"
    usage = found[-1]["usage"]
    assert usage["input_tokens"] == len("Hello there.How are you?")
    assert usage["output_tokens"] >= 2  # a step for each sentence at the least
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


def test_text_in_pieces_is_said_sentence_by_sentence(tortoise, speaker, alone):
    with connect(tortoise, "/v1/audio/speech/stream") as socket:
        send(socket, "session.config", model="tortoise", voice="ann", seed=5)
        (created,), _ = receive(socket, "session.created")
        assert (created["format"], created["sample_rate"]) == ("pcm", 24_000)
        for piece in ("Hello", " there. How are", " you?"):
            send(socket, "input.text", text=piece)
        first, sound = receive(socket, "audio.done")  # before the text has ended
        assert [event["type"] for event in first] == ["audio.start", "audio.done"]
        assert first[-1]["words"] == []
        send(socket, "input.done")
        rest, more = receive(socket, "session.done")
        assert rest[-1]["total_sentences"] == 2
    expected, said = alone(seed=5), np.frombuffer(sound + more, "<i2")
    n = len(sound) // 2
    assert np.array_equal(said[:n], expected[:n])
    assert len(said) == len(expected)


def test_a_piece_that_fails_is_not_said_later(tortoise):
    with connect(tortoise, "/v1/audio/speech/stream") as socket:
        send(socket, "session.config", model="tortoise", voice="ada")
        receive(socket, "session.created")
        send(socket, "input.text", text="Hello there. ")
        events, _ = receive(socket, "error")
        assert "'ada' was made for other weights" in events[-1]["error"]["message"]
        send(socket, "input.done")
        events, _ = receive(socket, "session.done")
        assert events[-1]["total_sentences"] == 0
        send(socket, "session.config", model="tortoise", voice="ann")
        send(socket, "input.text", text="Again.")
        send(socket, "input.done")
        events, _ = receive(socket, "session.done")
        assert [event["sentence_text"] for event in events if event["type"] == "audio.start"] == ["Again."]


def test_it_says_one_text_at_a_time_and_mixes_nothing_up(tortoise, alone, monkeypatch):
    expected = [alone(f"Number {n}.", seed=n) for n in range(3)]
    at_work, most = 0, 0
    chunks = TortoiseSpeaker.chunks

    def counted(self, *args, **more):
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        try:
            yield from chunks(self, *args, **more)
        finally:
            at_work -= 1

    monkeypatch.setattr(TortoiseSpeaker, "chunks", counted)
    with ThreadPoolExecutor(3) as threads:
        said = list(threads.map(lambda n: pcm(tortoise, f"Number {n}.", seed=n), range(3)))
    assert all(np.array_equal(a, b) for a, b in zip(said, expected, strict=True))
    assert most == 1


# ---- voices


def test_openai_s_names_stand_for_voices_of_the_package(tortoise, alone):
    assert {resolve(name) for name in OPENAI} <= {"nova", "liam", "lily", "daniel"}
    said = pcm(tortoise, "Hello.", voice="onyx")
    assert np.array_equal(said, alone("Hello.", voice=resolve("onyx")))
    assert np.array_equal(pcm(tortoise, "Hello.", voice={"id": "nova"}), alone("Hello.", voice="nova"))


def test_a_voice_of_nobody_is_that_of_its_seed(tortoise, alone):
    said = pcm(tortoise, "Hello.", voice="random", seed=7)
    assert np.array_equal(said, alone("Hello.", voice="random", seed=7))


def test_a_voice_of_the_house_has_a_recording_to_hear(tortoise, alone):
    from myna.codec.registry import load_codec
    from myna.tts.voices.voice import make_voice

    add_voice(make_voice(SPEECH, load_codec("myna-24k"), AGREED, "eve"))
    assert np.array_equal(pcm(tortoise, "Hello.", voice="eve"), alone("Hello.", voice="eve"))


def test_lists_say_which_model_can_say_a_voice(tortoise, speaker):
    add_voice(replace(speaker.voice("random"), name="bob"))
    listed = httpx.get(tortoise.url + "/v1/audio/voices").json()["voices"]
    models = {voice["id"]: voice["models"] for voice in listed}
    assert models["ann"] == models["bob"] == models["random"] == ["tortoise"]
    assert models["ada"] == models["nova"] == ["myna", "tortoise"]
    speaks = {model["id"]: model for model in httpx.get(tortoise.url + "/v1/models").json()["data"]}
    for name in ("myna", "tts-1", "tortoise"):
        engine = "tortoise" if name == "tortoise" else "myna"
        can = [voice for voice in models if engine in models[voice]]
        assert speaks[name]["voices"] == can
        chosen = httpx.get(tortoise.url + "/v1/audio/voices", params={"model": name}).json()["voices"]
        assert [voice["id"] for voice in chosen] == can
    legacy = httpx.get(tortoise.url + "/v1/audio/voices?legacy=true").json()["voices"]
    assert "nova" in legacy  # for clients that know one model
    assert not {"ann", "bob", "random"} & set(legacy)
    assert httpx.get(tortoise.url + "/v1/audio/voices?model=whisper-1").json()["voices"] == []
    removed = httpx.delete(tortoise.url + "/v1/audio/voices/bob")
    assert removed.status_code == 200


@pytest.mark.parametrize("name", ["ann", "random"])
def test_a_voice_that_it_alone_can_say_is_refused_by_the_house_s_own_model(tortoise, library, name):
    answer = ask(tortoise, model="myna", voice=name)
    found = error(answer)
    assert (answer.status_code, found["code"], found["param"]) == (400, "invalid_voice", "voice")
    expected = f"the voice '{name}' is one that TorToise alone can say; ask for the model 'tortoise'"
    assert found["message"] == expected


def test_a_voice_that_is_damaged_is_not_told_by_its_path(tortoise, library):
    path = library / "dan.safetensors"
    path.write_bytes((library / "ada.safetensors").read_bytes()[:-10])
    for model in ("myna", "tortoise"):
        answer = ask(tortoise, model=model, voice="dan")
        assert (answer.status_code, error(answer)["code"]) == (400, "invalid_voice")
        assert "'dan'" in error(answer)["message"]
        assert str(library) not in error(answer)["message"]
    path.unlink()


def test_home_assistant_hears_it_by_the_names_of_its_voices(serve, speaker, alone):
    pytest.importorskip("wyoming")
    from myna.apps.serve.wyoming.service import serving
    from wyoming.audio import AudioStop
    from wyoming.error import Error
    from wyoming.info import Describe, Info
    from wyoming.tts import Synthesize, SynthesizeVoice

    from .test_wyoming import sound, talk

    port = free_port()
    serve(beside=(lambda house: serving(f"tcp://127.0.0.1:{port}", house),))
    (program,) = Info.from_event(talk(port, [Describe()], Info)[-1]).tts
    voices = {voice.name: voice.description for voice in program.voices}
    assert voices["tortoise/ann"] == "ann (TorToise)"
    assert {"ada", "nova", "tortoise/nova", "tortoise/random"} <= set(voices)
    assert not {"ann", "random"} & set(voices)
    said = talk(port, [Synthesize("Hello.", SynthesizeVoice(name="tortoise/ann"))], AudioStop)
    assert np.array_equal(np.frombuffer(sound(said), "<i2"), alone("Hello."))
    for name, words in (("ann", "TorToise alone"), ("nothing/ann", "no model named 'nothing'")):
        wrong = talk(port, [Synthesize("Hello.", SynthesizeVoice(name=name))], Error)[-1]
        assert words in Error.from_event(wrong).text


# ---- what cannot be


@pytest.mark.parametrize(
    ("body", "status", "code", "param", "words"),
    [
        ({"voice": "nobody"}, 404, "voice_not_found", "voice", "no voice named 'nobody'"),
        ({"voice": "../ann"}, 404, "voice_not_found", "voice", "no voice named"),
        ({"voice": "ann&nova"}, 404, "voice_not_found", "voice", "no voice named"),
        ({"voice": str(SPEECH)}, 404, "voice_not_found", "voice", "no voice named"),
        ({"voice": "ada"}, 400, "invalid_voice", "voice", "'ada' was made for other weights"),
        ({"model": "tortoise/"}, 404, "model_not_found", "model", "gpt-4o-mini-tts, tortoise"),
        ({"model": "."}, 404, "model_not_found", "model", "no model named '.'"),
        ({"decoder": "flow"}, 400, "invalid_value", "decoder", "leave decoder out"),
        ({"language": "de"}, 400, "invalid_value", "language", "English alone"),
        (
            {"timestamp_granularities": ["word"], "stream_format": "sse"},
            400,
            "invalid_value",
            "timestamp_granularities",
            "when a word is said",
        ),
        ({"preset": "best"}, 400, "invalid_value", None, "ultra_fast, fast, standard, high_quality"),
        ({"speed": 4}, 400, "invalid_value", None, "speed 4 is out of range; give 0.5 to 2"),
        ({"seed": -1}, 400, "invalid_value", None, "seed -1"),
        ({"temperature": -1}, 400, "invalid_value", None, "temperature -1"),
        ({"input": " "}, 400, "invalid_value", "input", "no text"),
        ({"input": "日本語"}, 400, "invalid_value", "input", "nothing to say"),
        ({"input": "go [now"}, 400, "invalid_value", None, "bracket is not closed"),
        ({"input": "[So sad,] go.", "preset": "streaming"}, 400, "invalid_value", None, "brackets"),
        ({"input": "a" * 5000}, 413, "request_too_large", "input", "at most 4096"),
    ],
)
def test_what_cannot_be_said_is_one_sentence(tortoise, body, status, code, param, words):
    answer = ask(tortoise, **{"input": "Hello.", **body})
    found = error(answer)
    assert (answer.status_code, found["code"], found["param"]) == (status, code, param), found
    assert words in found["message"]


def test_a_folder_of_networks_is_no_model(tortoise, published, monkeypatch):
    monkeypatch.chdir(published.parent)
    for name in (str(published), published.name, f"./{published.name}"):
        assert error(ask(tortoise, model=name))["code"] == "model_not_found"


def test_a_voice_of_other_networks_is_not_told_by_its_path(tortoise, speaker, library):
    voice = replace(speaker.voice("random"), name="other", networks="those-of-somebody")
    add_voice(voice)
    found = error(ask(tortoise, voice="other"))
    assert found["message"].startswith("the voice 'other' was made by other networks")
    assert str(library) not in found["message"]


def test_where_it_is_not_installed_it_says_how_it_gets_there(server, tmp_path, monkeypatch):
    monkeypatch.setenv("MYNA_CACHE", str(tmp_path))
    for fields in ({}, {"stream_format": "sse"}):
        answer = ask(server, **fields)
        found = error(answer)
        assert (answer.status_code, found["code"], found["param"]) == (404, "model_not_found", "model")
        assert "`myna models download tortoise`" in found["message"]
    with connect(server, "/v1/audio/speech/stream") as socket:
        send(socket, "session.config", model="tortoise")
        (event,), _ = receive(socket, "error")
        assert "`myna models download tortoise`" in event["error"]["message"]
    assert "tortoise" not in listed(server)
    assert "tortoise" not in error(ask(server, model="gpt-9"))["message"]
    voices = httpx.get(server.url + "/v1/audio/voices").json()["voices"]
    assert {name for voice in voices for name in voice["models"]} == {"myna"}
    assert not {"ann", "random"} & {voice["id"] for voice in voices}
    assert not (tmp_path / "tortoise").exists()  # nothing was fetched


def test_a_damaged_file_is_told_to_the_log_alone(serve, published, tmp_path, monkeypatch, caplog):
    convert_folder(published, tmp_path / "tortoise")
    path = tmp_path / "tortoise" / "univnet.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    monkeypatch.setenv("MYNA_CACHE", str(tmp_path))
    server = serve()
    answer = ask(server, voice="random")
    assert answer.status_code == 500
    assert str(tmp_path) not in error(answer)["message"]
    assert "univnet.safetensors" in caplog.text
    assert listed(server)["tortoise"] is False


# ---- loaded and let go


def test_it_is_loaded_when_it_is_asked_for_and_let_go_when_nobody_does(serve, speaker, alone, monkeypatch):
    server = serve(idle=0.0)
    assert listed(server)["tortoise"] is False
    pool, loaded = server.house.tortoise.pool, []
    load = pool._load

    def noted(name: str) -> TortoiseSpeaker:
        speaker = load(name)
        loaded.append(weakref.ref(speaker))
        return speaker

    monkeypatch.setattr(pool, "_load", noted)
    for n in (1, 2):
        assert np.array_equal(pcm(server), alone())
        until(lambda: not listed(server)["tortoise"])
        assert len(loaded) == n
        until(lambda: loaded[-1]() is None)  # its memory, too
    assert listed(server)["myna"] is True  # which stays


def test_it_is_kept_for_the_next(serve, speaker):
    server = serve()
    for _ in range(2):
        pcm(server, "Hello.")
        assert listed(server)["tortoise"] is True
    health = httpx.get(server.url + "/ready").json()
    assert health == {"status": "ready", "speech": "ready"}
    metrics = httpx.get(server.url + "/metrics").text
    assert 'myna_active_requests{kind="tortoise"} 0.0' in metrics
    assert 'myna_requests_total{route="speech",status="200"} 2.0' in metrics


def test_it_speaks_where_the_house_s_own_models_are_missing(speaker, recognition, alone, monkeypatch):
    def missing():
        raise MissingModelError("there are no models of speech")

    monkeypatch.setattr("myna.apps.serve.house._warm_engine", missing)
    with running(House(ServeOptions(), None, recognition)) as server:
        assert np.array_equal(pcm(server, "Hello."), alone("Hello."))
        assert error(ask(server, model="myna"))["code"] == "model_not_found"
        assert listed(server) | {"tts-1": False} == listed(server)
        voices = httpx.get(server.url + "/v1/audio/voices").json()["voices"]
        assert {voice["id"]: voice["models"] for voice in voices}["nova"] == ["tortoise"]


# ---- clients that go


@pytest.fixture
def gate(monkeypatch) -> Iterator[tuple[threading.Event, threading.Event, list[int]]]:
    """The first step of the autoregressive network waits: (that it has begun, that it may go on, steps begun)."""
    reached, opened, steps = threading.Event(), threading.Event(), []
    draw = generate.draw

    def slow(*args):
        steps.append(len(steps))
        reached.set()
        assert opened.wait(60)
        return draw(*args)

    monkeypatch.setattr(generate, "draw", slow)
    yield reached, opened, steps
    opened.set()


@pytest.fixture
def told(monkeypatch) -> threading.Event:
    """Set when a ticket is cancelled."""
    told, cancel = threading.Event(), Ticket.cancel

    def cancelled(self):
        cancel(self)
        told.set()

    monkeypatch.setattr(Ticket, "cancel", cancelled)
    return told


def test_who_goes_ends_the_work_within_a_step(tortoise, gate, told):
    reached, opened, steps = gate
    body = json.dumps({"model": "tortoise", "input": TEXT, "voice": "random"}).encode()
    with socket.create_connection(("127.0.0.1", tortoise.port)) as connection:
        head = f"POST /v1/audio/speech HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n"
        connection.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
        assert reached.wait(60)
        assert tortoise.house.admissions["tortoise"].n_active == 1
    assert told.wait(60)
    assert tortoise.house.admissions["tortoise"].n_active == 1  # until the work has really ended
    opened.set()
    assert tortoise.settled()
    assert len(steps) == 1


def test_a_socket_that_goes_ends_the_work_too(tortoise, gate, told):
    reached, opened, steps = gate
    with connect(tortoise, "/v1/audio/speech/stream") as socket:
        send(socket, "session.config", model="tortoise", voice="random")
        send(socket, "input.text", text="Hello there. ")
        assert reached.wait(60)
    assert told.wait(60)
    opened.set()
    assert tortoise.settled()
    assert len(steps) == 1


def test_nobody_else_waits_for_it(serve, speaker, gate):
    reached, opened, _ = gate
    server = serve(max_concurrency=1, queue=1)
    with ThreadPoolExecutor(2) as threads:
        said = [threads.submit(ask, server, "Hello.", voice="random") for _ in range(2)]
        assert reached.wait(60)
        until(lambda: server.house.admissions["tortoise"].n_waiting == 1)
        assert ask(server, "Hello.", model="myna", voice="ada").status_code == 200
        third = ask(server, "Hello.")
        assert third.status_code == 429
        assert int(third.headers["retry-after"]) >= 1
        opened.set()
        assert [one.result().status_code for one in said] == [200, 200]
