"""Codes drawn from the autoregressive network: a batch of candidates behind one prompt.

In the order of the published generation: repetition penalty, temperature, the k likeliest, the nucleus. The network is
asked with the positions of training, 0, 1, 2, ...: the published generation with a cache has 0, 2, 3, ..., which its
generation without does not. Shapes: B candidates, N codes, V vocabulary, W width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import UsageError
from .model.autoregressive import Autoregressive
from .model.cache import CandidateCache

CALM = 83  # the code of silence
_ENDING = (45, 45, 248)  # what the decoder was trained to see at the end
_PLACEHOLDER = 1  # stands for the prompt where repetitions are counted, as published


@dataclass(frozen=True)
class CodeOptions:
    """How codes are drawn; the defaults are TorToise's."""

    temperature: float = 0.8  # 0: always the likeliest
    top_k: int = 50  # of so many at most; 0: of all (transformers' default, which TorToise left on)
    top_p: float = 0.8  # of the likeliest that have this probability together
    repetition_penalty: float = 2.0  # a code that was said is this much less likely; 1: not at all
    max_codes: int = 500  # 23 seconds

    def __post_init__(self) -> None:
        wrong = (
            ("temperature", self.temperature, self.temperature >= 0, "0 or more"),
            ("top_k", self.top_k, self.top_k >= 0, "0 (all) or more"),
            ("top_p", self.top_p, 0 < self.top_p <= 1, "above 0, at most 1"),
            ("repetition_penalty", self.repetition_penalty, self.repetition_penalty >= 1, "1 (none) or more"),
            ("max_codes", self.max_codes, self.max_codes >= 1, "1 or more"),
        )
        for name, value, fits, expected in wrong:
            if not (fits and math.isfinite(value)):
                raise UsageError(f"{name} {value:g} cannot be used; give {expected}")


@dataclass(frozen=True)
class CodeStep:
    """One position.   rows (B',): which candidates are still there; one that has ended may stay for a while, and what
    it says then counts for nothing.   codes (B',): what each says, its end included.
    latents (B', W): the network's over that position, which the decoders read."""

    rows: Tensor
    codes: Tensor
    latents: Tensor


@torch.no_grad()
def code_steps(
    model: Autoregressive, voice: Tensor, text: Tensor, options: CodeOptions, seeds: Sequence[int]
) -> Iterator[CodeStep]:
    """Position by position until every candidate has ended, or `max_codes` is reached.

    voice (1, W), text (1, T) ids.   seeds: one a candidate, which says the same whoever else is in the batch.
    """
    config = model.config
    device = voice.device
    n_codes = min(options.max_codes, config.max_codes)
    cache = CandidateCache(config.depth)
    model.run(model.prompt(voice, text), cache)
    cache.branch(len(seeds))
    rows = torch.arange(len(seeds), device=device)
    numbers = torch.stack([_uniforms(seed, n_codes) for seed in seeds]).to(device)
    said = torch.zeros(len(seeds), config.n_codes + 2, dtype=torch.bool, device=device)
    said[:, [_PLACEHOLDER, config.start_code]] = True
    speaking = torch.ones(len(seeds), dtype=torch.bool, device=device)
    last = torch.full((len(seeds), 1), config.start_code, device=device)
    for position in range(n_codes):
        hidden = model.run(model.embed_codes(last, position), cache)[:, -1]
        codes = draw(model.code_head(hidden).float(), said, numbers[rows, position], options)
        yield CodeStep(rows, codes, hidden)
        speaking &= codes != config.stop_code
        if not bool(speaking.any()):
            return
        if int(speaking.sum()) * 2 <= len(rows):  # fewer copies of the cache than at every end
            kept = speaking.nonzero()[:, 0]
            cache.keep(kept)
            rows, said, codes, speaking = rows[kept], said[kept], codes[kept], speaking[kept]
        said.scatter_(1, codes[:, None], True)
        last = codes[:, None]


def generate(
    model: Autoregressive,
    voice: Tensor,
    text: Tensor,
    options: CodeOptions,
    seeds: Sequence[int],
    each: Callable[[int], None] = lambda n: None,
) -> list[Tensor]:
    """The codes (N,) of every candidate, its end left out.   each: called after every position, with their number."""
    spoken: list[list[int]] = [[] for _ in seeds]
    ended = [False] * len(seeds)
    for n, step in enumerate(code_steps(model, voice, text, options, seeds), 1):
        each(n)
        for row, code in zip(step.rows.tolist(), step.codes.tolist(), strict=True):
            ended[row] = ended[row] or code == model.config.stop_code
            if not ended[row]:
                spoken[row].append(code)
    return [torch.tensor(codes, dtype=torch.long) for codes in spoken]


def draw(logits: Tensor, said: Tensor, numbers: Tensor, options: CodeOptions) -> Tensor:
    """Codes (B,) from logits (B, V), where `said` (B, V) marks what is penalised, by numbers (B,) in [0, 1)."""
    if options.repetition_penalty != 1:
        penalty = options.repetition_penalty
        logits = torch.where(said, torch.where(logits < 0, logits * penalty, logits / penalty), logits)
    if options.temperature == 0:
        return logits.argmax(-1)
    k = min(options.top_k or logits.shape[-1], logits.shape[-1])
    values, order = (logits / options.temperature).topk(k)
    reached = values.softmax(-1).cumsum(-1)
    # The nucleus ends with the code that reaches top_p.
    before = reached - reached.diff(dim=-1, prepend=torch.zeros_like(reached[:, :1]))
    inside = reached.masked_fill(before >= options.top_p, 0).amax(-1)
    place = torch.searchsorted(reached, (numbers.to(reached) * inside)[:, None], right=True)
    return order.gather(1, place.clamp(max=k - 1))[:, 0]


def settle(codes: Tensor, n_codes: int = 500) -> Tensor:
    """Codes (N,) as the other networks were trained to see them, (n_codes,): silence behind the end, and a fixed
    ending. Codes that never ended are as long already, and stay as they are."""
    if len(codes) >= n_codes:
        return codes[:n_codes]
    settled = torch.full((n_codes,), CALM, dtype=codes.dtype)
    settled[: len(codes)] = codes
    settled[-len(_ENDING) :] = torch.tensor(_ENDING)
    return settled


def calm_from(codes: Tensor, run: int = 9) -> int:
    """Where the silence behind the speech is long enough to stop at: the index of the last of the first `run` codes of
    silence in a row, or the number of codes (N,)."""
    calm = 0
    for index, code in enumerate(codes.tolist()):
        calm = calm + 1 if code == CALM else 0
        if calm == run:
            return index
    return len(codes)


def _uniforms(seed: int, n: int) -> Tensor:
    return torch.rand(n, generator=torch.Generator().manual_seed(seed % 2**63), dtype=torch.float64)
