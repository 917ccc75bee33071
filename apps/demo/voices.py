"""The Voices tab: what the library of this machine holds, and adding, removing, trying."""

from __future__ import annotations

import html
from collections.abc import Iterator
from typing import Any

from ...errors import UsageError
from .clone import speaking_inputs, voice_choices, voice_from
from .engine import Engine, VoiceFacts
from .feedback import guarded
from .parts import ask_again, consent_box, html_line, note, player, recording_input, sample_voices
from .samples import TEXTS
from .speech import LONGEST_TEXT, SpeechPanel, check_text
from .workspace import Workspace

EMPTY = "No voices yet: add one, then it is here and on the Clone tab."


def facts(voice: VoiceFacts) -> str:
    """What is known of a voice, as HTML."""
    rows = [
        ("prompt", f"{voice.seconds:.1f} s"),
        ("made from", voice.source),
        ("on", voice.created),
        ("consent", voice.consent),
    ]
    if voice.problem:
        rows = [("problem", voice.problem)]
    elif voice.ours:
        rows[2] = ("kept by", "the package")
    rows += [("note", remark) for remark in voice.remarks]
    cells = "".join(f"<dt>{what}</dt><dd>{html.escape(value or '?')}</dd>" for what, value in rows)
    return f'<dl class="myna-voice">{cells}</dl>'


def build(
    engine: Engine, workspace: Workspace, concurrency: dict[str, Any], clone_choice: Any
) -> tuple[Any, Any]:
    """Put the tab's parts into the Blocks that are being built.

    clone_choice: the Clone tab's dropdown.   Returns the function that lists the library, and its outputs.
    """
    import gradio as gr

    with gr.Row(equal_height=False):
        with gr.Column(scale=6, min_width=300):
            listed = gr.Radio([], label="Voices", elem_id="voices-list")
            about = html_line("voices-facts", note(EMPTY))
            prompt = player("What it was made from", "voices-prompt", visible=False)
            remove = gr.Button("Remove", size="sm", visible=False, elem_id="voices-remove")
            with gr.Row(visible=False) as asking:
                question = gr.Markdown("")
                sure = gr.Button("Remove it", variant="stop", min_width=110, elem_id="voices-sure")
                keep = gr.Button("Keep it", min_width=90, elem_id="voices-keep")
            with gr.Column(visible=False) as usable:
                text = gr.Textbox(
                    TEXTS[0].line,
                    label="Try it with",
                    lines=2,
                    max_length=LONGEST_TEXT,
                    elem_id="voices-text",
                )
                preset, seed = speaking_inputs("voices", engine)
                with gr.Row():
                    attempt = gr.Button(
                        "Try", variant="primary", scale=3, min_width=140, elem_id="voices-try"
                    )
                    stop = gr.Button("Stop", scale=1, min_width=80, elem_id="voices-stop")
                panel = SpeechPanel("voices", engine, workspace)
        with gr.Column(scale=5, min_width=300):
            gr.Markdown("### Add a voice")
            name = gr.Textbox(label="Name", placeholder="grandma", max_length=64, elem_id="voices-name")
            recording = recording_input("Three seconds of it", "voices")
            said = gr.Textbox(
                label="What is said in it",
                placeholder="May stay empty; with it the voice comes closer",
                render=False,
                max_length=1000,
                elem_id="voices-said",
            )
            sample_voices("voices", [recording, said])
            said.render()
            consent = consent_box("voices")
            add = gr.Button("Add", variant="primary", elem_id="voices-add")
            added = html_line("voices-added", note(""))

    def choose(picked: str | None) -> list[Any]:
        """Values for `shown`."""
        hidden = gr.update(visible=False)
        voices = engine.voices()
        found = next((voice for voice in voices if voice.name == picked), None)
        if found is None:
            return [note("Choose a voice." if voices else EMPTY), hidden, hidden, hidden, hidden]
        removing = gr.update(visible=not found.ours)
        if found.problem:
            return [facts(found), hidden, hidden, removing, hidden]
        voice = engine.load_voice(found.name)
        path = workspace.new(f"{found.name}-prompt.wav")
        engine.write(path, engine.prompt(voice), voice)
        heard = gr.Audio(value=str(path), visible=True)
        return [facts(found), gr.update(visible=True), heard, removing, hidden]

    def refresh(picked: str | None, cloning: str | None) -> list[Any]:
        """Values for `lists`: the library may have changed on the command line or in another window."""
        choices = voice_choices(engine)
        names = choices[1:]
        picked = picked if picked in names else None
        cloning = cloning if cloning in choices else choices[0]
        return [gr.Radio(choices=names, value=picked), gr.Dropdown(choices=choices, value=cloning)]

    def add_voice(
        name: str | None, path: str | None, said: str | None, consent: bool, cloning: str | None
    ) -> list[Any]:
        if not (name or "").strip():
            raise UsageError("the voice has no name yet; give it one")
        wanted = (name or "").strip()
        if any(voice.name == wanted for voice in engine.voices()):
            raise UsageError(
                f"there is a voice named {wanted} already; give another name, or remove that one first"
            )
        engine.save_voice(voice_from(engine, path, said, consent, wanted))
        return [*refresh(wanted, cloning), "", None, "", False, note(f"{wanted} is in the library.")]

    def remove_voice(picked: str | None, cloning: str | None) -> list[Any]:
        if picked:
            engine.remove_voice(picked)
        return refresh(None, cloning)

    def speak(picked: str | None, text: str | None, preset: str, seed: float | None) -> Iterator[list[Any]]:
        check_text(text)
        if not picked:
            raise UsageError("no voice is chosen; choose one of the list")
        yield from panel.run(text, engine.load_voice(picked), picked, preset, seed)

    shown = [about, usable, prompt, remove, asking]
    lists = [listed, clone_choice]
    quiet: dict[str, Any] = {"api_visibility": "private"}
    listed.change(guarded(choose), [listed], shown, show_progress="hidden", **quiet)
    add.click(
        guarded(add_voice),
        [name, recording, said, consent, clone_choice],
        [*lists, name, recording, said, consent, added],
        show_progress_on=[added],
        **quiet,
        **concurrency,
    )
    remove.click(
        lambda picked: [gr.update(visible=True), f"Remove {picked} for good?"],
        [listed],
        [asking, question],
        **quiet,
    )
    keep.click(lambda: gr.update(visible=False), None, [asking], **quiet)
    sure.click(guarded(remove_voice), [listed, clone_choice], lists, **quiet)
    event = attempt.click(
        guarded(speak),
        [listed, text, preset, seed],
        panel.outputs,
        show_progress_on=[panel.status],
        **quiet,
        **concurrency,
    )
    stop.click(panel.stopped, None, [panel.status], cancels=[event], queue=False, **quiet)
    ask_again(recording, consent, said)
    return guarded(refresh), lists
