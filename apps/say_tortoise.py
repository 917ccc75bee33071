"""`myna say --model tortoise`."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.files import output_errors
from ..errors import UsageError
from .console import Console, Progress
from .speaking import CandidateReport, Speaking

if TYPE_CHECKING:
    from ..tts.draft import Draft
    from ..tts.synthesis import SpokenChunk
    from ..tts.tortoise.presets import TortoiseOptions
    from ..tts.tortoise.speaker import CandidateSound

NAME = "tortoise"
N_KEPT = 3  # candidates that are kept of a sentence, as TorToise's own command line keeps


@dataclass
class CandidateFolder:
    """Candidates as files, each written when it is there: an interruption leaves those before it."""

    folder: Path
    force: bool
    voice: str
    written: list[CandidateReport] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.folder.exists() and not self.folder.is_dir():
            raise UsageError(f"{self.folder} is a file; --keep-candidates wants a folder")
        with output_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            if not self.force and any(self.folder.iterdir()):
                raise UsageError(f"{self.folder} is not empty; --force writes into it all the same")

    def give(self, made: CandidateSound) -> None:
        from ..data.audio import write_audio
        from ..marks.tags import synthetic_tags
        from ..tts.tortoise.conditioning import RATE

        score = "unscored" if made.score is None else f"{made.score:.3f}"
        path = self.folder / f"sentence-{made.sentence + 1:03}_candidate-{made.number + 1:03}_{score}.wav"
        write_audio(path, made.samples, RATE, self.force, tags=synthetic_tags(self.voice))
        self.written.append(
            CandidateReport(str(path), made.sentence, made.number, made.score, made.seconds, made.chosen)
        )


@dataclass
class TortoiseSpeaking(Speaking):
    """A text on its way through TorToise. Its progress is counted in time, not in sound, which comes late."""

    candidates: CandidateFolder | None = None

    def open(
        self, after: SpokenChunk | None, said: int, progress: Progress | None
    ) -> Generator[SpokenChunk, None, None]:
        from ..tts.tortoise.speaker import Kept

        speaker: Any = self.speaker
        began, n_sentences = time.perf_counter(), len(self.sentences)

        def report(sentence: int, stage: str, done: int, of: int) -> None:
            if progress is None or not of or stage == "codes":  # nobody knows how many it will be
                return
            share = 0.9 * done / of if stage == "candidates" else 0.9 + 0.1 * done / of
            elapsed = time.perf_counter() - began
            progress(elapsed, elapsed * n_sentences / (sentence + share) if sentence + share else None)

        kept = None if self.candidates is None else Kept(N_KEPT, self.candidates.give)
        return speaker.chunks(
            self.sentences, self.voice, self.options, None, after, said, kept=kept, report=report
        )

    def chunks(self, progress: Progress | None, draft: Draft | None = None) -> Iterator[SpokenChunk]:
        try:
            yield from super().chunks(progress, draft)
        except KeyboardInterrupt:
            if self.candidates and self.candidates.written:
                self.console.note(
                    f"{len(self.candidates.written)} candidates are kept in {self.candidates.folder}"
                )
            raise

    def hold(self) -> None:
        """Its sentences are whole anyway."""

    def show(self, progress: Progress, chunk: SpokenChunk, said: int) -> None:
        """The reports have shown it."""

    def kept_candidates(self) -> tuple[CandidateReport, ...]:
        return tuple(self.candidates.written) if self.candidates else ()


def speaking(
    text: str,
    model: str,
    voice: str | None,
    consent: str | None,
    options: TortoiseOptions,
    keep: str | None,
    force: bool,
    precision: str,
    device: str,
    console: Console,
) -> TortoiseSpeaking:
    """Everything loaded that it takes; what is wrong with the text is said before the networks are looked for."""
    from ..tts.tortoise.precision import check_precision
    from ..tts.tortoise.speaker import TortoiseSpeaker
    from ..tts.tortoise.text.passages import split, spoken
    from ..tts.tortoise.text.tokenizer import encode
    from ..tts.voices.library import shipped_voices
    from .consent import ask_consent

    sentences = split(text)
    for sentence in sentences:
        encode(spoken(sentence.text))
    voice = next(iter(shipped_voices())) if voice is None else voice
    if any(
        Path(part.strip()).exists() and not part.strip().endswith(".safetensors") for part in voice.split("&")
    ):
        consent = ask_consent(voice, consent)
    folder = None if model == NAME else Path(model)
    speaker = TortoiseSpeaker(device=device, precision=check_precision(precision), folder=folder)
    known = speaker.voice(voice, consent, options.seed)
    for line in known.notes:
        console.note(f"{known.name}: {line}")
    candidates = None if keep is None else CandidateFolder(Path(keep), force, known.name)
    return TortoiseSpeaking(
        speaker,  # pyright: ignore[reportArgumentType]
        known,  # pyright: ignore[reportArgumentType]
        sentences,
        options,  # pyright: ignore[reportArgumentType]
        None,
        console,
        candidates=candidates,
    )


def is_tortoise(model: str) -> bool:
    """Whether --model means TorToise: its name, or a folder of its files."""
    if model == NAME:
        return True
    path = Path(model)
    if not path.is_dir():
        return False
    from ..tts.tortoise.files import FILES, find_network

    return any(find_network(network, path) for network in FILES)
