"""Utterances that share the steps of the AR: each says what it says alone, whoever comes and goes beside it."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from typing import cast

import pytest
import torch
from myna.errors import MynaError
from myna.kernels.int8 import Int8Linear, int8_engine
from myna.kernels.int8 import compiled as script
from myna.layers.lora import LoRAWeights
from myna.tts.lm import shared as shared_module
from myna.tts.lm.ar import ARConfig, ARModel
from myna.tts.lm.batch import Prompt
from myna.tts.lm.generate import ARGenerator
from myna.tts.lm.quantize import for_inference
from myna.tts.lm.row_exact import RowExactInt8, RowExactLinear, row_exact
from myna.tts.lm.sampling import SamplingOptions
from myna.tts.lm.shared import SharedAR, _chosen, _Utterance
from myna.tts.lm.step import Frame
from myna.tts.lm.token_generate import TokenGenerator, TokenPrompt
from myna.tts.text.phones import Phones

K, V, D = 4, 64, 16
TEXTS = ("hˈæloʊ wˈɜːld.", "ænd mˈoːɹ, ænd mˈoːɹ ʌv ɪt.", "ɡˈʊd.", "wˈʌn tˈuː θɹˈiː fˈoːɹ.")


@pytest.fixture(scope="module")
def ar() -> ARModel:
    """Its matrices are large enough to be quantised."""
    torch.manual_seed(0)
    small = {"n_codebooks": K, "n_coarse": 2, "codebook_size": V, "codebook_dim": D, "width": 128, "depth": 2}
    small |= {"n_heads": 2, "n_kv_heads": 1, "hidden": 128, "text_depth": 1, "context": 512, "extra": 16}
    net = ARModel(ARConfig(**small), torch.randn(K, V, D)).eval()  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        for block in net.transformer.blocks:
            block.attention.out.weight.normal_(0, 0.1)  # pyright: ignore
            block.feed_forward.out.weight.normal_(0, 0.1)  # pyright: ignore
    return for_inference(net)  # pyright: ignore


def prompt(seed: int) -> Prompt:
    own = torch.Generator().manual_seed(seed)  # threads make theirs at once
    return Prompt(torch.randint(V, (K, 8 + 3 * seed), generator=own))


def options(seed: int) -> SamplingOptions:
    """Utterances of one, two and three rows."""
    return SamplingOptions(
        seed=seed, text_guidance=1.0 if seed == 1 else 2.0, voice_guidance=1.5 if seed % 2 else 1.0
    )


def say(shared: SharedAR, seed: int) -> list[Frame]:
    return list(shared.frames(Phones.from_ipa(TEXTS[seed % 4]), prompt(seed), options(seed)))


def at_once(n: int, say_one: Callable[[int], list[Frame]]) -> list[list[Frame]]:
    """What n threads say that begin together."""
    barrier, said = threading.Barrier(n), {}

    def work(seed: int) -> None:
        barrier.wait()
        said[seed] = say_one(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [said[seed] for seed in range(n)]


def equal(a: list[Frame], b: list[Frame]) -> bool:
    return len(a) == len(b) and all(
        x.codes.equal(y.codes) and x.pointer.equal(y.pointer) and x.hidden.equal(y.hidden)
        for x, y in zip(a, b, strict=True)
    )


@pytest.mark.skipif(int8_engine() is None, reason="no products in 8 bits on this machine")
def test_what_is_said_does_not_depend_on_the_others(ar):
    alone = [say(SharedAR(ar), seed) for seed in range(6)]
    shared = SharedAR(ar)
    said = at_once(6, lambda seed: say(shared, seed))
    assert all(equal(said[seed], alone[seed]) for seed in range(6))
    assert shared.frames_made == sum(map(len, alone))
    assert shared.steps < shared.frames_made  # they did share


def adapter(ar: ARModel, seed: int) -> LoRAWeights:
    """What a voice might have taught the blocks of a prepared AR."""
    generator = torch.Generator().manual_seed(seed)
    down, up = {}, {}
    for name, part in ar.named_modules():
        if name.startswith("transformer.blocks") and hasattr(part, "in_features"):
            down[name] = torch.randn(4 + 4 * seed, part.in_features, generator=generator) * 0.1  # pyright: ignore
            up[name] = torch.randn(part.out_features, 4 + 4 * seed, generator=generator) * 0.1  # pyright: ignore
    return LoRAWeights(down, up, 1.0)


@pytest.mark.skipif(int8_engine() is None, reason="no products in 8 bits on this machine")
def test_voices_with_adapters_of_their_own_share_every_step(ar):
    weights = [None, adapter(ar, 0), adapter(ar, 1), adapter(ar, 0)]

    def frames(shared: SharedAR, seed: int) -> list[Frame]:
        return list(
            shared.frames(Phones.from_ipa(TEXTS[seed]), prompt(seed), options(seed), adapter=weights[seed])
        )

    alone = [frames(SharedAR(ar), seed) for seed in range(4)]
    assert not equal(alone[1], say(SharedAR(ar), 1))
    shared = SharedAR(ar)
    said = at_once(4, lambda seed: frames(shared, seed))
    assert all(equal(said[seed], alone[seed]) for seed in range(4))
    assert shared.steps < shared.frames_made
    assert equal(say(shared, 2), say(SharedAR(ar), 2))  # who has none is as ever


@pytest.mark.skipif(int8_engine() is None, reason="no products in 8 bits on this machine")
def test_the_token_ar_is_shared_as_well(token_ar):
    voices = [
        None if seed == 2 else TokenPrompt(torch.arange(3 + seed), torch.eye(6)[seed % 6])
        for seed in range(4)
    ]

    def reads(model, phones, voice, sampling) -> TokenGenerator:
        return TokenGenerator(model, phones, voices[sampling.seed], sampling)

    def said_by(shared: SharedAR, seed: int) -> list[Frame]:
        return list(shared.frames(Phones.from_ipa(TEXTS[seed]), None, options(seed)))

    alone = [said_by(SharedAR(token_ar, reads=reads), seed) for seed in range(4)]
    exact = row_exact(token_ar)
    one = TokenGenerator(token_ar, Phones.from_ipa(TEXTS[1]), voices[1], options(1)).on(exact)
    assert [f.pointer.tolist() for f in alone[1]] == [f.pointer.tolist() for f in one]
    shared = SharedAR(token_ar, reads=reads)
    said = at_once(4, lambda seed: said_by(shared, seed))
    assert all(equal(said[seed], alone[seed]) for seed in range(4))
    assert shared.steps < shared.frames_made


def test_alone_it_is_the_loop_of_one(ar):
    exact = cast(ARModel, row_exact(ar))
    one = list(ARGenerator(ar, Phones.from_ipa(TEXTS[0]), prompt(0), options(0)).on(exact))
    shared = SharedAR(ar)
    made = say(shared, 0)
    assert [f.codes.tolist() for f in made] == [f.codes.tolist() for f in one]
    assert torch.allclose(
        torch.stack([f.hidden for f in made]), torch.stack([f.hidden for f in one]), atol=1e-5
    )


def test_who_leaves_is_gone_before_the_next_step_and_the_others_go_on(ar):
    shared = SharedAR(ar)
    leaving = shared.frames(Phones.from_ipa(TEXTS[1]), prompt(1), options(1))
    assert len(list(islice(leaving, 3))) == 3
    assert shared.n_running == 1
    leaving.close()
    assert shared.n_running == 0
    assert equal(say(shared, 2), say(SharedAR(ar), 2))


def test_who_is_told_to_stop_is_out_before_the_next_step_though_nobody_takes_its_frames(ar):
    shared, told = SharedAR(ar), threading.Event()
    frames = shared.frames(Phones.from_ipa(TEXTS[1] * 8), prompt(1), options(1), stopped=told.is_set)
    next(frames)  # the computing thread goes on until there are enough in hand
    told.set()
    made = shared.frames_made
    list(frames)  # what was there, and no error
    assert shared.frames_made <= made + 1  # the step that was under way
    assert shared.n_running == 0
    assert equal(say(shared, 2), say(SharedAR(ar), 2))


class Bell:
    """In place of an utterance's condition: counts."""

    def __init__(self):
        self.rung = 0

    def notify(self):
        self.rung += 1


def utterance(shared: SharedAR, seed: int, sampling: SamplingOptions) -> _Utterance:
    phones = Phones.from_ipa(TEXTS[seed % 4] * 4)
    one = _Utterance(
        ARGenerator(shared.ar, phones, prompt(seed), sampling), 0, 0, lambda: False, shared._lock
    )
    one.news = Bell()  # pyright: ignore
    return one


def test_a_step_wakes_only_those_for_whom_enough_is_there(ar):
    shared = SharedAR(ar)
    first, second = (utterance(shared, seed, options(seed)) for seed in (0, 1))
    rung = []
    with torch.inference_mode():
        for step in range(6):
            shared._step([first, second] if step > 1 else [first])
            rung.append((first.news.rung, second.news.rung))  # pyright: ignore
            if first.has_news:
                first.made.clear()
    assert rung == [(0, 0), (0, 0), (0, 0), (1, 0), (1, 0), (1, 1)]


def test_who_draws_otherwise_shares_the_model_all_the_same(ar, monkeypatch):
    shared, calls = SharedAR(ar), []
    made = shared_module.answers

    def noted(model, part, asked):
        calls.append((part, len(asked)))
        return made(model, part, asked)

    monkeypatch.setattr(shared_module, "answers", noted)
    both = [utterance(shared, 1, replace(options(1), temperature=t)) for t in (0.6, 0.9)]
    with torch.inference_mode():
        shared._step(both)
    parts = [n for part, n in calls if part is None or isinstance(part, torch.nn.Module)]
    assert parts == [2] * len(parts)
    assert len(parts) == 3 + len(shared.ar.depth_heads)  # transformer, code, advance, further codes
    # Draws are apart here, and together where they are alike.
    assert [n for part, n in calls if not (part is None or isinstance(part, torch.nn.Module))] == [1] * 4
    calls.clear()
    with torch.inference_mode():
        shared._step([utterance(shared, 1, options(1)), utterance(shared, 3, options(3))])
    assert {n for _, n in calls} == {2}


def test_an_error_is_that_of_its_own_utterance(ar):
    shared = SharedAR(ar)
    broken = shared.frames(Phones.from_ipa(TEXTS[1]), prompt(1), options(1))
    next(broken)
    shared._running[0].generator.step.numbers = _failing  # pyright: ignore
    with pytest.raises(RuntimeError, match="broken"):
        list(broken)
    assert equal(say(shared, 0), say(SharedAR(ar), 0))


def _failing(*_):
    raise RuntimeError("broken")


class _One:
    def __init__(self, opening: int = 0, n_made: int = 0, needed: bool = False):
        self.opening, self.made, self.wanted, self.over = opening, [None] * n_made, True, False
        self.needed = needed


def test_a_step_is_for_those_who_need_it_and_who_has_little_in_hand_takes_part():
    waited, starving, new, far = _One(needed=True), _One(n_made=2), _One(opening=5), _One(n_made=60)
    assert _chosen([far, waited, starving]) == [waited, starving]  # pyright: ignore
    assert _chosen([far, starving, new]) == [starving, new]  # pyright: ignore
    late = _One(n_made=60, needed=True)
    assert _chosen([late, starving]) == [late, starving]  # pyright: ignore


def test_where_nobody_needs_a_step_none_is_taken_but_by_one_alone():
    assert _chosen([_One(n_made=2), _One(n_made=60)]) == []  # pyright: ignore
    alone = _One(n_made=60)
    assert _chosen([alone]) == [alone]  # pyright: ignore
    assert _chosen([_One(n_made=1000)]) == []  # pyright: ignore


def test_one_whose_frames_nobody_takes_holds_up_nobody(ar):
    shared = SharedAR(ar, opening=4)
    first = shared.frames(Phones.from_ipa(TEXTS[1]), prompt(1), options(1))
    second = shared.frames(Phones.from_ipa(TEXTS[2]), prompt(2), options(2))
    next(first)
    next(second)
    rest = [list(second), list(first)]
    assert len(rest[0]) > 8
    assert shared.frames_made == 2 + len(rest[0]) + len(rest[1])


@pytest.mark.skipif(int8_engine() is None, reason="no products in 8 bits on this machine")
@pytest.mark.parametrize("bias", [True, False])
def test_a_row_of_an_exact_layer_is_the_same_in_every_batch(bias):
    torch.manual_seed(0)
    weight, x = torch.randn(96, 64), torch.randn(17, 64) * torch.logspace(-2, 2, 17)[:, None]
    given = torch.randn(96) if bias else None
    layer = RowExactInt8(Int8Linear(weight, given, str(int8_engine())))
    whole = layer(x)
    assert all(torch.equal(layer(x[i : i + n]), whole[i : i + n]) for n in (1, 2, 5) for i in range(17 - n))
    assert torch.equal(layer(x.view(17, 1, 64))[:, 0], whole)
    true = torch.nn.functional.linear(x, weight, given)
    assert float(((whole - true).norm(dim=1) / true.norm(dim=1)).max()) < 0.02


@pytest.mark.skipif(int8_engine() is None, reason="no products in 8 bits on this machine")
@pytest.mark.parametrize("limits", [False, True])
def test_a_row_of_zeros_gives_the_bias_and_leaves_the_others_alone(limits):
    torch.manual_seed(0)
    bias, x = torch.randn(96), torch.randn(5, 64)
    layer = RowExactInt8(Int8Linear(torch.randn(96, 64), bias, str(int8_engine())))
    if limits:
        layer._limits = torch.zeros(1, 64)
        layer._limits[0, :2] = torch.tensor([-1.0, 1.0])
    others = layer(x)
    x[2] = 0
    y = layer(x)
    assert torch.equal(y[2], bias)
    rest = [0, 1, 3, 4]
    assert torch.equal(y[rest], others[rest])


@pytest.mark.skipif(int8_engine() is None, reason="no products in 8 bits on this machine")
def test_without_products_of_a_given_range_a_row_sets_it():
    torch.manual_seed(0)
    x, layer = torch.randn(5, 64), RowExactInt8(Int8Linear(torch.randn(96, 64), None, str(int8_engine())))
    given = layer(x)
    layer._limits = torch.zeros(1, 64)
    layer._limits[0, :2] = torch.tensor([-1.0, 1.0])
    assert torch.equal(layer(x), given)


@pytest.mark.skipif(int8_engine() is None, reason="no products in 8 bits on this machine")
@pytest.mark.parametrize("bias", [True, False])
def test_compiled_operations_give_the_same_numbers(bias, monkeypatch):
    """Whatever number of rows came before, and where they cannot be compiled."""
    torch.manual_seed(0)
    given = torch.randn(96) if bias else None
    linear = Int8Linear(torch.randn(96, 64), given, str(int8_engine()))
    compiled = RowExactInt8(linear)
    assert isinstance(compiled._product, torch.jit.ScriptFunction)
    script.cache_clear()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(torch.jit, "script", _without_script)
            plain = RowExactInt8(linear)
    finally:
        script.cache_clear()
    assert not isinstance(plain._product, torch.jit.ScriptFunction)
    for n in [2, 2, 2, 1, 24, 3, *range(1, 40)]:
        x = torch.randn(n, 1, 64) * torch.logspace(-3, 2, n)[:, None, None]
        with torch.inference_mode():
            assert torch.equal(compiled(x), plain(x))
        assert torch.equal(compiled(x[:, 0]), plain(x[:, 0]))


def _without_script(function):
    raise NotImplementedError("this Python has none")


def test_a_small_float_layer_too():
    torch.manual_seed(0)
    linear = torch.nn.Linear(96, 4)
    x = torch.randn(11, 96)
    layer = RowExactLinear(linear)
    with torch.no_grad():
        whole = layer(x)
        assert all(torch.equal(layer(x[i : i + 1]), whole[i : i + 1]) for i in range(11))
        assert torch.allclose(whole, linear(x), atol=1e-5)


_LEAVES_IN_THE_MIDDLE = """
import torch
from myna.tts.lm.ar import ARConfig, ARModel
from myna.tts.lm.batch import Prompt
from myna.tts.lm.sampling import SamplingOptions
from myna.tts.lm.shared import SharedAR
from myna.tts.text.phones import Phones
torch.manual_seed(0)
wide = dict(width=1024, depth=8, n_heads=8, n_kv_heads=8, hidden=2048, text_depth=1, context=512, extra=64)
config = ARConfig(n_codebooks=4, n_coarse=2, codebook_size=64, codebook_dim=16, **wide)
shared = SharedAR(ARModel(config, torch.randn(4, 64, 16)).eval())
phones = Phones.from_ipa("wˈʌn tˈuː θɹˈiː fˈoːɹ. " * 9)
frames = shared.frames(phones, Prompt(torch.randint(64, (4, 8))), SamplingOptions())
next(frames)
assert shared.n_running
"""


def test_a_program_that_ends_in_the_middle_is_not_aborted():
    """Python ends such a thread in the middle of C++: "terminate called without an active exception", signal 6."""
    done = subprocess.run([sys.executable, "-c", _LEAVES_IN_THE_MIDDLE], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_is_said_ends_with_it(ar):
    shared = SharedAR(ar)
    frames = shared.frames(Phones.from_ipa(TEXTS[1] * 9), prompt(1), options(1))
    next(frames)
    thread = shared._thread
    assert thread is not None
    shared.close()
    assert not thread.is_alive()
    taken = []
    with pytest.raises(MynaError, match="cut off"):
        taken.extend(frames)  # what was ready, and then no more: nobody takes it for whole
    assert len(taken) <= shared.frames_made
    with pytest.raises(MynaError, match="cut off"):
        list(shared.frames(Phones.from_ipa(TEXTS[0]), prompt(0), options(0)))
    assert shared.n_running == 0
