"""The page in Debian's Chromium with a microphone that plays a recording: what a visitor does, and sees and hears.

The voices are tones (conftest.py), so that whose speech it is can be measured; the codec is the real one.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from myna.apps.demo.samples import sample_recordings
from myna.codec.api import compress
from myna.codec.formats import cut
from myna.data.audio import read_audio, write_audio

VOICES = sample_recordings()
ASSETS = Path(__file__).resolve().parents[2] / "assets"
SPEECH = ASSETS / "speech.wav"  # what the microphone hears
PATIENCE = 90_000  # ms: machines that run tests are busy


@pytest.fixture(scope="module")
def browser(chromium):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium,
            args=[
                "--no-sandbox",  # for root, in containers
                "--use-fake-device-for-media-stream",
                "--use-fake-ui-for-media-stream",
                f"--use-file-for-fake-audio-capture={SPEECH}",
            ],
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def url(browser, shared_tones) -> Iterator[str]:
    from myna.apps.demo.server import serving

    with serving(shared_tones) as served:
        yield served.url


@pytest.fixture
def tones(shared_tones):
    """The engine of the page that runs, with nothing in it."""
    shared_tones.reset()
    return shared_tones


@pytest.fixture
def visit(browser, url, tones) -> Iterator[Callable]:
    """A new visitor. Afterwards: no request has left the machine, and the page has complained of nothing."""
    from playwright.sync_api import TimeoutError

    contexts, strangers, complaints = [], [], []

    def enter(width: int = 1280, height: int = 900):
        context = browser.new_context(
            viewport={"width": width, "height": height}, permissions=["microphone"], reduced_motion="reduce"
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)

        def requested(request) -> None:
            if not request.url.startswith((url, "data:", "blob:", url.replace("http", "ws"))):
                strangers.append(request.url)

        page.on("request", requested)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(url)
        for left in (
            2,
            1,
            0,
        ):  # on an overloaded machine the first load of Gradio's hundred scripts may get stuck
            try:
                page.wait_for_selector("#clone-say", timeout=PATIENCE / 2)
                break
            except TimeoutError:
                if not left:
                    raise
                page.reload()
        return page

    yield enter
    for context in contexts:
        context.close()
    assert strangers == []
    assert complaints == []


def give(page, tab: str, label: str) -> None:
    """Click a voice that ships, and wait until it is there."""
    page.click(f"#{tab}-samples button:has-text('{label}')")
    page.wait_for_selector(f"#{tab}-recording [data-testid^='waveform']")


def pitch(path: Path) -> float:
    """The tone's frequency in Hz, in a recording of it."""
    audio = read_audio(path)
    wav = audio.samples[0]
    spectrum = np.abs(np.fft.rfft(wav * np.hanning(len(wav)), 1 << 18))
    return float(spectrum.argmax() * audio.sample_rate / (1 << 18))


def downloaded(page, name: str, folder: Path) -> Path:
    """Click a player's download button."""
    with page.expect_download() as download:
        page.click(f"#{name} a[download]")
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def toast(page) -> str:
    """The message that popped up; it is closed, so that the next one is the next one."""
    text = page.wait_for_selector("[data-testid='toast-body']").inner_text()
    page.click("[data-testid='toast-close']")
    page.wait_for_selector("[data-testid='toast-body']", state="detached")
    return text


def test_clone_from_the_microphone_and_hear_it_before_it_ends(visit, tones, tmp_path):
    page = visit()
    page.click("#clone-recording button:has-text('Record')")
    page.wait_for_timeout(2500)
    page.click("#clone-recording button:has-text('Stop')")
    page.wait_for_selector("#clone-recording [data-testid^='waveform']")
    page.check("#clone-consent input")
    page.fill("#clone-text textarea", "a" * 150)  # six seconds of speech, made in nine
    tones.pace = 0.06
    page.click("#clone-say")
    page.wait_for_function("document.querySelector('#clone-live audio')?.currentTime > 0.2")
    assert tones.began > 0
    assert tones.ended == 0  # it plays, and is still being made
    page.wait_for_selector("#clone-status .myna-tiles")
    heard = tones.made[0]
    assert 1.5 < len(heard.samples) / tones.sample_rate <= 3.5
    assert np.abs(heard.samples).max() > 0.05  # the recording, not silence
    assert "agreed" in heard.consent
    result = downloaded(page, "clone-result", tmp_path)
    audio = read_audio(result)
    assert audio.samples.shape == (1, 150 * 960)
    assert pitch(result) == pytest.approx(heard.hertz, abs=1)
    for picture in ("#clone-prompt img", "#clone-drawing img"):  # waveform and spectrogram
        page.wait_for_function(f"document.querySelector('{picture}')?.naturalWidth > 400")
    assert "6.0 s" in page.inner_text("#clone-status")
    # The player has been given all of it.
    page.wait_for_function("document.querySelector('#clone-live audio').duration > 5.9")


def test_what_is_missing_is_said_in_one_line(visit, tones):
    page = visit()
    page.click("#clone-say")
    assert "There is no text yet" in toast(page)
    page.click("#clone-texts button >> nth=2")
    page.wait_for_function("document.querySelector('#clone-text textarea').value.includes('sea shells')")
    page.click("#clone-say")
    assert "There is no voice yet" in toast(page)
    give(page, "clone", "Nova")
    page.click("#clone-say")
    assert "Tick the box" in toast(page)
    assert tones.made == []
    page.check("#clone-consent input")
    page.fill("#clone-text textarea", "break")
    page.click("#clone-say")
    message = toast(page)
    assert "Unexpected ZeroDivisionError: <b>a fault</b>" in message  # as text, not as HTML
    assert "Traceback" not in page.inner_text("body")
    assert tones.spoken == []


def test_a_recording_that_will_not_do(visit, tones, tmp_path):
    write_audio(tmp_path / "quiet.wav", np.zeros(48_000, np.float32), 24_000)
    (tmp_path / "tune.wav").write_text("not audio at all")
    page = visit()
    page.fill("#clone-text textarea", "hello")
    page.check("#clone-consent input")
    upload(page, "clone", tmp_path / "quiet.wav")
    page.click("#clone-say")
    message = toast(page)
    assert re.search(r"quiet\.wav is silent", message, re.IGNORECASE)
    assert "/" not in message  # nothing of where the server keeps it
    page.get_by_role("tab", name="Compress").click()
    choose_file(page, "compress", tmp_path / "tune.wav")
    page.wait_for_selector("#compress-recording button[aria-label='Clear']")
    page.click("#compress-button")
    assert "tune.wav is not audio" in toast(page)


def test_two_visitors_at_once_keep_their_voices_apart(visit, tones, tmp_path):
    tones.pace = 0.03
    pages = [visit(), visit()]
    for page, voice in zip(pages, VOICES, strict=False):
        give(page, "clone", voice.label)
        page.check("#clone-consent input")
        page.fill("#clone-text textarea", "b" * 60)
    for page in pages:
        page.click("#clone-say")
    results = []
    for n, page in enumerate(pages):
        page.wait_for_selector("#clone-status .myna-tiles")
        (tmp_path / str(n)).mkdir()
        results.append(downloaded(page, "clone-result", tmp_path / str(n)))
    assert tones.most_at_once == 2
    expected = [tones.make_voice(voice.path, "x", "", None).hertz for voice in VOICES[:2]]
    assert abs(expected[0] - expected[1]) > 5
    assert [pitch(path) for path in results] == pytest.approx(expected, abs=1)


def test_stop_ends_the_work(visit, tones):
    tones.pace = 0.05
    page = visit()
    give(page, "clone", "Liam")
    page.check("#clone-consent input")
    page.fill("#clone-text textarea", "c" * 2000)
    page.click("#clone-say")
    page.wait_for_selector("#clone-status progress")
    page.click("#clone-stop")
    assert tones.closed_early.wait(20)
    page.wait_for_selector("#clone-status :text('Stopped')")


def test_compress_and_move_the_slider(visit, tmp_path):
    page = visit()
    page.get_by_role("tab", name="Compress").click()
    upload(page, "compress", SPEECH)
    page.click("#compress-button")
    page.wait_for_selector("#compress-facts .myna-tiles")
    full = compressed(page, tmp_path / "full")
    assert full == compress(SPEECH)
    page.fill("#compress-bitrate input[type=number]", "1")
    page.press("#compress-bitrate input[type=number]", "Tab")
    page.wait_for_function("document.querySelector('#compress-decoded a').download.includes('1kbps')")
    low = io.BytesIO()
    cut(io.BytesIO(full), low, 2)  # two codebooks of 0.5 kbps
    assert compressed(page, tmp_path / "low") == low.getvalue()
    before, after = read_audio(SPEECH), read_audio(downloaded(page, "compress-decoded", tmp_path))
    assert (after.sample_rate, after.samples.shape) == (before.sample_rate, before.samples.shape)
    for picture in ("#compress-before img", "#compress-after img"):
        assert page.eval_on_selector(picture, "image => image.naturalWidth") > 400


def test_add_try_and_remove_a_voice(visit, tones, tmp_path):
    page = visit()
    page.get_by_role("tab", name="Voices").click()
    page.fill("#voices-name input, #voices-name textarea", "grandma")
    page.click("#voices-add")
    assert "There is no voice yet" in toast(page)
    give(page, "voices", "Daniel")
    page.click("#voices-add")
    assert "Tick the box" in toast(page)
    page.check("#voices-consent input")
    page.click("#voices-add")
    page.wait_for_selector("#voices-list label:has-text('grandma')")
    assert "grandma is in the library" in page.inner_text("#voices-added")
    assert "agreed" in page.wait_for_selector("#voices-facts .myna-voice").inner_text()
    assert list(tones.library) == ["grandma"]
    page.click("#voices-try")
    page.wait_for_selector("#voices-status .myna-tiles")
    assert pitch(downloaded(page, "voices-result", tmp_path)) == pytest.approx(
        tones.library["grandma"].hertz, abs=1
    )
    page.get_by_role("tab", name="Clone").click()
    page.click("#clone-voice input")
    page.click("[role=option]:has-text('grandma')")
    page.fill("#clone-text textarea", "from the library")
    page.click("#clone-say")
    page.wait_for_selector("#clone-status .myna-tiles")
    assert tones.spoken[-1][1] is tones.library["grandma"]
    page.get_by_role("tab", name="Voices").click()
    page.click("#voices-remove")
    page.click("#voices-keep")
    # Its answer hides the question; on a slow machine it would also hide the next one.
    page.wait_for_selector("#voices-keep", state="hidden")
    assert list(tones.library) == ["grandma"]
    page.click("#voices-remove")
    page.click("#voices-sure")
    page.wait_for_selector("#voices-list label", state="detached")
    assert tones.library == {}


def test_consent_is_asked_again_for_another_recording(visit):
    page = visit()
    give(page, "clone", "Nova")
    page.check("#clone-consent input")
    page.click("#clone-recording button[aria-label='Clear']")
    page.wait_for_function("!document.querySelector('#clone-consent input').checked")


def test_a_phone_need_not_scroll_sideways(visit):
    page = visit(390, 844)
    for tab in ("Clone", "Compress", "Voices"):
        shown = page.get_by_role("tab", name=tab)
        if shown.count():
            shown.click()
        else:  # what does not fit is behind a button
            page.click(".overflow-menu > button")
            page.get_by_role("button", name=tab, exact=True).click()
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


def upload(page, tab: str, path: Path) -> None:
    choose_file(page, tab, path)
    page.wait_for_selector(f"#{tab}-recording [data-testid^='waveform']")


def choose_file(page, tab: str, path: Path) -> None:
    page.click(f"#{tab}-recording button[aria-label='Upload file']")
    page.set_input_files(f"#{tab}-recording input[type=file]", path)


def compressed(page, folder: Path) -> bytes:
    folder.mkdir()
    with page.expect_download() as download:
        page.click("#compress-download")
    download.value.save_as(folder / "it.myna")
    return (folder / "it.myna").read_bytes()
