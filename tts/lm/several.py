"""Several tries at one utterance: phones and prompt are read once, and the tries share every step of the model.

    phones, prompt --> read --> forked for each seed --> one pass of the transformer for all --> frames of each

One after the other, n tries cost n times an utterance; together hardly more than one, which is as slow as its weights
are long in memory (`tts.lm.shared` has the same for utterances of different people). What a try says does not depend on
the others. On a GPU each has a slot of a captured step (`slots`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, cast

import torch

from .generate import SpeechGenerator, may_capture
from .shared import answers
from .step import Ask, Frame, SpeechLM

if TYPE_CHECKING:
    from .slots_base import Slots


def several(model: SpeechLM, read: SpeechGenerator, seeds: Sequence[int]) -> Iterator[list[Frame | None]]:
    """The next frame of the try with each seed, None of one that is over, until all are. read: the utterance, before
    its first frame.   model: of `row_exact.row_exact`, so that a try is the same among any others."""
    if may_capture(read.model.begin):
        from .slots import captured_slots  # with Triton, which takes its time to load

        slots = captured_slots(read.step, read.state, len(seeds))
        if slots is not None:
            yield from _captured(slots, read, seeds)
            return
    with torch.inference_mode():
        tries = [_Try(read.fork(seed).on(cast(Any, model))) for seed in seeds]
    while True:
        # Entered anew for every step: a generator that pauses inside would leave the mode on for its caller.
        with torch.inference_mode():
            _step(model, [one for one in tries if not one.over])
        if all(one.over for one in tries):
            return
        yield [one.frame for one in tries]


def _captured(slots: Slots, read: SpeechGenerator, seeds: Sequence[int]) -> Iterator[list[Frame | None]]:
    """As `several`, a slot for each try."""
    from .seats import Seat, Table

    table = Table(slots)
    seats = [cast(Seat, table.sit(read.fork(seed))) for seed in seeds]
    while going := [seat for seat in seats if not seat.over]:
        made = dict(zip(going, table.step(going, [seat.drawn() for seat in going]), strict=True))
        yield [made.get(seat) for seat in seats]


def side_by_side(tries: Sequence[Iterator[Frame]]) -> Iterator[list[Frame | None]]:
    """The same of utterances that are made apart from each other."""
    for frames in zip_longest(*tries):
        yield list(frames)


def _step(model: SpeechLM, running: Sequence[_Try]) -> None:
    """One frame more of each."""
    for one in running:
        one.resume(None)
    while asking := [one for one in running if one.asked is not None]:
        part = cast(Ask, asking[0].asked).part
        members = [one for one in asking if cast(Ask, one.asked).part == part]
        asked = [cast(Ask, one.asked) for one in members]
        for one, answer in zip(members, answers(model, part, asked), strict=True):
            one.resume(answer)


class _Try:
    def __init__(self, generator: SpeechGenerator):
        self.run = generator.run()
        self.asked: Ask | None = None
        self.frame: Frame | None = None
        self.over = False

    def resume(self, answer: Any) -> None:
        """On to the next thing it asks for, its next frame or its end."""
        self.asked, self.frame = None, None
        try:
            asked = self.run.send(answer)
        except StopIteration:
            self.over = True
            return
        if isinstance(asked, Ask):
            self.asked = asked
        else:
            self.frame = asked
