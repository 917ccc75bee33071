"""Two replicas on this machine behind Ray's proxy: both answer, streams and sockets pass, keys are asked for."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from myna.apps.serve.engines.recognition import Recognition
from myna.apps.serve.engines.speech import SpeechEngine
from myna.apps.serve.house import House
from myna.apps.serve.options import ServeOptions
from myna.apps.serve.ray_deployment import application, deployment
from myna.data.wav import to_int16
from myna.errors import UsageError
from myna.tts.presets import SpeechOptions
from myna.tts.speaker import Speaker
from myna.tts.text.long_text import split_text

from .conftest import free_port, tiny_models

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'myna[ray]'")
serve = pytest.importorskip("ray.serve", reason="Ray Serve is not installed: pip install 'myna[ray]'")

KEY = "a-key-of-the-house"
HEADERS = {"Authorization": f"Bearer {KEY}"}
PACKAGE = Path(__file__).resolve().parents[4]  # what `myna` is a folder of


def make_house(options: ServeOptions) -> House:
    house = House(options, SpeechEngine(Speaker(tiny_models())), Recognition("tiny.en"))
    house.started = os.getpid()  # /v1/models says it: which replica has answered
    return house


@pytest.fixture(scope="module")
def url(library) -> Iterator[str]:
    """Of a cluster of this machine that reaches nobody."""
    port = free_port()
    module = sys.modules[tiny_models.__module__]
    own = sys.modules[__name__]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        patch.setenv("PYTHONPATH", os.pathsep.join([str(PACKAGE), os.environ.get("PYTHONPATH", "")]))
        for code in (module, own):  # no package of the workers has the tests
            ray.cloudpickle.register_pickle_by_value(code)
        ray.init(
            num_cpus=2, num_gpus=0, include_dashboard=False, log_to_driver=False, object_store_memory=80 << 20
        )
        try:
            serve.start(http_options={"host": "127.0.0.1", "port": port})
            options = ServeOptions(api_keys=(KEY,), max_concurrency=4)
            serve.run(deployment(options, n_replicas=2, n_cpus=0.5, make_house=make_house), name="myna")
            yield f"http://127.0.0.1:{port}"
        finally:
            serve.shutdown()
            ray.shutdown()
            for code in (module, own):
                ray.cloudpickle.unregister_pickle_by_value(code)


def test_both_replicas_answer(url):
    def replica(client: httpx.Client) -> int:
        return client.get(url + "/v1/models").json()["data"][0]["created"]

    found: set[int] = set()
    with httpx.Client(headers=HEADERS, timeout=60) as client:
        for _ in range(200):
            found.add(replica(client))
            if len(found) == 2:
                break
    assert len(found) == 2


def test_speech_is_that_of_one_server_and_comes_in_pieces(url, engine, library):
    from myna.apps.serve.voices import Voices

    voice = Voices(engine.speaker).find("ada")
    text = "One two three. Four five six."
    body = {"input": text, "voice": "ada", "response_format": "pcm"}
    for seed in range(4):
        said = engine.say(split_text(text), voice, SpeechOptions(seed=seed), engine.ticket())
        expected = b"".join(to_int16(chunk.samples).tobytes() for chunk in said)
        parts = []
        with httpx.stream(
            "POST", url + "/v1/audio/speech", json={**body, "seed": seed}, headers=HEADERS, timeout=60
        ) as answer:
            assert answer.status_code == 200
            parts = list(answer.iter_raw())
        assert b"".join(parts) == expected
        assert len(parts) > 1


def test_a_socket_passes_through(url):
    sockets = pytest.importorskip("websockets.sync.client")
    address = url.replace("http", "ws") + "/v1/audio/speech/stream"
    with sockets.connect(address, additional_headers=HEADERS, max_size=None) as socket:
        for event in (
            {"type": "session.config", "voice": "ada"},
            {"type": "input.text", "text": "One two."},
            {"type": "input.done"},
        ):
            socket.send(json.dumps(event))
        n, kinds = 0, []
        while "session.done" not in kinds:
            message = socket.recv(timeout=60)
            if isinstance(message, bytes):
                n += len(message)
            else:
                kinds.append(json.loads(message)["type"])
    assert kinds == ["session.created", "audio.start", "audio.done", "session.done"]
    assert n > 5_000


def test_a_key_is_asked_for(url):
    answer = httpx.get(url + "/v1/models", timeout=60)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_replicas": "two"}, "a number was expected"),
        ({"replicas": "2"}, "no argument 'replicas'; there are num_replicas"),
        ({"queue": "-1"}, "--queue is -1"),
    ],
)
def test_arguments_that_cannot_be_are_one_line(arguments, words):
    with pytest.raises(UsageError, match=words) as raised:
        application(arguments)
    assert "\n" not in str(raised.value)


def test_what_serve_run_builds(monkeypatch):
    monkeypatch.setenv("MYNA_API_KEY", f"{KEY} another-key")
    made = application({"num_replicas": "3", "num_cpus": "2", "default_model": "tiny.en"})
    found = made._bound_deployment
    assert found.num_replicas == 3
    assert found.ray_actor_options["num_cpus"] == 2
