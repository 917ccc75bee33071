"""The Clone tab: a recording or a saved voice, a text, and the text in that voice."""

from __future__ import annotations

import html
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import UsageError
from .engine import Engine
from .feedback import guarded
from .parts import CONSENT, ask_again, consent_box, drawn, note, picture, recording_input, sample_voices
from .pictures import draw
from .samples import TEXTS
from .speech import LONGEST_TEXT, SpeechPanel, check_text
from .workspace import Workspace

RECORDING = "The recording below"


def voice_from(engine: Engine, path: str | None, said: str | None, consent: bool, name: str) -> Any:
    """A voice from what a visitor gave. Raises UsageError for what is missing, and as `Engine.make_voice`."""
    if not path:
        raise UsageError(
            "there is no voice yet; record three seconds, upload a recording, or click one of the voices"
        )
    if not consent:
        raise UsageError("tick the box first: it says that the voice is yours, or that its owner agreed")
    import gradio as gr

    statement = f"{CONSENT} (ticked on the demo page)"
    voice = engine.make_voice(Path(path), name, statement, (said or "").strip() or None)
    for line in voice.notes:
        gr.Warning(html.escape(line[0].upper() + line[1:]) + ".", title="About the recording")
    return voice


def speaking_inputs(name: str, engine: Engine) -> tuple[Any, Any]:
    """Preset and seed, beside each other."""
    import gradio as gr

    with gr.Row():
        preset = gr.Radio(
            list(engine.presets),
            value=next(iter(engine.presets)),
            label="Preset",
            info="; ".join(f"{key}: {what}" for key, what in engine.presets.items()),
            scale=3,
            min_width=180,
            elem_id=f"{name}-preset",
        )
        seed = gr.Number(
            value=1,
            precision=0,
            minimum=0,
            label="Seed",
            info="the same gives the same; empty: another each time",
            scale=2,
            min_width=140,
            elem_id=f"{name}-seed",
        )
    return preset, seed


def voice_choices(engine: Engine) -> list[str]:
    return [RECORDING, *(voice.name for voice in engine.voices())]


def build(engine: Engine, workspace: Workspace, concurrency: dict[str, Any]) -> Any:
    """Put the tab's parts into the Blocks that are being built; the dropdown of voices, for who changes them."""
    import gradio as gr

    prepared = gr.State(None)  # of this visitor: (recording, what is said in it) and the voice made of it
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=300):
            choice = gr.Dropdown([RECORDING], value=RECORDING, label="Voice", elem_id="clone-voice")
            with gr.Column() as given:
                recording = recording_input("Three seconds of a voice", "clone")
                said = gr.Textbox(
                    label="What is said in it",
                    placeholder="May stay empty; with it the voice comes closer",
                    render=False,
                    max_length=1000,
                    elem_id="clone-said",
                )
                sample_voices("clone", [recording, said])
                said.render()
                consent = consent_box("clone")
            prompt = picture("The voice", "clone-prompt")
        with gr.Column(scale=6, min_width=300):
            text = gr.Textbox(
                label="Text",
                placeholder="What shall it say?",
                lines=4,
                max_lines=12,
                max_length=LONGEST_TEXT,
                elem_id="clone-text",
            )
            gr.Examples(
                [[sample.line] for sample in TEXTS],
                [text],
                example_labels=[sample.label for sample in TEXTS],
                label="Or one of these",
                elem_id="clone-texts",
                api_visibility="private",
            )
            preset, seed = speaking_inputs("clone", engine)
            with gr.Row():
                button = gr.Button("Say it", variant="primary", scale=3, min_width=140, elem_id="clone-say")
                stop = gr.Button("Stop", scale=1, min_width=80, elem_id="clone-stop")
            panel = SpeechPanel("clone", engine, workspace)

    def say(
        chosen: str,
        path: str | None,
        said: str | None,
        consent: bool,
        cached: tuple[Any, Any] | None,
        text: str | None,
        preset: str,
        seed: float | None,
    ) -> Iterator[list[Any]]:
        check_text(text)
        skip = gr.skip()
        yield [skip, skip, skip, note("Listening to the voice"), skip, skip]
        if chosen == RECORDING:
            if cached is None or cached[0] != (path, said) or not consent:
                cached = ((path, said), voice_from(engine, path, said, consent, "demo"))
            voice = cached[1]
            title = f"{Path(path or '').stem}-cloned"
        else:
            voice, title = engine.load_voice(chosen), chosen
        for values in panel.run(text, voice, title, preset, seed):
            yield [cached, skip, *values]
        # Last, since the first sound should not wait for a picture.
        image = draw(engine.prompt(voice), engine.sample_rate, "The voice, as it was heard")
        yield [skip, drawn(image), *[skip] * len(panel.outputs)]

    event = button.click(
        guarded(say),
        [choice, recording, said, consent, prepared, text, preset, seed],
        [prepared, prompt, *panel.outputs],
        show_progress_on=[panel.status],
        api_name="say",
        **concurrency,
    )
    stop.click(panel.stopped, None, [panel.status], cancels=[event], queue=False, api_visibility="private")
    choice.change(
        lambda chosen: gr.update(visible=chosen == RECORDING), [choice], [given], api_visibility="private"
    )
    ask_again(recording, consent, said)
    return choice
