"""The AR's loop: the same as the whole at once, a pointer that only walks, seeds, guidance, 8 bits, checkpoints."""

from __future__ import annotations

import pytest
import torch
from myna.errors import InputError, MissingModelError
from myna.kernels.int8 import Int8Linear
from myna.tts.lm.ar import ARConfig, ARModel
from myna.tts.lm.batch import Prompt, SpeechBatch
from myna.tts.lm.generate import ARGenerator
from myna.tts.lm.quantize import for_inference
from myna.tts.lm.sampling import SamplingOptions, guide, uniforms
from myna.tts.lm.step import Frame
from myna.tts.registry import load_ar, load_nar, save_model
from myna.tts.text.phones import Phones
from safetensors.torch import load_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

K, V, D = 4, 16, 6
PHONES = Phones.from_ipa("hˈæloʊ wˈɜːld, ænd mˈoːɹ.")


def model(**more) -> ARModel:
    """Random, but decided enough for its choices not to hang on rounding."""
    torch.manual_seed(0)
    small = {"n_codebooks": K, "codebook_size": V, "codebook_dim": D, "width": 64, "depth": 2, "n_heads": 2}
    small |= {"n_kv_heads": 1, "hidden": 96, "text_depth": 1, "context": 512, "extra": 4}
    net = ARModel(ARConfig(**{**small, **more}), torch.randn(K, V, D)).eval()
    with torch.no_grad():
        for head in (net.code_head, *(deeper.out for deeper in net.depth_heads)):
            head.out.weight.normal_(0, 0.3)  # pyright: ignore
        for block in net.transformer.blocks:
            block.attention.out.weight.normal_(0, 0.1)  # pyright: ignore
            block.feed_forward.out.weight.normal_(0, 0.1)  # pyright: ignore
    return net


def prompt(n: int = 12, transcript: bool = True) -> Prompt:
    own = torch.Generator().manual_seed(2)  # threads make theirs at once
    codes = torch.randint(V, (K, n), generator=own)
    if not transcript:
        return Prompt(codes)
    phones = Phones.from_ipa("ɡˈʊd.")
    return Prompt(codes, phones, torch.arange(n) * len(phones) // n)


def run(net: ARModel, voice: Prompt | None = None, phones: Phones = PHONES, **options) -> list[Frame]:
    return list(ARGenerator(net, phones, voice, SamplingOptions(**options)))


def spoken(net: ARModel, voice: Prompt | None = None, **options) -> list[tuple[list[int], int]]:
    """The codes and the pointer of every frame."""
    return [(frame.codes.tolist(), int(frame.pointer)) for frame in run(net, voice, **options)]


def tensors(frames: list[Frame]) -> tuple[Tensor, Tensor, Tensor]:
    """Codes (N, T), the same with zeros in the other codebooks (K, T), pointer (T,)."""
    codes = torch.stack([frame.codes for frame in frames], dim=1)
    others = codes.new_zeros(K - len(codes), len(frames))
    return codes, torch.cat([codes, others]), torch.stack([frame.pointer for frame in frames])


def likeliest(net: ARModel, hidden: Tensor, codes: Tensor) -> Tensor:
    """Of each codebook's head, from hidden states (T, W) and the codes (N, T) before it in the frame -> (N, T)."""
    deeper = [head(hidden, codes[:k].T) for k, head in enumerate(net.depth_heads, 1)]
    return torch.stack([net.code_head(hidden), *deeper]).argmax(dim=-1)


def recorded(net: ARModel, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The hidden states that the loop asks logits of."""
    seen: list[Tensor] = []
    logits = net.code_head.forward
    monkeypatch.setattr(
        net.code_head, "forward", lambda hidden: seen.append(hidden.clone()) or logits(hidden)
    )
    return seen


VOICES = {"none": None, "transcript": prompt(), "no transcript": prompt(transcript=False)}
every_voice = pytest.mark.parametrize("voice", VOICES.values(), ids=VOICES)
every_n = pytest.mark.parametrize("n", [1, 3], ids=["one coarse", "three coarse"])


@every_n
@every_voice
def test_the_loop_is_the_whole(voice, n, monkeypatch):
    """What was generated, given to the training's forward, has the same hidden states and the same likeliest codes."""
    net = model(n_coarse=n)
    seen = recorded(net, monkeypatch)
    frames = run(net, voice, temperature=0, duration_temperature=1)
    codes, said, pointer = tensors(frames)
    assert codes.shape == (n, len(frames))
    own = 0 if voice is None else voice.codes.shape[1]
    tokens, before = PHONES.tokens, torch.zeros(0, dtype=torch.long)
    if voice is not None and voice.phones is not None:
        tokens = torch.cat([voice.phones.tokens, tokens], dim=1)
        before, pointer = voice.pointer, pointer + len(voice.phones)
    elif voice is not None:
        before = torch.full((own,), -1)
    no = torch.zeros(1, dtype=torch.bool)
    whole = SpeechBatch(
        phones=tokens[None],
        n_phones=torch.tensor([tokens.shape[1]]),
        codes=(said if voice is None else torch.cat([voice.codes, said], dim=1))[None],
        pointer=torch.cat([before, pointer])[None],
        n_prompt=torch.tensor([own]),
        n_frames=torch.tensor([own + len(frames)]),
        drop_text=no,
        drop_voice=no,
    )
    with torch.no_grad():
        encoded = net.encode_text(whole.phones, whole.n_phones)
        hidden = net.transformer(net.frame_inputs(whole, encoded).transpose(1, 2)).transpose(1, 2)[0, own:]
    torch.testing.assert_close(torch.cat(seen), hidden, rtol=1e-3, atol=1e-4)
    assert torch.equal(likeliest(net, hidden, codes), codes)


@every_voice
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_pointer_only_walks(voice, seed):
    limits = {"max_sound_frames": 9, "max_pause_frames": 5}
    net = model()
    with torch.no_grad():
        net.advance_head.out.bias[0] += 3  # else phones are over long before their limit
    pointer = torch.stack([frame.pointer for frame in run(net, voice, seed=seed, **limits)])
    steps = pointer.diff()
    assert pointer[0] == 0
    assert pointer[-1] == len(PHONES) - 1
    assert (steps >= 0).all()
    symbols = PHONES.tokens[0]
    for at in set(range(len(PHONES))) - set(pointer.tolist()):
        assert symbols[at] == symbols[0], "a sound was skipped"  # the first token is a space
    lasting = torch.bincount(pointer, minlength=len(PHONES))
    pause = (symbols == symbols[0]) | (torch.arange(len(PHONES)) == len(PHONES) - 1)
    assert lasting[~pause].max() == 9
    assert lasting[pause].max() == 5


def test_a_model_that_never_moves_is_moved_on():
    net = model()
    with torch.no_grad():
        net.advance_head.out.bias.copy_(torch.tensor([50.0, 0, 0, 0]))
    frames = run(net, max_sound_frames=4, max_pause_frames=3)
    counts = torch.bincount(torch.stack([frame.pointer for frame in frames]))
    assert set(counts.tolist()) <= {0, 3, 4}
    assert counts[1] == 4


def test_a_model_that_always_moves_says_every_sound():
    net = model()
    with torch.no_grad():
        net.advance_head.out.bias.copy_(torch.tensor([-50.0, 0, 0, 50]))
    pointer = [int(frame.pointer) for frame in run(net)]
    symbols = PHONES.tokens[0].tolist()
    assert set(range(len(PHONES))) - set(pointer) <= {i for i, s in enumerate(symbols) if s == symbols[0]}
    assert len(pointer) <= len(PHONES)


def test_durations_have_the_median_of_the_hazard():
    """With 10 % a frame a phone lasts 7 frames more often than not: 0.9^6 > 1/2 > 0.9^7."""
    net = model()
    with torch.no_grad():
        net.advance_head.out.weight.zero_()
        net.advance_head.out.bias.copy_(torch.tensor([0.9, 0.1, 1e-9, 1e-9]).log())
    frames = run(net, duration_temperature=0)
    assert set(torch.bincount(torch.stack([frame.pointer for frame in frames])).tolist()) - {0} == {7}
    fast = run(net, duration_temperature=0, speed=2)
    assert len(fast) < 0.65 * len(frames)
    spread = torch.bincount(torch.stack([frame.pointer for frame in run(net, duration_temperature=1)]))
    assert len(set(spread.tolist())) > 4


@every_n
@every_voice
def test_seeds_reproduce(voice, n):
    net = model(n_coarse=n)
    first = spoken(net, voice, seed=7)
    torch.rand(5)
    assert spoken(net, voice, seed=7) == first
    assert spoken(net, voice, seed=8) != first


@every_n
def test_sampling_options_are_those_of_every_coarse_codebook(n):
    net = model(n_coarse=n)
    likely, (varied, *_) = spoken(net, temperature=0), tensors(run(net, temperature=2, top_p=1))
    assert spoken(net, top_k=1, repetition_window=0) == likely
    assert spoken(net, top_p=1e-6, repetition_window=0) == likely
    assert min(len(set(book)) for book in varied.tolist()) > V // 2


@every_n
def test_guidance_of_one_is_none(n):
    net, voice = model(n_coarse=n), prompt()
    assert spoken(net, voice, text_guidance=1.0, voice_guidance=1.0) == spoken(net, voice)


@every_n
@pytest.mark.parametrize("transcript", [True, False])
def test_the_rows_of_guidance_are_what_they_hide(transcript, n, monkeypatch):
    net, voice = model(n_coarse=n), prompt(transcript=transcript)
    seen = recorded(net, monkeypatch)
    frames = run(net, voice, text_guidance=2, voice_guidance=1.5, temperature=0)
    guided = torch.stack(seen)  # (T, 3, W)
    codes, said, pointer = tensors(frames)
    yes, no = torch.ones(1, dtype=torch.bool), torch.zeros(1, dtype=torch.bool)

    def whole(tokens: Tensor, before: Tensor, pointer: Tensor, voice_codes: Tensor, hide: Tensor) -> Tensor:
        n = voice_codes.shape[1]
        b = SpeechBatch(
            tokens[None],
            torch.tensor([tokens.shape[1]]),
            torch.cat([voice_codes, said], dim=1)[None],
            torch.cat([before, pointer])[None],
            torch.tensor([n]),
            torch.tensor([n + len(frames)]),
            hide,
            no,
        )
        with torch.no_grad():
            x = net.frame_inputs(b, net.encode_text(b.phones, b.n_phones, b.drop_text))
            return net.transformer(x.transpose(1, 2)).transpose(1, 2)[0, n:]

    both = torch.cat([voice.phones.tokens, PHONES.tokens], dim=1) if voice.phones else PHONES.tokens
    before = voice.pointer if voice.pointer is not None else torch.full((voice.codes.shape[1],), -1)
    shifted = pointer + (len(voice.phones) if voice.phones else 0)
    expected = [
        whole(both, before, shifted, voice.codes, no),
        whole(both, before, shifted, voice.codes, yes),
        whole(PHONES.tokens, before[:0], pointer, voice.codes[:, :0], no),
    ]
    for row in range(3):
        torch.testing.assert_close(guided[:, row], expected[row], rtol=1e-3, atol=1e-4)
    weights = torch.tensor([1.0, 0.5])
    for t, rows in enumerate(guided):
        known = codes[:, t].expand(3, -1)
        heads = [
            net.code_head(rows),
            *(head(rows, known[:, :k]) for k, head in enumerate(net.depth_heads, 1)),
        ]
        assert [int(guide(logits, weights).argmax()) for logits in heads] == codes[:, t].tolist()
    assert [frame.codes.tolist() for frame in frames] != [c for c, _ in spoken(net, voice, temperature=0)]


@every_n
@every_voice
def test_a_prepared_model_says_the_same(voice, n):
    net = model(n_coarse=n)
    assert spoken(for_inference(net, "float32"), voice, temperature=0) == spoken(net, voice, temperature=0)


@every_n
def test_8_bits_are_close(n, monkeypatch):
    net, voice = model(n_coarse=n), prompt()
    small = for_inference(net)
    assert any(isinstance(m, Int8Linear) for m in small.modules())
    assert not any(isinstance(m, Int8Linear) for m in net.modules())
    hidden = torch.randn(3, 64)
    torch.testing.assert_close(small.code_head(hidden), net.code_head(hidden), rtol=0.05, atol=0.15)  # pyright: ignore
    codes = torch.randint(V, (3, n))
    for k, head in enumerate(small.depth_heads, 1):  # pyright: ignore
        assert any(isinstance(m, Int8Linear) for m in head.modules())
        exact = net.depth_heads[k - 1](hidden, codes[:, :k])
        torch.testing.assert_close(head(hidden, codes[:, :k]), exact, rtol=0.05, atol=0.15)
    states = []
    for one in (net, small):
        states.append(recorded(one, monkeypatch))  # pyright: ignore
        next(iter(ARGenerator(one, PHONES, voice)))  # pyright: ignore
    similarity = torch.nn.functional.cosine_similarity(*(s[0][0] for s in states), dim=0)
    assert similarity > 0.99


def test_frames_come_one_by_one_and_leave_no_mode_behind():
    frames = iter(ARGenerator(model(), PHONES))
    next(frames)
    assert not torch.is_inference_mode_enabled()


class _ReadsBack(TorchDispatchMode):
    """Counts what is read back from tensors, which a CUDA graph cannot hold."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@every_n
@pytest.mark.parametrize("rhythm", [None, [0, 0, 1, 3]])
def test_a_step_is_tensors_in_and_tensors_out_of_the_same_shapes(n, rhythm):
    options = SamplingOptions(text_guidance=2, voice_guidance=1.5, top_k=20)
    run = ARGenerator(for_inference(model(n_coarse=n)), PHONES, prompt(), options, rhythm)  # pyright: ignore
    numbers = uniforms(0)
    with torch.inference_mode():
        state = run.state
        for begins in (True, False):
            drawn = run.step.numbers(numbers, begins)
            with _ReadsBack() as watch:
                frame, after = run.step(state, drawn)
            assert watch.count == 0
            assert [t.shape for t in tree_leaves(after)] == [t.shape for t in tree_leaves(state)]
            assert [t.dtype for t in tree_leaves(after)] == [t.dtype for t in tree_leaves(state)]
            assert frame.codes.shape == (n,)
            state = after


def test_what_cannot_be_said_is_refused():
    net = model()
    with pytest.raises(InputError, match="no phones"):
        ARGenerator(net, Phones(torch.zeros(3, 0, dtype=torch.long)))
    with pytest.raises(InputError, match="make the voice anew"):
        ARGenerator(net, PHONES, Prompt(torch.zeros(K + 1, 5, dtype=torch.long)))
    with pytest.raises(InputError, match="make the voice anew"):
        ARGenerator(net, PHONES, Prompt(torch.full((K, 5), V)))
    with pytest.raises(InputError, match="shorter recording"):
        ARGenerator(net, PHONES, Prompt(torch.zeros(K, 300, dtype=torch.long)))
    bad = Prompt(torch.zeros(K, 5, dtype=torch.long), PHONES, torch.full((5,), len(PHONES)))
    with pytest.raises(InputError, match="transcript"):
        ARGenerator(net, PHONES, bad)


def test_a_phone_never_heard_of_is_unknown():
    odd = Phones(PHONES.tokens.clone())
    odd.tokens[0, 3] = 10_000
    assert len(run(model(), phones=odd)) > 0


# ---- checkpoints


@every_n
def test_a_checkpoint_gives_the_same_model(n, tmp_path):
    net = model(n_coarse=n, code_noise=0.1)
    path = tmp_path / "ar.safetensors"
    save_model(net, path, "0123456789abcdef", {"steps": "3"})
    again = load_ar(path, codec_hash="0123456789abcdef" + "0" * 48)
    assert again.config == net.config
    assert spoken(again, prompt()) == spoken(net, prompt())
    assert torch.equal(again.neighbours, net.neighbours)


@every_n
def test_a_checkpoint_in_half_precision(n, tmp_path):
    path = tmp_path / "ar.safetensors"
    save_model(model(n_coarse=n).half(), path, "0" * 16, {})
    assert {t.dtype for t in load_file(path).values()} == {torch.float16}
    again = load_ar(path)
    assert {p.dtype for p in again.parameters()} == {torch.float32}
    assert len(run(again, prompt())) > 0


def test_a_checkpoint_for_another_codec_or_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "ar.safetensors"
    save_model(model(), path, "0" * 16, {})
    with pytest.raises(MissingModelError, match="trained together"):
        load_ar(path, codec_hash="1" * 64)
    with pytest.raises(InputError, match="non-autoregressive"):
        load_nar(path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(InputError, match="not a whole safetensors"):
        load_ar(path)
    with pytest.raises(MissingModelError, match="no model file"):
        load_ar(tmp_path / "none.safetensors")


def test_a_rhythm_is_followed_and_the_codes_are_the_models_own():
    net, rhythm = model(), [0, 0, 1, 3, 3, 3, 4, len(PHONES) - 1]
    found = list(ARGenerator(net, PHONES, prompt(), SamplingOptions(seed=1), rhythm))
    assert [int(frame.pointer) for frame in found] == rhythm
    assert len({tuple(frame.codes.tolist()) for frame in found}) > 1
    drawn = list(ARGenerator(net, PHONES, prompt(), SamplingOptions(seed=1)))
    own = [int(frame.pointer) for frame in drawn]
    again = list(ARGenerator(net, PHONES, prompt(), SamplingOptions(seed=1, temperature=0), own))
    likeliest = list(ARGenerator(net, PHONES, prompt(), SamplingOptions(seed=1, temperature=0)))
    assert [int(frame.pointer) for frame in again] == own
    assert again[0].codes.equal(likeliest[0].codes)  # where the pointer is still the same


@pytest.mark.parametrize("rhythm", [[], [-1, 0], [1, 0], [0, len(PHONES)]])
def test_a_rhythm_that_goes_back_or_beyond_is_refused(rhythm):
    with pytest.raises(InputError, match="never back"):
        ARGenerator(model(), PHONES, None, None, rhythm)
