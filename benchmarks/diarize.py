"""Who speaks when, in conversations made of recordings of single people, as diarization error rate.

    python benchmarks/diarize.py SHARD... [--conversations 36] [--speakers 2 3 4] [--threshold X]
    python benchmarks/diarize.py SHARD... --centre weights/ge2e.centre.safetensors     # writes that file

Each SHARD gives conversations of its own. Its recordings are cut at their pauses into pieces of up to 6 s; a
conversation is two to four people taking turns, a piece or two each, with 0 to 0.7 s of silence between turns, nobody
talking over another, no piece twice (seed 0). The truth is where Silero's detector hears speech in each piece by
itself, so that what is measured is mostly who speaks, less whether somebody does.

The error rate (NIST) is (missed + false alarm + confused) / speech, in frames of 10 ms, with the mapping of speakers
that is best for the system; with a collar, frames within 0.25 s of where a turn begins or ends in truth do not count.
Three ways: how many people there are is found, or is told, or half of the people are known by a recording of 2 to 5 s
that is not in the conversation, and a stranger, too (other conversations, of people with three pieces or more; speech
of the known that does not get their own names is confused). named: known people whose name went to them; falsely named:
names that went to somebody else.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from myna.asr.diarization import turns as diarization
from myna.asr.diarization.known import know
from myna.asr.diarization.label import Turn
from myna.asr.diarization.options import DiarizeOptions
from myna.asr.diarization.turns import find_turns
from myna.asr.diarization.voices import SPEECH, find_voices
from myna.asr.vad import VadOptions, speech_spans
from myna.evaluation.clips import load_clips
from safetensors.torch import save_file
from scipy.optimize import linear_sum_assignment

RATE = 16_000
FRAME = 0.01  # seconds
COLLAR = 0.25
PIECE = 6.0  # seconds at most
_CUT = VadOptions(min_silence=0.15, pad=0.1, max_length=PIECE)
_HEAR = VadOptions(min_silence=0.3, pad=0.05)


@dataclass(frozen=True)
class Conversation:
    """wav (N,) at 16 kHz, who speaks when in it, and samples of each speaker that are not in it, where there are."""

    wav: np.ndarray
    turns: list[Turn]
    others: dict[str, np.ndarray]

    @property
    def n_speakers(self) -> int:
        return len({turn.speaker for turn in self.turns})


def pieces_of(shard: str) -> dict[str, list[np.ndarray]]:
    """The pieces (N,) of each speaker of a shard, of 0.8 s and more, in their order."""
    found: dict[str, list[np.ndarray]] = defaultdict(list)
    for clip in load_clips([shard], RATE):
        for span in speech_spans(clip.wav, _CUT):
            if span.seconds >= 0.8:
                found[clip.speaker or clip.key].append(
                    clip.wav[round(span.start * RATE) : round(span.end * RATE)]
                )
    return found


def able(pieces: dict[str, list[np.ndarray]], reference: bool) -> list[str]:
    """Who has pieces enough for a conversation, and for a reference beside it."""
    return sorted(
        name
        for name, own in pieces.items()
        if len(own) >= 2 + reference and (not reference or max(map(len, own)) >= 2 * RATE)
    )


def converse(
    pieces: dict[str, list[np.ndarray]], n_speakers: int, rng: np.random.Generator, reference: bool
) -> Conversation:
    """One conversation. reference: a piece of 2 s or more of each speaker is kept out of it, and there is one of
    somebody who is not in it."""
    names = able(pieces, reference)
    drawn = [names[i] for i in rng.choice(len(names), n_speakers + reference, replace=False)]
    left, others = {name: list(pieces[name]) for name in drawn}, {}
    for name in drawn if reference else ():
        lengths = [len(piece) for piece in left[name]]
        others[name] = left[name].pop(int(np.argmax(lengths)))[: 5 * RATE]
    names = drawn[:n_speakers]
    made: list[np.ndarray] = []
    turns: list[Turn] = []
    at, last, n_turns = 0.0, None, 0
    order = list(rng.permutation(names))  # everybody speaks
    while n_turns < 14:
        who = [name for name in names if left[name] and (name != last or n_speakers == 1)]
        if not who:
            break
        name = order.pop() if order else str(rng.choice(who))
        for _ in range(min(int(rng.integers(1, 3)), len(left[name]))):
            wav = left[name].pop(0)
            turns += [Turn(at + s.start, at + s.end, name) for s in speech_spans(wav, _HEAR)]
            made.append(wav)
            at += len(wav) / RATE
        gap = np.zeros(int(rng.uniform(0, 0.7) * RATE), np.float32)
        made.append(gap)
        at += len(gap) / RATE
        last, n_turns = name, n_turns + 1
    return Conversation(np.concatenate(made), turns, others)


def conversations(
    shard: str, n: int, speakers: Sequence[int], reference: bool = False, seed: int = 0
) -> Iterator[Conversation]:
    """So many of a shard, the numbers of speakers taking turns; none where there are too few people for it."""
    pieces, rng = pieces_of(shard), np.random.default_rng(seed)
    if len(able(pieces, reference)) < max(speakers) + reference:
        return
    for i in range(n):
        yield converse(pieces, speakers[i % len(speakers)], rng, reference)


@dataclass
class Errors:
    """Seconds, that can be added up."""

    speech: float = 0.0
    missed: float = 0.0
    false_alarm: float = 0.0
    confused: float = 0.0

    def __iadd__(self, other: Errors) -> Errors:
        for name in vars(self):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        return self

    @property
    def rate(self) -> float:
        return (self.missed + self.false_alarm + self.confused) / max(self.speech, FRAME)


def frames(turns: Sequence[Turn], n: int) -> tuple[np.ndarray, list[str]]:
    """Who speaks in each frame (n,), -1: nobody; and the names of the numbers."""
    names = list(dict.fromkeys(turn.speaker for turn in turns))
    who = np.full(n, -1)
    for turn in turns:
        who[round(turn.start / FRAME) : round(turn.end / FRAME)] = names.index(turn.speaker)
    return who, names


def score(
    truth: Sequence[Turn], found: Sequence[Turn], collar: float = 0.0, named: Collection[str] = ()
) -> Errors:
    """named: speakers who have to have their own names; of the others the best mapping is taken."""
    n = round(max((turn.end for turn in (*truth, *found)), default=0.0) / FRAME)
    (true, names), (guess, labels) = frames(truth, n), frames(found, n)
    counts = np.ones(n, bool)
    for edge in (edge for turn in truth for edge in (turn.start, turn.end)):
        counts[max(0, round((edge - collar) / FRAME)) : round((edge + collar) / FRAME)] = False
    true, guess = true[counts], guess[counts]
    both = np.zeros((len(names), len(labels)))
    np.add.at(both, (true[(true >= 0) & (guess >= 0)], guess[(true >= 0) & (guess >= 0)]), 1)
    free = both.copy()
    for i, name in enumerate(names):
        for j, label in enumerate(labels):
            if (name in named or label in named) and name != label:
                free[i, j] = 0
    right = free[linear_sum_assignment(free, maximize=True)].sum()
    speech, heard = true >= 0, guess >= 0
    return Errors(
        speech.sum() * FRAME,
        (speech & ~heard).sum() * FRAME,
        (~speech & heard).sum() * FRAME,
        (both.sum() - right) * FRAME,
    )


@dataclass
class Row:
    """What is printed of a shard."""

    name: str
    n: int = 0
    counted: int = 0
    n_known: int = 0
    n_named: int = 0
    n_falsely_named: int = 0
    errors: dict[str, Errors] = field(default_factory=lambda: defaultdict(Errors))
    seconds: float = 0.0
    elapsed: float = 0.0

    def __str__(self) -> str:
        rates = [
            f"{100 * self.errors[name].rate:.1f}" if self.errors[name].speech else "-"
            for name in ("found", "found, collar", "told", "told, collar", "known")
        ]
        found = self.errors["found"]
        parts = [
            f"{100 * part / max(found.speech, FRAME):.1f}"
            for part in (found.missed, found.false_alarm, found.confused)
        ]
        cells = [self.name, self.n, f"{self.seconds / 60:.0f}", *rates[:2], " + ".join(parts)]
        cells += [
            f"{self.counted} of {self.n}",
            *rates[2:],
            f"{self.n_named} of {self.n_known}",
            self.n_falsely_named,
        ]
        return "| " + " | ".join(map(str, cells)) + " |"


COLUMNS = (
    "shard",
    "conversations",
    "minutes",
    "DER %",
    "collar",
    "missed + false + confused",
    "count right",
    "DER %, count told",
    "collar",
    "DER %, half known",
    "named",
    "falsely named",
)


def whose(truth: Sequence[Turn], found: Sequence[Turn], name: str) -> str:
    """Who speaks most where the system says `name`."""
    spoken: dict[str, float] = defaultdict(float)
    for turn in truth:
        for own in found:
            if own.speaker == name:
                spoken[turn.speaker] += max(0.0, min(turn.end, own.end) - max(turn.start, own.start))
    return max(spoken, key=lambda speaker: spoken[speaker])


def measure(shard: str, n: int, speakers: Sequence[int]) -> Row:
    row = Row(Path(shard).stem, n)
    for talk in conversations(shard, n, speakers):
        began = time.perf_counter()
        found = find_turns(talk.wav)
        row.elapsed += time.perf_counter() - began
        row.seconds += len(talk.wav) / RATE
        row.counted += len(found.speakers) == talk.n_speakers
        told = find_turns(talk.wav, DiarizeOptions(speakers=talk.n_speakers))
        for name, turns in (("found", found.turns), ("told", told.turns)):
            row.errors[name] += score(talk.turns, turns)
            row.errors[f"{name}, collar"] += score(talk.turns, turns, COLLAR)
    for talk in conversations(shard, n, speakers, reference=True):
        *names, stranger = talk.others
        n_known = (len(names) + 1) // 2
        known = [know(name, talk.others[name]) for name in (*names[:n_known], stranger)]
        found = find_turns(talk.wav, known=known)
        given = {speaker.name for speaker in known}
        row.errors["known"] += score(talk.turns, found.turns, named=given)
        row.n_known += n_known
        for name in given & set(found.speakers):
            right = whose(talk.turns, found.turns, name) == name
            row.n_named += right
            row.n_falsely_named += not right
    return row


def centre(shards: Sequence[str], limit: int = 300) -> np.ndarray:
    """The mean voice (E,): over shards, of the mean over their speakers, of windows of up to `limit` clips."""
    means = []
    for shard in shards:
        own: dict[str, list[np.ndarray]] = defaultdict(list)
        for clip in load_clips([shard], RATE, limit=limit):
            found = find_voices(clip.wav, speech_spans(clip.wav, SPEECH), centred=False).vectors
            if len(found):
                own[clip.speaker or clip.key].append(found.mean(axis=0))
        means.append(np.mean([np.mean(vectors, axis=0) for vectors in own.values()], axis=0))
    return np.mean(means, axis=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("shards", nargs="+")
    parser.add_argument("--conversations", type=int, default=36)
    parser.add_argument("--speakers", type=int, nargs="+", default=[2, 3, 4])
    parser.add_argument("--threshold", type=float, default=diarization.ALIKE)
    parser.add_argument("--centre", help="write the mean voice of the shards into this file, and end")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.centre:
        save_file({"centre": torch.from_numpy(centre(options.shards))}, options.centre)
        return
    diarization.ALIKE = options.threshold
    print("| " + " | ".join(COLUMNS) + " |")
    print("| --- |" + " ---: |" * (len(COLUMNS) - 1))
    rows = []
    for shard in options.shards:
        rows.append(measure(shard, options.conversations, options.speakers))
        print(rows[-1], flush=True)
    speed = sum(row.seconds for row in rows) / sum(row.elapsed for row in rows)
    print(f"\nspeakers {options.speakers}, seed 0; {speed:.0f} x real time on one thread")


if __name__ == "__main__":
    main()
