"""Speculation finds what greedy search finds, whatever the draft is worth."""

from __future__ import annotations

import pytest
import torch
from myna.asr.decoding.search import Candidate, Sampling
from myna.asr.decoding.speculative import AHEAD, can_speculate, speculate
from myna.asr.model.inference import for_inference
from myna.asr.model.whisper import Whisper, WhisperDims
from torch import Tensor

DIMS = WhisperDims(
    n_mels=80, n_audio_ctx=50, n_audio_state=32, n_audio_head=2, n_audio_layer=1,
    n_vocab=120, n_text_ctx=70, n_text_state=32, n_text_head=2, n_text_layer=2,
)  # fmt: skip
PROMPT = torch.tensor([[3, 5, 8]])


class NotTwice:
    """A rule that needs all that was sampled: no token comes twice."""

    def __call__(self, logits: Tensor, sampled: Tensor) -> None:
        logits.scatter_(1, sampled, float("-inf"))


@pytest.fixture(scope="module")
def model() -> Whisper:
    torch.manual_seed(4)
    model = Whisper(DIMS)
    for parameter in model.parameters():  # far from uniform, so that rounding decides nothing
        parameter.data *= 2.0
    return for_inference(model)


def greedy(model: Whisper, features: Tensor, eot: int, limit: int) -> Candidate:
    logits, state = model.step(PROMPT, model.init_state(features))
    search = Sampling(eot, 0.0, 1, [0], features.device)
    while True:
        NotTwice()(logits, search.sampled)
        search.update(logits)
        if search.done[0] or search.sampled.shape[1] >= limit:
            return search.candidates(0)[0]
        logits, state = model.step(search.sampled[:, -1:], state)


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["8 bits", "itself", "another"])
@pytest.mark.parametrize("limit", [1, 2, AHEAD, AHEAD + 1, 2 * AHEAD + 1, 40])
def test_any_draft_gives_the_tokens_and_the_probability_of_greedy_search(model, kind, limit):
    torch.manual_seed(0)
    other = for_inference(Whisper(DIMS))
    draft = {"8 bits": model.draft, "itself": model.decoder, "another": other.decoder}[kind]
    ended = 0
    for seed in range(4):
        features = model.encode(torch.randn(1, 80, 100, generator=torch.Generator().manual_seed(seed)))
        without_end = greedy(model, features, -1, limit)
        for eot in (-1, without_end.tokens[limit // 2]):  # never, and half way
            expected = greedy(model, features, eot, limit)
            logits, state = model.step(PROMPT, model.init_state(features))
            before = model._draft
            model._draft = [draft]
            try:
                found = speculate(model, logits, state, [NotTwice()], eot, limit)
            finally:
                model._draft = before
            assert found.tokens == expected.tokens
            assert found.sum_logprob == pytest.approx(expected.sum_logprob, abs=1e-3)
            ended += len(found.tokens) < limit
    assert ended or limit == 1


def test_it_is_for_one_audio_decoded_greedily_by_a_model_with_a_draft(model):
    assert can_speculate(model, 1, 1, 0.0)
    assert not can_speculate(model, 2, 1, 0.0)
    assert not can_speculate(model, 1, 5, 0.0)
    assert not can_speculate(model, 1, 1, 0.2)
    assert not can_speculate(for_inference(Whisper(DIMS), "int8"), 1, 1, 0.0)
    assert not [name for name in model.state_dict() if "draft" in name]
