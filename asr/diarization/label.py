"""Words and segments by the turns that they lie in.

turns       |A A A A A A A A|   |B B B B B|A A A A|
words        so it is done.      it is!    good
segments    [A: so it is done.] [B: it is!][A: good]
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ..transcript import OnSegment, Segment, Transcript, Word

_PAUSE = 0.3  # seconds without a word, from which on a change of the speaker is believed where it is
_ENDS = (".", "?", "!", "…", "。", "？", "！")


@dataclass(frozen=True)
class Turn:
    """Who speaks from when to when, in seconds."""

    start: float
    end: float
    speaker: str


@dataclass(frozen=True)
class Turns:
    """Who speaks when: turns in order, none of which overlap. named: speakers with names of their own; the others have
    letters, in order of appearance, in a transcript in order of their appearance there."""

    turns: tuple[Turn, ...]
    named: frozenset[str] = frozenset()

    @property
    def speakers(self) -> tuple[str, ...]:
        """In order of appearance."""
        return tuple(dict.fromkeys(turn.speaker for turn in self.turns))

    def at(self, start: float, end: float) -> str | None:
        """Who speaks most between two times; whoever speaks next to them where nobody does; None where nobody ever
        does."""
        if not self.turns:
            return None
        first = bisect_left(self.turns, start, key=lambda turn: turn.end)
        spoken: dict[str, float] = {}
        following = (self.turns[i] for i in range(first, len(self.turns)))
        for turn in itertools.takewhile(lambda turn: turn.start < end, following):
            seconds = min(turn.end, end) - max(turn.start, start)
            spoken[turn.speaker] = spoken.get(turn.speaker, 0.0) + seconds
        if any(seconds > 0 for seconds in spoken.values()):
            return max(spoken, key=lambda speaker: spoken[speaker])
        beside = self.turns[max(first - 1, 0) : first + 1]
        return min(beside, key=lambda turn: max(turn.start - end, start - turn.end)).speaker

    def label(self, transcript: Transcript) -> Transcript:
        """The transcript, its words and segments with their speakers; a segment in which the speaker changes becomes
        several. Segments are numbered anew."""
        labeller = Labeller(self)
        parts = [part for segment in transcript.segments for part in labeller.parts(segment)]
        return replace(transcript, segments=tuple(parts))


class Labeller:
    """Gives the segments of one transcript, in their order, to their speakers."""

    def __init__(self, turns: Turns):
        self._turns = turns
        self._letters = (speaker for speaker in turns.speakers if speaker not in turns.named)
        self._names: dict[str | None, str | None] = {None: None, **{name: name for name in turns.named}}
        self._n = 0

    def parts(self, segment: Segment) -> list[Segment]:
        """The segment with its speaker; where the speaker changes, one for each. Without words it stays whole."""
        parts = [
            replace(self._with_name(part), id=number)
            for number, part in enumerate(self._parts(segment), self._n)
        ]
        self._n += len(parts)
        return parts

    def _with_name(self, part: Segment) -> Segment:
        if part.speaker not in self._names:
            self._names[part.speaker] = next(self._letters)
        name = self._names[part.speaker]
        words = part.words and tuple(replace(word, speaker=name) for word in part.words)
        return replace(part, speaker=name, words=words)

    def _parts(self, segment: Segment) -> Iterator[Segment]:
        if not segment.words:
            speaker = self._turns.at(segment.start, segment.end) if segment.text.strip() else None
            yield replace(segment, speaker=speaker)
            return
        who = _smoothed(segment.words, [self._turns.at(word.start, word.end) for word in segment.words])
        words = [replace(word, speaker=speaker) for word, speaker in zip(segment.words, who, strict=True)]
        runs = [tuple(run) for _, run in itertools.groupby(words, key=lambda word: word.speaker)]
        if len(runs) == 1:
            yield replace(segment, words=runs[0], speaker=who[0])
            return
        for i, run in enumerate(runs):
            yield replace(
                segment,
                start=segment.start if i == 0 else run[0].start,
                end=segment.end if i == len(runs) - 1 else run[-1].end,
                text="".join(word.word for word in run),
                tokens=tuple(token.id for word in run for token in word.tokens),
                words=run,
                speaker=run[0].speaker,
            )


def told_apart(turns: Turns, on_segment: OnSegment) -> OnSegment:
    """A listener to segments as they are settled that tells another one their parts."""
    labeller = Labeller(turns)

    def settled(segment: Segment) -> None:
        for part in labeller.parts(segment):
            on_segment(part)

    return settled


def _smoothed(words: Sequence[Word], who: list[str | None]) -> list[str | None]:
    """Times of words and turns are known to about 0.2 s: a word that nobody paused at does not change the speaker
    alone, and a change one word beside the end of a sentence is at that end."""
    who = list(who)
    n = len(words)
    pause = [words[i].start - words[i - 1].end >= _PAUSE for i in range(1, n)]  # before word i + 1
    ends = [word.word.rstrip("\"'”’)»").endswith(_ENDS) for word in words]
    for i in range(1, n - 1):
        alone = who[i - 1] == who[i + 1] != who[i]
        if alone and not pause[i - 1] and not pause[i]:
            who[i] = who[i - 1]
    for i in range(1, n):  # a change before word i
        if who[i] == who[i - 1] or pause[i - 1] or ends[i - 1]:
            continue
        if ends[i] and i + 1 < n and not pause[i]:
            who[i] = who[i - 1]
        elif i > 1 and ends[i - 2] and who[i - 2] == who[i - 1] and not pause[i - 2]:
            who[i - 1] = who[i]
    return who
