"""The token AR: generation is what was trained, token by token; its pointer walks through the phones."""

from __future__ import annotations

import copy
from itertools import islice

import pytest
import torch
from myna.codec.mel.speech_tokens import FiniteScalarQuantizer, SpeechTokenizer, SpeechTokensConfig
from myna.errors import InputError
from myna.tts.lm import token_generate
from myna.tts.lm.quantize import for_inference
from myna.tts.lm.sampling import SamplingOptions, uniforms
from myna.tts.lm.token_ar import TokenAR, TokenARConfig, TokenBatch
from myna.tts.lm.token_generate import TokenGenerator, TokenPrompt, _read
from myna.tts.text.phones import Phones

SMALL = TokenARConfig(
    levels=(4, 3),
    speaker=6,
    width=32,
    depth=2,
    n_heads=2,
    n_kv_heads=1,
    hidden=48,
    text_depth=1,
    context=128,
    extra=4,
)


@pytest.fixture(scope="module")
def model() -> TokenAR:
    torch.manual_seed(0)
    model = TokenAR(SMALL).eval()
    for parameter in model.parameters():  # what starts at zero would hide mistakes
        if parameter.abs().sum() == 0:
            parameter.data.normal_(0, 0.3)
    return model


@pytest.fixture(scope="module")
def phones() -> Phones:
    return Phones(torch.tensor([[2, 20, 31, 2, 25, 40, 6], [0, 1, 0, 0, 0, 2, 0], [0, 0, 1, 0, 0, 0, 0]]))


PROMPT = TokenPrompt(torch.tensor([3, 1, 7, 7, 0]), torch.nn.functional.normalize(torch.arange(6.0), dim=0))


def test_a_prompt_is_read_once_by_a_model(model, phones, monkeypatch):
    prompt, read = TokenPrompt(PROMPT.tokens, PROMPT.speaker), []
    monkeypatch.setattr(token_generate, "_read", lambda *args: read.append(args[0]) or _read(*args))
    options = SamplingOptions(seed=3, text_guidance=2.0, voice_guidance=1.5)
    first, again = (list(TokenGenerator(model, phones, prompt, options)) for _ in range(2))
    assert len(read) == 1
    assert all(torch.equal(a.hidden, b.hidden) for a, b in zip(first, again, strict=True))
    other = copy.deepcopy(model)
    list(TokenGenerator(other, phones, prompt, options))
    assert read == [model, other]


def test_generation_reads_what_training_reads(model, phones):
    """The states of every token drawn equal those of the teacher-forced pass over the same tokens and pointer."""
    frames = list(TokenGenerator(model, phones, PROMPT, SamplingOptions(seed=3)))
    tokens = torch.cat([PROMPT.tokens, *(frame.codes for frame in frames)])[None]
    n, prompt = tokens.shape[1], len(PROMPT.tokens)
    pointer = torch.cat([torch.full((2 * prompt,), -1), *(frame.pointer for frame in frames)])[None]
    batch = TokenBatch(
        phones=phones.tokens[None],
        n_phones=torch.tensor([len(phones)]),
        tokens=tokens,
        pointer=pointer,
        n_prompt=torch.tensor([prompt]),
        n_tokens=torch.tensor([n]),
        speaker=PROMPT.speaker[None],
        hide_text=torch.tensor([False]),
    )
    with torch.no_grad():
        encoded = model.encode_text(batch.phones, batch.n_phones)
        x = model.inputs(
            model._shifted(tokens), model.phones(encoded, pointer), batch.speaker, model._is_target(batch)
        )
        hidden = model.transformer(x.transpose(1, 2)).transpose(1, 2)[0, prompt:]
    assert torch.allclose(torch.stack([frame.hidden for frame in frames]), hidden, atol=1e-4)


@pytest.mark.parametrize("seed", range(6))
def test_the_pointer_walks_through_all_phones(model, phones, seed):
    options = SamplingOptions(seed=seed, text_guidance=1.5, voice_guidance=1.3, max_sound_frames=9)
    frames = list(TokenGenerator(model, phones, PROMPT, options))
    pointer = torch.cat([frame.pointer for frame in frames])
    assert pointer[0] == 0
    assert pointer[-1] == len(phones) - 1
    steps = pointer.diff()
    assert steps.min() >= 0
    spaces = phones.tokens[0] == 2
    for before, after in zip(pointer[:-1].tolist(), pointer[1:].tolist(), strict=True):
        assert spaces[before + 1 : after].all()  # only spaces are passed over
    again = list(TokenGenerator(model, phones, PROMPT, options))
    assert [f.codes.item() for f in again] == [f.codes.item() for f in frames]


def test_the_number_of_the_first_phone_is_drawn_from_the_seed(model, phones):
    """How long it lasts: the pointer moves on once its hazard has fallen below that number (`durations`)."""
    options = SamplingOptions(duration_temperature=0.5)
    generator = TokenGenerator(model, phones, PROMPT, options)
    untils = [float(generator.begin(iter([number])).halves[1].until) for number in (0.0, 0.5, 0.9)]
    assert untils == pytest.approx([0.25, 0.5, 0.7])
    source = uniforms(7)
    generator.begin(source)
    assert next(source) == list(islice(uniforms(7), 2))[1]  # one number was taken
    lasts = []
    for number in (0.0, 0.99):  # the rest of what is drawn being equal

        def begin(source, number=number):
            return TokenGenerator.begin(generator, iter([number]))

        generator.begin = begin
        frames = list(generator.fork(3))
        lasts.append(int((torch.cat([frame.pointer for frame in frames]) == 0).sum()))
    assert lasts[0] > lasts[1]


def test_without_a_voice_and_in_8_bits(model, phones):
    assert list(TokenGenerator(model, phones, None, SamplingOptions(seed=1)))
    assert list(TokenGenerator(for_inference(model), phones, PROMPT, SamplingOptions(seed=1)))


def test_what_cannot_be_said_is_refused(model, phones):
    with pytest.raises(InputError, match="no phones"):
        TokenGenerator(model, Phones(phones.tokens[:, :0]))
    with pytest.raises(InputError, match="at most 64"):
        TokenGenerator(model, phones, TokenPrompt(torch.zeros(80, dtype=torch.long), PROMPT.speaker))


def test_the_loss_falls_and_every_part_learns(model, phones):
    torch.manual_seed(1)
    learner = TokenAR(SMALL).train()
    pointer = torch.tensor([[-1, -1, -1, -1, 0, 0, 1, 1, 2, 2, 4, 4, 5, 6]])
    batch = TokenBatch(
        phones.tokens[None],
        torch.tensor([7]),
        torch.tensor([[1, 2, 3, 4, 5, 6, 7]]),
        pointer,
        torch.tensor([2]),
        torch.tensor([7]),
        PROMPT.speaker[None],
        torch.tensor([False]),
    )
    optimizer = torch.optim.Adam(learner.parameters(), 3e-3)
    first = learner(batch)
    for _ in range(60):
        loss = learner(batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    last = learner.eval()(batch)
    assert last.token_loss < 0.5 * first.token_loss
    assert last.advance_loss < 0.5 * first.advance_loss


def test_every_token_has_its_levels():
    quantizer = FiniteScalarQuantizer((8, 5, 5, 5))
    rows = quantizer.rows
    assert rows.shape == (1000, 4)
    assert rows.min() == -1
    assert rows.max() == 1
    assert torch.equal(quantizer.tokens(rows), torch.arange(1000))
    drawn = quantizer.rounded(quantizer.bounded(torch.randn(50, 4)))
    assert torch.allclose(quantizer.vectors(quantizer.tokens(drawn)), drawn, atol=1e-6)


def test_the_tokenizer_looks_ahead_as_far_as_it_says():
    torch.manual_seed(0)
    config = SpeechTokensConfig(mel_bands=8, width=16, depth_before=1, depth=1)
    tokenizer = SpeechTokenizer(config).eval()
    for parameter in tokenizer.parameters():
        parameter.data.normal_(0, 0.3)
    mel = torch.randn(1, 8, 80)
    before = tokenizer(mel)
    changed = mel.clone()
    changed[..., 48:] += 1
    after = tokenizer(changed)
    same = 12 - config.look_ahead
    assert before.shape == (1, 20, 4)
    assert torch.allclose(after[:, :same], before[:, :same])
    assert not torch.allclose(after, before, atol=1e-3)
