"""Greedy decoding, sampling and beam search (Radford et al. 2022, section 4.5).

A search holds what has been sampled for several audios at once, the sequences of an audio side by side. Its first
`update` gets one row of logits an audio, since the prompt is common to them. Shapes: A audios that are still decoded, G
sequences of an audio, R = A * G rows, V vocabulary, t tokens sampled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .options import DecodingOptions

_BLOCK = 256  # of the vocabulary, see top_k


@dataclass(frozen=True)
class Candidate:
    """A sequence without its end, and the sum of its tokens' log-probabilities, that of the end included."""

    tokens: list[int]
    sum_logprob: float


class Search(Protocol):
    sampled: Tensor  # (R, t)
    done: list[bool]  # (A,) audios that need no more tokens

    def update(self, logits: Tensor) -> Tensor | None:
        """logits (R, V), the first time (A, V), filtered -> the rows (R,) that the sequences continue; None: each
        its own."""
        ...

    def candidates(self, audio: int) -> list[Candidate]:
        """What was found for one of the audios, finished or not."""
        ...

    def keep(self, audios: Sequence[int]) -> None:
        """Go on with some of the audios only."""
        ...


class Sampling:
    """Greedy at temperature 0; above it n_group samples of each audio, drawn from its own generator, so that what an
    audio gets does not depend on its company."""

    def __init__(
        self, eot: int, temperature: float, n_group: int, seeds: Sequence[int], device: torch.device
    ):
        self.eot, self.temperature, self.n_group = eot, temperature, n_group
        self.generators = [torch.Generator().manual_seed(seed % 2**63) for seed in seeds]
        rows = len(seeds) * n_group
        self.sampled = torch.empty(rows, 0, dtype=torch.long, device=device)
        self.sums = torch.zeros(rows, device=device)
        self.ended = torch.zeros(rows, dtype=torch.bool, device=device)
        self.done = [False] * len(seeds)

    def update(self, logits: Tensor) -> Tensor | None:
        if len(logits) != len(self.sampled):
            logits = logits.repeat_interleave(self.n_group, 0)
        logprobs = logits.log_softmax(1)
        tokens = top_k(logprobs, 1)[1] if self.temperature == 0 else self._draw(logits)
        self.sums += logprobs.gather(1, tokens)[:, 0].masked_fill_(self.ended, 0.0)
        tokens = tokens[:, 0].masked_fill_(self.ended, self.eot)
        self.sampled = torch.cat([self.sampled, tokens[:, None]], 1)
        self.ended = tokens == self.eot
        self.done = self.ended.view(-1, self.n_group).all(1).tolist()
        return None

    def _draw(self, logits: Tensor) -> Tensor:
        """(R, V) -> (R, 1): where a uniform number falls in the cumulated distribution."""
        total = (logits / self.temperature).softmax(1).cumsum(1, dtype=torch.float64)
        uniform = torch.cat([torch.rand(self.n_group, generator=g) for g in self.generators])
        point = uniform.to(total)[:, None] * total[:, -1:]
        return torch.searchsorted(total, point, right=True)

    def candidates(self, audio: int) -> list[Candidate]:
        rows = slice(audio * self.n_group, (audio + 1) * self.n_group)
        sequences = (_until(row, self.eot) for row in self.sampled[rows].tolist())
        return [Candidate(*found) for found in zip(sequences, self.sums[rows].tolist(), strict=True)]

    def keep(self, audios: Sequence[int]) -> None:
        rows = _rows(audios, self.n_group, self.sampled.device)
        self.sampled, self.sums, self.ended = self.sampled[rows], self.sums[rows], self.ended[rows]
        self.generators = [self.generators[audio] for audio in audios]
        self.done = [self.done[audio] for audio in audios]


class BeamSearch:
    """The n_group likeliest sequences of each audio are continued, until n_group * patience have ended
    (Kasai et al. 2022, arXiv:2204.05424)."""

    def __init__(self, eot: int, n_group: int, patience: float, n_audios: int, device: torch.device):
        self.eot, self.n_group = eot, n_group
        self.enough = round(n_group * patience)
        self.sampled = torch.empty(
            n_audios, 0, dtype=torch.long, device=device
        )  # one row an audio to begin with
        self.sums = torch.zeros(n_audios, device=device)
        self.finished: list[list[Candidate]] = [[] for _ in range(n_audios)]
        self.done = [False] * n_audios

    def update(self, logits: Tensor) -> Tensor | None:
        n_audios, first = len(self.done), self.sampled.shape[1] == 0
        n_before = len(self.sampled) // n_audios
        # Of n_group + 1 tokens at most one is the end: n_group sequences can always go on.
        values, tokens = top_k(logits.log_softmax(1), self.n_group + 1)
        scores = (self.sums[:, None] + values).view(n_audios, -1)
        scores, order = scores.sort(dim=1, descending=True, stable=True)
        tokens = tokens.view(n_audios, -1).gather(1, order)
        first_row = torch.arange(n_audios, device=logits.device)[:, None] * n_before
        rows = first_row + order // (self.n_group + 1)
        ends = tokens == self.eot
        rank = (~ends).cumsum(1)
        ended = ends & (rank < self.n_group) & (scores > float("-inf"))
        if bool(ended.any()):
            self._finish(ended, rows, scores)
        goes_on = ~ends & (rank <= self.n_group)
        rows = rows[goes_on]
        self.sums = scores[goes_on]
        self.sampled = torch.cat([self.sampled[rows], tokens[goes_on][:, None]], 1)
        return None if first else rows

    def _finish(self, ended: Tensor, rows: Tensor, scores: Tensor) -> None:
        for (audio, _), row, score in zip(
            ended.nonzero().tolist(), rows[ended].tolist(), scores[ended].tolist(), strict=True
        ):
            if len(self.finished[audio]) < self.enough:
                self.finished[audio].append(Candidate(self.sampled[row].tolist(), score))
        self.done = [len(found) >= self.enough for found in self.finished]

    def candidates(self, audio: int) -> list[Candidate]:
        """The finished sequences, and the likeliest of the others up to n_group in all."""
        found = list(self.finished[audio])
        rows = slice(audio * self.n_group, (audio + 1) * self.n_group)
        others = zip(self.sampled[rows].tolist(), self.sums[rows].tolist(), strict=True)
        for tokens, score in sorted(others, key=lambda other: other[1], reverse=True):
            if len(found) >= self.n_group:
                break
            found.append(Candidate(tokens, score))
        return found

    def keep(self, audios: Sequence[int]) -> None:
        rows = _rows(audios, self.n_group, self.sampled.device)
        self.sampled, self.sums = self.sampled[rows], self.sums[rows]
        self.finished = [self.finished[audio] for audio in audios]
        self.done = [self.done[audio] for audio in audios]


def search_of(options: DecodingOptions, eot: int, seeds: Sequence[int], device: torch.device) -> Search:
    """The search that the options ask for. seeds: one an audio."""
    if options.beam_size is not None:
        return BeamSearch(eot, options.beam_size, options.patience or 1.0, len(seeds), device)
    return Sampling(eot, options.temperature, options.n_group, seeds, device)


def best(candidates: Sequence[Candidate], length_penalty: float | None) -> Candidate:
    """The likeliest by length, or by Google's length norm (Wu et al. 2016, equation 14); of equals the first."""

    def score(candidate: Candidate) -> float:
        length = len(candidate.tokens)
        norm = max(length, 1) if length_penalty is None else ((5 + length) / 6) ** length_penalty
        return candidate.sum_logprob / norm

    return max(candidates, key=score)


def top_k(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k highest values of each row (R, V), descending, and where they are: (R, k) each.

    In two steps, over the maxima of blocks and over the k best blocks, which hold them all: several times faster on a
    CPU than torch.topk, which shows at every token.
    """
    n_values = x.shape[1]
    whole = n_values // _BLOCK
    if whole < k or not (x.is_contiguous() and x.device.type == "cpu"):
        return _top(x, k)
    maxima = x[:, : whole * _BLOCK].unflatten(1, (whole, _BLOCK)).amax(2)
    if n_values % _BLOCK:
        maxima = torch.cat([maxima, x[:, whole * _BLOCK :].amax(1, keepdim=True)], 1)
    blocks = _top(maxima, k)[1]
    index = (blocks[..., None] * _BLOCK + torch.arange(_BLOCK)).flatten(1)
    values = x.gather(1, index.clamp(max=n_values - 1)).masked_fill_(index >= n_values, float("-inf"))
    values, at = _top(values, k)
    return values, index.gather(1, at).clamp_(max=n_values - 1)


def _top(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """torch.topk, but that of equal values a single one is the first."""
    if k > 1:
        return x.topk(k)
    values, index = x.max(1, keepdim=True)
    return values, index


def _until(tokens: list[int], end: int) -> list[int]:
    return tokens[: tokens.index(end)] if end in tokens else tokens


def _rows(audios: Sequence[int], n_group: int, device: torch.device) -> Tensor:
    """The rows of all sequences of some audios."""
    first = torch.tensor(audios, device=device)[:, None] * n_group
    return (first + torch.arange(n_group, device=device)).flatten()
