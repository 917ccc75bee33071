"""The demo at "/" of the server: beside the interface, not in its place, and behind the same key."""

from __future__ import annotations

import base64

import httpx
import pytest
from starlette.testclient import TestClient

pytest.importorskip("gradio")

from myna.apps.serve.app import build_app
from myna.apps.serve.house import House
from myna.apps.serve.options import ServeOptions
from myna.apps.serve.page import is_installed, mounted

KEY = "a-key-of-the-house"


@pytest.fixture
def client(library, engine, recognition):
    options = ServeOptions(api_keys=(KEY,))
    house = House(options, engine, recognition)
    with (
        mounted(build_app(options, house)) as app,
        TestClient(app, base_url="http://127.0.0.1:8000") as client,
    ):
        client.headers["Authorization"] = "Basic " + base64.b64encode(f"me:{KEY}".encode()).decode()
        yield client


def test_the_page_and_the_interface_are_there(client):
    assert is_installed()
    page = client.get("/")
    assert page.status_code == 200
    assert "text/html" in page.headers["content-type"]
    assert "Myna" in page.text
    assert client.get("/gradio_api/info").status_code == 200
    assert client.get("/v1/models").json()["object"] == "list"
    nowhere = client.get("/v1/nothing")
    assert nowhere.status_code == 404
    assert nowhere.json()["error"]["code"] == "not_found"


def test_a_browser_is_asked_for_the_key(client):
    answer: httpx.Response = client.get("/", headers={"Authorization": ""})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Basic")
