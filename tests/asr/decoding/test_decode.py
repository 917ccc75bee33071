"""Decoding of windows: prompts, options, fallback, languages."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from myna.asr.decoding.decode import DecodingOptions, compression_ratio, decode, detect_language
from myna.asr.decoding.fallback import FallbackOptions, at_temperature, decode_with_fallback
from myna.asr.decoding.prompts import Context, prompt_of, tokenizer_of
from myna.asr.model.whisper import Whisper, WhisperDims
from myna.asr.vocabularies import vocabulary_for
from myna.errors import UsageError

EN, MULTI, V3 = 51864, 51865, 51866
TIMES = 50363  # <|0.00|> of English
A, B, SO = 317, 318, 1406
LOOP = [TIMES, *[A, B] * 60, TIMES + 50]  # text that repeats itself


def whisper(n_vocab: int, seed: int = 0, vocabulary: bool = True) -> Whisper:
    torch.manual_seed(seed)
    dims = WhisperDims(80, 1500, 16, 2, 1, n_vocab, 448, 16, 2, 2)
    model = Whisper(dims, vocabulary=vocabulary_for(n_vocab) if vocabulary else None, name="random").eval()
    torch.nn.init.normal_(model.decoder.positional_embedding)
    return model


@pytest.fixture(scope="module")
def english() -> Whisper:
    return whisper(EN)


@pytest.fixture(scope="module")
def multilingual() -> Whisper:
    return whisper(MULTI)


@pytest.fixture(scope="module")
def features() -> torch.Tensor:
    return torch.randn(3, 1500, 16, generator=torch.Generator().manual_seed(1))


# Prompts.


def test_prompt_of_an_english_window(english):
    tokenizer = tokenizer_of(english)
    prompt = prompt_of(tokenizer, DecodingOptions(), 448)
    assert (prompt.head, prompt.tail, prompt.limit) == ((tokenizer.sot,), (), 224)
    prompt = prompt_of(tokenizer, DecodingOptions(prompt=" so ", prefix="Well", without_timestamps=True), 448)
    assert prompt.head == (tokenizer.sot_prev, *tokenizer.encode(" so"), tokenizer.sot)
    assert prompt.tail == (tokenizer.no_timestamps, *tokenizer.encode(" Well"))


@pytest.mark.parametrize(("task", "token"), [("transcribe", 50359), ("translate", 50358)])
def test_prompt_says_language_and_task(multilingual, task, token):
    tokenizer = tokenizer_of(multilingual, "de", task)
    assert prompt_of(tokenizer, DecodingOptions(task=task), 448).tail == (50261, token)


def test_the_context_of_448_is_kept(english):
    tokenizer = tokenizer_of(english)
    prompt = prompt_of(tokenizer, DecodingOptions(prompt=list(range(300))), 448)
    assert prompt.head[1:-1] == tuple(range(77, 300))  # the last 223
    assert len(prompt.head) == 225
    assert prompt.limit == 224 == 448 - 225 + 1
    prompt = prompt_of(tokenizer, DecodingOptions(prompt=list(range(300)), prefix=[5] * 100), 448)
    assert prompt.limit == 448 - 325 + 1
    with pytest.raises(UsageError, match="prefix takes 500 tokens"):
        prompt_of(tokenizer, DecodingOptions(prefix=[5] * 500), 448)


def test_prefix_leaves_room_for_sample_len(english):
    prompt = prompt_of(tokenizer_of(english), DecodingOptions(prefix=list(range(50)), sample_len=204), 448)
    assert prompt.tail == tuple(range(30, 50))


def test_tokens_that_are_not_in_the_vocabulary(english):
    with pytest.raises(UsageError, match="token 51864"):
        prompt_of(tokenizer_of(english), DecodingOptions(prompt=[51864]), 448)


def test_context_of_a_recording(english):
    tokenizer = tokenizer_of(english)
    first = tokenizer.encode(" Names")
    context = Context(tokenizer, 448, initial_prompt="Names ")
    assert context.prompt() == first
    context.add([1, 2, 3])
    assert context.prompt() == [*first, 1, 2, 3]
    context.reset()
    assert context.prompt() == []
    context.add([4])
    assert context.prompt() == [4]
    assert context.said == [1, 2, 3, 4]


def test_initial_prompt_that_is_carried(english):
    tokenizer = tokenizer_of(english)
    first = tokenizer.encode(" Names")
    context = Context(tokenizer, 448, initial_prompt="Names", carry_initial_prompt=True)
    context.add(range(1000, 1400))
    assert context.prompt() == [*first, *range(1400 - 223 + len(first), 1400)]
    context.reset()
    assert context.prompt() == first
    full = Context(tokenizer, 448, initial_prompt=list(range(300)), carry_initial_prompt=True)
    full.add([7, 8])
    assert full.prompt() == list(range(223))


def test_hotwords_come_first_and_keep_the_limit(english):
    tokenizer = tokenizer_of(english)
    hot = tokenizer.encode(" Kubernetes, Myna")
    context = Context(tokenizer, 448, initial_prompt=[9], hotwords="Kubernetes, Myna")
    assert context.prompt() == [*hot, 9]
    context.add(range(1000, 1400))
    context.reset()
    assert context.prompt() == hot
    context.add(range(2000, 2400))
    assert context.prompt() == [*hot, *range(2400 - 223 + len(hot), 2400)]
    assert 9 not in context.said
    with pytest.raises(UsageError, match="hotwords take 300 tokens; there is room for 223"):
        Context(tokenizer, 448, hotwords="the " * 300)


# Decoding.


def test_batches_of_beams(english, features):
    """Each window as if it were alone, by every search."""
    for options in (
        DecodingOptions(sample_len=12),
        DecodingOptions(sample_len=12, beam_size=3),
        DecodingOptions(sample_len=12, beam_size=2, patience=2.0),
        DecodingOptions(sample_len=12, temperature=0.9, best_of=3),
    ):
        together = decode(english, features, options)
        alone = [decode(english, row, options)[0] for row in features.split(1)]
        assert [r.tokens for r in together] == [r.tokens for r in alone]
        assert [r.avg_logprob for r in together] == pytest.approx([r.avg_logprob for r in alone], abs=1e-4)


def test_different_options_in_one_call(multilingual, features):
    each = [
        DecodingOptions(sample_len=8, language="de", prompt=[5, 6, 7]),
        DecodingOptions(sample_len=8, language="French", task="translate", beam_size=2),
        DecodingOptions(sample_len=8, prefix=[800] * 30, without_timestamps=True),
    ]
    together = decode(multilingual, features, each)
    alone = [decode(multilingual, features[i : i + 1], o)[0] for i, o in enumerate(each)]
    assert [r.tokens for r in together] == [r.tokens for r in alone]
    assert [r.language for r in together][:2] == ["de", "fr"]
    assert together[0].language_probs is None
    assert together[2].language_probs is not None


def test_seed_of_the_samples(english, features):
    options = DecodingOptions(sample_len=10, temperature=1.0)
    first, again, other = (
        decode(english, features, replace(options, seed=seed))[0].tokens for seed in (1, 1, 2)
    )
    assert first == again != other


def test_probability_of_no_speech_is_that_at_the_start(multilingual, features):
    """Before any rule, after the previous text, before language and task."""
    tokenizer = tokenizer_of(multilingual, "de", "transcribe")
    options = DecodingOptions(language="de", prompt=[300, 301], sample_len=2)
    found = decode(multilingual, features, options)
    with torch.no_grad():
        tokens = torch.tensor([[tokenizer.sot_prev, 300, 301, tokenizer.sot]] * 3)
        logits = multilingual.all_logits(tokens, multilingual.init_state(features))[:, -1]
    expected = logits.softmax(1)[:, tokenizer.no_speech].tolist()
    assert [r.no_speech_prob for r in found] == pytest.approx(expected, rel=1e-4)


def test_what_a_result_says(scripted, answer):
    model = scripted([answer([TIMES, SO, 13, TIMES + 60], no_speech=0.25)])
    (result,) = decode(model, torch.zeros(1, 1500, 1))
    assert result.tokens == (TIMES, SO, 13, TIMES + 60)
    assert result.text == "So."
    assert result.no_speech_prob == pytest.approx(0.25, abs=1e-4)
    assert result.compression_ratio == compression_ratio("So.") == 3 / 11
    assert (result.language, result.temperature) == ("en", 0.0)


def test_avg_logprob_counts_the_end(scripted, answer):
    """Four tokens and the end, of which the two of text are one of eight."""
    model = scripted([answer([TIMES, SO, 13, TIMES + 60], doubts=8)])
    (result,) = decode(model, torch.zeros(1, 1500, 1))
    # After the second text token a timestamp is likelier than any text, and after it only the end is allowed.
    text = -math.log(1 + 7 * math.exp(-0.001))
    assert result.avg_logprob == pytest.approx(2 * text / 5, abs=1e-3)


def test_the_end_of_the_context(scripted, answer):
    endless = [TIMES, *range(300, 900)]
    model = scripted([answer(endless), answer(endless), answer(endless)])
    options = [DecodingOptions(prompt=[5] * n, sample_len=448) for n in (0, 100, 400)]
    lengths = [len(result.tokens) for result in decode(model, torch.zeros(3, 1500, 1), options)]
    assert lengths == [448, 448 - 101, 448 - 224]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"task": "sing"}, "task is 'sing'"),
        ({"beam_size": 2, "best_of": 2}, "beam_size and best_of"),
        ({"best_of": 2}, "best_of is given at temperature 0"),
        ({"beam_size": 2, "temperature": 0.5}, "beam_size is given at a temperature"),
        ({"patience": 1.0}, "patience is given without beam_size"),
        ({"beam_size": 2, "patience": 0.1}, "at least one beam"),
        ({"beam_size": 0}, "beam_size is 0"),
        ({"length_penalty": 1.5}, "length_penalty is 1.5"),
        ({"temperature": -1.0}, "temperature is -1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"sample_len": 0}, "sample_len is 0"),
        ({"max_initial_timestamp": -1.0}, "max_initial_timestamp"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size"),
        ({"language": "elvish"}, "elvish"),
        ({"language": "de"}, "random knows only English"),
        ({"task": "translate"}, "random knows only English"),
        ({"task": "lang_id"}, "random knows only English"),
    ],
)
def test_options_that_cannot_be(english, features, given, message):
    with pytest.raises(UsageError, match=message):
        decode(english, features, DecodingOptions(**given))


def test_other_calls_that_cannot_be(english, features):
    with pytest.raises(UsageError, match="2 options for 3 windows"):
        decode(english, features, [DecodingOptions()] * 2)
    with pytest.raises(UsageError, match="2 options for 3 windows"):
        decode_with_fallback(english, features, [DecodingOptions()] * 2)
    with pytest.raises(UsageError, match="no vocabulary"):
        decode(whisper(EN, vocabulary=False), features)
    with pytest.raises(UsageError, match="no temperature"):
        decode_with_fallback(english, features, DecodingOptions(), FallbackOptions(temperatures=()))


# Languages.


@pytest.mark.parametrize(("n_vocab", "n_languages"), [(MULTI, 99), (V3, 100)])
def test_language_is_the_likeliest_of_all(features, n_vocab, n_languages):
    model = whisper(n_vocab, seed=5)
    tokenizer = tokenizer_of(model)
    found = detect_language(model, features)
    with torch.no_grad():
        logits, _ = model.step(torch.full((3, 1), tokenizer.sot), model.init_state(features))
    for (code, probabilities), row in zip(found, logits, strict=True):
        assert len(probabilities) == n_languages
        assert sum(probabilities.values()) == pytest.approx(1.0, abs=1e-4)
        at = int(row[list(tokenizer.all_language_tokens)].argmax())
        assert code == tokenizer.all_language_codes[at] == max(probabilities, key=lambda c: probabilities[c])


def test_task_of_telling_the_language(multilingual, features):
    expected = detect_language(multilingual, features)
    results = decode(multilingual, features, DecodingOptions(task="lang_id"))
    assert [(r.language, r.language_probs) for r in results] == expected
    assert all(r.tokens == () for r in results)


def test_language_that_is_not_given_is_told(scripted, answer):
    german = answer([50261])  # of the first decoding, which tells the language
    model = scripted([german, answer([50364, 400, 50400])], n_vocab=MULTI)
    (result,) = decode(model, torch.zeros(1, 1500, 1))
    assert result.language == "de"
    assert model.prompts[-1] == (50258, 50261, 50359)


# Fallback.


def test_text_that_repeats_itself_is_decoded_again(scripted, answer):
    model = scripted([answer(LOOP), answer(LOOP), answer([TIMES, SO, TIMES + 9])])
    (result,) = decode_with_fallback(model, torch.zeros(1, 1500, 1), DecodingOptions(beam_size=2, best_of=2))
    assert result.temperature == 0.4
    assert result.text == "So"


def test_only_what_fails_is_decoded_again(scripted, answer):
    good, bad = answer([TIMES, SO, TIMES + 9]), answer([TIMES, SO, TIMES + 9], doubts=200)
    model = scripted([good, bad, good, good])
    results = decode_with_fallback(model, torch.zeros(3, 1500, 1), DecodingOptions())
    assert [r.temperature for r in results] == [0.0, 0.2, 0.0]
    assert model.given == 4


def test_last_temperature_is_taken_as_it_is(scripted, answer):
    model = scripted([answer(LOOP)] * 2)
    options = FallbackOptions(temperatures=(0.0, 0.3))
    (result,) = decode_with_fallback(model, torch.zeros(1, 1500, 1), DecodingOptions(), options)
    assert result.temperature == 0.3


@pytest.mark.parametrize(
    ("given", "ratio", "logprob", "no_speech", "fails", "silent"),
    [
        ({}, 2.3, -0.9, 0.0, False, False),
        ({}, 2.5, -0.9, 0.0, True, False),
        ({}, 2.3, -1.1, 0.0, True, False),
        ({}, 2.3, -1.1, 0.7, False, True),  # silence
        ({}, 2.5, -1.1, 0.7, False, True),
        ({}, 2.5, -0.9, 0.7, True, False),  # sure of its text
        ({"logprob_threshold": None}, 2.3, -9.0, 0.7, False, True),
        ({"logprob_threshold": None}, 2.5, -9.0, 0.7, True, True),
        ({"no_speech_threshold": None}, 2.3, -1.1, 0.9, True, False),
        ({"compression_ratio_threshold": None}, 9.0, -0.5, 0.0, False, False),
    ],
)
def test_when_a_result_is_not_good_enough(given, ratio, logprob, no_speech, fails, silent):
    from myna.asr.decoding.decode import DecodingResult

    result = DecodingResult("en", avg_logprob=logprob, no_speech_prob=no_speech, compression_ratio=ratio)
    options = FallbackOptions(**given)
    assert options.fails(result) == fails
    assert options.is_silence(result) == silent


def test_options_at_a_temperature():
    options = DecodingOptions(beam_size=5, best_of=4, patience=2.0)
    assert at_temperature(options, 0) == DecodingOptions(beam_size=5, patience=2.0)
    assert at_temperature(options, 0.2) == DecodingOptions(best_of=4, temperature=0.2)
