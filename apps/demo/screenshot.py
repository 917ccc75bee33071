"""Takes the README's picture of the page: `python -m myna.apps.demo.screenshot docs/demo.png`.

With the models that ship, in Debian's Chromium: pip install playwright, apt-get install chromium.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from ...data.files import atomic_output
from ...errors import MissingModelError
from .engine import Engine
from .server import serving

WIDTH, HEIGHT, PATIENCE = 1280, 900, 300_000  # points, milliseconds


def take(path: Path) -> None:
    """Say the first text in the first voice and write what the page shows then, as PNG with 256 colours."""
    from PIL import Image
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise MissingModelError("there is no Chromium on this machine; apt-get install chromium")
    with serving(Engine()) as served, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, reduced_motion="reduce")
        page.set_default_timeout(PATIENCE)
        page.goto(served.url)
        page.click("#clone-samples button >> nth=0")
        page.wait_for_selector("#clone-recording [data-testid^='waveform']")
        page.check("#clone-consent input")
        page.click("#clone-texts button >> nth=0")
        page.wait_for_function("document.querySelector('#clone-text textarea').value")
        page.click("#clone-say")
        page.wait_for_selector("#clone-status .myna-tiles")
        page.wait_for_selector("#clone-prompt img")
        page.mouse.move(0, 0)
        page.wait_for_timeout(1500)  # for the players to draw themselves
        with atomic_output(path, force=True) as file:
            file.write(page.screenshot(full_page=True))
        browser.close()
    # Few colours are enough for a page, and a third of the size.
    image = Image.open(path).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    with atomic_output(path, force=True) as file:
        image.save(file, format="PNG", optimize=True)


if __name__ == "__main__":
    take(Path(sys.argv[1]))
