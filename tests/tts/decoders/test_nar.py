"""The NAR: chunks and groups, what may depend on what, and that it learns."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from myna.errors import InputError
from myna.layers.streaming import tree_map
from myna.tts.decoders.nar import NARConfig, NARModel, NAROptions, NARResult, NARState, frames_in
from myna.tts.decoders.nar_stream import NARStream, fill
from myna.tts.lm.batch import Prompt, SpeechBatch
from myna.tts.lm.pointer import phone_ages
from myna.tts.lm.quantize import for_inference
from myna.tts.text.phones import Phones
from torch import Tensor

K, V, D = 4, 16, 6
GROUPS = {"groups": ((1,), (2, 3)), "stages": ((1,), (2,), (3,)), "after two": ((2, 3),)}
every_groups = pytest.mark.parametrize("groups", list(GROUPS))
P = 5


def config(groups: str = "groups", **more) -> NARConfig:
    small = {
        "n_codebooks": K,
        "n_given": GROUPS[groups][0][0],
        "codebook_size": V,
        "codebook_dim": D,
        "groups": GROUPS[groups],
        "chunks": (3, 5, 7),
        "n_symbols": 20,
        "width": 32,
        "depth": 2,
        "n_heads": 2,
        "n_kv_heads": 1,
        "hidden": 48,
        "text_depth": 1,
        "condition": 8,
        "context": 128,
        "extra": 4,
    }
    return NARConfig(**{**small, **more})


def random_model(groups: str = "groups", **more) -> NARModel:
    """Every weight drawn, those too that training starts at zero (adaptive norms, learned channels)."""
    torch.manual_seed(0)
    model = NARModel(config(groups, **more), torch.randn(K, V, D)).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "adapt" in name or "extra" in name or name.startswith("group"):
                p.normal_(0, 0.3)
            elif name.endswith("out.weight") and "transformer" in name:
                p.normal_(0, 0.3)  # loud enough for the faintest attention to be seen
    return model


def draw_phones(n: int = P) -> Tensor:
    tokens = torch.stack([torch.randint(2, 20, (n,)), torch.randint(3, (n,)), torch.randint(2, (n,))])
    return tokens


def draw_first(model: NARModel, t: int) -> Tensor:
    """The codes that the AR says."""
    return torch.randint(V, (model.config.n_given, t))


def draw_pointer(t: int, n: int = P) -> Tensor:
    return torch.sort(torch.randint(n, (t,))).values


def draw_prompt(t: int = 11, text: bool = True) -> Prompt:
    codes = torch.randint(V, (K, t))
    if not text:
        return Prompt(codes)
    return Prompt(codes, Phones(draw_phones()), torch.arange(t) * P // t)


def as_batch(
    codes: Tensor, pointer: Tensor, phones: Tensor, prompt: Prompt | None, **drop: bool
) -> SpeechBatch:
    """One utterance after its prompt, as training has it."""
    own = (
        torch.zeros(3, 0, dtype=torch.long)
        if prompt is None or prompt.phones is None
        else prompt.phones.tokens
    )
    before = torch.zeros(K, 0, dtype=torch.long) if prompt is None else prompt.codes
    n = before.shape[1]
    at = torch.full((n,), -1) if prompt is None or prompt.pointer is None else prompt.pointer
    return SpeechBatch(
        phones=torch.cat([own, phones], dim=1)[None],
        n_phones=torch.tensor([own.shape[1] + phones.shape[1]]),
        codes=torch.cat([before, codes], dim=1)[None],
        pointer=torch.cat([at, pointer + own.shape[1]])[None],
        n_prompt=torch.tensor([n]),
        n_frames=torch.tensor([n + codes.shape[1]]),
        drop_text=torch.tensor([drop.get("text", False)]),
        drop_voice=torch.tensor([drop.get("voice", False)]),
    )


def logits_of(
    model: NARModel, batch: SpeechBatch, group: int, chunks: tuple[int, ...] | None = None
) -> Tensor:
    """Logits (T, books, V) of one row's target, from the forward of training."""
    kept = []
    hooks = [head.register_forward_hook(lambda _m, _i, y: kept.append(y)) for head in model.heads]
    with torch.no_grad():
        model(batch, torch.tensor([group]), chunks)
    for hook in hooks:
        hook.remove()
    return torch.stack(kept, dim=1)


@pytest.fixture(scope="module", params=list(GROUPS))
def model(request: pytest.FixtureRequest) -> NARModel:
    return random_model(request.param)


@pytest.mark.parametrize("prompt", ["none", "speech", "speech and text"])
def test_pushes_of_any_size_give_the_codes_of_the_whole(model: NARModel, prompt: str):
    torch.manual_seed(1)
    voice = None if prompt == "none" else draw_prompt(text=prompt != "speech")
    t, phones = 40, draw_phones()
    first, pointer = draw_first(model, t), draw_pointer(t)
    whole = fill(model, first, pointer, phones, voice)
    assert whole.shape == (K, t)
    assert torch.equal(whole[: len(first)], first)
    for sizes in ([1] * t, [2, 0, 9, 29], [17, 23]):
        stream = NARStream(model, phones, voice)
        parts = [stream.push(a, b) for a, b in zip(first.split(sizes, 1), pointer.split(sizes), strict=True)]
        assert torch.equal(torch.cat([*parts, stream.flush()], dim=1), whole)


@pytest.mark.parametrize("text", [False, True])
def test_training_and_generation_agree(model: NARModel, text: bool):
    """The generated codes, given to the forward of training, are what it finds likeliest, chunk by chunk."""
    torch.manual_seed(2)
    prompt, t, phones = draw_prompt(text=text), 33, draw_phones()
    pointer = draw_pointer(t)
    codes = fill(model, draw_first(model, t), pointer, phones, prompt, NAROptions(choice="likeliest"))
    batch = as_batch(codes, pointer, phones, prompt)
    for g, books in enumerate(model.config.groups):
        assert torch.equal(logits_of(model, batch, g).argmax(-1).T, codes[list(books)])
        with torch.no_grad():
            result = model(batch, torch.tensor([g]))
        assert result.accuracy[g] == 1
        right = [float(k in books) for k in range(1, K)]
        assert result.codebook_accuracy.tolist() == right
        assert result.n_frames[g] == t


def test_the_code_nearest_to_the_expected_vector_is_chosen(model: NARModel):
    """The one whose squared distance to what may follow is the least on average."""
    torch.manual_seed(21)
    prompt, t, phones = draw_prompt(), 33, draw_phones()
    pointer = draw_pointer(t)
    codes = fill(model, draw_first(model, t), pointer, phones, prompt)
    batch = as_batch(codes, pointer, phones, prompt)
    for g, books in enumerate(model.config.groups):
        p = logits_of(model, batch, g).softmax(-1)  # (T, books, V)
        for i, k in enumerate(books):
            rows = model._head(k).rows
            risk = p[:, i] @ torch.cdist(rows, rows).square()
            assert torch.equal(risk.argmin(-1), codes[k])


def test_a_chunk_depends_on_nothing_after_it_but_on_all_of_itself(model: NARModel):
    torch.manual_seed(3)
    prompt, t, phones = draw_prompt(), 20, draw_phones()
    codes, pointer = torch.randint(V, (K, t)), draw_pointer(t)
    later = codes.clone()
    later[:, 8:] = (later[:, 8:] + 1) % V  # chunks of 3, 5, 7, 5 frames
    for g in range(len(model.config.groups)):
        a, b = (logits_of(model, as_batch(c, pointer, phones, prompt), g) for c in (codes, later))
        torch.testing.assert_close(a[:8], b[:8])
        assert ((a[8:] - b[8:]).abs().amax((1, 2)) > 1e-4).all()
    inside = codes.clone()
    inside[:, 7] = (inside[:, 7] + 1) % V  # the last frame of the second chunk
    a, b = (logits_of(model, as_batch(c, pointer, phones, prompt), 0) for c in (codes, inside))
    changed = (a - b).abs().amax((1, 2)) > 1e-5
    assert changed.tolist() == [False] * 3 + [True] * 17


def test_one_chunk_is_full_attention(model: NARModel):
    torch.manual_seed(4)
    codes, pointer, phones = torch.randint(V, (K, 12)), draw_pointer(12), draw_phones()
    other = codes.clone()
    other[0, -1] = (other[0, -1] + 1) % V
    a, b = (logits_of(model, as_batch(c, pointer, phones, None), 0, (12,)) for c in (codes, other))
    assert ((a - b).abs().amax((1, 2)) > 1e-6).all()


def test_a_group_sees_the_codebooks_below_it_alone(model: NARModel):
    torch.manual_seed(5)
    codes, pointer, phones = torch.randint(V, (K, 9)), draw_pointer(9), draw_phones()
    for g, books in enumerate(model.config.groups):
        for k in range(K):
            other = codes.clone()
            other[k] = (other[k] + 1) % V
            a, b = (logits_of(model, as_batch(c, pointer, phones, None), g) for c in (codes, other))
            assert torch.equal(a, b) == (k >= books[0])


def test_a_hidden_prompt_is_as_none(model: NARModel):
    torch.manual_seed(6)
    codes, pointer, phones = torch.randint(V, (K, 9)), draw_pointer(9), draw_phones()
    prompt = draw_prompt(text=False)
    none = logits_of(model, as_batch(codes, pointer, phones, None), 0)
    hidden = logits_of(model, as_batch(codes, pointer, phones, prompt, voice=True), 0)
    heard = logits_of(model, as_batch(codes, pointer, phones, prompt), 0)
    torch.testing.assert_close(hidden, none)
    assert (heard - none).abs().max() > 1e-2


def test_hidden_text_says_nothing(model: NARModel):
    torch.manual_seed(7)
    codes, prompt = torch.randint(V, (K, 9)), draw_prompt()
    one, two = (as_batch(codes, draw_pointer(9), draw_phones(), prompt, text=True) for _ in range(2))
    last = len(model.config.groups) - 1
    torch.testing.assert_close(logits_of(model, one, last), logits_of(model, two, last))


def test_rows_of_a_batch_do_not_touch_each_other(model: NARModel):
    torch.manual_seed(8)
    rows = [
        as_batch(torch.randint(V, (K, t)), draw_pointer(t), draw_phones(), p)
        for t, p in ((9, draw_prompt()), (14, None), (5, draw_prompt(6, text=False)))
    ]
    longest = {"phones": 2 * P, "codes": 20, "pointer": 20}
    padded: dict[str, Tensor] = {}
    for field in dataclasses.fields(SpeechBatch):
        values = [getattr(row, field.name) for row in rows]
        if values[0] is None:  # what this NAR does not read
            continue
        n = longest.get(field.name)
        if n is not None:
            fill = -1 if field.name == "pointer" else 0
            values = [torch.nn.functional.pad(v, (0, n - v.shape[-1]), value=fill) for v in values]
        padded[field.name] = torch.cat(values)
    last = len(model.config.groups) - 1
    group = torch.tensor([0, last, last])
    with torch.no_grad():
        together = model(SpeechBatch(**padded), group)
        alone = [model(row, group[i : i + 1]) for i, row in enumerate(rows)]
    n, losses = torch.tensor([9, 14, 5]), torch.stack([row.loss for row in alone])
    for g in (0, last):
        here = group == g
        assert together.n_frames[g] == n[here].sum()
        torch.testing.assert_close(together.losses[g], (n * losses)[here].sum() / n[here].sum())
    torch.testing.assert_close(together.loss, (n * losses).sum() / 28)


def test_chunks_in_training_are_drawn():
    model = random_model().train()
    torch.manual_seed(9)
    t = 60
    batch = as_batch(torch.randint(V, (K, t)), draw_pointer(t), draw_phones(), draw_prompt())
    blocks = [model._blocks(batch, None)[0] for _ in range(8)]
    assert len({tuple(b.tolist()) for b in blocks}) > 4
    for b in blocks:
        assert b[:11].tolist() == [0] * 11
        assert b[11] == 1
        assert set(torch.diff(b).tolist()) <= {0, 1}
    fixed = model._blocks(batch, (2, 30))[0, 11:]
    assert fixed.tolist() == [1] * 2 + [2] * 30 + [3] * 28


def learn(model: NARModel, batch: SpeechBatch, steps: int) -> list[NARResult]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=8e-3, weight_decay=0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    results = []
    for step in range(steps):
        results.append(model(batch, torch.tensor([step % len(model.config.groups)])))
        optimizer.zero_grad()
        results[-1].loss.backward()
        optimizer.step()
        schedule.step()
    return results


@every_groups
def test_it_learns_a_sentence_and_says_it_again(groups: str):
    torch.manual_seed(10)
    model = NARModel(config(groups, chunks=(4, 8)), torch.randn(K, V, D))
    t, phones, prompt = 24, draw_phones(), draw_prompt()
    codes, pointer = torch.randint(V, (K, t)), draw_pointer(t)
    results = learn(model.train(), as_batch(codes, pointer, phones, prompt), 120)
    assert results[0].loss > 2
    assert results[-1].loss < 0.1
    said = fill(model.eval(), codes[: model.config.n_given], pointer, phones, prompt)
    assert torch.equal(said, codes)


@every_groups
def test_every_weight_learns(groups: str):
    torch.manual_seed(11)
    model = random_model(groups).train()
    batch = as_batch(torch.randint(V, (K, 30)), draw_pointer(30), draw_phones(), draw_prompt())
    free = as_batch(torch.randint(V, (K, 30)), draw_pointer(30), draw_phones(), draw_prompt(text=False))
    for one in (batch, free):
        for g in range(len(GROUPS[groups])):
            model(one, torch.tensor([g])).loss.backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


def test_noise_replaces_known_codes_by_neighbours_in_training_alone():
    model = random_model(code_noise=0.5)
    codes = torch.randint(V, (3, 2, 80))
    assert torch.equal(model._noisy(codes), codes)
    noisy = model.train()._noisy(codes)
    assert 0.3 < (noisy != codes).float().mean() < 0.7
    wrong = (noisy != codes).nonzero()[0].tolist()
    k = wrong[1]
    assert noisy[tuple(wrong)] in model.neighbours[k, codes[tuple(wrong)]]
    loaded = NARModel(model.config)
    loaded.load_state_dict(model.state_dict())
    assert torch.equal(loaded.neighbours, model.neighbours)


def test_a_voice_read_once_serves_many_sentences(model: NARModel):
    torch.manual_seed(12)
    prompt = draw_prompt()
    voice = model.init_state(prompt)
    before = [x.clone() for x in _tensors(voice)]
    for _ in range(2):
        t, phones = 15, draw_phones()
        first, pointer = draw_first(model, t), draw_pointer(t)
        stream = NARStream(model, phones, prompt, voice=voice)
        codes = torch.cat([stream.push(first, pointer), stream.flush()], dim=1)
        assert torch.equal(codes, fill(model, first, pointer, phones, prompt))
        # The bound on what attention reads spares work and changes nothing; the state knows its own position.
        assert frames_in(stream.states[0]) == frames_in(voice) + t
        wide, _ = model.step(
            first[None],
            pointer[None],
            [model.encode_phones(phones, prompt)],
            [model.fork(voice)],
            NAROptions(chunks=(t,)),
        )
        assert torch.equal(wide[0], fill(model, first, pointer, phones, prompt, NAROptions(chunks=(t,))))
    assert all(torch.equal(a, b) for a, b in zip(_tensors(voice), before, strict=True))
    assert isinstance(model.fork(voice), NARState)
    assert {type(x) for x in tuple(voice)} == {tuple, Tensor}


def _tensors(state) -> list[Tensor]:
    found: list[Tensor] = []
    tree_map(lambda x: found.append(x) or x, state)
    return found


@pytest.mark.parametrize("int8", [False, True])
def test_prepared_for_generation_it_says_the_same(model: NARModel, int8: bool):
    torch.manual_seed(14)
    prompt, t, phones = draw_prompt(), 30, draw_phones()
    first, pointer = draw_first(model, t), draw_pointer(t)
    codes = fill(model, first, pointer, phones, prompt)
    fast = for_inference(model, "int8" if int8 else "float32")
    assert isinstance(fast, NARModel)
    agree = (fill(fast, first, pointer, phones, prompt) == codes).float().mean()
    assert agree > 0.8 if int8 else agree == 1
    stream = NARStream(fast, phones, prompt)
    parts = [stream.push(a, b) for a, b in zip(first.split(7, 1), pointer.split(7), strict=True)]
    whole = fill(fast, first, pointer, phones, prompt)
    assert torch.equal(torch.cat([*parts, stream.flush()], dim=1), whole)


def test_phones_that_a_prompt_does_not_speak_do_not_count(model: NARModel):
    torch.manual_seed(15)
    prompt, t, phones = draw_prompt(), 12, draw_phones()
    assert prompt.phones is not None
    assert prompt.pointer is not None
    around = Phones(torch.cat([draw_phones(2), prompt.phones.tokens, draw_phones(3)], dim=1))
    longer = Prompt(prompt.codes, around, prompt.pointer + 2)
    first, pointer = draw_first(model, t), draw_pointer(t)
    same = fill(model, first, pointer, phones, longer)
    assert torch.equal(same, fill(model, first, pointer, phones, prompt))
    with pytest.raises(InputError, match="10 phones"):
        model.init_state(Prompt(prompt.codes, around, prompt.pointer + 6))


def test_seeds_and_guidance(model: NARModel):
    torch.manual_seed(13)
    prompt, t, phones = draw_prompt(), 30, draw_phones()
    first, pointer = draw_first(model, t), draw_pointer(t)

    def say(**options) -> Tensor:
        return fill(model, first, pointer, phones, prompt, NAROptions(**options))

    assert torch.equal(say(choice="drawn", seed=3), say(choice="drawn", seed=3))
    assert not torch.equal(say(choice="drawn", seed=3), say(choice="drawn", seed=4))
    assert torch.equal(say(choice="drawn", temperature=1e-6), say(choice="likeliest"))
    assert torch.equal(say(temperature=1e-6), say(choice="likeliest"))
    assert torch.equal(say(voice_guidance=0.0), fill(model, first, pointer, phones))
    assert not torch.equal(say(voice_guidance=3.0), say())
    assert not torch.equal(say(chunks=(30,)), say(chunks=(1,)))


def test_ages_carry_over_from_chunk_to_chunk():
    pointer = torch.tensor([[0, 0, 0, 1, 2, 2, 2, 2, 2, -1, -1, 3]])
    ages = phone_ages(pointer)
    assert ages.tolist() == [[0, 1, 2, 0, 0, 1, 2, 3, 4, 0, 1, 0]]
    for cut in range(1, 12):
        rest = phone_ages(pointer[:, cut:], pointer[:, cut - 1], ages[:, cut - 1])
        assert torch.equal(rest, ages[:, cut:])


def test_mistakes_are_named(model: NARModel):
    phones, first, at = draw_phones(), draw_first(model, 3), torch.zeros(3, dtype=torch.long)
    with pytest.raises(InputError, match="codebooks"):
        model.init_state(Prompt(torch.zeros(K + 1, 5, dtype=torch.long)))
    with pytest.raises(InputError, match="of 16"):
        model.init_state(Prompt(torch.full((K, 5), V)))
    with pytest.raises(InputError, match="64 at most"):
        model.init_state(Prompt(torch.zeros(K, 65, dtype=torch.long)))
    with pytest.raises(InputError, match="no phones"):
        NARStream(model, phones[:, :0])
    stream = NARStream(model, phones)
    with pytest.raises(ValueError, match="same length"):
        stream.push(first, at[:2])
    for codes in (first[0], first[:0], torch.cat([first, first])):
        with pytest.raises(ValueError, match=rf"codes \({len(first)}, T\)"):
            stream.push(codes, at)
    with pytest.raises(ValueError, match="at phone 5"):
        stream.push(first, at + P)
    stream.flush()
    with pytest.raises(ValueError, match="flushed"):
        stream.push(first, at)
    for wrong in (
        {"n_codebooks": 5},
        {"n_given": 2},
        {"n_given": 0},
        {"groups": ()},
        {"groups": ((1, 2, 3), ())},
    ):
        with pytest.raises(ValueError, match="in order"):
            NARConfig(**{"n_codebooks": K, "groups": GROUPS["groups"], **wrong})
    with pytest.raises(ValueError, match="in order"):
        NARConfig(n_codebooks=K, n_given=K, groups=())  # nothing left to fill
    with pytest.raises(ValueError, match="chunks"):
        config(chunks=())
    with pytest.raises(ValueError, match="shape"):
        NARModel(config(), torch.zeros(K, V, D + 1))


def test_nothing_to_fill(model: NARModel):
    none = torch.zeros(0, dtype=torch.long)
    assert fill(model, draw_first(model, 0), none, draw_phones(), draw_prompt()).shape == (K, 0)
