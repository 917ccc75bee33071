"""The TorToise tab: clips of a voice, a text, and the best candidates with their scores. There only where TorToise's
files are installed."""

from __future__ import annotations

import html
import queue
import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...errors import UsageError
from .feedback import guarded
from .parts import CONSENT, consent_box, html_line, note, player
from .speech import check_seed, check_text
from .workspace import Workspace

if TYPE_CHECKING:
    from ...tts.tortoise.presets import TortoiseOptions
    from ...tts.tortoise.speaker import CandidateSound, TortoiseSpeaker
    from ...tts.tortoise.voices import TortoiseVoice

N_KEPT = 3  # candidates of a sentence
CLIPS, RANDOM = "The clips below", "random"


class _StoppedError(Exception):
    """The visitor has gone."""


@dataclass(frozen=True)
class Player:
    """A recording to show.   title: what is written over it."""

    title: str
    path: str


def available() -> bool:
    """Whether TorToise can be used here."""
    from ...tts.tortoise import registry

    return registry.is_installed("tortoise")


class Shared:
    """One speaker for all visitors, loaded when the first needs it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._speaker: TortoiseSpeaker | None = None

    def speaker(self) -> TortoiseSpeaker:
        from ...tts.tortoise.speaker import TortoiseSpeaker

        with self._lock:
            if self._speaker is None:
                self._speaker = TortoiseSpeaker()
            return self._speaker


def read_voice(
    speaker: TortoiseSpeaker, chosen: str, paths: list[str] | None, consent: bool, seed: int
) -> TortoiseVoice:
    """The voice that a visitor chose. Raises UsageError for what is missing, and as `TortoiseSpeaker.voice`."""
    if chosen != CLIPS:
        return speaker.voice(chosen, seed=seed)
    if not paths:
        raise UsageError("there is no voice yet; give one or several clips of one person, or choose a voice")
    if not consent:
        raise UsageError("tick the box first: it says that the voice is yours, or that its owner agreed")
    return speaker.voice(paths, f"{CONSENT} (ticked on the demo page)")


def say(
    speaker: TortoiseSpeaker, text: str, voice: TortoiseVoice, options: TortoiseOptions, workspace: Workspace
) -> Generator[tuple[str, list[Player]], None, None]:
    """Status lines as HTML, and the players there are so far, while the work goes on in a thread; closing the
    generator ends it at its next step, for which only the end of the program waits: it may be seconds long."""
    from ...data.audio import write_audio
    from ...marks.tags import synthetic_tags
    from ...tts.threads import RUNNING

    def written(name: str, samples: Any) -> str:
        path = workspace.new(name)
        write_audio(path, samples, speaker.sample_rate, tags=synthetic_tags(voice.name))
        return str(path)

    players: list[Player] = []
    began, told = time.perf_counter(), 0.0
    work = _Work(speaker, text, voice, options)
    RUNNING.begin(work)
    try:
        while True:
            event = work.events.get()
            if isinstance(event, _StoppedError):
                return
            if isinstance(event, BaseException):
                raise event
            if isinstance(event, tuple):
                if time.perf_counter() > told + 0.3:
                    told = time.perf_counter()
                    yield note(*event), players
            elif hasattr(event, "score"):
                players = [*players, Player(describe(event), written("candidate.wav", event.samples))]
                yield note("A candidate is ready"), players
            else:
                seconds = time.perf_counter() - began
                whole = Player("The text", written("tortoise.wav", event))
                length = len(event) / speaker.sample_rate
                yield (
                    note(f"{length:.1f} s of speech in {seconds:.0f} s, seed {options.seed}"),
                    [whole, *players],
                )
                return
    finally:
        work.leave()


class _Work:
    """A text that is said in a thread.   events: tuples of a line and how much of it is done, candidates, and last the
    samples (N,) or an error."""

    def __init__(self, speaker: TortoiseSpeaker, text: str, voice: TortoiseVoice, options: TortoiseOptions):
        self._speaker, self._said = speaker, (text, voice, options)
        self.events: queue.Queue[Any] = queue.Queue()
        self._left = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True, name="tortoise")

    def leave(self) -> None:
        self._left.set()

    def _run(self) -> None:
        from ...tts.threads import RUNNING
        from ...tts.tortoise.speaker import Kept

        text, voice, options = self._said
        try:
            kept = None if options.streams else Kept(N_KEPT, self.events.put)
            self.events.put(self._speaker.say(text, voice, options, kept, self._report))
        except BaseException as error:
            self.events.put(error)
        RUNNING.ended(self)

    def _report(self, sentence: int, stage: str, done: int, of: int) -> None:
        if self._left.is_set():
            raise _StoppedError
        if stage == "codes":  # some number of as many as there may be: it says nothing
            return
        self.events.put((f"Sentence {sentence + 1}: {stage}, {done} of {of}", done / max(of, 1)))


def describe(candidate: CandidateSound) -> str:
    """The title of a candidate's player."""
    score = "not scored" if candidate.score is None else f"score {candidate.score:.2f}"
    chosen = ", the best" if candidate.chosen else ""
    return f"Sentence {candidate.sentence + 1}, candidate {candidate.number + 1}: {score}{chosen}"


def build(workspace: Workspace, concurrency: dict[str, Any]) -> None:
    """Put the tab's parts into the Blocks that are being built."""
    import gradio as gr

    from ...tts.tortoise.presets import PRESETS, TortoiseOptions
    from ...tts.voices.library import shipped_voices

    shared = Shared()
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=300):
            choice = gr.Dropdown(
                [CLIPS, RANDOM, *shipped_voices()], value=CLIPS, label="Voice", elem_id="tortoise-voice"
            )
            clips = gr.File(
                label="Clips of one person, 3 to 10 s each",
                file_count="multiple",
                file_types=["audio"],
                elem_id="tortoise-clips",
            )
            consent = consent_box("tortoise")
        with gr.Column(scale=6, min_width=300):
            text = gr.Textbox(
                label="Text",
                placeholder="In English; [words in brackets] set the tone and are cut out",
                lines=3,
                elem_id="tortoise-text",
            )
            preset = gr.Radio(
                list(PRESETS),
                value="ultra_fast",
                label="Preset",
                info="; ".join(f"{name}: {preset.description}" for name, preset in PRESETS.items()),
                elem_id="tortoise-preset",
            )
            with gr.Row():
                n = gr.Slider(
                    0,
                    64,
                    value=4,
                    step=1,
                    label="Candidates",
                    info="0: as the preset says",
                    elem_id="tortoise-n",
                )
                seed = gr.Number(value=1, precision=0, minimum=0, label="Seed", elem_id="tortoise-seed")
            with gr.Row():
                button = gr.Button("Say it", variant="primary", scale=3, elem_id="tortoise-say")
                stop = gr.Button("Stop", scale=1, elem_id="tortoise-stop")
            status = html_line("tortoise-status", note("Nothing said yet. TorToise takes its time on a CPU."))
            made = gr.State([])

            @gr.render(inputs=[made])
            def show(players: list[Player]) -> None:
                for index, one in enumerate(players):
                    player(html.escape(one.title), f"tortoise-player-{index}", value=one.path)

    def start(
        chosen: str,
        paths: list[str] | None,
        agreed: bool,
        text: str | None,
        preset: str,
        n: float,
        seed: float | None,
    ) -> Iterator[list[Any]]:
        text, number = check_text(text), check_seed(seed)
        candidates = None if preset == "streaming" or not n else int(n)
        options = TortoiseOptions(preset, number, candidates)
        yield [note("Loading the networks and listening to the voice"), []]
        speaker = shared.speaker()
        voice = read_voice(speaker, chosen, paths, agreed, number)
        shown: list[Player] | None = None
        for line, players in say(speaker, text, voice, options, workspace):
            yield [line, players if players != shown else gr.skip()]
            shown = players

    event = button.click(
        guarded(start),
        [choice, clips, consent, text, preset, n, seed],
        [status, made],
        show_progress_on=[status],
        api_name="tortoise",
        **concurrency,
    )
    stop.click(
        lambda: note("Stopped."), None, [status], cancels=[event], queue=False, api_visibility="private"
    )
    choice.change(
        lambda chosen: [gr.update(visible=chosen == CLIPS)] * 2,
        [choice],
        [clips, consent],
        api_visibility="private",
    )
