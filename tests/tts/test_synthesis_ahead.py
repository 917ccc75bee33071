"""Stages that work ahead in threads: same items, errors where they belong, and an end whenever one is wanted."""

from __future__ import annotations

import contextlib
import gc
import inspect
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Generator

import pytest
import torch
from myna.tts.ahead import ahead
from myna.tts.threads import RUNNING, Running


def count(n: int, made: list[int] | None = None) -> Generator[int, None, None]:
    for i in range(n):
        if made is not None:
            made.append(i)
        yield i


def threads() -> int:
    return sum(thread.name.startswith("myna-") for thread in threading.enumerate())


def test_all_items_in_order_through_two_stages():
    def doubled(source: Generator[int, None, None]) -> Generator[int, None, None]:
        for i in source:
            yield 2 * i

    assert list(ahead(doubled(ahead(count(100), 3)), 5)) == list(range(0, 200, 2))
    assert threads() == 0


def test_it_works_ahead_but_not_further():
    made: list[int] = []
    items = ahead(count(100, made), 4)
    assert next(items) == 0
    deadline = time.monotonic() + 5
    while len(made) < 6 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    assert len(made) == 6  # one taken, four waiting, one in hand
    items.close()
    assert threads() == 0


def test_an_error_comes_after_the_items_before_it():
    def breaks() -> Generator[int, None, None]:
        yield 1
        raise ValueError("that was it")

    items = ahead(ahead(breaks(), 3), 3)
    assert next(items) == 1
    with pytest.raises(ValueError, match="that was it"):
        next(items)
    assert threads() == 0


def test_closing_ends_every_stage_and_runs_its_cleanup():
    closed: list[str] = []

    def endless(name: str, source: Generator[int, None, None] | None = None) -> Generator[int, None, None]:
        try:
            while True:
                yield 1 if source is None else next(source)
        finally:
            if source is not None:
                source.close()
            closed.append(name)

    items = ahead(endless("second", ahead(endless("first"), 2)), 2)
    next(items)
    items.close()
    assert closed == ["first", "second"]
    assert threads() == 0


class Held:
    """What a stage holds while it is not closed."""


@pytest.mark.parametrize("closed", ["before the error", "while it waits to be taken", "after it was taken"])
def test_what_a_stage_held_is_gone_with_its_error(closed):
    """Without waiting for Python's collection of cycles: a decoder's state has 60 MB."""
    held, told = [], threading.Event()

    def failing() -> Generator[int, None, None]:
        own = Held()
        held.append(weakref.ref(own))
        yield 0
        assert told.wait(5)
        raise ValueError("nobody listens any more")

    gc.collect()
    gc.disable()
    try:
        items = ahead(failing(), 3)
        assert next(items) == 0
        told.set()
        if closed == "while it waits to be taken":
            work = inspect.getgeneratorlocals(items)["work"]
            work.thread.join(5)
            assert not work.made.empty()
            del work
        elif closed == "after it was taken":
            with contextlib.suppress(ValueError):
                next(items)
        items.close()
        assert held[0]() is None
    finally:
        gc.enable()


def test_threads_of_torch_are_as_they_were():
    before = torch.get_num_threads()
    inside: list[tuple[int, bool]] = []

    def look() -> Generator[int, None, None]:
        inside.append((torch.get_num_threads(), torch.is_inference_mode_enabled()))
        yield 1

    list(ahead(look(), 1))
    assert inside == [(1, True)]
    assert torch.get_num_threads() == before
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert seen == [before]


_LEAVES_IN_THE_MIDDLE = """
import sys, threading
import torch
from myna.tts.ahead import ahead
begun = threading.Event()
def made():
    x = torch.randn(700, 700)
    yield x
    while True:
        begun.set()
        x = torch.tanh(x @ x)
        yield x
def shaped(source):
    for x in source:
        yield x + 1
items = ahead(shaped(ahead(made(), 2)), 2)
next(items)
begun.wait()
sys.exit(7)
"""


def test_a_program_that_ends_in_the_middle_has_its_own_exit_code():
    """Python ends such a thread in the middle of C++: "terminate called without an active exception", signal 6."""
    done = subprocess.run([sys.executable, "-c", _LEAVES_IN_THE_MIDDLE], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (7, "")


def test_whoever_waits_for_an_item_is_told_that_there_is_none():
    """A stage that takes another's items does not wait for them at the end of a program."""
    entered, go_on = threading.Event(), threading.Event()

    def slow() -> Generator[int, None, None]:
        entered.set()
        assert go_on.wait(10)
        yield 1

    items = ahead(slow(), 1)
    told: list[str] = []

    def take() -> None:
        try:
            next(items)
        except RuntimeError as error:
            told.append(str(error))

    taking = threading.Thread(target=take)
    taking.start()
    assert entered.wait(10)
    running = Running()
    (work,) = RUNNING._works
    running._works.add(work)
    threading.Timer(0.1, go_on.set).start()
    running.close()
    taking.join(10)
    assert told == ["the program ends"]
    assert threads() == 0
    with pytest.raises(RuntimeError, match="the program ends"):
        running.begin(work)
