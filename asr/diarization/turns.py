"""Who speaks when in a recording: the voices of its windows in groups, and the most probable way through these.

    speech (Silero) -> voices of windows -> groups (average linkage) -> a speaker each -> Viterbi -> turns

Settings were chosen on conversations made of the training and development splits (`benchmarks/diarize.py`).

Shapes: N samples at 16 kHz, W windows, K speakers, E = 256.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ...data.audio import Samples
from ...data.clustering import Tree, condense
from ..vad import Span, speech_spans
from .known import KnownSpeaker, name_speakers
from .label import Turn, Turns
from .options import DiarizeOptions, check_names
from .voices import SPEECH, WINDOW, Voices, find_voices, of_length_one

ALIKE = 0.30  # mean cosine from which on two groups are one speaker
_SOLID = 0.8  # seconds of speech in a window that has a say in how many speakers there are
# A speaker says a second at least, and a twentieth of all, or two seconds.
_SMALLEST, _SMALL_SHARE, _SMALL = 1.0, 0.05, 2.0
_CHANGE, _CHANGE_AT_PAUSE = 0.2, 0.05  # cosine that it takes to change the speaker


def find_turns(
    audio: Samples,
    options: DiarizeOptions | None = None,
    known: Sequence[KnownSpeaker] = (),
    proceed: Callable[[], None] | None = None,
) -> Turns:
    """audio (N,) at 16 kHz -> who speaks when. known: speakers that have a name; the others are A, B, C, ...

    proceed: called now and then once speech is found; what it raises ends the work. An hour takes about half a minute
    of one core and, beside its samples, some 100 MB. Raises UsageError.
    """
    options = options or DiarizeOptions()
    options.check()
    check_names([speaker.name for speaker in known])
    spans = speech_spans(audio, SPEECH)
    if proceed is not None:
        proceed()
    return turns_of(find_voices(audio, spans, proceed), spans, options, known)


def turns_of(
    voices: Voices, spans: Sequence[Span], options: DiarizeOptions, known: Sequence[KnownSpeaker] = ()
) -> Turns:
    """Of the voices of the windows of spans of speech."""
    if not len(voices.vectors):
        return Turns(())
    means = speakers_of(voices, spans, *options.bounds)
    who = np.zeros(0, int)
    for _ in range(2):  # once to know the speakers better
        heard, who = np.unique(_path(voices, means), return_inverse=True)
        means = of_length_one(
            np.stack([voices.vectors[who == index].sum(axis=0) for index in range(len(heard))])
        )
    order = list(dict.fromkeys(who.tolist()))
    names = dict(zip(order, name_speakers(means[order], known), strict=True))
    turns = tuple(Turn(start, end, names[index]) for start, end, index in _runs(voices, spans, who))
    given = {speaker.name for speaker in known}
    return Turns(turns, frozenset(given & set(names.values())))


def speakers_of(voices: Voices, spans: Sequence[Span], fewest: int, most: int | None) -> np.ndarray:
    """Mean voices (K, E) of the speakers, of length one. What is too little for a speaker is left out."""
    stands_for = np.array([span.seconds for span in spans]) / np.maximum(
        np.bincount(voices.spans, minlength=len(spans)), 1
    )
    solid = voices.seconds >= _SOLID
    if solid.sum() < fewest:
        solid[:] = True
    groups = condense(voices.vectors[solid])
    seconds = np.bincount(groups.labels, stands_for[voices.spans][solid])
    smallest = float(np.clip(_SMALL_SHARE * seconds.sum(), _SMALLEST, _SMALL))
    tree = Tree(groups.sums, groups.counts)
    cut, smallest = _cut(tree, seconds, smallest, fewest, most or len(seconds))
    labels = tree.labels(cut)
    spoken = np.bincount(labels, seconds)
    sums = np.stack([groups.sums[labels == label].sum(axis=0) for label in range(len(spoken))])
    kept = spoken >= smallest
    if not kept.any():
        kept[spoken.argmax()] = True
    return of_length_one(sums[kept])


def _cut(tree: Tree, seconds: np.ndarray, smallest: float, fewest: int, most: int) -> tuple[int, float]:
    """After how many joins the groups are speakers: as near to `ALIKE` as a number within the bounds allows. Groups
    count that have `smallest` seconds, or, where that is never enough, all; which of both is the second value."""
    usual = sum(height >= ALIKE for height in tree.heights)
    for least in (smallest, 0.0):
        spoken, n = seconds.copy(), [int((seconds >= least).sum())]
        for one, other in tree.joins:
            before = int(spoken[one] >= least) + int(spoken[other] >= least)
            spoken[one] += spoken[other]
            n.append(n[-1] - before + int(spoken[one] >= least))
        fitting = [cut for cut, count in enumerate(n) if fewest <= count <= most]
        if fitting:
            return min(fitting, key=lambda cut: abs(cut - usual)), least
        if fewest == 1:
            break  # nobody says enough: whoever says most
    return (usual, smallest) if fewest == 1 else (0, 0.0)


def _path(voices: Voices, means: np.ndarray) -> np.ndarray:
    """The speaker of each window (W,): those that its voice is like, changing seldom (Viterbi). Short windows say
    less."""
    score = (voices.vectors @ means.T) * np.minimum(voices.seconds / WINDOW, 1)[:, None]
    pause = np.diff(voices.spans, prepend=voices.spans[0]) > 0
    best, every = score[0].copy(), np.arange(len(means))
    came = np.zeros(score.shape, int)
    for t in range(1, len(score)):
        leader = int(best.argmax())
        changed = best[leader] - (_CHANGE_AT_PAUSE if pause[t] else _CHANGE)
        came[t] = np.where(best >= changed, every, leader)
        best = np.maximum(best, changed) + score[t]
    path = [int(best.argmax())]
    for t in range(len(score) - 1, 0, -1):
        path.append(int(came[t, path[-1]]))
    return np.array(path[::-1])


def _runs(voices: Voices, spans: Sequence[Span], who: np.ndarray) -> Iterator[tuple[float, float, int]]:
    """Start, end and speaker of what is said without a pause: a change is half way between two windows."""
    for number, windows in itertools.groupby(range(len(who)), key=lambda i: int(voices.spans[i])):
        start = spans[number].start
        for index, run in itertools.groupby(windows, key=lambda i: int(who[i])):
            last = list(run)[-1]
            more = last + 1 < len(who) and voices.spans[last + 1] == number
            end = float(voices.middles[last : last + 2].mean()) if more else spans[number].end
            yield start, end, index
            start = end
