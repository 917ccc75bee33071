"""A few recordings through every stage that looks at nothing else: what a worker does, and all it does.

The pieces of a unit are heard in batches, so which recordings make a unit is part of the result: consecutive ones, as
many as `plan` says, the same whatever the number of workers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import process_time
from typing import Any, BinaryIO

from ..errors import InputError
from ..pretrained import dnsmos
from . import level
from .check import character_error_rate, cut_text, unsure
from .decode import open_mono
from .duplicates import audio_hash, fingerprint
from .encode import encode, file_rate
from .options import PrepareOptions
from .phonemes import phonemes
from .records import Cut, Dropped, Piece, Recording, Transcription
from .speakers import embed
from .split import cuts
from .transcribe import BatchRecogniser

UNIT_BYTES = 64 << 20  # a unit has no more, unless one recording alone is larger


@dataclass(frozen=True)
class Unit:
    """content: stands for the recordings, their sizes and times; key: for the options, too.   n_bytes: of the files."""

    key: str
    content: str
    recordings: tuple[Recording, ...]
    n_bytes: int


@dataclass
class UnitResult:
    """pieces: of all recordings, their audio in the unit's file, whose length is `n_bytes` (some of it of pieces that
    were dropped later).   seconds: recorded, of what could be read.   timings: seconds of processor time by stage, no
    part of the result."""

    pieces: list[Piece] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    seconds: float = 0.0
    n_bytes: int = 0
    timings: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> str:
        content = asdict(self)
        content["pieces"] = [asdict(piece) for piece in self.pieces]
        return json.dumps(content, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> UnitResult:
        content: dict[str, Any] = json.loads(text)
        pieces = [Piece(**piece) for piece in content["pieces"]]
        dropped = [Dropped(**one) for one in content["dropped"]]
        return cls(pieces, dropped, content["seconds"], content["n_bytes"], content["timings"])


def plan(folder: Path, recordings: Sequence[Recording], options: PrepareOptions) -> Iterator[Unit]:
    """Consecutive recordings in units."""
    said = json.dumps(options.to_dict(), sort_keys=True)
    waiting: list[Recording] = []
    facts: list[Any] = []
    n_bytes = 0

    def unit() -> Unit:
        content, key = (
            hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:32]
            for told in (facts, [said, facts])
        )
        return Unit(key, content, tuple(waiting), n_bytes)

    for recording in recordings:
        try:
            stat = (folder / recording.path).stat()
            size, changed = stat.st_size, stat.st_mtime_ns
        except OSError:  # its worker will say so
            size, changed = 0, 0
        if waiting and (len(waiting) == options.unit_files or n_bytes + size > UNIT_BYTES):
            yield unit()
            waiting, facts, n_bytes = [], [], 0
        waiting.append(recording)
        facts.append([asdict(recording), size, changed])
        n_bytes += size
    if waiting:
        yield unit()


@dataclass
class _Open:
    """A recording on its way: its pieces so far, and what was heard in each."""

    recording: Recording
    pieces: list[Piece] = field(default_factory=list)
    heard: list[Transcription | None] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    failed: str | None = None
    seconds: float = 0.0


class Pipeline:
    """The stages, with their models loaded, for one unit after another."""

    def __init__(self, folder: Path, options: PrepareOptions, recogniser: BatchRecogniser | None):
        self.folder, self.options, self.recogniser = folder, options, recogniser

    def run(self, unit: Unit, audio: BinaryIO, skip: Mapping[str, str] | None = None) -> UnitResult:
        """The unit's pieces; their audio is written to `audio`. skip: paths that are not even opened, and why."""
        self._timings: dict[str, float] = {}
        batch: list[tuple[_Open, Cut, int]] = []
        done: list[_Open] = []
        for recording in unit.recordings:
            now = _Open(recording)
            done.append(now)
            if skip and recording.path in skip:
                now.failed = skip[recording.path]
                continue
            for cut, sample_rate in self._cuts(now):
                batch.append((now, cut, sample_rate))
                if len(batch) == self.options.batch_size:
                    self._measure(batch, audio)
                    batch = []
        self._measure(batch, audio)
        result = UnitResult()
        for now in done:
            if now.failed is not None:
                result.dropped.append(Dropped(now.recording.path, "unreadable", now.failed))
                continue
            pieces, dropped = self._texts(now)
            result.seconds += now.seconds
            result.pieces += pieces
            result.dropped += sorted([*now.dropped, *dropped], key=lambda one: one.start or 0.0)
        result.seconds, result.n_bytes = round(result.seconds, 3), audio.tell()
        result.timings = {name: round(seconds, 3) for name, seconds in self._timings.items()}
        return result

    def _cuts(self, now: _Open) -> Iterator[tuple[Cut, int]]:
        recording, options = now.recording, self.options
        try:
            with open_mono(self.folder / recording.path) as (sample_rate, blocks):

                def counted():
                    for block in blocks:
                        now.seconds += len(block) / sample_rate
                        yield block

                found = cuts(
                    counted(),
                    sample_rate,
                    file_rate(sample_rate, options),
                    options,
                    recording.text is not None,
                )
                any_cut = False
                while (cut := self._timed("decode and split", lambda: next(found, None))) is not None:
                    any_cut = True
                    if cut.end - cut.start < options.min_seconds:
                        detail = f"{cut.end - cut.start:.2f} s of speech"
                        now.dropped.append(_dropped(recording.path, "too short", detail, cut))
                    else:
                        yield cut, sample_rate
                if not any_cut:
                    now.dropped.append(Dropped(recording.path, "no speech", "no voice was found"))
        except InputError as error:
            # Of a file that turns out damaged in its middle, the beginning is not trusted either.
            now.failed = str(error).replace(str(self.folder / recording.path), recording.path)

    def _measure(self, batch: list[tuple[_Open, Cut, int]], audio: BinaryIO) -> None:
        """What does not depend on the text: words heard, loudness, quality, voice; and the audio itself."""
        if not batch:
            return
        options = self.options
        heard: list[Transcription | None] = [None] * len(batch)
        if self.recogniser is not None:
            languages = [self._language(now.recording) for now, _, _ in batch]
            recogniser = self.recogniser
            heard = list(
                self._timed(
                    "transcribe", lambda: recogniser.hear([cut.wav16 for _, cut, _ in batch], languages)
                )
            )
        for (now, cut, sample_rate), said in zip(batch, heard, strict=True):
            recording = now.recording
            rate = file_rate(sample_rate, options)
            key = f"{recording.key}-{len(now.pieces):04d}"
            loud = self._timed(
                "loudness", lambda cut=cut, rate=rate: level.measure(cut.wav, rate, options.loudness)
            )
            wav = level.apply(cut.wav, loud.gain_db)
            data = self._timed("encode", lambda wav=wav, rate=rate, key=key: encode(wav, rate, key, options))
            score = (
                self._timed("quality", lambda cut=cut: dnsmos.dnsmos(cut.wav16)) if options.quality else None
            )
            voice = None
            if options.speakers and recording.speaker is None:
                voice = self._timed("speaker", lambda cut=cut: embed(cut.wav16))
            piece = Piece(
                key=key,
                path=recording.path,
                start=round(cut.start, 4),
                end=round(cut.end, 4),
                duration=round(len(cut.wav) / rate, 4),
                sample_rate=sample_rate,
                rate=rate,
                text=None,
                text_from=None,
                language=self._language(recording) or (said.language if said else None),
                loudness=loud.loudness,
                gain_db=loud.gain_db,
                audio_hash=audio_hash(cut.wav16),
                fingerprint=self._timed("duplicates", lambda cut=cut: fingerprint(cut.wav16)),
                offset=audio.tell(),
                size=len(data),
                logprob=round(said.logprob, 3) if said else None,
                quality=None if score is None else round(score, 3),
                embedding=voice,
                speaker=recording.speaker,
                split=recording.split,
                extra=recording.extra,
            )
            audio.write(data)
            now.pieces.append(piece)
            now.heard.append(said)

    def _texts(self, now: _Open) -> tuple[list[Piece], list[Dropped]]:
        """The pieces of one recording with their texts, and those that are not to be kept."""
        recording, given = now.recording, [now.recording.text] * len(now.pieces)
        if recording.text is not None and len(now.pieces) > 1:
            words = [said.text if said else "" for said in now.heard]
            language = now.pieces[0].language
            given = list(self._timed("check", lambda: cut_text(recording.text or "", words, language)))
            if self.recogniser is None:
                given = [None] * len(now.pieces)
        kept: list[Piece] = []
        dropped: list[Dropped] = []
        for piece, said, text in zip(now.pieces, now.heard, given, strict=True):
            if recording.text is not None and text is None:
                dropped.append(
                    _dropped(
                        piece.path, "text not placed", "its text spans several pieces; give --model", piece
                    )
                )
                continue
            piece, why = self._judge(piece, said, text)
            if why is not None:
                dropped.append(_dropped(piece.path, *why, piece))
                continue
            if self.options.phonemes and piece.text:
                ipa = self._timed("phonemes", lambda p=piece: phonemes(p.text or "", p.language))
                piece = replace(piece, phonemes=ipa)
            kept.append(piece)
        return kept, dropped

    def _judge(
        self, piece: Piece, said: Transcription | None, text: str | None
    ) -> tuple[Piece, tuple[str, str] | None]:
        """The piece with its text, and why it is dropped, if it is."""
        options = self.options
        if options.languages and piece.language not in options.languages:
            return piece, ("language", f"{piece.language}, not {' or '.join(options.languages)}")
        if options.min_quality is not None and (piece.quality is None or piece.quality < options.min_quality):
            return piece, ("quality", f"DNSMOS {piece.quality} is below {options.min_quality:g}")
        if text is not None:
            piece = replace(piece, text=text, text_from="given")
            if said is None:
                return piece, None
            if not text:
                return piece, ("text disagrees", f"nothing of the text is left for {said.text[:60]!r}")
            rate = self._timed("check", lambda: character_error_rate(text, said.text, piece.language))
            piece = replace(piece, cer=round(rate, 4))
            if rate > options.max_cer:
                return piece, (
                    "text disagrees",
                    f"CER {rate:.2f}: {text[:60]!r} was heard as {said.text[:60]!r}",
                )
            return piece, None
        if said is None:
            return piece, None
        piece = replace(piece, text=said.text, text_from="heard")
        why = unsure(said, options)
        return piece, None if why is None else ("unsure", f"{why}: {said.text[:60]!r}")

    def _language(self, recording: Recording) -> str | None:
        return self.options.language or recording.language

    def _timed(self, stage: str, work: Callable[[], Any]) -> Any:
        begin = process_time()
        try:
            return work()
        finally:
            self._timings[stage] = self._timings.get(stage, 0.0) + process_time() - begin


def _dropped(path: str, reason: str, detail: str, where: Cut | Piece) -> Dropped:
    return Dropped(path, reason, detail, round(where.start, 4), round(where.end, 4))
