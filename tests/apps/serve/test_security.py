"""Keys, origins, hosts: what is off by default stays off, and nothing tells a key."""

from __future__ import annotations

import base64
import logging

import httpx
import pytest
from myna.apps.serve import security
from myna.apps.serve.options import ServeOptions
from myna.apps.serve.security import Keys
from myna.errors import UsageError

openai = pytest.importorskip("openai")
KEY = "a-key-of-the-house"


@pytest.fixture
def locked(serve):
    return serve(api_keys=(KEY, "another-key-of-it"))


def models(server, **headers) -> httpx.Response:
    return httpx.get(server.url + "/v1/models", headers=headers)


def test_without_the_key_there_is_only_health(locked):
    for path in ("/health", "/ready"):
        assert httpx.get(locked.url + path).status_code == 200
    for path in ("/v1/models", "/metrics", "/openapi.json", "/", "/v1/audio/voices"):
        answer = httpx.get(locked.url + path)
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize(
    "header",
    [
        {"Authorization": f"Bearer {KEY}"},
        {"Authorization": "bearer another-key-of-it"},
        {"X-API-Key": KEY},
        {"Authorization": "Basic " + base64.b64encode(f"me:{KEY}".encode()).decode()},
    ],
)
def test_with_the_key_there_is_all(locked, header):
    assert models(locked, **header).status_code == 200


@pytest.mark.parametrize(
    "header",
    [
        {"Authorization": f"Bearer {KEY[:-1]}"},
        {"Authorization": f"Bearer {KEY}x"},
        {"Authorization": "Bearer"},
        {"Authorization": KEY},
        {"Authorization": "Basic %%%"},
        {"X-API-Key": ""},
    ],
)
def test_nearly_the_key_is_not_the_key(locked, header):
    assert models(locked, **header).status_code == 401


def test_the_client_raises_its_own_error(locked):
    wrong = openai.OpenAI(base_url=locked.url + "/v1", api_key="wrong-key-here", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        wrong.models.list()
    right = openai.OpenAI(base_url=locked.url + "/v1", api_key=KEY, max_retries=0)
    assert "myna" in [model.id for model in right.models.list()]


def test_keys_are_in_no_log_and_no_message(locked, caplog):
    with caplog.at_level(logging.DEBUG):
        answer = models(locked, Authorization="Bearer secret-of-a-client")
        models(locked, Authorization=f"Bearer {KEY}")
    assert "secret-of-a-client" not in caplog.text + answer.text
    assert KEY not in caplog.text
    assert KEY not in repr(locked.house.options)


@pytest.mark.parametrize("given", [KEY, KEY[:-1], "", "another-key-of-it"])
def test_a_key_is_compared_with_all_there_are_by_digests_of_one_length(monkeypatch, given):
    """Whichever is right, and however much of it: the time does not tell."""
    compared = []

    def noted(a: bytes, b: bytes) -> bool:
        compared.append((len(a), len(b)))
        return a == b

    monkeypatch.setattr(security.hmac, "compare_digest", noted)
    Keys([KEY, "another-key-of-it", "a-third-one"]).client([given])
    assert compared == [(32, 32)] * 3


def test_keys_have_names_that_do_not_tell_them():
    keys = Keys([KEY])
    assert keys.client(["no", KEY]) == keys.client([KEY])
    assert keys.client(["no"]) is None
    assert KEY not in str(keys.client([KEY]))
    assert not Keys([])


def test_pages_of_other_sites_may_do_nothing(server):
    answer = models(server, Origin="https://evil.example")
    assert answer.status_code == 403
    assert "--cors https://evil.example" in answer.json()["error"]["message"]
    assert "access-control-allow-origin" not in answer.headers
    assert models(server, Origin=server.url).status_code == 200  # its own page


def test_pages_that_were_named_may(serve):
    server = serve(cors=("https://app.example",))
    answer = models(server, Origin="https://app.example")
    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    assert models(server, Origin="https://evil.example").status_code == 403
    asked = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    asked["Access-Control-Request-Headers"] = "authorization,content-type"
    assert httpx.options(server.url + "/v1/audio/speech", headers=asked).status_code == 200


def test_another_name_for_this_machine_is_refused(server):
    answer = models(server, Host="rebound.example")
    assert answer.status_code == 403
    assert "rebound.example" in answer.json()["error"]["message"]


@pytest.mark.parametrize("key", ["short", "with space ", "clé-de-la-maison"])
def test_a_key_that_cannot_be_sent_is_refused(key):
    with pytest.raises(UsageError, match="API key"):
        ServeOptions(api_keys=(key,))


def test_only_this_machine_is_served_by_default():
    assert ServeOptions().is_local
    assert not ServeOptions(host="0.0.0.0").is_local
    assert ServeOptions().cors == ()
