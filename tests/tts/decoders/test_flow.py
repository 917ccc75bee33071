"""The flow decoder: a stream equals the whole, however it is fed, and the future never changes the past."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from myna.layers.dit import DiTConfig, block_mask
from myna.tts.decoders.flow.decoder import FlowConfig, FlowDecoder, FlowInputs
from myna.tts.decoders.flow.stream import FlowOptions, FlowStream, FlowVoice, read_voice
from myna.tts.decoders.flow.timing import LONGEST, UNKNOWN, timing

SMALL = FlowConfig(
    mel_bands=8,
    speaker=6,
    text_width=24,
    text_depth=1,
    condition=16,
    trunk=DiTConfig(width=32, depth=2, n_heads=2, hidden=24, kernel=3, context=160),
    head=DiTConfig(width=32, depth=1, n_heads=2, hidden=24, kernel=3, context=160),
)


@pytest.fixture(scope="module")
def model() -> FlowDecoder:
    return random_decoder(SMALL)


def random_decoder(config: FlowConfig) -> FlowDecoder:
    torch.manual_seed(0)
    decoder = FlowDecoder(config).eval()
    for parameter in decoder.parameters():  # what starts at zero would hide mistakes
        parameter.data = torch.randn_like(parameter) * (
            0.4 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5
        )
    return decoder


@pytest.fixture(scope="module")
def said() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Phones (3, P), pointer (T,) and levels of tokens (T / 2, D)."""
    generator = torch.Generator().manual_seed(1)
    phones = torch.stack(
        [torch.randint(2, 40, (9,), generator=generator), torch.zeros(9).long(), torch.zeros(9).long()]
    )
    counts = torch.tensor([4, 6, 2, 9, 12, 5, 3, 14, 11])
    pointer = torch.arange(9).repeat_interleave(counts)
    return phones, pointer, torch.rand(33, 4, generator=generator) * 2 - 1


def voice_of(model: FlowDecoder, options: FlowOptions, with_tokens: bool = True) -> FlowVoice:
    generator = torch.Generator().manual_seed(2)
    mel = torch.randn(8, 40, generator=generator)
    speaker = F.normalize(torch.randn(6, generator=generator), dim=0)
    tokens = torch.rand(10, 4, generator=generator) * 2 - 1 if with_tokens else None
    return read_voice(model, mel, speaker, tokens, options)


def without_prompt(model: FlowDecoder, options: FlowOptions, slots: int | None = 0) -> FlowVoice:
    """Of nobody. slots: of caches that no frame has been written to."""
    zeros = torch.zeros(1, SMALL.speaker), torch.zeros(1, 8), torch.zeros(1, 8)
    condition = model.told(model.voice(*zeros), torch.full((1,), options.told))
    like = model.no_phone
    heads = tuple(model.head.init_state(1, like, slots) for _ in range(options.steps))
    return FlowVoice(
        condition, model.trunk.init_state(1, like, slots), heads, tuple(options.times()[: options.steps])
    )


def streamed(model, said, options, cuts, voice, with_tokens=True):
    phones, pointer, tokens = said
    stream = FlowStream(model, phones, voice, options, seed=5)
    parts, at = [], 0
    for cut in cuts:
        parts.append(
            stream.push(pointer[at : at + cut], tokens[at // 2 : (at + cut) // 2] if with_tokens else None)
        )
        at += cut
    assert at == len(pointer)
    return torch.cat([*parts, stream.flush()], dim=1)


@pytest.mark.parametrize("with_voice", [True, False])
@pytest.mark.parametrize("with_tokens", [True, False])
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_the_mel_is_the_same_however_the_stream_is_fed(model, said, steps, with_tokens, with_voice):
    options = FlowOptions(steps=steps, blocks=(8, 12))
    voice = voice_of(model, options, with_tokens) if with_voice else None
    whole = streamed(model, said, options, [66], voice, with_tokens)
    assert whole.shape == (8, 132)
    for cuts in ([2] * 33, [10, 30, 0, 26], [64, 2]):
        assert torch.allclose(streamed(model, said, options, cuts, voice, with_tokens), whole, atol=1e-4)


def test_a_stream_is_what_was_trained(model, said):
    """Blocks of one size, against the masked pass over prompt and target that training takes."""
    options = FlowOptions(steps=0, guidance=0, blocks=(12,))
    phones, pointer, tokens = said
    generator = torch.Generator().manual_seed(2)
    prompt_mel = torch.randn(8, 40, generator=generator)
    speaker = F.normalize(torch.randn(6, generator=generator), dim=0)
    prompt_tokens = torch.rand(10, 4, generator=generator) * 2 - 1
    got = streamed(model, said, options, [66], read_voice(model, prompt_mel, speaker, prompt_tokens, options))

    n, t = 20, 20 + 66
    at = torch.arange(t)[None]
    own = at < n
    block = 1 + (at - n).clamp(min=0) // 12
    ends = n + block * 12 + SMALL.look_ahead
    prompt = torch.where(own[..., None], F.pad(model.frames(prompt_mel[None]), (0, 0, 0, 66)), 0)
    whole = F.pad(pointer[None], (n, 0), value=-1)
    mean, spread = model.statistics(prompt, own)
    condition = model.voice(speaker[None], mean, spread)
    inputs = FlowInputs(
        text=model.text_encoder(phones[None], torch.tensor([9])),
        pointer=whole,
        timing=timing(whole, torch.where(ends >= t, 10**6, ends)),
        tokens=torch.cat([prompt_tokens, tokens])[None],
        prompt=prompt,
        prompted=own,
        target=~own,
        knows_phone=whole >= 0,
        knows_token=torch.ones(1, t // 2, dtype=torch.bool),
    )
    mask = block_mask(torch.where(own, 0, block))
    expected = model.mel(model.regress(model.embed(inputs), condition, mask)[0][:, n:])[0]
    assert torch.allclose(got, expected, atol=1e-4)


def test_the_future_does_not_change_the_past(model, said):
    options = FlowOptions(steps=2, blocks=(8, 12))
    voice = voice_of(model, options)
    phones, pointer, tokens = said
    before = streamed(model, said, options, [66], voice)
    changed = pointer.clone()
    changed[50:] = changed[50]
    after = streamed(model, (phones, changed, tokens), options, [66], voice)
    # Blocks end at 8, 20, 32, 44, 56: what is before 44 looks at most as far as 44 + look_ahead.
    assert torch.allclose(after[:, :88], before[:, :88], atol=1e-5)
    assert not torch.allclose(after[:, 88:], before[:, 88:], atol=1e-2)


@pytest.mark.parametrize("slots", [0, 1, None])
@torch.inference_mode()
def test_a_voice_without_a_prompt_is_of_nobody(model, said, slots):
    """However many slots its caches have: frames are counted by those that were read."""
    options = FlowOptions(steps=2)
    voice = without_prompt(model, options, slots)
    whole = streamed(model, said, options, [66], None)
    assert torch.equal(streamed(model, said, options, [66], voice), whole)


def test_guidance_compares_with_no_voice(model, said):
    plain, guided = FlowOptions(steps=1, guidance=0), FlowOptions(steps=1, guidance=1.0)
    with_voice = streamed(model, said, plain, [66], voice_of(model, plain))
    without = streamed(model, said, plain, [66], None)
    both = streamed(model, said, guided, [66], voice_of(model, guided))
    blocks = slice(0, 24)  # later blocks follow other noisy frames only with more steps than one
    expected = with_voice + (with_voice - without)
    assert torch.allclose(both[:, blocks], expected[:, blocks], atol=1e-3)


def test_a_text_is_said_as_clearly_as_asked(said):
    """With a voice and without one; a model that was not told of it ignores it."""
    told, plain = random_decoder(replace(SMALL, clarity=True)), random_decoder(SMALL)
    mels = {}
    for name, model in (("told", told), ("plain", plain)):
        for with_voice in (True, False):
            for clarity in (None, -1.0, -3.0):
                options = FlowOptions(steps=1, clarity=clarity)
                voice = voice_of(model, options) if with_voice else None
                mels[name, with_voice, clarity] = streamed(model, said, options, [66], voice)
            mine = [mels[name, with_voice, c] for c in (None, -1.0, -3.0)]
            for one, other in pairwise(mine):
                assert torch.equal(one, other) == (name == "plain")


def test_bad_calls_are_refused(model, said):
    options = FlowOptions(steps=1)
    with pytest.raises(ValueError, match="read for the steps"):
        FlowStream(model, said[0], voice_of(model, FlowOptions(steps=2)), options)
    stream = FlowStream(model, said[0], None, options)
    with pytest.raises(ValueError, match="in pairs"):
        stream.push(said[1][:3])
    stream.push(said[1][:2], said[2][:1])
    with pytest.raises(ValueError, match="for all frames"):
        stream.push(said[1][2:4])
    stream.flush()
    with pytest.raises(ValueError, match="flushed"):
        stream.push(said[1][2:4], said[2][1:2])
    with pytest.raises(ValueError, match="even numbers"):
        FlowOptions(blocks=(7,))


def test_timing_counts_from_both_ends():
    pointer = torch.tensor([[0, 0, 0, 1, 2, 2, 2]])
    known = timing(pointer, torch.full_like(pointer, 100))
    assert known.age.tolist() == [[0, 1, 2, 0, 0, 1, 2]]
    assert known.left.tolist() == [[2, 1, 0, 0, 2, 1, 0]]
    seen = timing(pointer, torch.full_like(pointer, 4))
    assert seen.left.tolist() == [[2, 1, 0, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN]]
    long = timing(torch.zeros(1, 80, dtype=torch.long), torch.full((1, 80), 1000))
    assert long.age.max() == long.left.max() == LONGEST


@pytest.mark.parametrize("guidance", [0.0, 2.0])
def test_a_block_does_not_read_back(model, said, guidance, no_synchronisation):
    options = FlowOptions(steps=2, guidance=guidance, blocks=(12,))
    phones, pointer, tokens = said
    stream = FlowStream(model, phones, voice_of(model, options), options, seed=5)
    stream.push(pointer[:24], tokens[:12])
    with no_synchronisation():
        for first in (24, 36, 48):
            mel = stream.push(pointer[first : first + 12], tokens[first // 2 : first // 2 + 6])
            assert mel.shape == (8, 24)


@pytest.mark.parametrize("guidance", [0.0, 0.5])
@pytest.mark.parametrize("known", ["prompt", "vector", "nothing"])
def test_slots_that_nobody_has_written_are_never_read(model, said, monkeypatch, known, guidance):
    """They hold anything."""
    options = FlowOptions(guidance=guidance)
    voices = {"prompt": partial(voice_of, model, options), "vector": partial(without_prompt, model, options)}
    mels = []
    for filling in (0.0, math.nan):

        def new_empty(like, *shape, filling=filling):
            return torch.full(shape, filling, dtype=like.dtype)

        monkeypatch.setattr(torch.Tensor, "new_empty", new_empty)
        voice = voices[known]() if known in voices else None
        mels.append(streamed(model, said, options, (20, 46), voice))
    assert torch.isfinite(mels[1]).all()
    assert torch.equal(mels[0], mels[1])


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("guidance", [0.0, 0.5])
@pytest.mark.parametrize("with_voice", [True, False])
def test_blocks_are_captured(
    model, said, steadily, monkeypatch, with_voice, guidance, steps, no_synchronisation
):
    """Blocks of two lengths over one state; the last one, which is shorter, as it is. Slots of the cache that are not
    written hold anything when they are found, and the captured step reads them all."""
    real = torch.Tensor.new_empty
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *a, **k: real(*a, **k).fill_(math.nan))
    options = FlowOptions(steps=steps, guidance=guidance, blocks=(8, 8, 12))
    voice = voice_of(model, options) if with_voice else None
    ours = [streamed(model, said, options, (40, 26), voice) for _ in range(2)]
    assert (steadily.count(8, 1), steadily.count(12, 1)) == (2, 6)
    phones, pointer, tokens = said
    stream = FlowStream(model, phones, voice, options)
    with no_synchronisation():
        stream.push(pointer[:40], tokens[:20])
    monkeypatch.undo()
    theirs = streamed(model, said, options, (40, 26), voice)
    for mel in ours:
        torch.testing.assert_close(mel, theirs, rtol=1e-4, atol=1e-4)
