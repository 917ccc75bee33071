"""A text on its way from the models to wherever it goes: a file, a pipe, the loudspeaker."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from ..data.files import atomic_output
from .console import Console, Progress, data_to_stdout
from .options import PIPE

if TYPE_CHECKING:
    import numpy as np

    from ..data.audio import AudioWriter
    from ..tts.draft import Draft
    from ..tts.presets import SpeechOptions
    from ..tts.speaker import Speaker
    from ..tts.synthesis import SpokenChunk
    from ..tts.text.lexicon import Lexicon
    from ..tts.text.long_text import Sentence
    from ..tts.voices.voice import Voice


@dataclass(frozen=True)
class CandidateReport:
    """A try at a sentence.

    path: where it was kept, if it was.   sentence, number: counted from 0.   score: all in all; TorToise's is CLVP's.
    chosen: it is in the speech.   scores: by their names.   missing: words that were not found.
    """

    path: str | None
    sentence: int
    number: int
    score: float | None
    seconds: float
    chosen: bool
    scores: Mapping[str, float] | None = None
    missing: int | None = None


@dataclass(frozen=True)
class SayReport:
    """What was said. seconds: of audio.   first_audio: seconds until the first of it was there, models loaded.
    real_time_factor: seconds of work for a second of audio.   resumed_at: sentences that an earlier run had said."""

    output: str | None
    voice: str
    sentences: int
    seconds: float
    sample_rate: int
    n_samples: int
    preset: str
    seed: int
    language: str
    first_audio: float | None
    elapsed: float
    real_time_factor: float | None
    resumed_at: int
    precision: str  # of the matrices of the model that speaks
    candidates: tuple[CandidateReport, ...] = ()


@dataclass
class Speaking:
    """One text on its way from the models to wherever it goes."""

    speaker: Speaker
    voice: Voice
    sentences: list[Sentence]
    options: SpeechOptions
    lexicon: Lexicon | None
    console: Console
    first_audio: float | None = None
    n_samples: int = 0  # said by this run
    tried: list[CandidateReport] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._began = time.perf_counter()

    def chunks(self, progress: Progress | None, draft: Draft | None = None) -> Iterator[SpokenChunk]:
        """The chunks of speech, progress shown; behind what a draft holds."""
        from ..tts.synthesis import SpokenChunk

        said, after = 0, None
        if draft is not None and draft.state.n_sentences:
            import numpy as np

            last = draft.state.n_sentences - 1
            said = draft.state.n_samples
            after = SpokenChunk(np.zeros(0, np.float32), last, True, 0.0, draft.state.level)
        with contextlib.closing(self.open(after, said, progress)) as stream:
            for chunk in stream:
                if self.first_audio is None and len(chunk.samples):
                    self.first_audio = time.perf_counter() - self._began
                self.n_samples += len(chunk.samples)
                self.tried += _reports(chunk)
                if progress and chunk.done:
                    self.show(progress, chunk, said)
                yield chunk

    def open(
        self, after: SpokenChunk | None, said: int, progress: Progress | None
    ) -> Generator[SpokenChunk, None, None]:
        """The speech behind `after`, `said` samples into it."""
        return self.speaker.chunks(self.sentences, self.voice, self.options, self.lexicon, after, said)

    def show(self, progress: Progress, chunk: SpokenChunk, said: int) -> None:
        """How far it is after a chunk."""
        seconds = (said + self.n_samples) / self.speaker.sample_rate
        progress(seconds, seconds / chunk.done)

    def hold(self) -> None:
        """Nobody hears a sentence while it is made, so that one in which words are missing can be said again."""
        self.options = self.options.held()

    def kept_candidates(self) -> tuple[CandidateReport, ...]:
        return tuple(self.tried)

    def report(self, output: str | None, n_samples: int, resumed_at: int = 0) -> SayReport:
        """After everything is said. n_samples: in the output, an earlier run's included."""
        elapsed = time.perf_counter() - self._began
        rate = self.speaker.sample_rate
        return SayReport(
            output=output,
            voice=self.voice.name,
            sentences=len(self.sentences),
            seconds=n_samples / rate,
            sample_rate=rate,
            n_samples=n_samples,
            preset=self.options.preset,
            seed=self.options.seed,
            language=self.options.language,
            first_audio=self.first_audio,
            elapsed=elapsed,
            real_time_factor=elapsed * rate / self.n_samples if self.n_samples else None,
            resumed_at=resumed_at,
            precision=self.speaker.precision,
            candidates=self.kept_candidates(),
        )

    # ---- where it goes

    def to_file(self, target: Path, force: bool, play: Callable[[np.ndarray], None] | None) -> SayReport:
        """A text that is said in one go: the file appears when all of it is there."""
        if play is None:
            self.hold()
        with atomic_output(target, force) as file:
            self._write(file, target.suffix, f"saying {target.name}", play)
        return self.report(str(target), self.n_samples)

    def to_pipe(self, play: Callable[[np.ndarray], None] | None) -> SayReport:
        """WAV to standard output, each chunk as soon as it is there."""
        with data_to_stdout():
            self._write(sys.stdout.buffer, ".wav", "saying", play, live=True)
        return self.report(PIPE, self.n_samples)

    def to_loudspeaker(self, play: Callable[[np.ndarray], None]) -> SayReport:
        with self.console.progress("saying") as progress:
            for chunk in self.chunks(progress):
                play(chunk.samples)
        return self.report(None, self.n_samples)

    def to_file_in_parts(self, target: Path, force: bool, restart: bool) -> SayReport:
        """A long text: a draft beside the target grows sentence by sentence, and survives the end of the program."""
        from ..tts.draft import Draft

        self.hold()
        key = self.speaker.fingerprint(self.sentences, self.voice, self.options, repr(self.lexicon))
        with Draft(target, key, restart) as draft:
            resumed_at = draft.state.n_sentences
            if draft.aside:
                self.console.note(
                    f"the draft of {target} cannot be read; it is kept aside ({draft.aside.name}), "
                    "and the text begins anew"
                )
            if resumed_at:
                self.console.note(
                    f"going on with {target} after {resumed_at} of {len(self.sentences)} sentences "
                    "(--restart begins anew)"
                )
            try:
                with self.console.progress(f"saying {target.name}") as progress:
                    for chunk in self.chunks(progress, draft):
                        draft.append(chunk.samples)
                        if chunk.ends_sentence:
                            draft.commit(chunk.sentence + 1, chunk.level)
                with atomic_output(target, force) as file:
                    writer = self._writer(file, target.suffix, draft.state.n_samples)
                    for block in draft.blocks():
                        writer.write(block)
                    writer.close()
            except BaseException:
                if draft.state.n_sentences:
                    self.console.note(
                        f"{draft.state.n_sentences} of {len(self.sentences)} sentences are kept; "
                        "the same command goes on from there"
                    )
                raise
            n_samples = draft.state.n_samples
            draft.remove()
        return self.report(str(target), n_samples, resumed_at)

    def _write(
        self,
        file: BinaryIO,
        suffix: str,
        what: str,
        play: Callable[[np.ndarray], None] | None,
        live: bool = False,
    ) -> None:
        with self.console.progress(what) as progress:
            writer = None
            for chunk in self.chunks(progress):
                # Not before there is sound: a text that cannot be said leaves no header in a pipe.
                writer = writer or self._writer(file, suffix)
                writer.write(chunk.samples[None])
                if live:
                    file.flush()
                if play:
                    play(chunk.samples)
            if writer:
                writer.close()

    def _writer(self, file: BinaryIO, suffix: str, n_samples: int | None = None) -> AudioWriter:
        from ..data.audio import open_writer
        from ..marks.tags import synthetic_tags

        tags = synthetic_tags(self.voice.name)
        return open_writer(file, self.speaker.sample_rate, 1, suffix=suffix, n_frames=n_samples, tags=tags)


def _reports(chunk: SpokenChunk) -> list[CandidateReport]:
    """The tries at a sentence that a chunk ends."""
    return [
        CandidateReport(
            None,
            chunk.sentence,
            number,
            one.total,
            one.seconds,
            one.chosen,
            {name: round(score, 4) for name, score in one.scores.items()},
            one.missing,
        )
        for number, one in enumerate(chunk.tried)
    ]
