"""Speech while it is made: a player that starts before the sentence is finished, then the whole with its picture."""

from __future__ import annotations

import io
import secrets
import time
import wave
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np

from ...data.wav import to_int16
from ...errors import UsageError
from ...tts.presets import SpeechOptions
from .engine import Engine
from .parts import drawn, html_line, note, picture, player, tiles
from .pictures import draw
from .workspace import Workspace

if TYPE_CHECKING:
    from ...tts.synthesis import SpokenChunk

FIRST_SECONDS, LATER_SECONDS = 0.24, 0.8  # of audio a message to the browser: soon at first, then seldom
LONGEST_TEXT = 5000  # characters: minutes of speech; a chapter is for `myna say --text-file`
SEEDS = 1 << 31


class SpeechPanel:
    """The parts that show speech, and the generator that fills them.

    outputs: the components that `run` yields for, in order.
    """

    def __init__(self, name: str, engine: Engine, workspace: Workspace):
        import gradio as gr

        self.engine, self.workspace = engine, workspace
        self.live = gr.Audio(
            label="While it is made",
            streaming=True,
            autoplay=True,
            interactive=False,
            buttons=[],
            elem_id=f"{name}-live",
        )
        self.status = html_line(f"{name}-status", note("Nothing said yet."))
        self.result = player("Whole, as WAV", f"{name}-result", visible=False)
        self.drawing = picture("Speech", f"{name}-drawing")
        self.outputs = [self.live, self.status, self.result, self.drawing]

    def run(
        self, text: str | None, voice: Any, title: str, preset: str, seed: float | None
    ) -> Iterator[list[Any]]:
        """Values for `outputs`, a list a chunk. Raises MynaError."""
        number = check_seed(seed)
        said = check_text(text)
        return self.show(
            lambda: self.engine.speak(said, voice, SpeechOptions(preset, number)),
            voice,
            title,
            number,
            "nothing was said; give a text with words in it",
        )

    def show(
        self,
        make: Callable[[], Generator[SpokenChunk, None, None]],
        voice: Any,
        title: str,
        number: int,
        nothing: str,
    ) -> Iterator[list[Any]]:
        """The same for any speech in a voice. number: its seed.   nothing: what to say where there is none."""
        import gradio as gr

        began, first, heard = time.perf_counter(), None, 0.0
        told = began
        made: list[np.ndarray] = []
        rate = self.engine.sample_rate
        hidden = gr.update(visible=False)
        yield [gr.skip(), note("Thinking"), hidden, hidden]
        chunks = make()
        waiting: list[np.ndarray] = []
        with closing(chunks):
            for chunk in chunks:
                waiting.append(chunk.samples)
                n = sum(map(len, waiting))
                # Each message as long as all before it: what plays outlasts the making of the next at twice real time.
                if n < min(LATER_SECONDS, max(FIRST_SECONDS, heard)) * rate:
                    if first is None and time.perf_counter() > told + 0.5:
                        told = time.perf_counter()
                        yield [gr.skip(), note("Thinking", chunk.done), gr.skip(), gr.skip()]
                    continue
                made += waiting
                heard += n / rate
                first = first or time.perf_counter() - began
                line = f"Speaking: {heard:.1f} s so far, the first after {first:.2f} s"
                yield [_wav(np.concatenate(waiting), rate), note(line, chunk.done), gr.skip(), gr.skip()]
                waiting = []
        samples = np.concatenate([*made, *waiting, np.zeros(0, np.float32)])
        if not len(samples):
            raise UsageError(nothing)
        elapsed = time.perf_counter() - began
        path = self.workspace.new(f"{title}.wav")
        self.engine.write(path, samples, voice)
        numbers = [
            (f"{len(samples) / rate:.1f} s", "of speech"),
            (f"{first or elapsed:.2f} s", "to the first sound"),
            (f"{elapsed * rate / len(samples):.2f}", "of real time"),
            (str(number), "seed"),
        ]
        last = _wav(np.concatenate(waiting), rate) if waiting else gr.skip()
        shown = drawn(draw(samples, rate, "Speech"))
        yield [last, tiles(numbers), gr.Audio(value=str(path), visible=True), shown]

    @staticmethod
    def stopped() -> str:
        return note("Stopped.")


def check_text(text: str | None) -> str:
    """Raises UsageError where there is nothing to say, or too much for a page."""
    text = (text or "").strip()
    if not text:
        raise UsageError("there is no text yet; type what the voice shall say, or click one below the box")
    if len(text) > LONGEST_TEXT:
        raise UsageError(
            f"the text has {len(text)} characters, the page takes {LONGEST_TEXT}; "
            "`myna say --text-file` on the command line takes any length"
        )
    return text


def check_seed(seed: float | None) -> int:
    """A number from 0; another one each time where none is given. Raises UsageError."""
    if seed is None:
        return secrets.randbelow(10_000)
    if not 0 <= seed < SEEDS or seed != int(seed):
        raise UsageError(f"{seed:g} is not a seed; give a whole number from 0, or leave the box empty")
    return int(seed)


def _wav(samples: np.ndarray, sample_rate: int) -> bytes:
    """(N,) as a 16-bit WAV: the chunk of a stream."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(to_int16(samples[None]).astype("<i2").tobytes())
    return out.getvalue()
