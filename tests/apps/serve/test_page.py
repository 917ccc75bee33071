"""The demo at "/" of the server: beside the interface, not in its place, and behind the same key."""

from __future__ import annotations

import base64
import contextlib
import os
from collections.abc import Iterator

import httpx
import pytest
from starlette.testclient import TestClient

pytest.importorskip("gradio")

from myna.apps.serve.app import build_app
from myna.apps.serve.house import House
from myna.apps.serve.options import ServeOptions
from myna.apps.serve.page import is_installed, mounted
from myna.data.audio import read_audio
from myna.tts import speaker

from .conftest import Running, running

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


QUIET = (  # a browser that stays at home
    "--no-sandbox",  # for root, in containers
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PATIENCE = 90_000  # ms: machines that run tests are busy


@pytest.fixture
def served(library, engine, recognition, monkeypatch) -> Iterator[Running]:
    """A server with its page and a key, on the tests' models."""
    monkeypatch.setitem(speaker._shared, ("cpu", "codes"), engine.speaker)
    options = ServeOptions(api_keys=(KEY,))
    with contextlib.ExitStack() as stack:
        house = House(options, engine, recognition)
        yield stack.enter_context(running(house, wrap=lambda app: stack.enter_context(mounted(app))))


@pytest.fixture
def page(chromium, served):
    """A visitor who knows the key. Afterwards: nothing but the server was asked for anything, nothing was refused."""
    from playwright.sync_api import sync_playwright

    strangers, complaints = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(QUIET))
        context = browser.new_context(
            viewport={"width": 1280, "height": 900}, http_credentials={"username": "me", "password": KEY}
        )
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("request", lambda request: strangers.append(request.url))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "response",
            lambda answer: answer.status >= 400 and complaints.append(f"{answer.status} {answer.url}"),
        )
        page.goto(served.url)
        page.wait_for_selector("#clone-say")
        yield page
        browser.close()
    own = (served.url, served.url.replace("http", "ws"), "data:", "blob:")
    assert [url for url in strangers if not url.startswith(own)] == []
    assert complaints == []


def test_a_visitor_with_the_key_makes_a_voice_speak(page, served, tmp_path):
    page.click("#clone-voice input")
    page.click("[role=option]:has-text('ada')")
    page.fill("#clone-text textarea", "One two three.")
    with page.expect_response(lambda answer: answer.url.endswith(".aac")) as heard:  # what the player plays
        page.click("#clone-say")
    assert heard.value.status == 200
    page.wait_for_selector("#clone-status .myna-tiles")
    page.wait_for_function("document.querySelector('#clone-drawing img')?.naturalWidth > 400")
    if folder := os.environ.get("MYNA_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/serve.png")
    with page.expect_download() as download:
        page.click("#clone-result a[download]")
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    assert read_audio(path).samples.shape[1] > 6_000
    # The interface is still there, for the same visitor.
    answer = page.request.get(f"{served.url}/v1/models")
    assert answer.json()["object"] == "list"


def test_a_visitor_without_the_key_sees_nothing(chromium, served):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(QUIET))
        answer = browser.new_context().request.get(served.url)
        assert answer.status == 401
        assert "gradio" not in answer.text()
        browser.close()
