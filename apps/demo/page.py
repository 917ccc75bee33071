"""The page: a header, its tabs, a footer; built once, served to many."""

from __future__ import annotations

from typing import Any

from . import clone, compress, convert, tortoise, voices
from .engine import Engine
from .look import FOOTER, HEADER
from .workspace import Workspace

# Two at a time: one visitor does not wait for another's chapter, and two cores are not shared by twenty.
CONCURRENCY: dict[str, Any] = {"concurrency_limit": 2, "concurrency_id": "models"}


def build_page(engine: Engine, workspace: Workspace) -> Any:
    """The `gradio.Blocks` to launch. What belongs to a visitor lives in `gr.State`, never in a variable here."""
    import gradio as gr

    with gr.Blocks(title="Myna", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.HTML(HEADER, container=False, padding=False)
        with gr.Tabs():
            with gr.Tab("Clone", id="clone"):
                choice = clone.build(engine, workspace, CONCURRENCY)
            if engine.converts():
                with gr.Tab("Convert", id="convert"):
                    convert.build(engine, workspace, CONCURRENCY)
            with gr.Tab("Compress", id="compress"):
                compress.build(workspace, CONCURRENCY)
            if tortoise.available():
                with gr.Tab("TorToise", id="tortoise"):
                    tortoise.build(workspace, CONCURRENCY)
            with gr.Tab("Voices", id="voices") as tab:
                refresh, lists = voices.build(engine, workspace, CONCURRENCY, choice)
        gr.HTML(FOOTER, container=False)
        for look_again in (page.load, tab.select):
            look_again(refresh, lists, lists, show_progress="hidden", api_visibility="private")
    return page.queue(max_size=32)
