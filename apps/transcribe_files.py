"""Recordings to transcripts: which files, where their texts go, and one bad file among many."""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..asr.writers import SubtitleOptions, format_timestamp, line_of, render
from ..data.files import atomic_output, check_output, output_errors
from ..errors import InputError, MynaError, UsageError
from .console import Console, Progress, clock, complain, data_to_stdout
from .options import PIPE

if TYPE_CHECKING:
    from ..asr.diarization.label import Turns
    from ..asr.transcribe import TranscribeOptions
    from ..asr.transcriber import Transcriber, WhoSpeaks
    from ..asr.transcript import Segment, Transcript

_TOGETHER = 3600.0  # seconds of audio in memory at once, at most, when recordings are decoded together


@dataclass(frozen=True)
class Recording:
    """stem: the name of its outputs below their folder, without a suffix.   seconds: None where the header does not
    say."""

    source: str
    stem: Path
    seconds: float | None = None

    @property
    def name(self) -> str:
        return "standard input" if self.source == PIPE else self.source


@dataclass(frozen=True)
class Outputs:
    """Where transcripts go: into `folder`, in every format of `kinds`; without a folder, in the only one, to standard
    output."""

    folder: Path | None
    kinds: tuple[str, ...]
    subtitles: SubtitleOptions
    force: bool = False

    def targets(self, recording: Recording) -> list[Path]:
        if self.folder is None:
            return []
        place = self.folder / recording.stem
        return [place.with_name(f"{place.name}.{kind}") for kind in self.kinds]

    def check(self, recording: Recording) -> None:
        """Raises UsageError if one of its files exists without `force`, OutputError if they cannot be written."""
        targets = self.targets(recording)
        for target in targets[:1]:  # all are in one folder
            with output_errors(target):
                there = next(folder for folder in target.absolute().parents if folder.exists())
                tempfile.TemporaryFile(dir=there).close()  # its mode does not say it: disks may be read-only
        for target in targets:
            check_output(target, self.force)

    def write(self, recording: Recording, transcript: Transcript) -> list[str]:
        """Every file, whole or not at all; their names."""
        targets = self.targets(recording)
        contents = [render(transcript, kind, self.subtitles) for kind in self.kinds]
        for target, content in zip(targets, contents, strict=True):
            with output_errors(target):
                target.parent.mkdir(parents=True, exist_ok=True)
            with atomic_output(target, self.force) as file:
                file.write(content.encode())
        return [str(target) for target in targets]


@dataclass(frozen=True)
class TranscribeReport:
    """What was heard in one recording. elapsed: seconds of work; None for one of several that were decoded together."""

    input: str
    outputs: list[str]
    model: str
    precision: str
    seconds: float
    elapsed: float | None
    language: str
    text: str
    segments: list[dict[str, Any]] = field(repr=False)


class FileTranscriber:
    """Transcribes recordings, short ones side by side.

    load: gives the model, when the first recording needs it.   batch_size: of `Transcriber.transcribe` where
    `batched`, otherwise how many recordings side by side.   vad, diarize: as there.   verbose: segments, with
    times, to standard error.
    """

    def __init__(
        self,
        load: Callable[[], Transcriber],
        options: TranscribeOptions,
        outputs: Outputs,
        console: Console,
        batched: bool = False,
        batch_size: int = 8,
        vad: bool = False,
        verbose: bool = False,
        diarize: WhoSpeaks | None = None,
    ):
        self._load, self._options, self._outputs, self._console = load, options, outputs, console
        self._batched, self._batch_size, self._vad, self._verbose = batched, batch_size, vad, verbose
        self._diarize = diarize
        self._stdout = sys.stdout  # while a progress bar is shown, rich stands in for it

    def one(self, recording: Recording) -> None:
        """The only recording: what is wrong with it ends the command."""
        recording = self._checked(recording)
        transcriber = self._load()
        with self._progress(f"transcribing {recording.name}") as progress:
            began = time.perf_counter()
            transcript = self._transcribe(transcriber, recording, self._streams(), progress)
            elapsed = time.perf_counter() - began
            report = self._deliver(transcriber, recording, transcript, elapsed, streamed=self._streams())
        if self._console.json:
            self._console.result(report, "")
        if report.outputs:
            self._say(describe(report))

    def many(self, recordings: list[Recording]) -> None:
        """One after the other; a bad one is reported and the rest go on. Ends with the exit code of the failures, 1 if
        they are of different kinds. With --json the outcome is {"files": [...], "errors": [...]}."""
        errors: list[dict[str, Any]] = []
        reports: list[TranscribeReport] = []

        def fail(recording: Recording, error: MynaError) -> None:
            message = str(error)
            if recording.source not in message:
                message = f"{recording.name}: {message}"
            complain(message)
            errors.append({"input": recording.source, "error": message, "exit_code": error.exit_code})

        good: list[Recording] = []
        for recording in recordings:
            try:
                good.append(self._checked(recording))
            except MynaError as error:
                fail(recording, error)
        began = time.perf_counter()
        if good:
            transcriber = self._load()
            began = time.perf_counter()
            with self._progress(f"transcribing {len(good)} recordings") as progress:
                for recording, transcript, elapsed in self._transcripts(transcriber, good, fail, progress):
                    try:
                        reports.append(self._deliver(transcriber, recording, transcript, elapsed, title=True))
                    except MynaError as error:
                        fail(recording, error)
                        continue
                    if reports[-1].outputs:
                        self._say(describe(reports[-1]))
        self._conclude(reports, errors, time.perf_counter() - began)

    def _conclude(
        self, reports: list[TranscribeReport], errors: list[dict[str, Any]], elapsed: float
    ) -> None:
        if self._console.json:
            files = [asdict(report) for report in reports]
            self._console.result({"files": files, "errors": errors, "elapsed": elapsed}, "")
        elif errors:
            complain(f"{len(errors)} of {len(errors) + len(reports)} files failed")
        if reports:
            self._say(summarize(reports, elapsed))
        codes = {error["exit_code"] for error in errors}
        if codes:
            raise typer.Exit(codes.pop() if len(codes) == 1 else 1)

    # ---- one recording or a group of them

    def _checked(self, recording: Recording) -> Recording:
        """Its length, if its header says so; what can be wrong with it is said before the model is loaded."""
        path = Path(recording.source)
        if recording.source != PIPE and (path.is_file() or not path.exists()):  # a pipe can be read only once
            from ..data.audio import AudioReader

            with AudioReader(recording.source) as reader:
                n_frames = reader.info.n_frames
                recording = replace(
                    recording, seconds=n_frames / reader.info.sample_rate if n_frames else None
                )
        self._outputs.check(recording)
        return recording

    def _transcripts(
        self,
        transcriber: Transcriber,
        recordings: list[Recording],
        fail: Callable[[Recording, MynaError], None],
        progress: Progress | None,
    ) -> Iterator[tuple[Recording, Transcript, float | None]]:
        """In their order, with the seconds of work where a recording was alone."""
        total, done = sum(recording.seconds or 0.0 for recording in recordings), 0.0

        def advance(seconds: float, _: float | None = None) -> None:
            if progress:
                progress(done + seconds, max(total, done + seconds))

        for group in self._groups(recordings):
            if len(group) > 1:
                for recording, transcript in self._together(transcriber, group, fail):
                    done += transcript.duration
                    advance(0.0)
                    yield recording, transcript, None
                continue
            began = time.perf_counter()
            try:
                transcript = self._transcribe(transcriber, group[0], False, advance)
            except MynaError as error:
                fail(group[0], error)
                continue
            done += transcript.duration
            yield group[0], transcript, time.perf_counter() - began

    def _groups(self, recordings: list[Recording]) -> Iterator[list[Recording]]:
        """Neighbours that are decoded together: those short enough that a full batch fits into memory."""
        longest = 0.0 if self._batched or self._vad else _TOGETHER / self._batch_size
        group: list[Recording] = []
        for recording in recordings:
            if recording.seconds is not None and recording.seconds <= longest:
                group.append(recording)
                continue
            if group:
                yield group
                group = []
            yield [recording]
        if group:
            yield group

    def _together(
        self,
        transcriber: Transcriber,
        group: list[Recording],
        fail: Callable[[Recording, MynaError], None],
    ) -> Iterator[tuple[Recording, Transcript]]:
        from ..asr.transcriber import load_samples

        loaded: list[Recording] = []
        turns: list[Turns] = []

        def samples() -> Iterator[Any]:
            for recording in group:
                try:
                    audio = load_samples(recording.source)
                except MynaError as error:
                    fail(recording, error)
                    continue
                loaded.append(recording)
                if self._diarize is not None:
                    turns.append(self._diarize(audio))
                yield audio

        options = self._options if self._diarize is None else replace(self._options, word_timestamps=True)
        transcripts = transcriber.transcribe_many(samples(), options, batch_size=self._batch_size)
        for index, transcript in enumerate(transcripts):
            if self._diarize is not None:
                transcript = turns[index].label(transcript)
            if self._verbose:
                print(f"{loaded[index].name}:", file=sys.stderr)
                for segment in transcript.segments:
                    self._show(segment)
            yield loaded[index], transcript

    def _transcribe(
        self, transcriber: Transcriber, recording: Recording, stream: bool, progress: Progress | None
    ) -> Transcript:
        def settled(segment: Segment) -> None:
            if stream:
                self._print(f"{line_of(segment)}\n")
            if self._verbose:
                self._show(segment)

        return transcriber.transcribe(
            recording.source,
            self._options,
            batch_size=self._batch_size if self._batched else 0,
            vad=self._vad,
            diarize=self._diarize or False,
            on_segment=settled,
            on_progress=progress,
        )

    # ---- where it goes

    def _streams(self) -> bool:
        """Whether the text appears on a terminal as it is settled; a pipe gets all of it at once, or nothing."""
        return self._to_stdout() and self._outputs.kinds == ("txt",) and self._stdout.isatty()

    def _to_stdout(self) -> bool:
        return self._outputs.folder is None and not self._console.json

    def _deliver(
        self,
        transcriber: Transcriber,
        recording: Recording,
        transcript: Transcript,
        elapsed: float | None,
        title: bool = False,
        streamed: bool = False,
    ) -> TranscribeReport:
        names = self._outputs.write(recording, transcript) if self._outputs.folder else []
        if self._to_stdout() and not streamed:
            head = f"==> {recording.name} <==\n" if title else ""
            self._print(head + render(transcript, self._outputs.kinds[0], self._outputs.subtitles))
        content = transcript.to_dict()
        return TranscribeReport(
            input=recording.source,
            outputs=names,
            model=transcriber.name,
            precision=transcriber.precision,
            seconds=transcript.duration,
            elapsed=elapsed,
            language=transcript.language,
            text=transcript.text,
            segments=content["segments"],
        )

    def _print(self, text: str) -> None:
        """Text to standard output, in UTF-8 whatever the terminal's encoding."""
        with data_to_stdout():
            self._stdout.buffer.write(text.encode())
            self._stdout.buffer.flush()

    def _say(self, line: str) -> None:
        """A line about what was written, for people."""
        if self._outputs.folder and not self._console.json and not self._console.quiet:
            # rich shows on the terminal what is printed beside its bar: not what was to go elsewhere.
            print(line, file=sys.stdout if self._stdout.isatty() else self._stdout, flush=True)

    def _progress(self, what: str) -> contextlib.AbstractContextManager[Progress | None]:
        """The bar, unless the text itself appears on the terminal."""
        if self._to_stdout() and self._stdout.isatty():
            return contextlib.nullcontext()
        return self._console.progress(what)

    def _show(self, segment: Segment) -> None:
        times = " --> ".join(format_timestamp(round(1000 * time)) for time in (segment.start, segment.end))
        print(f"[{times}] {line_of(segment)}", file=sys.stderr, flush=True)


def find_recordings(files: Iterable[str], to_files: bool) -> list[Recording]:
    """What the arguments name: files, standard input ("-"), everything that is audio below a folder.

    Raises InputError for a folder without audio, UsageError if two recordings would become one file (`to_files`), or
    if standard input is named twice.
    """
    from ..data.audio import SUFFIXES

    found: list[Recording] = []
    for name in files:
        if name == PIPE:
            recordings = [Recording(PIPE, Path("stdin"))]
        elif Path(name).is_dir():
            folder = Path(name)
            recordings = [
                Recording(str(path), _without_suffix(path.relative_to(folder)))
                for path in sorted(folder.rglob("*"))
                if path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith(".")
            ]
            if not recordings:
                raise InputError(f"{folder} holds no files named {', '.join(SUFFIXES)}")
        else:
            recordings = [Recording(name, Path(_without_suffix(Path(name)).name))]
        found += recordings
    if sum(recording.source == PIPE for recording in found) > 1:
        raise UsageError("standard input (-) can be read once; name it once")
    by_stem: dict[Path, Recording] = {}
    for recording in found if to_files else ():
        other = by_stem.setdefault(recording.stem, recording)
        if other is not recording:
            raise UsageError(
                f"{other.name} and {recording.name} would both become {recording.stem}.*; transcribe them one by one, "
                "or rename one of them"
            )
    return found


def describe(report: TranscribeReport) -> str:
    """One line for people, of a report with outputs."""
    first, *others = report.outputs
    names = ", ".join((first, *(Path(other).suffix for other in others)))
    line = f"{names}: {report.seconds:.2f} s of audio, language {report.language}"
    return f"{line}, {report.seconds / report.elapsed:.1f}x real time" if report.elapsed else line


def summarize(reports: list[TranscribeReport], elapsed: float) -> str:
    seconds = sum(report.seconds for report in reports)
    return (
        f"{len(reports)} recordings, {clock(seconds)} of audio in {clock(elapsed)}, "
        f"{seconds / max(elapsed, 1e-9):.1f}x real time"
    )


def _without_suffix(path: Path) -> Path:
    return path.with_suffix("") if path.suffix else path
