"""The Convert tab: speech of one person in the voice of another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import UsageError
from .clone import RECORDING, voice_choices, voice_from
from .engine import Engine
from .feedback import guarded
from .parts import ask_again, consent_box, note, recording_input, sample_voices
from .speech import SpeechPanel, check_seed
from .workspace import Workspace

LONGEST = 120.0  # seconds: what is longer is for `myna convert` on the command line


def check_talk(path: str | None) -> Path:
    """Raises UsageError where there is no recording, or one that is too long for a page; InputError for no sound."""
    from ...data.audio import AudioReader

    if not path:
        raise UsageError("there is nothing to convert yet; record somebody who speaks, or upload a recording")
    with AudioReader(path) as reader:
        seconds = (reader.info.n_frames or 0) / reader.info.sample_rate
    if seconds > LONGEST:
        raise UsageError(
            f"the recording has {seconds:.0f} s, the page takes {LONGEST:.0f}; "
            "`myna convert` on the command line takes any length"
        )
    return Path(path)


def build(engine: Engine, workspace: Workspace, concurrency: dict[str, Any]) -> None:
    """Put the tab's parts into the Blocks that are being built."""
    import gradio as gr

    prepared = gr.State(None)  # of this visitor: the recording of the voice and the voice made of it
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=300):
            talk = recording_input("What is said", "convert-talk")
            choice = gr.Dropdown([RECORDING], value=RECORDING, label="Voice", elem_id="convert-voice")
            with gr.Column() as given:
                recording = recording_input("Three seconds of the voice that shall say it", "convert")
                sample_voices("convert", [recording])
                consent = consent_box("convert")
        with gr.Column(scale=6, min_width=300):
            seed = gr.Number(
                value=1,
                precision=0,
                minimum=0,
                label="Seed",
                info="the same gives the same; empty: another each time",
                elem_id="convert-seed",
            )
            with gr.Row():
                button = gr.Button("Convert", variant="primary", scale=3, min_width=140, elem_id="convert-go")
                stop = gr.Button("Stop", scale=1, min_width=80, elem_id="convert-stop")
            panel = SpeechPanel("convert", engine, workspace)

    def convert(
        path: str | None,
        chosen: str,
        voice_path: str | None,
        consent: bool,
        cached: tuple[Any, Any] | None,
        seed: float | None,
    ) -> Iterator[list[Any]]:
        number, source = check_seed(seed), check_talk(path)
        skip = gr.skip()
        yield [skip, skip, note("Listening to the voice"), skip, skip]
        if chosen == RECORDING:
            if cached is None or cached[0] != voice_path or not consent:
                cached = (voice_path, voice_from(engine, voice_path, None, consent, "demo"))
            voice, title = cached[1], f"{Path(voice_path or '').stem}-converted"
        else:
            voice, title = engine.load_voice(chosen), f"{chosen}-converted"
        nothing = "nothing came of it; give a recording in which somebody speaks"
        for values in panel.show(
            lambda: engine.convert(source, voice, number), voice, title, number, nothing
        ):
            yield [cached, *values]

    event = button.click(
        guarded(convert),
        [talk, choice, recording, consent, prepared, seed],
        [prepared, *panel.outputs],
        show_progress_on=[panel.status],
        api_name="convert",
        **concurrency,
    )
    stop.click(panel.stopped, None, [panel.status], cancels=[event], queue=False, api_visibility="private")
    choice.focus(
        lambda: gr.update(choices=voice_choices(engine)),
        None,
        [choice],
        show_progress="hidden",
        api_visibility="private",
    )
    choice.change(
        lambda chosen: gr.update(visible=chosen == RECORDING), [choice], [given], api_visibility="private"
    )
    ask_again(recording, consent, gr.State(""))
