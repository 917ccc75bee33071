"""Continuous batching of the AR: utterances of different requests share every step, and join and leave between steps.

    utterance 1 --> coroutine --.                            .--> one pass of the transformer
    utterance 2 --> coroutine --+--> what they ask for ------+--> one pass of each head
    utterance 3 --> coroutine --'     (one thread)           '--> frames, to whoever iterates

A batch costs hardly more than one utterance, which is as slow as its weights are long in memory. What an utterance says
does not depend on the others (`row_exact`). On a GPU utterances without an adapter have seats in tables whose steps are
captured (`seats`), as long as there are any; the others share steps as above.

Where there are several, a step is taken when somebody needs it: whoever takes the frames of one waits for them, or
nothing of it has been heard yet. All that have less than `_MARGIN` frames in hand take part. So they keep together, and
steps have many rows, while those who take the frames are the slower ones; each for itself far ahead, they would step in
twos and threads that make the sound would share the processor with them.

A step wakes nobody but those for whom enough is there: with one condition for all, every step would wake every thread
that waits, and they would take the interpreter from the one that computes.
"""

from __future__ import annotations

import atexit
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from ...errors import MynaError
from ...layers.lora import Bank, LoRAWeights
from ..text.phones import Phones
from .ar import ARModel
from .batch import Prompt
from .generate import ARGenerator, Reads, SpeechGenerator, may_capture
from .row_exact import row_exact
from .sampling import SamplingOptions
from .step import Ask, Frame, SpeechLM

if TYPE_CHECKING:
    from .seats import Seat, Seats, Table

_AHEAD = 100  # frames that an utterance may be ahead of whoever takes them
_MARGIN = 25
_PATIENCE = 10.0  # seconds for which the end of a program waits for a step
_TOGETHER = 4  # frames for which it is worth to wake who takes them; decoders take multiples of it


class SharedAR:
    """Speaks any number of utterances at once. Safe to use from several threads.

    ar: of `quantize.for_inference`.   exact: an utterance's numbers do not depend on the others, nor on their adapters.
    opening: frames after which the first sound of an utterance can be heard.   reads: makes an utterance of phones, a
    prompt and options: an `ARGenerator`, or another model's.

    >>> shared = SharedAR(for_inference(model))
    >>> for frame in shared.frames(phones, prompt, options): ...  # in as many threads as there are utterances
    """

    def __init__(self, ar: ARModel, exact: bool = True, opening: int = 24, reads: Reads = ARGenerator):
        self._alone = ar  # phones and prompts are read by one utterance at a time
        self.ar = cast(ARModel, row_exact(ar)) if exact else ar
        self._bank: Bank | None = None  # once a voice has an adapter
        self._seats: Seats | None = None
        if may_capture(ar.begin):
            from .seats import Seats  # with Triton, which takes its time to load

            self._seats = Seats(ar)
        self.opening, self._reads = opening, reads
        self._lock = threading.Lock()
        self._asked = threading.Condition(self._lock)  # what the computing thread waits for
        self._running: list[_Utterance] = []
        self._thread: threading.Thread | None = None
        self._closed = False
        self.steps = self.frames_made = 0

    def frames(
        self,
        phones: Phones,
        prompt: Prompt | None,
        options: SamplingOptions,
        opens: bool = True,
        adapter: LoRAWeights | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Generator[Frame, None, None]:
        """As iterating over `ARGenerator`: phones and prompt are read at once, by whoever calls. Closing it takes the
        utterance out before the next step.

        opens: somebody waits for the first sound of it.   adapter: of the voice (`tts.lm.adapter.folded`).   stopped:
        asked before every step; once it says so there are no further frames.
        Raises ValueError for an adapter that does not fit.
        """
        slot = 0 if adapter is None else self._adapters().join(adapter)
        try:
            with torch.inference_mode(), self._rows(slot):
                ar = self.ar
                generator = self._reads(ar if slot else self._alone, phones, prompt, options).on(ar)
        except BaseException:
            self._give_back(slot)
            raise
        return self._frames(_Utterance(generator, self.opening if opens else 0, slot, stopped, self._lock))

    def _adapters(self) -> Bank:
        with self._lock:
            if self._bank is None:  # those who speak already go on: their weights are the same ones
                self._bank = Bank(self.ar)
                self.ar = cast(ARModel, self._bank.model)
            return self._bank

    def _rows(self, slots: Tensor | int) -> AbstractContextManager[None]:
        return nullcontext() if self._bank is None else self._bank.rows(slots)

    def _slots(self, asking: Sequence[_Utterance]) -> Tensor | int:
        """Of every row that is asked for."""
        if all(one.slot == 0 for one in asking):
            return 0
        return torch.tensor([one.slot for one in asking for _ in range(len(cast(Ask, one.asked).inputs[0]))])

    def _give_back(self, slot: int) -> None:
        if self._bank is not None:
            self._bank.leave(slot)

    def _frames(self, utterance: _Utterance) -> Generator[Frame, None, None]:
        self._join(utterance)
        try:
            yield from self._taken(utterance)
        finally:
            self._leave(utterance)

    @property
    def n_running(self) -> int:
        return len(self._running)

    # ---- of those who iterate

    def _join(self, utterance: _Utterance) -> None:
        with self._lock:
            self._running.append(utterance)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="shared-ar", daemon=True)
                self._thread.start()
                # A thread that comes out of torch's code while Python is being taken apart is ended in the middle of
                # C++, which aborts the program ("terminate called without an active exception").
                atexit.register(self.close)
            self._asked.notify()

    def close(self) -> None:
        """There are no further frames; wait until the computing thread has ended. Whoever iterates gets what is made,
        and then a MynaError."""
        with self._lock:
            self._closed, thread = True, self._thread
            self._asked.notify()
        if thread is not None:
            thread.join(_PATIENCE)

    def _leave(self, utterance: _Utterance) -> None:
        with self._lock:
            utterance.wanted = False
            self._remove(utterance)
            self._asked.notify()
        self._give_back(utterance.slot)

    def _remove(self, utterance: _Utterance) -> None:
        """It has no further frames. With the lock held."""
        if utterance in self._running:
            self._running.remove(utterance)
        if utterance.seat is not None:
            utterance.seat.free()

    def _taken(self, utterance: _Utterance) -> Iterator[Frame]:
        while True:
            with self._lock:
                while not utterance.has_news:
                    utterance.needed = True
                    self._asked.notify()
                    utterance.news.wait()
                utterance.needed = False
                taken = list(utterance.made)
                utterance.made.clear()
                over, error = utterance.over, utterance.error
                if not over and len(self._running) == 1:
                    self._asked.notify()  # it may have had enough in hand
            yield from taken
            if over:
                if error is not None:
                    raise error
                return

    # ---- of the thread that computes

    def _work(self) -> None:
        torch.set_num_threads(1)
        with torch.inference_mode():
            while (chosen := self._next()) is not None:
                self._step(chosen)

    def _next(self) -> list[_Utterance] | None:
        """Those whose turn it is; waits for one. None, and the thread ends, after a minute without, and when closed."""
        with self._lock:
            while not (chosen := self._whose_turn()):
                if self._closed or (not self._asked.wait(timeout=60) and not self._running):
                    self._thread = None
                    atexit.unregister(self.close)
                    return None
            return chosen

    def _whose_turn(self) -> list[_Utterance]:
        for one in [one for one in self._running if self._closed or one.stopped()]:
            self._remove(one)
            if self._closed and not one.stopped():  # what was not asked to end is not taken for whole
                one.error = MynaError("the speech is cut off: the program is ending")
            one.over = True
            one.news.notify()
        return _chosen(self._running)

    def _step(self, chosen: list[_Utterance]) -> None:
        """One frame more of each."""
        self._step_tables(chosen)
        apart = [one for one in chosen if one.seat is None and not one.failed]
        for utterance in apart:
            utterance.place = 0
            utterance.resume(None)
        if len(apart) == 1:
            self._answer_alone(apart[0])
        while asking := [utterance for utterance in apart if utterance.asked is not None]:
            # What the furthest behind asks for, so that all come to the next thing together.
            part = cast(Ask, min(asking, key=lambda one: one.place).asked).part
            members = [one for one in asking if cast(Ask, one.asked).part == part]
            try:
                asked = [cast(Ask, one.asked) for one in members]
                with self._rows(self._slots(members)):
                    answered = answers(self.ar, part, asked)
            except Exception as error:
                for utterance in members:
                    utterance.fail(error)
                continue
            for utterance, answer in zip(members, answered, strict=True):
                utterance.place += 1
                utterance.resume(answer)
        self._finish(chosen)

    def _step_tables(self, chosen: list[_Utterance]) -> None:
        """Of those who have seats; who is new is shown to one."""
        if self._seats is None:
            return
        for utterance in chosen:
            utterance.frame = None
            if not utterance.begun:
                self._show(utterance, self._seats)
        # Seats are given by this thread alone, so that whoever has one now has it until the step is over.
        tables: dict[Table, list[tuple[_Utterance, Seat, list[float]]]] = {}
        for utterance in chosen:
            seat = utterance.seat
            if seat is None or not seat.taken:  # never had one, or has left since it was chosen
                continue
            try:
                numbers = seat.drawn()
            except Exception as error:
                utterance.fail(error)
            else:
                tables.setdefault(seat.table, []).append((utterance, seat, numbers))
        for table, members in tables.items():
            self._step_table(table, members)

    def _show(self, utterance: _Utterance, seats: Seats) -> None:
        """To a seat, where there is one; an adapter's has none."""
        try:
            seat = None if utterance.slot else seats.find(utterance.generator)
        except Exception as error:
            utterance.fail(error)
            return
        with self._lock:
            utterance.begun, utterance.seat = True, seat
            if seat is not None and not utterance.wanted:  # it has left meanwhile
                seat.free()

    def _step_table(self, table: Table, members: list[tuple[_Utterance, Seat, list[float]]]) -> None:
        utterances, seats, numbers = zip(*members, strict=True)
        try:
            made = table.step(seats, numbers)
        except Exception as error:
            for utterance in utterances:
                utterance.fail(error)
            return
        for utterance, seat, frame in zip(utterances, seats, made, strict=True):
            utterance.say(frame, seat.over)

    def _answer_alone(self, utterance: _Utterance) -> None:
        """All that one utterance asks for in this frame, by the operations that it would share."""
        try:
            with self._rows(utterance.slot):
                while (asked := utterance.asked) is not None:
                    utterance.resume(answers(self.ar, asked.part, [asked])[0])
        except Exception as error:
            utterance.fail(error)

    def _finish(self, chosen: list[_Utterance]) -> None:
        with self._lock:
            self.steps += 1
            for utterance in chosen:
                self.frames_made += utterance.frame is not None
                utterance.hand_over()
                if utterance.over:
                    self._remove(utterance)
                if utterance.has_news:
                    utterance.news.notify()


class _Utterance:
    """One that is being said. The first fields are the computing thread's, the others are under the lock."""

    def __init__(
        self,
        generator: SpeechGenerator,
        opening: int,
        slot: int,
        stopped: Callable[[], bool],
        lock: threading.Lock,
    ):
        self.generator, self.run = generator, generator.run()
        self.asked: Ask | None = None
        self.frame: Frame | None = None
        self.place = 0  # things that it has asked for in this frame
        self.begun = False  # whether a seat has been looked for
        self._ended, self._failure = False, cast("BaseException | None", None)

        self.slot = slot  # of its voice's adapter
        self.seat: Seat | None = None  # where its steps are captured
        self.stopped = stopped
        self.news = threading.Condition(lock)  # what whoever takes the frames waits for
        self.needed = False  # whoever takes the frames waits for them
        self.opening = opening  # frames until something can be heard
        self.wanted, self.over = True, False
        self.error: BaseException | None = None
        self.made: deque[Frame] = deque()

    @property
    def failed(self) -> bool:
        return self._failure is not None

    @property
    def has_news(self) -> bool:
        """Whether it is time to wake who takes the frames."""
        return self.over or len(self.made) >= _TOGETHER

    def resume(self, answer: Any) -> None:
        """On to the next thing it asks for, its next frame or its end."""
        self.asked, self.frame = None, None
        try:
            asked = self.run.send(answer)
        except StopIteration:
            self._ended = True
        except Exception as error:
            self.fail(error)
        else:
            if isinstance(asked, Ask):
                self.asked = asked
            else:
                self.frame = asked

    def say(self, frame: Frame, ended: bool) -> None:
        """A frame that was made without being asked what it takes."""
        self.frame, self._ended = frame, ended

    def fail(self, error: BaseException) -> None:
        self.asked, self._ended, self._failure = None, True, error

    def hand_over(self) -> None:
        if self.frame is not None:
            self.made.append(self.frame)
            self.opening -= 1
        self.over, self.error = self._ended, self._failure


def _chosen(running: list[_Utterance]) -> list[_Utterance]:
    ready = [one for one in running if one.wanted and not one.over and len(one.made) < _AHEAD]
    if len(running) == 1:  # nobody to wait for
        return ready
    urgent = {id(one) for one in ready if one.opening > 0 or one.needed}
    if not urgent:
        return []
    return [one for one in ready if id(one) in urgent or len(one.made) < _MARGIN]


def answers(model: SpeechLM, part: Any, asked: Sequence[Ask]) -> list[Any]:
    """To what several ask of the same part of the model, together."""
    if part is not None and len(asked) == 1:
        return [part(*asked[0].inputs)]
    counts = [len(one.inputs[0]) for one in asked]
    together = [torch.cat(column) for column in zip(*(one.inputs for one in asked), strict=True)]
    if part is not None:
        return list(part(*together).split(counts))
    context = model.transformer.config.context
    reaches = [context if one.reach is None else one.reach for one in asked]
    hidden, caches = model.transformer.step_many(together[0], [one.cache for one in asked], reaches)
    return list(zip(hidden.split(counts), caches, strict=True))
