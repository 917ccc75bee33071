"""The token AR in slots and seats: each utterance says what it says alone, and nothing is read back in a step."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice

import pytest
import torch
from myna.errors import UsageError
from myna.kernels.gpu import linear_rows, pointer_move, token_moves
from myna.kernels.gpu import sampling as sampling_kernel
from myna.kernels.gpu.launch import HAS_TRITON, INTERPRETED
from myna.layers import transformer_fused
from myna.tts.lm import generate, slots_base
from myna.tts.lm import seats as seats_module
from myna.tts.lm import several as several_module
from myna.tts.lm import shared as shared_module
from myna.tts.lm import slots as slots_module
from myna.tts.lm.quantize import for_inference
from myna.tts.lm.sampling import SamplingOptions
from myna.tts.lm.seats import Seats
from myna.tts.lm.shared import SharedAR, _Utterance
from myna.tts.lm.slots import captured_slots, check
from myna.tts.lm.step import Frame
from myna.tts.lm.token_ar import TokenAR, TokenARConfig
from myna.tts.lm.token_generate import TokenGenerator, TokenPrompt
from myna.tts.lm.token_slots import TokenSlots
from myna.tts.text.phones import Phones
from torch.utils._python_dispatch import TorchDispatchMode

from .test_generate import PHONES
from .test_seats import (
    at_once,
    by_coroutine,
    come_pause_and_leave,
    no_coroutines,
    taken,
    tries_say_what_they_say_alone,
    two_in_fused_seats,
)
from .test_slots import DEVICES, OPTIONS, OTHER, Utterance, come_and_go, same

SHORT = Phones.from_ipa("ɡˈʊ.")
VOICES = (
    TokenPrompt(torch.tensor([3, 1, 7, 7, 0]), torch.nn.functional.normalize(torch.arange(6.0), dim=0)),
    TokenPrompt(torch.tensor([11, 4]), torch.eye(6)[2]),
)


def model(**more) -> TokenAR:
    """Random, but decided enough for its choices not to hang on rounding."""
    torch.manual_seed(0)
    small = {"levels": (4, 3), "speaker": 6, "width": 32, "depth": 2, "n_heads": 2, "n_kv_heads": 1}
    small |= {"hidden": 48, "text_depth": 1, "context": 128, "extra": 4}
    net = TokenAR(TokenARConfig(**{**small, **more})).eval()
    with torch.no_grad():
        net.head.out.weight.normal_(0, 0.3)
        for block in net.transformer.blocks:
            block.attention.out.weight.normal_(0, 0.1)  # pyright: ignore
            block.feed_forward.out.weight.normal_(0, 0.1)  # pyright: ignore
    return net


def ready(device: str = "cpu", **more) -> TokenAR:
    return for_inference(model(**more).to(device), "float32")  # pyright: ignore


def options(seed: int, **more) -> SamplingOptions:
    """Utterances of one to three rows, with speeds of their own."""
    own = SamplingOptions(
        seed=seed,
        text_guidance=2.0 if seed % 3 else 1.0,
        voice_guidance=1.5 if seed % 3 == 2 else 1.0,
        speed=1 + 0.3 * (seed % 2),
        duration_temperature=0.4 + 0.2 * (seed % 4),
        max_sound_frames=3 + seed,
        max_pause_frames=4 + 2 * seed,
    )
    return replace(own, **more)


def generator(net: TokenAR, seed: int, **more) -> TokenGenerator:
    phones = (SHORT, PHONES, OTHER)[seed % 3]
    return TokenGenerator(net, phones, VOICES[seed % 2], options(seed, **more))


def alone(net: TokenAR, seed: int, **more) -> list[Frame]:
    """By the coroutine, a token after another."""
    return by_coroutine(generator(net, seed, **more))


@pytest.fixture(params=DEVICES)
def net(request, monkeypatch) -> TokenAR:
    """As a GPU runs it; on a CPU the steps of slots are as they are instead of captured."""
    if request.param == "cpu":
        for part in (generate, several_module, shared_module):
            monkeypatch.setattr(part, "may_capture", lambda _: True)
        for part in (seats_module, slots_module):
            monkeypatch.setattr(part, "runs_on", lambda *_: True)
        monkeypatch.setattr(slots_module, "_POOL", slots_module.Pool())
    return ready(request.param)


# ---- slots


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("drawn", OPTIONS)
def test_utterances_come_and_go(drawn, device, no_synchronisation):
    net = ready(device)
    batch = TokenSlots(net, drawn, slots=3, rows=3, phones=40)

    def utterance(phones: Phones, seed: int, **own) -> Utterance:
        voice = VOICES[seed % 2]
        return Utterance(lambda o: TokenGenerator(net, phones, voice, o), replace(drawn, **own), seed)

    come_and_go(
        batch,
        utterance(PHONES, 1, max_sound_frames=5),
        utterance(OTHER, 2, speed=1.5, duration_temperature=1.0),
        utterance(PHONES, 3, speed=0.8, max_pause_frames=3, text_guidance=1.3),
        no_synchronisation,
    )


@pytest.mark.skipif(not (HAS_TRITON and INTERPRETED), reason="kernels are not interpreted")
@pytest.mark.parametrize("drawn", OPTIONS)
def test_draws_and_moves_by_kernels(drawn, monkeypatch):
    """In Triton's interpreter: the same tokens, pointers and pauses as by PyTorch."""
    asked = []
    for kernel in (pointer_move, sampling_kernel):
        monkeypatch.setattr(kernel, "supports", lambda logits: asked.append(logits.shape) or True)
    test_utterances_come_and_go(drawn, "cpu", nullcontext)
    assert {len(shape) for shape in asked} == {2, 3}


class NoNorm(torch.nn.Module):
    def forward(self, x: torch.Tensor, condition: torch.Tensor | None = None) -> torch.Tensor:
        return x


class PlainBlocks:
    """`FusedTransformer` by the layers themselves, whose last norm is left out."""

    def __init__(self, model, batch: int, dtype: torch.dtype):
        self._model = copy.copy(model)
        self._model._modules = dict(model._modules) | {"norm": NoNorm()}
        self.gain, self.eps = model.norm.weight.detach(), model.norm.eps
        self.position, self.caches = model.init_state(batch, self.gain)

    def blocks(self, x: torch.Tensor) -> torch.Tensor:
        return self._model.step(x[:, :, None], (self.position, self.caches))[0][:, :, 0]


@pytest.fixture
def all_by_kernels(monkeypatch) -> list[str]:
    """What a GPU does around the transformer, in Triton's interpreter. Names of what was launched."""
    launched: list[str] = []

    def watched(module, name: str) -> None:
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args: launched.append(name) or real(*args))

    monkeypatch.setattr(slots_base, "FusedTransformer", PlainBlocks)
    monkeypatch.setattr(transformer_fused, "supports", lambda *_: True)
    for kernel in (sampling_kernel, token_moves):
        monkeypatch.setattr(kernel, "supports", lambda *_: True)
    for module, name in (
        (linear_rows, "norm_linear_rows"),
        (sampling_kernel, "sample"),
        (token_moves, "token_moves"),
    ):
        watched(module, name)
    return launched


@pytest.mark.skipif(not (HAS_TRITON and INTERPRETED), reason="kernels are not interpreted")
@pytest.mark.parametrize("drawn", [OPTIONS[1], OPTIONS[3]])
def test_a_step_is_the_transformer_and_three_operators(drawn, all_by_kernels, no_synchronisation):
    """The same tokens, pointers and pauses as by PyTorch, and no other operation but views: one more is two
    microseconds."""
    made, real = [], TokenSlots._advance

    class Counted(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            made.append(func.name())
            return func(*args, **(kwargs or {}))

    test_utterances_come_and_go(drawn, "cpu", nullcontext)
    assert all_by_kernels == ["norm_linear_rows", "sample", "token_moves"] * 14
    net = ready()
    batch = TokenSlots(net, drawn, slots=2, rows=3, phones=40)
    numbers, active = torch.rand(2, 6, dtype=torch.float64), torch.tensor([True, False])
    fixed = torch.randn(6, 32)
    batch._fused.blocks = lambda x: fixed  # pyright: ignore
    with torch.inference_mode(), no_synchronisation(), Counted():
        real(batch, numbers, active)
    views = (
        "aten::view",
        "aten::slice",
        "aten::select",
        "aten::flatten",
        "aten::unsqueeze",
        "aten::alias",
        "aten::reshape",
    )
    assert [name for name in made if not name.startswith(views)] == [
        "myna::norm_linear_rows",
        "myna::sample",
        "myna::token_moves",
    ]


def test_layers_that_are_not_plain_go_without_tables(all_by_kernels, monkeypatch):
    """Such as those of a model that has not been made ready for inference."""
    monkeypatch.setattr(PlainBlocks, "step", lambda self, x, active: self.blocks(x), raising=False)
    assert TokenSlots(ready(), OPTIONS[0], slots=1, rows=3, phones=40)._tables is not None
    assert TokenSlots(model(), OPTIONS[0], slots=1, rows=3, phones=40)._tables is None


def test_a_paused_slot_keeps_its_state():
    net = ready()
    batch = TokenSlots(net, OPTIONS[0], slots=2, rows=3, phones=40)
    one = Utterance(lambda o: TokenGenerator(net, PHONES, VOICES[0], o), OPTIONS[0], 1)
    one.join(batch, 1)

    def rows(slot: int) -> list[torch.Tensor]:
        """Of all that a step changes but the caches: what is written there for a paused slot is written over."""
        parts = (batch._position, batch._before, batch._recent, batch._places, batch._spans)
        return [t.view(2, -1)[slot].clone() for t in parts]

    mine, others = rows(1), rows(0)
    for _ in range(3):
        batch(torch.rand(2, 6, dtype=torch.float64), torch.tensor([True, False]))
    assert all(torch.equal(a, b) for a, b in zip(rows(1), mine, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(rows(0)[:3], others[:3], strict=True))


def in_a_slot(one: TokenGenerator, monkeypatch) -> list[Frame]:
    """What a generator says; it fails where it would go without a slot."""
    with monkeypatch.context() as within:
        within.setattr(TokenGenerator, "run", None)
        return list(one)


def test_the_generator_in_a_slot_of_its_own(net, monkeypatch):
    made, real = [], slots_module.TokenSlots
    monkeypatch.setattr(slots_module, "TokenSlots", lambda *a: made.append(real(*a)) or made[-1])
    for seed in (4, 1, 7):
        ours = in_a_slot(generator(net, seed), monkeypatch)
        same(ours, alone(net, seed))
        pointer = torch.cat([frame.pointer for frame in ours])
        assert (
            pointer[-1] == generator(net, seed).n_phones - 1
        )  # up to the half that makes the last token whole
        assert not torch.is_inference_mode_enabled()
    assert len(made) == 1  # the same slot, lent again


def test_without_a_voice_and_without_guidance(net, monkeypatch):
    plain = SamplingOptions(seed=3, voice_guidance=1.5)  # which needs a voice
    same(
        in_a_slot(TokenGenerator(net, OTHER, None, plain), monkeypatch),
        by_coroutine(TokenGenerator(net, OTHER, None, plain)),
    )


def test_where_a_slot_is_wrong_the_step_itself_runs(net, monkeypatch):
    monkeypatch.setattr(slots_module, "_POOL", slots_module.Pool())
    monkeypatch.setattr(TokenSlots, "_transform", lambda self, x, active: x * 0.5)
    with pytest.warns(UserWarning, match="fused kernels are not used: a fused step is"):
        ours = list(generator(net, 5))
    same(ours, alone(net, 5))


def test_what_does_not_fit(monkeypatch):
    net = ready()
    batch = TokenSlots(net, options(2), slots=1, rows=3, phones=4)
    one = generator(net, 2)
    with pytest.raises(UsageError, match="does not fit slots of 3 rows and 4 phones"):
        batch.join(0, one.step, one.state)
    with pytest.raises(UsageError, match="does not fit slots of 3 rows"):
        batch.join(0, generator(net, 3).step, one.state)  # of one row
    assert captured_slots(one.step, one.state) is None  # on a CPU
    monkeypatch.setattr(slots_module, "runs_on", lambda *_: True)
    roomy = captured_slots(one.step, one.state, 2)
    assert isinstance(roomy, TokenSlots)
    assert roomy.n_slots == 2
    monkeypatch.setattr(TokenSlots, "_guided", lambda self, logits: -logits.view(1, 3, -1)[:, 0])
    with pytest.raises(RuntimeError, match="off what the layers give"):
        check(TokenSlots(net, options(2), slots=1, rows=3, phones=64), one.step, one.state)


# ---- seats


def reads(net, phones, prompt, sampling) -> TokenGenerator:
    return TokenGenerator(net, phones, VOICES[sampling.seed % 2], sampling)


def said(shared: SharedAR, seed: int, **more):
    return shared.frames((SHORT, PHONES, OTHER)[seed % 3], None, options(seed, **more))


def test_those_who_begin_at_once_say_what_they_say_alone(net, monkeypatch):
    expected = [alone(net, seed) for seed in range(6)]
    no_coroutines(monkeypatch)
    at_once(SharedAR(net, reads=reads), said, expected)  # pyright: ignore


def test_they_come_pause_and_leave_at_different_steps(net, monkeypatch):
    """Step by step, so that who is beside whom is known."""
    no_coroutines(monkeypatch)
    shared = SharedAR(net, reads=reads)  # pyright: ignore
    shared._seats = Seats(net, slots=2)  # pyright: ignore
    guided = {"text_guidance": 2.0, "voice_guidance": 1.5}
    first, second, third = (
        _Utterance(generator(net, seed, **guided), 0, 0, lambda: False, shared._lock) for seed in (1, 2, 4)
    )
    come_pause_and_leave(shared, first, second, third)
    for seed, one in ((1, first), (2, second), (4, third)):
        same(list(one.made), alone(net, seed, **guided)[: len(one.made)])


def test_who_leaves_frees_its_seat(net):
    shared = SharedAR(net, reads=reads)  # pyright: ignore
    slow = {"speed": 0.25, "max_sound_frames": 40, "max_pause_frames": 60}
    leaving = said(shared, 1, **slow)
    begun = list(islice(leaving, 3))
    assert taken(shared) == 1
    leaving.close()
    assert taken(shared) == 0
    same(begun, alone(net, 1, **slow)[:3])
    same(list(said(shared, 4)), alone(net, 4))
    assert shared._seats is not None
    assert shared._seats.n_tables == 1  # the same seat again


def test_who_finds_no_seat_shares_steps_as_without(net, monkeypatch):
    monkeypatch.setattr(seats_module, "_TABLES", 1)
    shared = SharedAR(net, reads=reads)  # pyright: ignore
    shared._seats = Seats(net, slots=1)  # pyright: ignore
    one, two = said(shared, 1), said(shared, 4)
    begun = [next(one), next(two)]
    assert taken(shared) == 1
    same([begun[0], *one], alone(net, 1))
    same([begun[1], *two], alone(net, 4))


def test_tries_side_by_side(net, monkeypatch):
    monkeypatch.setattr(several_module, "_Try", None)  # nobody goes without a slot
    tries_say_what_they_say_alone(lambda: generator(net, 2))


@pytest.mark.skipif(not (HAS_TRITON and INTERPRETED), reason="kernels are not interpreted")
def test_with_the_fused_transformer(monkeypatch):
    """Its kernels in Triton's interpreter."""
    net = ready(context=32, depth=1)
    monkeypatch.setattr(seats_module, "runs_on", lambda *_: True)
    monkeypatch.setattr(transformer_fused, "supports", lambda *_: True)
    monkeypatch.setattr(seats_module, "check", lambda *_: None)  # of others; here it would take as long again
    no_coroutines(monkeypatch)
    shared = SharedAR(net, reads=reads)  # pyright: ignore
    shared._seats = Seats(net, slots=2)  # pyright: ignore
    one, two = two_in_fused_seats(shared, (generator(net, s) for s in (1, 4)))
    monkeypatch.undo()
    same(one, alone(net, 1)[:2])
    same(two, alone(net, 4)[:2])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_steps_are_captured_and_fused(monkeypatch):
    net = ready("cuda")
    shared = SharedAR(net, reads=reads)  # pyright: ignore
    frames = said(shared, 1)
    begun = next(frames)
    [seat] = [one.seat for one in shared._running]
    assert seat is not None
    assert isinstance(seat.table.slots, TokenSlots)
    assert seat.table.slots._fused is not None
    assert seat.table.slots._tables is not None
    assert seat.table.slots._step._graph is not None
    same([begun, *frames], alone(net, 1))
    one = generator(net, 2)
    slots = captured_slots(one.step, one.state)
    assert slots is not None
    assert slots._step._graph is not None
    same(in_a_slot(one, monkeypatch), alone(net, 2))
