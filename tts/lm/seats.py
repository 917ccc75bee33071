"""Seats for utterances that share the steps of the AR: slots of captured steps that are opened when they are needed.

    utterance --> a seat in a table of its kind (rows, ways to draw), opened where none is free --> its own again
    table     --> one replay a frame for all who go on; those who pause keep their state

Shapes of a table never change, so what an utterance says depends neither on who sits beside it nor on how many do.
One thread finds seats and steps; any may free one.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Hashable, Sequence

import torch

from ...kernels.gpu.launch import runs_on
from ...kernels.gpu.linear_rows import MOST_ROWS
from ...layers.graph import identity
from .ar import ARModel
from .durations import Drawn
from .generate import SpeechGenerator
from .sampling import uniforms
from .slots import check, slots_for
from .slots_base import Slots, as_captured
from .step import Frame

_PHONES = 256  # a table has room for a multiple of so many
_TABLES = 4  # at most: each has caches of all its slots


class Seat:
    """A slot, and what its utterance keeps between frames."""

    def __init__(self, table: Table, slot: int, generator: SpeechGenerator):
        self.table, self.slot, self._generator = table, slot, generator
        self._numbers, self._begins = uniforms(generator.options.seed), True
        state = generator.begin(self._numbers)
        self._pointer = int(state.pointer)
        table.slots.join(slot, generator.step, state)

    def drawn(self) -> list[float]:
        """The numbers of its next frame."""
        return self._generator.step.drawn(self._numbers, self._begins)

    def moved(self, pointer: int) -> None:
        self._begins, self._pointer = pointer != self._pointer, pointer

    @property
    def over(self) -> bool:
        """Whether all of its phones have been said."""
        return self._pointer >= self._generator.n_phones

    @property
    def taken(self) -> bool:
        """Whether it is still its own."""
        return self.table.seats[self.slot] is self

    def free(self) -> None:
        """The next may have it."""
        if self.taken:
            self.table.seats[self.slot] = None


class Table:
    """Slots of one kind, and who has them. room: phones that each may have."""

    def __init__(self, slots: Slots, kind: Hashable = None, room: int = 0):
        self.slots, self.kind, self.room = slots, kind, room
        self.seats: list[Seat | None] = [None] * slots.n_slots

    def sit(self, generator: SpeechGenerator) -> Seat | None:
        """None where all are taken."""
        for slot, taken in enumerate(self.seats):
            if taken is None:
                self.seats[slot] = seat = Seat(self, slot, generator)
                return seat
        return None

    @torch.inference_mode()
    def step(self, seats: Sequence[Seat], numbers: Sequence[list[float]]) -> list[Frame]:
        """One frame of each of these. numbers: what each has drawn."""
        slots, where = self.slots, [seat.slot for seat in seats]
        drawn = torch.zeros(slots.n_slots, len(numbers[0]), dtype=torch.float64)
        active = torch.zeros(slots.n_slots, dtype=torch.bool)
        drawn[where], active[where] = torch.tensor(numbers, dtype=torch.float64), True
        device = slots.pointer.device
        made = slots(drawn.to(device), active.to(device))
        frames = [slots.frame(slot, made) for slot in where]
        pointers = slots.pointer.tolist()  # the only time that a step waits for the GPU
        for seat in seats:
            seat.moved(pointers[seat.slot])
        return frames


class Seats:
    """Seats of a model, for utterances that can be captured.

    model: of `for_inference`.   slots: of a table, as many as the fused kernels take.

    >>> seat = Seats(model).find(generator)                            # a generator before its first frame
    >>> [frame] = seat.table.step([seat], [seat.drawn()])
    >>> seat.free()
    """

    def __init__(self, model: ARModel, slots: int = 8):
        self._model, self._slots = model, slots
        self._tables: list[Table] = []  # the one that was found last at the end
        self._failed = False

    @property
    def n_taken(self) -> int:
        return sum(seat is not None for table in self._tables for seat in table.seats)

    @property
    def n_tables(self) -> int:
        return len(self._tables)

    def find(self, generator: SpeechGenerator) -> Seat | None:
        """None where there is no GPU, no way (said once) or no room: the utterance then goes on as it can without."""
        step = generator.step
        if not isinstance(step.durations, Drawn) or not runs_on(self._model.begin):
            return None
        rows, n, _ = step.phones.shape
        kind = rows, as_captured(step.options), identity(self._model.begin)
        for table in reversed(self._tables):
            if table.kind == kind and n <= table.room and (seat := table.sit(generator)) is not None:
                self._tables.remove(table)
                self._tables.append(table)
                return seat
        if self._failed or (len(self._tables) >= _TABLES and not self._close_one()):
            return None
        table = self._opened(generator, kind, -(-n // _PHONES) * _PHONES)
        return None if table is None else table.sit(generator)

    def _close_one(self) -> bool:
        """The table that nobody has sat down at for longest, of those that are empty."""
        for table in self._tables:
            if not any(table.seats):
                self._tables.remove(table)
                return True
        return False

    def _opened(self, generator: SpeechGenerator, kind: Hashable, room: int) -> Table | None:
        rows = generator.step.phones.shape[0]
        step = copy.copy(generator.step)
        step.model = self._model
        try:
            slots = slots_for(step, self._model, max(1, min(self._slots, MOST_ROWS // rows)), room)
            check(slots, step, generator.begin(uniforms(generator.options.seed)))
        except Exception as problem:  # whatever it is, there is another way
            self._failed = True
            warnings.warn(
                f"the AR's steps are not captured for several at once: {problem} (MYNA_KERNELS=off keeps them off)",
                stacklevel=2,
            )
            return None
        self._tables.append(Table(slots, kind, room))
        return self._tables[-1]
