"""Who says what in an evaluation of cloned speech: voices never heard in training, texts they did say, or others did.

    recordings -> speakers -> for each: one recording (or several short ones, joined) becomes the prompt
                                        the texts of its others are said, then those of other speakers

The same recordings and seed give the same choice, whatever the models.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from ...data.files import input_errors
from ...errors import InputError
from ..clips import Clip
from ..measures.intelligibility import words

PROMPT_SECONDS = 3.0  # of a recording, from which it is a prompt of its own
_TWO_PARTS = 2 * PROMPT_SECONDS  # of an only recording, from which it is prompt and reference in two parts
LONGEST_PROMPT = 30.0
_GAP = 0.2  # seconds of silence between recordings that are joined
_TRIES = 6  # prompts that a speaker offers


@dataclass(frozen=True)
class Person:
    """One person of one source, and all that was recorded of them."""

    name: str
    source: str
    recordings: tuple[Clip, ...]

    @cached_property
    def parts(self) -> tuple[Clip, Clip] | None:
        """The first three seconds of an only recording, and its rest, if that is as long; what is said in either is not
        known."""
        if len(self.recordings) != 1 or self.recordings[0].duration < _TWO_PARTS:
            return None
        (clip,) = self.recordings
        n = round(PROMPT_SECONDS * clip.sample_rate)
        return replace(clip, wav=clip.wav[:n], text=None), replace(clip, wav=clip.wav[n:], text=None)

    def beside(self, used: Sequence[Clip | None]) -> list[Clip]:
        """The recordings that are none of these: where the beginning of an only one is, its rest."""
        if self.parts is not None and any(clip is self.parts[0] for clip in used):
            return [self.parts[1]]
        return apart(self.recordings, used)

    def prompts(self, seed: int) -> Iterator[tuple[Clip, ...]]:
        """Recordings to make a voice from, the best choice first: one that is long enough, or several, joined; of an
        only recording its beginning."""
        if self.parts is not None:
            yield self.parts[:1]
            return
        shuffled = _shuffled(self.recordings, f"{seed} prompt {self.name}")
        usable = [clip for clip in shuffled if clip.duration <= LONGEST_PROMPT]
        long = [(clip,) for clip in usable if clip.duration >= PROMPT_SECONDS]
        yield from long[:_TRIES]
        short = [clip for clip in usable if clip.duration < PROMPT_SECONDS]
        joined: list[Clip] = []
        for clip in short:
            joined.append(clip)
            if sum(c.duration for c in joined) >= PROMPT_SECONDS:
                yield tuple(joined)
                joined = []
        if joined and not long and len(joined) == len(short):  # all there is
            yield tuple(joined)


@dataclass(frozen=True)
class Line:
    """A text to be said. recording: a real one of it, by `speaker` or somebody else; None where there is none."""

    text: str
    recording: Clip | None = None


def people_of(clips: Sequence[Clip], nameless: str | None = None) -> list[Person]:
    """The clips by source and speaker, in order. nameless: who speaks where nothing says it; None: a recording of
    nobody known is a speaker of its own."""
    found: dict[tuple[str, str], list[Clip]] = {}
    for clip in sorted(clips, key=lambda clip: clip.speaker is None):  # those who have a name keep it
        source = clip.source or "recordings"
        name = clip.speaker or nameless or clip.key
        if clip.speaker is None and nameless is None:
            names = (name, *(f"{name} {i}" for i in range(2, len(clips) + 2)))
            name = next(free for free in names if (source, free) not in found)
        found.setdefault((source, name), []).append(clip)
    return [Person(name, source, tuple(theirs)) for (source, name), theirs in sorted(found.items())]


def some_of(people: Sequence[Person], n: int | None) -> list[Person]:
    """At most n people of each source, evenly spread; None for all."""
    by_source: dict[str, list[Person]] = {}
    for person in people:
        by_source.setdefault(person.source, []).append(person)
    return [person for theirs in by_source.values() for person in _spread(theirs, n)]


def lines_for(
    person: Person, everybody: Sequence[Person], used: Sequence[Clip], n: int, seed: int
) -> list[Line]:
    """At most n lines: what the speaker said besides the prompt (`used`), then what others of the source did."""
    taken = {_plain(clip.text) for clip in used if clip.text}
    own = person.beside(used)
    others = [
        clip for s in everybody if s.source == person.source and s is not person for clip in s.recordings
    ]
    lines: list[Line] = []
    for clip in (
        *_shuffled(own, f"{seed} text {person.name}"),
        *_shuffled(others, f"{seed} text {person.name}"),
    ):
        plain = _plain(clip.text or "")
        if len(lines) < n and plain and clip.text and plain not in taken:
            taken.add(plain)
            lines.append(Line(as_written(clip.text), clip))
    return lines


def read_lines(path: str | Path, n: int | None = None) -> list[Line]:
    """A text a line of a file. Raises InputError for a file without any."""
    with input_errors(path):
        content = Path(path).read_bytes()
    try:
        lines = [Line(line.strip()) for line in content.decode("utf-8-sig").splitlines() if words(line)]
    except UnicodeDecodeError:
        raise InputError(f"{path} is not text in UTF-8; give a text file with a sentence a line") from None
    if not lines:
        raise InputError(f"{path} holds no words; give a text file with a sentence a line")
    return lines[:n]


def as_written(text: str) -> str:
    """A transcript in capitals as it would be written: speech models read capitals as letters one by one."""
    if not text.isupper():
        return text
    said = re.sub(r"(?<![\w'])i(?!\w)", "I", " ".join(text.lower().split()))
    return said[0].upper() + said[1:] + ("" if said[-1] in ".?!" else ".")


def joined(clips: Sequence[Clip]) -> np.ndarray:
    """(N,): recordings of one sample rate, with short pauses between them."""
    gap = np.zeros(round(_GAP * clips[0].sample_rate), np.float32)
    parts = [part for clip in clips for part in (gap, clip.wav)]
    return np.concatenate(parts[1:])


def apart(clips: Sequence[Clip], from_these: Sequence[Clip | None]) -> list[Clip]:
    """Those clips that are none of the others."""
    others = {id(clip) for clip in from_these}
    return [clip for clip in clips if id(clip) not in others]


def _plain(text: str | None) -> str:
    return " ".join(words(text or ""))


def _shuffled(clips: Sequence[Clip], seed: str) -> list[Clip]:
    return random.Random(seed).sample(list(clips), len(clips))


def _spread(speakers: list[Person], n: int | None) -> list[Person]:
    if n is None or n >= len(speakers):
        return speakers
    return [speakers[i * len(speakers) // n] for i in range(n)]
