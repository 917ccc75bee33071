"""Several tries at one utterance: each says what it says alone, and phones and prompt are read once."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from myna.tts.lm.ar import ARConfig, ARModel
from myna.tts.lm.batch import Prompt
from myna.tts.lm.generate import ARGenerator
from myna.tts.lm.quantize import for_inference
from myna.tts.lm.row_exact import row_exact
from myna.tts.lm.sampling import SamplingOptions
from myna.tts.lm.several import several, side_by_side
from myna.tts.lm.step import Frame
from myna.tts.lm.token_generate import TokenGenerator, TokenPrompt
from myna.tts.text.phones import Phones

K, V, D = 4, 64, 16
PHONES = Phones.from_ipa("hˈæloʊ wˈɜːld.")
SEEDS = (3, 11, 3, 7)


@pytest.fixture(scope="module")
def ar() -> ARModel:
    torch.manual_seed(0)
    small = {"n_codebooks": K, "n_coarse": 2, "codebook_size": V, "codebook_dim": D, "width": 128, "depth": 2}
    small |= {"n_heads": 2, "n_kv_heads": 1, "hidden": 128, "text_depth": 1, "context": 512, "extra": 16}
    net = ARModel(ARConfig(**small), torch.randn(K, V, D)).eval()
    with torch.no_grad():
        for block in net.transformer.blocks:
            block.attention.out.weight.normal_(0, 0.1)  # pyright: ignore
    return row_exact(for_inference(net))  # pyright: ignore


def kept(steps) -> list[list[Frame]]:
    tries: list[list[Frame]] = [[] for _ in SEEDS]
    for step in steps:
        assert len(step) == len(SEEDS)
        assert any(frame is not None for frame in step)
        for own, frame in zip(tries, step, strict=True):
            if frame is not None:
                own.append(frame)
    return tries


def equal(a: list[Frame], b: list[Frame]) -> bool:
    return len(a) == len(b) and all(
        x.codes.equal(y.codes) and x.pointer.equal(y.pointer) and x.hidden.equal(y.hidden)
        for x, y in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("options", [SamplingOptions(), SamplingOptions(text_guidance=2, voice_guidance=1.5)])
@pytest.mark.parametrize("prompted", [True, False])
def test_a_try_is_the_same_among_others(ar, options, prompted, monkeypatch):
    torch.manual_seed(1)
    prompt = Prompt(torch.randint(V, (K, 12))) if prompted else None
    alone = [list(ARGenerator(ar, PHONES, prompt, replace(options, seed=seed))) for seed in SEEDS]
    assert not equal(alone[0], alone[1])
    encode, reads = ar.encode_text, []
    monkeypatch.setattr(ar, "encode_text", lambda *given: (reads.append(1), encode(*given))[1])
    together = kept(several(ar, ARGenerator(ar, PHONES, prompt, options), SEEDS))
    assert len(reads) == 1 + (
        prompted and options.voice_guidance != 1
    )  # once for each row that is read apart
    for own, other in zip(together, alone, strict=True):
        assert equal(own, other)
    apart = kept(
        side_by_side([iter(ARGenerator(ar, PHONES, prompt, replace(options, seed=seed))) for seed in SEEDS])
    )
    assert all(equal(own, other) for own, other in zip(apart, alone, strict=True))


@pytest.mark.parametrize("options", [SamplingOptions(), SamplingOptions(text_guidance=2, voice_guidance=1.5)])
@pytest.mark.parametrize("prompted", [True, False])
def test_a_try_of_the_token_ar_is_the_same_among_others(token_ar, options, prompted, monkeypatch):
    voice = TokenPrompt(torch.arange(5), F.normalize(torch.arange(6.0), dim=0)) if prompted else None
    alone = [
        list(TokenGenerator(token_ar, PHONES, voice, replace(options, seed=seed)).on(row_exact(token_ar)))
        for seed in SEEDS
    ]
    assert not equal(alone[0], alone[1])
    encode, reads = token_ar.encode_text, []
    monkeypatch.setattr(token_ar, "encode_text", lambda *given: (reads.append(1), encode(*given))[1])
    read = TokenGenerator(token_ar, PHONES, voice, options)
    together = kept(several(row_exact(token_ar), read, SEEDS))
    assert len(reads) == 1
    assert all(equal(own, other) for own, other in zip(together, alone, strict=True))


def test_the_mode_of_whoever_iterates_stays(ar):
    steps = several(ar, ARGenerator(ar, PHONES), SEEDS)
    next(steps)
    assert not torch.is_inference_mode_enabled()
    steps.close()
