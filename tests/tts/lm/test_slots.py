"""A batch of utterances that come and go: each says what it says alone, and nothing is read back in a step."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice

import pytest
import torch
from myna.errors import UsageError
from myna.kernels.gpu import pointer_move, sampling
from myna.kernels.gpu.launch import HAS_TRITON, INTERPRETED
from myna.tts.lm import generate, slots
from myna.tts.lm.generate import ARGenerator, SpeechGenerator
from myna.tts.lm.quantize import for_inference
from myna.tts.lm.sampling import SamplingOptions, uniforms
from myna.tts.lm.slots import ARSlots, captured_slots, check
from myna.tts.lm.slots_base import Slots
from myna.tts.lm.step import Frame
from myna.tts.text.phones import Phones

from .test_generate import PHONES, model, prompt

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
]
OTHER = Phones.from_ipa("ænd nˈaʊ ðə ɹˈɛst.")
OPTIONS = [
    SamplingOptions(text_guidance=2, voice_guidance=1.5),
    SamplingOptions(text_guidance=2, voice_guidance=1.5, top_k=5, top_p=1.0, temperature=0.7, speed=1.2),
    SamplingOptions(text_guidance=2, voice_guidance=1.5, temperature=0.0),
    SamplingOptions(text_guidance=2, voice_guidance=1.5, repetition_window=4, repetition_threshold=0.2),
]


class Utterance:
    """One in a slot. make: a generator of it, before its first frame."""

    def __init__(
        self, make: Callable[[SamplingOptions], SpeechGenerator], options: SamplingOptions, seed: int
    ):
        self.make, self.options = make, replace(options, seed=seed)
        self.generator = make(self.options)
        self.numbers, self.begins = uniforms(seed), True
        self.state = self.generator.begin(self.numbers)
        self.at = int(self.state.pointer)
        self.frames: list[Frame] = []

    def alone(self, n: int) -> list[Frame]:
        return list(islice(self.make(self.options), n))

    def join(self, batch: Slots, slot: int) -> None:
        batch.join(slot, self.generator.step, self.state)

    def drawn(self) -> torch.Tensor:
        return self.generator.step.numbers(self.numbers, self.begins)

    def said(self, frame: Frame, pointer: int) -> None:
        self.frames.append(frame)
        before, self.at = self.at, pointer
        self.begins = self.at != before


def spoken(net, phones: Phones, options: SamplingOptions, seed: int) -> Utterance:
    return Utterance(lambda given: ARGenerator(net, phones, prompt(), given), options, seed)


def same(ours: list[Frame], theirs: list[Frame]) -> None:
    assert [f.codes.tolist() for f in ours] == [f.codes.tolist() for f in theirs]
    assert [f.pointer.tolist() for f in ours] == [f.pointer.tolist() for f in theirs]
    a, b = (torch.stack([f.hidden for f in frames]) for frames in (ours, theirs))
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("options", OPTIONS)
def test_utterances_come_and_go(options, device, no_synchronisation):
    net = for_inference(model(n_coarse=3).to(device), "float32")
    batch = ARSlots(net, options, slots=3, rows=3, phones=40)  # pyright: ignore[reportArgumentType]
    come_and_go(
        batch,
        *(spoken(net, p, options, seed) for p, seed in ((PHONES, 1), (OTHER, 2), (PHONES, 3))),
        no_synchronisation,
    )


@pytest.mark.skipif(not (HAS_TRITON and INTERPRETED), reason="kernels are not interpreted")
def test_draws_and_moves_by_kernels(monkeypatch):
    """In Triton's interpreter, the deeper codebooks' draws too: the same codes and pointers as by PyTorch."""
    asked = []
    for kernel in (pointer_move, sampling):
        monkeypatch.setattr(kernel, "supports", lambda logits: asked.append(logits.shape) or True)
    test_utterances_come_and_go(OPTIONS[1], "cpu", nullcontext)
    assert asked.count(asked[0]) == 3 * 14  # a draw of each codebook
    assert len(asked) == 4 * 14


def come_and_go(
    batch: Slots, first: Utterance, second: Utterance, third: Utterance, no_synchronisation
) -> None:
    """Fourteen steps of three slots, in which each has to say what it says alone."""
    device = batch.pointer.device
    held: list[Utterance | None] = [first, None, None]
    first.join(batch, 0)
    for step in range(14):
        if step == 3:
            held[2] = second
            second.join(batch, 2)
        if step == 9:  # the first leaves, another takes its place
            held[0] = third
            third.join(batch, 0)
        going = [one is not None and not (one is second and step % 3 == 0) for one in held]  # one pauses
        numbers = torch.zeros(3, batch.n_numbers, dtype=torch.float64, device=device)
        for slot, one in enumerate(held):
            if one is not None and going[slot]:
                numbers[slot] = one.drawn()
        active = torch.tensor(going, device=device)
        with no_synchronisation():
            made = batch(numbers, active)
        for slot, one in enumerate(held):
            if one is not None and going[slot]:
                one.said(batch.frame(slot, made), int(batch.pointer[slot]))
    assert [len(one.frames) for one in (first, second, third)] == [9, 7, 5]
    for one in (first, second, third):
        same(one.frames, one.alone(len(one.frames)))


def test_a_paused_slot_keeps_its_state():
    net, options = for_inference(model(n_coarse=2), "float32"), OPTIONS[0]
    batch = ARSlots(net, options, 2, 3, 40)  # pyright: ignore[reportArgumentType]
    one = spoken(net, PHONES, options, 1)
    one.join(batch, 1)
    before = [t.clone() for t in (batch._position, batch._before, batch._places, batch._spans, batch._recent)]
    batch(torch.rand(2, 5, dtype=torch.float64), torch.tensor([True, False]))
    after = (batch._position, batch._before, batch._places, batch._spans, batch._recent)
    rows = {6: slice(3, 6), 2: slice(1, 2)}
    assert all(torch.equal(a[rows[len(a)]], b[rows[len(b)]]) for a, b in zip(after, before, strict=True))
    assert not torch.equal(batch._before[0], before[1][0])


def test_one_without_guidance_in_a_generator(monkeypatch):
    """The generator as a GPU runs it, its slot on the CPU."""
    net, options = for_inference(model(n_coarse=3), "float32"), SamplingOptions(seed=5)
    expected = list(ARGenerator(net, PHONES, prompt(), options))  # pyright: ignore[reportArgumentType]
    monkeypatch.setattr(generate, "may_capture", lambda _: True)
    monkeypatch.setattr(slots, "runs_on", lambda *_: True)
    made = []
    real = slots.ARSlots
    monkeypatch.setattr(slots, "ARSlots", lambda *a: made.append(real(*a)) or made[-1])
    ours = list(ARGenerator(net, PHONES, prompt(), options))  # pyright: ignore[reportArgumentType]
    assert len(made) == 1
    same(ours, expected)
    again = list(ARGenerator(net, OTHER, None, SamplingOptions(seed=6)))  # pyright: ignore[reportArgumentType]
    assert len(made) == 1  # the same slot, lent again
    monkeypatch.undo()
    same(again, list(ARGenerator(net, OTHER, None, SamplingOptions(seed=6))))  # pyright: ignore


def test_where_a_slot_is_wrong_the_step_itself_runs(monkeypatch):
    net = for_inference(model(n_coarse=2), "float32")
    monkeypatch.setattr(generate, "may_capture", lambda _: True)
    monkeypatch.setattr(slots, "runs_on", lambda *_: True)
    monkeypatch.setattr(slots, "_POOL", slots.Pool())
    monkeypatch.setattr(
        ARSlots, "_guided", lambda self, logits: logits.view(self.n_slots, self.rows, -1)[:, 0]
    )
    monkeypatch.setattr(ARSlots, "_transform", lambda self, x, active: x * 0.5)
    with pytest.warns(UserWarning, match="fused kernels are not used"):
        ours = list(ARGenerator(net, PHONES, prompt(), SamplingOptions(seed=5)))  # pyright: ignore
    monkeypatch.undo()
    same(ours, list(ARGenerator(net, PHONES, prompt(), SamplingOptions(seed=5))))  # pyright: ignore


def test_what_does_not_fit():
    net, options = for_inference(model(n_coarse=2), "float32"), OPTIONS[0]
    batch = ARSlots(net, options, 1, 3, 4)  # pyright: ignore[reportArgumentType]
    one = spoken(net, PHONES, options, 1)
    with pytest.raises(UsageError, match="does not fit slots of 3 rows and 4 phones"):
        one.join(batch, 0)
    given = ARGenerator(net, PHONES, prompt(), options, rhythm=[0, 1])  # pyright: ignore[reportArgumentType]
    assert captured_slots(given.step, given.state) is None
    assert captured_slots(one.generator.step, one.generator.state) is None or torch.cuda.is_available()
    roomy = ARSlots(net, options, 1, 3, 64)  # pyright: ignore[reportArgumentType]
    check(roomy, one.generator.step, one.generator.state)
    assert not generate.may_capture(net.begin) or torch.cuda.is_available()  # pyright: ignore
