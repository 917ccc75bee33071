"""Utterances that share captured steps: each says what it says alone, and gives its seat back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import pytest
import torch
from myna.kernels.gpu.launch import HAS_TRITON, INTERPRETED
from myna.layers import transformer_fused
from myna.layers.lora import LoRAWeights
from myna.tts.lm import seats as seats_module
from myna.tts.lm import several as several_module
from myna.tts.lm import shared as shared_module
from myna.tts.lm import slots as slots_module
from myna.tts.lm.ar import ARModel
from myna.tts.lm.generate import ARGenerator, SpeechGenerator
from myna.tts.lm.quantize import for_inference
from myna.tts.lm.sampling import SamplingOptions
from myna.tts.lm.seats import Seats
from myna.tts.lm.shared import SharedAR, _chosen, _Utterance
from myna.tts.lm.slots import ARSlots
from myna.tts.lm.step import Frame
from myna.tts.text.phones import Phones

from .test_generate import PHONES, model, prompt
from .test_slots import same

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
]
OTHER = Phones.from_ipa("ænd nˈaʊ ðə ɹˈɛst.")
LONG = Phones.from_ipa("hˈæloʊ wˈɜːld, ænd mˈoːɹ. " * 8)


def options(seed: int) -> SamplingOptions:
    """Utterances of one to three rows, with speeds of their own."""
    return SamplingOptions(
        seed=seed,
        text_guidance=2.0 if seed % 3 else 1.0,
        voice_guidance=1.5 if seed % 3 == 2 else 1.0,
        speed=1 + 0.1 * (seed % 2),
        duration_temperature=0.5 + 0.1 * (seed % 4),
        max_sound_frames=10 + seed,
    )


@pytest.fixture(params=DEVICES)
def net(request, monkeypatch) -> ARModel:
    """As a GPU runs it; on a CPU the steps of a table are as they are instead of captured."""
    made = for_inference(model(n_coarse=2).to(request.param), "float32")
    if request.param == "cpu":
        monkeypatch.setattr(shared_module, "may_capture", lambda _: True)
        monkeypatch.setattr(seats_module, "runs_on", lambda *_: True)
    return made  # pyright: ignore


def phones(seed: int) -> Phones:
    return PHONES if seed % 2 else OTHER


def alone(net: ARModel, at: int, **more) -> list[Frame]:
    """By the loop of one."""
    sampling = SamplingOptions(**{**vars(options(at)), **more})
    return by_coroutine(ARGenerator(net, phones(at), prompt(), sampling))


def by_coroutine(generator: SpeechGenerator) -> list[Frame]:
    run, frames, answer = generator.run(), [], None
    with torch.inference_mode():
        while True:
            try:
                asked = run.send(answer)
            except StopIteration:
                return frames
            answer = None if isinstance(asked, Frame) else asked.answer(generator.model)
            if isinstance(asked, Frame):
                frames.append(asked)


def said(shared: SharedAR, seed: int):
    return shared.frames(phones(seed), prompt(), options(seed))


def taken(shared: SharedAR) -> int:
    assert shared._seats is not None
    return shared._seats.n_taken


def no_coroutines(monkeypatch) -> None:
    """Fails an utterance that is not in a seat."""
    monkeypatch.setattr(_Utterance, "resume", lambda self, _: self.fail(AssertionError("it has no seat")))


def test_those_who_begin_at_once_say_what_they_say_alone(net, monkeypatch):
    expected = [alone(net, seed) for seed in range(6)]
    no_coroutines(monkeypatch)
    at_once(SharedAR(net), said, expected)


def at_once(shared: SharedAR, said: Callable[[SharedAR, int], Iterator[Frame]], expected) -> None:
    """Six threads begin together. said: what the one with a number says."""
    barrier, made = threading.Barrier(6), {}

    def work(seed: int) -> None:
        barrier.wait()
        made[seed] = list(said(shared, seed))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(6):
        same(made[seed], expected[seed])
    assert shared.frames_made == sum(map(len, expected))
    assert shared.steps < shared.frames_made  # they did share
    assert shared._seats is not None
    assert shared._seats.n_tables == 3  # one for each number of rows, whatever the speeds
    assert taken(shared) == 0


def test_they_come_pause_and_leave_at_different_steps(net, monkeypatch):
    """Step by step, so that who is beside whom is known."""
    no_coroutines(monkeypatch)
    shared = SharedAR(net)
    shared._seats = Seats(net, slots=2)

    def utterance(seed: int) -> _Utterance:
        sampling = SamplingOptions(**{**vars(options(seed)), "text_guidance": 2.0, "voice_guidance": 1.0})
        generator = ARGenerator(net, phones(seed), prompt(), sampling)
        return _Utterance(generator, 0, 0, lambda: False, shared._lock)

    first, second, third = (utterance(seed) for seed in (1, 2, 3))
    come_pause_and_leave(shared, first, second, third)
    for seed, one in ((1, first), (2, second), (3, third)):
        expected = alone(net, seed, text_guidance=2.0, voice_guidance=1.0)
        same(list(one.made), expected[: len(one.made)])


def come_pause_and_leave(shared: SharedAR, first: _Utterance, second: _Utterance, third: _Utterance) -> None:
    """Two at a table for two, and the third in the seat that the first has left."""
    going = {0: [first], 2: [first, second], 3: [second], 5: [first, second], 7: [second], 8: [second, third]}
    now: list[_Utterance] = []
    for step in range(11):
        now = going.get(step, now)
        if step == 7:
            with shared._lock:
                shared._remove(first)
        with torch.inference_mode():
            shared._step(now)
    assert first.seat is not None
    assert third.seat is not None
    assert (third.seat.table, third.seat.slot) == (first.seat.table, first.seat.slot)
    assert [len(one.made) for one in (first, second, third)] == [5, 9, 3]


def test_who_leaves_frees_its_seat(net):
    shared = SharedAR(net)
    leaving = shared.frames(LONG, prompt(), options(1))
    begun = list(islice(leaving, 3))
    assert taken(shared) == 1
    leaving.close()
    assert taken(shared) == 0
    same(begun, list(islice(ARGenerator(net, LONG, prompt(), options(1)), 3)))
    same(list(said(shared, 4)), alone(net, 4))
    assert shared._seats is not None
    assert shared._seats.n_tables == 1  # the same seat again


def test_who_is_told_to_stop_frees_its_seat_though_nobody_takes_its_frames(net):
    shared, told = SharedAR(net), threading.Event()
    frames = shared.frames(LONG, prompt(), options(1), stopped=told.is_set)
    next(frames)
    assert taken(shared) == 1
    told.set()
    list(frames)
    assert taken(shared) == 0


def test_who_has_left_while_a_seat_was_found_has_none(net, monkeypatch):
    shared = SharedAR(net)
    one = _Utterance(ARGenerator(net, PHONES, prompt(), options(1)), 0, 0, lambda: False, shared._lock)
    real = Seats.find

    def find(self, generator):
        seat = real(self, generator)
        one.wanted = False  # as `_leave` does meanwhile
        return seat

    monkeypatch.setattr(Seats, "find", find)
    with torch.inference_mode():
        shared._step([one])
    assert taken(shared) == 0
    assert not one.made


def test_a_seat_given_away_is_not_stepped_twice(net, monkeypatch):
    """One leaves after it was chosen, and who is new gets its seat in the same step."""
    no_coroutines(monkeypatch)
    shared = SharedAR(net)
    shared._seats = Seats(net, slots=1)
    first, second = (
        _Utterance(ARGenerator(net, phones(seed), prompt(), options(seed)), 0, 0, lambda: False, shared._lock)
        for seed in (1, 7)
    )
    with torch.inference_mode():
        shared._step([first])
        with shared._lock:
            shared._remove(first)
        for _ in range(4):
            shared._step([first, second])
    assert (len(first.made), len(second.made)) == (1, 4)
    same(list(second.made), alone(net, 7)[:4])


def test_an_error_is_that_of_its_own_utterance(net):
    shared = SharedAR(net)
    broken, whole = shared.frames(LONG, prompt(), options(1)), said(shared, 4)
    next(broken)

    def failing(*_):
        raise RuntimeError("broken")

    shared._running[0].generator.step.drawn = failing  # pyright: ignore
    with pytest.raises(RuntimeError, match="broken"):
        list(broken)
    same(list(whole), alone(net, 4))
    assert taken(shared) == 0


def test_who_finds_no_seat_shares_steps_as_without(net, monkeypatch):
    monkeypatch.setattr(seats_module, "_TABLES", 1)
    shared = SharedAR(net)
    shared._seats = Seats(net, slots=1)
    one, two = said(shared, 1), said(shared, 4)
    begun = [next(one), next(two)]
    assert taken(shared) == 1
    same([begun[0], *one], alone(net, 1))
    same([begun[1], *two], alone(net, 4))


def test_tables_of_other_kinds_make_room_when_they_are_empty(net, monkeypatch):
    monkeypatch.setattr(seats_module, "_TABLES", 2)
    found = Seats(net)

    def seat(**more):
        sampling = SamplingOptions(**{**vars(options(1)), **more})
        return found.find(ARGenerator(net, PHONES, prompt(), sampling))

    first, second = seat(temperature=0.7), seat(temperature=0.8)
    assert first is not None
    assert second is not None
    assert seat(temperature=0.9) is None
    second.free()
    third = seat(temperature=0.9)
    assert third is not None
    assert third.table is not second.table
    assert seat(temperature=0.7).table is first.table  # pyright: ignore
    assert found.n_tables == 2


def test_a_rhythm_or_an_adapter_has_no_seat(net):
    given = ARGenerator(net, PHONES, prompt(), options(1), rhythm=[0, 1])
    assert Seats(net).find(given) is None
    if net.begin.device.type == "cuda":
        return
    shared, generator = SharedAR(net), torch.Generator().manual_seed(0)
    down, up = {}, {}
    for name, part in net.named_modules():
        if name.startswith("transformer.blocks") and hasattr(part, "in_features"):
            down[name] = torch.randn(4, part.in_features, generator=generator) * 0.1  # pyright: ignore
            up[name] = torch.randn(part.out_features, 4, generator=generator) * 0.1  # pyright: ignore
    adapted = shared.frames(PHONES, prompt(), options(1), adapter=LoRAWeights(down, up, 1.0))
    begun = next(adapted)
    assert taken(shared) == 0
    same(list(said(shared, 4)), alone(net, 4))  # beside it, in a seat
    assert [f.codes.tolist() for f in [begun, *adapted]] != [f.codes.tolist() for f in alone(net, 1)]


def test_where_a_table_is_wrong_steps_are_shared_as_without(net, monkeypatch):
    monkeypatch.setattr(ARSlots, "_transform", lambda self, x, active: x * 0.5)
    shared = SharedAR(net)
    found = Seats(net)
    with pytest.warns(UserWarning, match="not captured for several at once"):
        assert found.find(ARGenerator(net, PHONES, prompt(), options(1))) is None
    assert found.find(ARGenerator(net, PHONES, prompt(), options(1))) is None  # and says it once
    shared._seats = found
    same(list(said(shared, 1)), alone(net, 1))


def test_on_a_cpu_nothing_has_a_seat():
    made = for_inference(model(n_coarse=2), "float32")
    shared = SharedAR(made)  # pyright: ignore
    assert shared._seats is None
    assert Seats(made).find(ARGenerator(made, PHONES, prompt(), options(1))) is None  # pyright: ignore
    one = _Utterance(
        ARGenerator(made, PHONES, prompt(), options(1)),  # pyright: ignore
        0,
        0,
        lambda: False,
        shared._lock,
    )
    with torch.inference_mode():
        shared._step(_chosen([one]))
    assert one.seat is None
    assert len(one.made) == 1


@pytest.mark.parametrize("device", DEVICES)
def test_tries_side_by_side(device, monkeypatch):
    net = for_inference(model(n_coarse=2).to(device), "float32")
    if device == "cpu":
        monkeypatch.setattr(several_module, "may_capture", lambda _: True)
        monkeypatch.setattr(slots_module, "runs_on", lambda *_: True)
    monkeypatch.setattr(several_module, "_Try", None)  # nobody goes without a slot
    tries_say_what_they_say_alone(lambda: ARGenerator(net, PHONES, prompt(), options(1)))  # pyright: ignore


def tries_say_what_they_say_alone(make: Callable[[], SpeechGenerator]) -> None:
    for seeds in ((1, 4, 7), (7, 1, 2)):
        read = make()
        frames = list(several_module.several(read.model, read, seeds))
        tries = [[frame for frame in of if frame is not None] for of in zip(*frames, strict=True)]
        for seed, one in zip(seeds, tries, strict=True):
            expected = by_coroutine(make().fork(seed))
            same(one, expected)
            assert all(step[seeds.index(seed)] is None for step in frames[len(expected) :])
        assert len(frames) == max(map(len, tries))


@pytest.mark.skipif(not (HAS_TRITON and INTERPRETED), reason="kernels are not interpreted")
def test_with_the_fused_transformer(monkeypatch):
    """Its kernels in Triton's interpreter."""
    made = for_inference(model(n_coarse=2, context=64, depth=1), "float32")
    monkeypatch.setattr(shared_module, "may_capture", lambda _: True)
    monkeypatch.setattr(seats_module, "runs_on", lambda *_: True)
    monkeypatch.setattr(transformer_fused, "supports", lambda *_: True)
    monkeypatch.setattr(seats_module, "check", lambda *_: None)  # of others; here it would take as long again
    no_coroutines(monkeypatch)
    shared = SharedAR(made)  # pyright: ignore
    shared._seats = Seats(made, slots=2)  # pyright: ignore
    one, two = two_in_fused_seats(
        shared, (ARGenerator(made, phones(s), prompt(), options(s)) for s in (1, 4))
    )  # pyright: ignore
    monkeypatch.undo()
    same(one, alone(made, 1)[:2])  # pyright: ignore
    same(two, alone(made, 4)[:2])  # pyright: ignore


def two_in_fused_seats(shared: SharedAR, generators: Iterable[SpeechGenerator]) -> list[list[Frame]]:
    """Two frames of each, one of them beside the other's."""
    one, two = (_Utterance(each, 0, 0, lambda: False, shared._lock) for each in generators)
    with torch.inference_mode():
        for now in ([one], [one, two], [two]):
            shared._step(now)
    assert one.seat is not None
    assert one.seat.table.slots._fused is not None
    assert (len(one.made), len(two.made)) == (2, 2)
    return [list(one.made), list(two.made)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_steps_are_captured_and_fused():
    net = for_inference(model(n_coarse=2).cuda(), "float32")
    shared = SharedAR(net)  # pyright: ignore
    frames = said(shared, 1)
    begun = next(frames)
    [seat] = [one.seat for one in shared._running]
    assert seat is not None
    assert seat.table.slots._fused is not None
    assert seat.table.slots._step._graph is not None
    same([begun, *frames], alone(net, 1))  # pyright: ignore
