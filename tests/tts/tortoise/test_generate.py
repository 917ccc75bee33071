from __future__ import annotations

import pytest
import torch
from myna.tts.tortoise.generate import CodeOptions, calm_from, code_steps, draw, generate, settle
from myna.tts.tortoise.model.autoregressive import Autoregressive, AutoregressiveConfig
from myna.tts.tortoise.model.cache import CandidateCache
from myna.tts.tortoise.precision import for_inference

CONFIG = AutoregressiveConfig(
    depth=2, width=64, n_heads=2, n_encoder_blocks=1, max_text_tokens=20, n_codes=96, max_codes=40
)
OPTIONS = CodeOptions(max_codes=30)
TEXT = torch.tensor([[7, 31, 254, 2, 9]])


@pytest.fixture(scope="module")
def model() -> Autoregressive:
    torch.manual_seed(0)
    model = Autoregressive(CONFIG)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2)
        model.code_head.bias[CONFIG.stop_code] = 2  # so that candidates end, each in its time
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def voice() -> torch.Tensor:
    return torch.randn(1, CONFIG.width, generator=torch.Generator().manual_seed(1))


def test_one_position_at_a_time_is_the_whole_pass(model, voice):
    # With the positions of training, which the published generation with a cache does not have.
    codes = torch.randint(0, 96, (3, 12))
    whole = torch.stack([model(voice, TEXT, row[None])[1][0] for row in codes])
    cache = CandidateCache(CONFIG.depth)
    model.run(model.prompt(voice, TEXT), cache)
    cache.branch(3)
    framed = torch.nn.functional.pad(codes, (1, 0), value=CONFIG.start_code)
    logits = [
        model.code_head(model.run(model.embed_codes(framed[:, i : i + 1], i), cache)[:, 0]) for i in range(13)
    ]
    assert torch.allclose(torch.stack(logits, 1), whole[:, :13], atol=1e-4)
    # And several positions at a time.
    cache.branch(3)  # which forgets what the candidates had said
    a = model.run(model.embed_codes(framed[:, :5]), cache)
    b = model.run(model.embed_codes(framed[:, 5:], 5), cache)
    assert torch.allclose(model.code_head(torch.cat([a, b], 1)), whole[:, :13], atol=1e-4)


def test_a_single_candidate_goes_on_in_the_prompts_part(model, voice):
    codes = torch.randint(0, 96, (1, 35))
    whole = model(voice, TEXT, codes)[1]
    cache = CandidateCache(CONFIG.depth)
    model.run(model.prompt(voice, TEXT), cache)
    cache.branch(1)
    framed = torch.nn.functional.pad(codes, (1, 0), value=CONFIG.start_code)
    logits = [
        model.code_head(model.run(model.embed_codes(framed[:, i : i + n], i), cache))
        for i, n in [(0, 1), (1, 4), (5, 1), *((i, 1) for i in range(6, 36))]
    ]
    assert torch.allclose(torch.cat(logits, 1), whole[:, :36], atol=1e-4)


def test_the_prompt_is_kept_once(model, voice):
    cache = CandidateCache(CONFIG.depth)
    model.run(model.prompt(voice, TEXT), cache)
    alone = cache.n_bytes
    cache.branch(16)
    assert cache.n_bytes == alone
    assert alone == CONFIG.depth * 2 * (TEXT.shape[1] + 3) * CONFIG.width * 4


def test_latents_of_the_steps_are_those_of_the_whole_pass(model, voice):
    steps = list(code_steps(model, voice, TEXT, OPTIONS, [3]))
    codes = torch.stack([step.codes[0] for step in steps])[None]
    assert codes.shape[1] > 2
    latents = torch.stack([step.latents[0] for step in steps])[None]
    assert torch.allclose(latents, model.latents(voice, TEXT, codes)[:, : latents.shape[1]], atol=1e-4)


def test_a_candidate_says_the_same_whoever_is_beside_it(model, voice):
    together = generate(model, voice, TEXT, OPTIONS, [1, 2, 3, 4, 5])
    assert len({tuple(codes.tolist()) for codes in together}) == 5
    alone = [generate(model, voice, TEXT, OPTIONS, [seed])[0] for seed in (1, 2, 3, 4, 5)]
    assert all(torch.equal(a, b) for a, b in zip(together, alone, strict=True))


def test_candidates_that_have_ended_leave_the_batch(model, voice):
    sizes = [len(step.rows) for step in code_steps(model, voice, TEXT, OPTIONS, list(range(12)))]
    assert sizes[0] == 12
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) > 2
    ends = [len(codes) for codes in generate(model, voice, TEXT, OPTIONS, list(range(12)))]
    assert min(ends) < max(ends)
    # One that has ended stays ended, also while it is still in the batch.
    alone = [len(generate(model, voice, TEXT, OPTIONS, [seed])[0]) for seed in range(12)]
    assert ends == alone


@pytest.mark.parametrize("seed", range(5))
def test_drawing_is_what_transformers_does(seed):
    processors = pytest.importorskip("transformers.generation.logits_process")
    torch.manual_seed(seed)
    logits = 3 * torch.randn(1, 200)
    ids = torch.randint(0, 200, (1, 30))
    expected = logits
    for processor in (
        processors.RepetitionPenaltyLogitsProcessor(2.0),
        processors.TemperatureLogitsWarper(0.8),
        processors.TopKLogitsWarper(50),
        processors.TopPLogitsWarper(0.8),
    ):
        expected = processor(ids, expected)
    probabilities = expected.softmax(-1)[0]
    said = torch.zeros(1, 200, dtype=torch.bool).scatter_(1, ids, True)
    numbers = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000  # every share of the way
    codes = draw(logits.expand(4000, -1), said.expand(4000, -1), numbers, CodeOptions())
    drawn = torch.bincount(codes, minlength=200) / 4000
    assert torch.allclose(drawn, probabilities, atol=1 / 2000)


def test_no_temperature_takes_the_likeliest():
    logits = torch.tensor([[1.0, 3.0, 2.0]])
    said = torch.tensor([[False, True, False]])
    assert draw(logits, said, torch.zeros(1), CodeOptions(temperature=0)).tolist() == [2]


def test_settled_codes_end_as_the_decoder_has_learned():
    assert settle(torch.tensor([5, 6]), 10).tolist() == [5, 6, 83, 83, 83, 83, 83, 45, 45, 248]
    assert settle(torch.arange(10), 10).tolist() == list(range(10))
    # The last three places are taken whatever was said there.
    assert settle(torch.arange(9), 10).tolist() == [0, 1, 2, 3, 4, 5, 6, 45, 45, 248]


def test_speech_stops_in_its_silence():
    assert calm_from(torch.tensor([1, *[83] * 8, 2, *[83] * 12])) == 18
    assert calm_from(torch.tensor([1, 2, 3])) == 3


@pytest.mark.parametrize(("precision", "limit"), [("half", 2e-3), ("int8", 0.1), ("bfloat16", 0.05)])
def test_a_smaller_precision_says_nearly_the_same(precision, limit, model, voice):
    small = Autoregressive(CONFIG).eval().requires_grad_(False)
    small.load_state_dict(model.state_dict())
    expected = model.latents(voice, TEXT, torch.arange(20)[None])
    if precision == "bfloat16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor has no products in bfloat16")
    said = for_inference(small, precision).latents(voice, TEXT, torch.arange(20)[None])
    assert 0 < float((said - expected).norm() / expected.norm()) < limit
