"""The parts under the routes: turns, pumped generators, a pool of models."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import time
import weakref
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from myna.apps.serve.engines import pump, recognition
from myna.apps.serve.engines.pool import Pool
from myna.apps.serve.engines.pump import pumped
from myna.apps.serve.engines.recognition import SharedWhisper
from myna.apps.serve.engines.speech import SpeechEngine, Ticket, _View
from myna.apps.serve.engines.turns import Turns
from myna.asr.model.whisper import Whisper, WhisperDims
from myna.asr.transcribe import TranscribeOptions
from myna.asr.transcriber import Transcriber
from myna.asr.vocabularies import vocabulary_for
from myna.tts.flow_speech import load_flow_speech
from myna.tts.presets import SpeechOptions
from myna.tts.speaker import Speaker
from myna.tts.text.long_text import split_text
from myna.tts.threads import Running
from myna.tts.voices.voice import Voice, codec_hash


def test_beside_others_a_request_is_no_further_ahead_of_its_decoder_than_it_must_be():
    shared = SimpleNamespace(n_running=0)
    models = SimpleNamespace(chunks_ahead=12, opening=24)
    view = _View(models, shared, Turns(1), Ticket(24_000))  # pyright: ignore[reportArgumentType]
    assert view.chunks_ahead == 12
    shared.n_running = 1
    assert view.chunks_ahead == 1
    assert view.opening == 24


def test_the_smallest_priority_has_the_next_turn():
    turns, order = Turns(1), []
    inside, release = threading.Event(), threading.Event()

    def first():
        with turns.turn((0.0,)):
            inside.set()
            release.wait()

    def other(priority: float):
        with turns.turn((priority,)):
            order.append(priority)

    threads = [threading.Thread(target=first)]
    threads[0].start()
    inside.wait()
    for priority in (3.0, 1.0, 2.0):
        threads.append(threading.Thread(target=other, args=(priority,)))
        threads[-1].start()
    while len(turns._waiting) < 3:
        time.sleep(0.001)
    release.set()
    for thread in threads:
        thread.join()
    assert order == [1.0, 2.0, 3.0]


def test_a_pumped_generator_gives_its_items_and_its_error():
    def source():
        yield from range(20)
        raise ValueError("after them")

    async def main():
        found, items = [], pumped(source, depth=3)
        while len(found) < 20:
            found.append(await anext(items))
        with pytest.raises(ValueError, match="after them"):
            await anext(items)
        return found

    assert asyncio.run(main()) == list(range(20))


def test_a_pumped_generator_is_never_far_ahead_and_closed_in_its_thread():
    made, closed = [], []

    def source():
        try:
            for i in range(1000):
                made.append(i)
                yield i
        finally:
            closed.append(threading.current_thread().name)

    async def main():
        told = []
        items = pumped(source, depth=3, on_cancel=lambda: told.append(True), name="test")
        assert await anext(items) == 0
        await asyncio.sleep(0.2)
        assert len(made) <= 6
        await items.aclose()
        return told

    assert asyncio.run(main()) == [True]
    assert closed == ["pump-test"]


def test_cancelling_waits_until_the_work_has_ended():
    ended = threading.Event()
    told = threading.Event()

    def source():
        try:
            yield 0
            told.wait(5)  # a step that is under way
            yield 1
        finally:
            time.sleep(0.05)
            ended.set()

    async def main():
        async def use():
            async for _ in pumped(source, on_cancel=told.set):
                pass

        task = asyncio.create_task(use())
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended.is_set()

    asyncio.run(main())


class Held:
    """What a source holds while it is not closed."""


@pytest.mark.parametrize("taken", [True, False])
def test_what_a_source_held_is_gone_with_its_error(taken):
    """Without waiting for Python's collection of cycles: a decoder's state has 60 MB."""
    held, told = [], threading.Event()

    def source():
        own = Held()
        held.append(weakref.ref(own))
        yield 0
        assert told.wait(5)
        raise ValueError("nobody listens any more")

    async def main():
        items = pumped(source, on_cancel=told.set)
        assert await anext(items) == 0
        if not taken:
            await items.aclose()
            return
        told.set()
        try:
            await anext(items)
        except ValueError:
            return
        raise AssertionError("no error")

    gc.collect()
    gc.disable()
    try:
        asyncio.run(main())
        end = time.monotonic() + 5
        while held[0]() is not None and time.monotonic() < end:  # its thread may be about to end
            time.sleep(0.01)
        assert held[0]() is None
    finally:
        gc.enable()


_LEAVES_IN_THE_MIDDLE = """
import asyncio, sys, threading, time
from myna.apps.serve.engines.pump import pumped
begun, told = threading.Event(), threading.Event()
def computes():
    try:
        yield 0
        begun.set()
        told.wait()
        time.sleep(0.3)  # the rest of a step
        yield 1
    finally:
        print("closed")
def waits():
    try:
        yield 0
        begun.set()
        while True:
            yield 1
    finally:
        print("closed")
async def take():
    items = pumped({source}, depth=2, on_cancel=told.set)
    await anext(items)
    await asyncio.Event().wait()
threading.Thread(target=asyncio.run, args=(take(),), daemon=True).start()
begun.wait()
sys.exit(7)
"""


@pytest.mark.parametrize("source", ["computes", "waits"])
def test_a_program_that_ends_in_the_middle_waits_for_the_source(source):
    """Whose thread would be ended in the middle of torch's code, and the program with it."""
    script = _LEAVES_IN_THE_MIDDLE.format(source=source)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (7, "closed\n")


def test_who_takes_items_is_told_that_the_program_ends(monkeypatch):
    """Not that there are no more: what was said until then is not the whole."""
    running, full = Running(), threading.Event()
    monkeypatch.setattr(pump, "RUNNING", running)

    def source():
        for i in range(1000):
            if i == 3:
                full.set()  # two wait, one has been taken: there is no room for this one
            yield i

    async def main():
        items = pumped(source, depth=2)
        found = [await anext(items)]
        assert await asyncio.to_thread(full.wait, 10)
        await asyncio.to_thread(running.close)
        found += [await anext(items), await anext(items)]
        for late in (items, pumped(source)):
            with pytest.raises(RuntimeError, match="the program ends"):
                await anext(late)
        return found

    assert asyncio.run(main()) == [0, 1, 2]


def test_models_are_loaded_once_and_let_go_by_least_use():
    loaded = []

    def load(name: str) -> str:
        time.sleep(0.02)
        loaded.append(name)
        if name == "broken":
            raise ValueError("cannot be loaded")
        return name.upper()

    async def main():
        pool = Pool(load, 2)

        async def use(name: str) -> str:
            async with pool.use(name) as model:
                await asyncio.sleep(0.01)
                return model

        assert await asyncio.gather(*(use("a") for _ in range(5))) == ["A"] * 5
        assert loaded == ["a"]
        await use("b")
        await use("a")
        await use("c")
        assert pool.loaded == ["a", "c"]
        for _ in range(2):  # tried again
            with pytest.raises(ValueError, match="cannot"):
                await use("broken")
        assert loaded.count("broken") == 2
        # What is in use is never let go.
        async with pool.use("a"), pool.use("b"), pool.use("d"):
            assert set(pool.loaded) >= {"a", "b", "d"}
        assert len(pool.loaded) <= 2

    asyncio.run(main())


def test_models_that_nobody_uses_are_let_go_after_a_while():
    loaded, slowly = [], threading.Event()

    def load(name: str) -> list[str]:
        if name == "slow":
            assert slowly.wait(10)
        if name == "broken":
            raise ValueError("cannot be loaded")
        loaded.append(name)
        return [name]

    async def gone(pool: Pool[list[str]]) -> None:
        while pool._entries:
            await asyncio.sleep(0.001)

    async def main():
        pool = Pool(load, 2, idle=0.0)
        async with pool.use("a") as outer:
            async with pool.use("a") as inner:
                assert inner is outer
            await asyncio.sleep(0.01)
            assert pool.loaded == ["a"]  # one is still at it
        await gone(pool)
        async with pool.use("a"):
            pass
        assert loaded == ["a", "a"]
        await gone(pool)

        # All who asked have gone before it was there.
        for name in ("slow", "broken"):
            asking = asyncio.create_task(pool.use(name).__aenter__())
            await asyncio.sleep(0)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            slowly.set()
            await gone(pool)
        assert loaded[-1] == "slow"

        # Whoever comes back in time finds the same.
        patient = Pool(load, 2, idle=60.0)
        async with patient.use("a") as first:
            pass
        async with patient.use("a") as second:
            assert second is first
        # One that had to make room is not held by its clock.
        entry = patient._entries["a"]
        for name in ("b", "c"):
            async with patient.use(name):
                pass
        assert patient.loaded == ["b", "c"]
        assert entry.leaving is not None
        assert entry.leaving.cancelled()

    asyncio.run(main())


def test_on_few_cores_recordings_are_answered_before_others_have_begun(monkeypatch):
    """Eight in a round take eight times as long there, and nobody of them has an answer before its end."""
    monkeypatch.setattr(recognition, "n_cores", lambda: 1)
    torch.manual_seed(0)
    small = {"n_audio_state": 64, "n_audio_head": 2, "n_audio_layer": 1}
    small |= {"n_text_state": 64, "n_text_head": 2, "n_text_layer": 1}
    model = Whisper(WhisperDims(**small), vocabulary=vocabulary_for(51864)).eval()
    encode, told = model.encode, []
    entered, go_on = threading.Event(), threading.Event()

    def noted(mel):
        entered.set()
        assert go_on.wait(10)
        told.extend(["begun"] * len(mel))
        return encode(mel)

    monkeypatch.setattr(model, "encode", noted)
    whisper = SharedWhisper(cast(Transcriber, SimpleNamespace(model=model)))
    options = TranscribeOptions(beam_size=None, best_of=None, temperature=0.0, sample_len=6)
    running = []
    for seed in range(5):
        samples = np.random.default_rng(seed).normal(0, 0.1, 16_000).astype(np.float32)
        running.append(whisper.shared.submit(samples, options))
        running[-1].result.add_done_callback(lambda _: told.append("answered"))
        assert entered.wait(10)  # the first round has begun, the others wait for the next
    go_on.set()
    for one in running:
        one.result.result(20)
    while len(told) < 10:  # a result is there before who asked for it is told
        time.sleep(0.001)
    assert told == [kind for n in (1, 2, 2) for kind in ("begun", "answered") for _ in range(n)]
    assert recognition.windows_at_once("cuda") == 8


def test_requests_share_the_token_ar_and_say_what_they_say_alone(models, save_tiny_flow, tmp_path):
    save_tiny_flow(tmp_path)
    speaker = Speaker(load_flow_speech(models.codec, folder=tmp_path))
    codes = torch.randint(0, 1024, (8, 100), generator=torch.Generator().manual_seed(1))
    voice = Voice("ada", codes, None, None, codec_hash(models.codec), "ada.wav", "2026-01-01", "Ada agreed")

    def said(engine: SpeechEngine, seed: int) -> np.ndarray:
        sentences = split_text("One. Two and three.")
        chunks = engine.say(sentences, voice, SpeechOptions(seed=seed), engine.ticket())
        return np.concatenate([chunk.samples for chunk in chunks])

    alone = [said(SpeechEngine(speaker), seed) for seed in range(2)]
    engine, together = SpeechEngine(speaker), {}
    threads = [
        threading.Thread(target=lambda seed=seed: together.__setitem__(seed, said(engine, seed)))
        for seed in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(alone[seed], together[seed]) for seed in range(2))
    assert not np.array_equal(alone[0], alone[1])
