"""What several tabs show alike: a recording to give, players, pictures, tiles with numbers, a consent box."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from .samples import sample_recordings

CONSENT = "This voice is mine, or its owner agreed that I make it speak."


def recording_input(label: str, name: str) -> Any:
    """An upload or a recording from the microphone, as the path of a file."""
    import gradio as gr

    return gr.Audio(
        sources=["microphone", "upload"],
        type="filepath",
        label=label,
        elem_id=f"{name}-recording",
        buttons=[],
        waveform_options=_waves(),
    )


def sample_voices(name: str, inputs: Sequence[Any]) -> None:
    """Voices to click; inputs: the recording and, if it is asked for, the box for what is said in it."""
    import gradio as gr

    voices = sample_recordings()
    gr.Examples(
        [[str(voice.path), voice.said][: len(inputs)] for voice in voices],
        list(inputs),
        example_labels=[voice.label for voice in voices],
        label="Or one of these",
        elem_id=f"{name}-samples",
        api_visibility="private",
    )


def player(label: str, name: str, **options: Any) -> Any:
    """A recording to listen to and to download."""
    import gradio as gr

    return gr.Audio(
        label=label,
        elem_id=name,
        **{"interactive": False, "buttons": ["download"], "waveform_options": _waves(), **options},
    )


def picture(label: str, name: str) -> Any:
    """Where a drawing of `pictures.draw` goes; it carries its own title."""
    import gradio as gr

    return gr.Image(
        label=label,
        show_label=False,
        format="png",
        interactive=False,
        buttons=[],
        container=False,
        visible=False,
        elem_id=name,
        elem_classes=["myna-picture"],
    )


def drawn(image: Any) -> Any:
    """The update that shows a drawing."""
    import gradio as gr

    return gr.Image(value=image, visible=True)


def consent_box(name: str) -> Any:
    import gradio as gr

    return gr.Checkbox(label=CONSENT, value=False, elem_id=f"{name}-consent")


def html_line(name: str, content: str) -> Any:
    """HTML in line with the components around it."""
    import gradio as gr

    return gr.HTML(content, elem_id=name, elem_classes=["myna-line"], container=False, padding=False)


def ask_again(recording: Any, consent: Any, said: Any) -> None:
    """Consent and transcript are of one recording: when it is taken out, both are asked for anew.

    Gradio also says "clear" when a visitor without a recording turns from microphone to upload; that is nothing.
    """
    import gradio as gr

    last = gr.State(None)
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    recording.change(lambda path, last: path or last, [recording, last], [last], **quiet)
    recording.clear(
        lambda last: [gr.skip()] * 3 if last is None else [None, False, ""],
        [last],
        [last, consent, said],
        **quiet,
    )


def tiles(numbers: Sequence[tuple[str, str]]) -> str:
    """Numbers with what they are, as HTML."""
    cells = "".join(
        f"<div><b>{html.escape(number)}</b><span>{html.escape(what)}</span></div>" for number, what in numbers
    )
    return f'<div class="myna-tiles">{cells}</div>'


def note(line: str, done: float | None = None) -> str:
    """One line of status as HTML, with a bar where the share done is known."""
    bar = "" if done is None else f'<progress value="{min(max(done, 0.0), 1.0):.3f}" max="1"></progress>'
    return f'<div class="myna-note"><span>{html.escape(line)}</span>{bar}</div>'


def _waves() -> Any:
    import gradio as gr

    return gr.WaveformOptions(waveform_color="#a8a29e", waveform_progress_color="#d99a00", sample_rate=24_000)
