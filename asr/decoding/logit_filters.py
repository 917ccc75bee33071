"""Logit filters: openai-whisper's suppression rules, for all rows at once.

A filter changes logits in place, given what each row has sampled so far. Shapes: R rows, V vocabulary, t tokens sampled
(the prompt and the prefix are not among them).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from ...errors import UsageError
from .options import DecodingOptions

if TYPE_CHECKING:
    from ..model.tokenizer import Tokenizer

FORBIDDEN = float("-inf")


class LogitFilter(Protocol):
    def __call__(self, logits: Tensor, sampled: Tensor) -> None:
        """logits (R, V), float32, are changed; sampled (R, t)."""
        ...


class SuppressBlank:
    """A window begins neither with a space nor with the end."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokens = torch.tensor([*tokenizer.encode(" "), tokenizer.eot])

    def __call__(self, logits: Tensor, sampled: Tensor) -> None:
        if sampled.shape[1] == 0:
            logits.index_fill_(1, self.tokens.to(logits.device), FORBIDDEN)


class SuppressTokens:
    """Tokens that are never sampled."""

    def __init__(self, tokens: list[int]):
        self.tokens = torch.tensor(tokens, dtype=torch.long)

    def __call__(self, logits: Tensor, sampled: Tensor) -> None:
        self.tokens = self.tokens.to(logits.device)
        logits.index_fill_(1, self.tokens, FORBIDDEN)


class TimestampRules:
    """Where timestamps may and must stand.

    - A window begins with one, of at most max_initial (an index; None: any).
    - They come in pairs, the end of a segment and the start of the next; only the end of the text may follow a single
      one.
    - They do not decrease, and a segment is not empty.
    - Where all timestamps together are likelier than the likeliest text token, it is a timestamp.
    - There is no <|notimestamps|>.
    """

    def __init__(self, tokenizer: Tokenizer, max_initial: int | None):
        self.eot = tokenizer.eot
        self.begin = tokenizer.timestamp_begin
        self.no_timestamps = tokenizer.no_timestamps
        self.max_initial = max_initial

    def __call__(self, logits: Tensor, sampled: Tensor) -> None:
        logits[:, self.no_timestamps] = FORBIDDEN
        times = logits[:, self.begin :]
        if sampled.shape[1] == 0:
            logits[:, : self.begin] = FORBIDDEN
            if self.max_initial is not None:
                times[:, self.max_initial + 1 :] = FORBIDDEN
            return
        last = sampled[:, -1] >= self.begin
        if sampled.shape[1] > 1:
            before = sampled[:, -2] >= self.begin
            single, pair = last & ~before, last & before
        else:
            single, pair = torch.zeros_like(last), last
        # Timestamps are the highest ids and do not decrease: the highest token is the last of them.
        earliest = sampled.amax(1) + 1 - self.begin - single.long()
        earliest = torch.where(pair, times.shape[1], earliest)
        index = torch.arange(times.shape[1], device=logits.device)
        times.masked_fill_(index < earliest[:, None], FORBIDDEN)
        logits[:, : self.eot] += _barrier(single)
        # Normalising would move both sides alike.
        must = times.logsumexp(1) > logits[:, : self.begin].amax(1)
        logits[:, : self.begin] += _barrier(must)


class RepetitionPenalty:
    """The logits of text tokens that the row has sampled are divided by the penalty, or multiplied if negative
    (Keskar et al. 2019, section 4.1). Timestamps, which come in equal pairs, are spared."""

    def __init__(self, penalty: float, eot: int):
        self.penalty, self.eot = penalty, eot

    def __call__(self, logits: Tensor, sampled: Tensor) -> None:
        old = logits.gather(1, sampled)
        new = torch.where(old > 0, old / self.penalty, old * self.penalty)
        logits.scatter_(1, sampled, torch.where(sampled < self.eot, new, old))


class NoRepeatNgram:
    """No text token that would end a sequence of n tokens which the row has sampled before."""

    def __init__(self, size: int, eot: int):
        self.size, self.eot = size, eot

    def __call__(self, logits: Tensor, sampled: Tensor) -> None:
        if sampled.shape[1] < self.size:
            return
        ngrams = sampled.unfold(1, self.size, 1)  # (R, t - n + 1, n)
        beginning = sampled[:, None, sampled.shape[1] - self.size + 1 :]
        again = (ngrams[..., :-1] == beginning).all(2)
        token = ngrams[..., -1]
        # Added, since a token may end several of them.
        logits.scatter_add_(1, token, _barrier(again & (token < self.eot), keepdim=False))


def filters_of(
    tokenizer: Tokenizer, options: DecodingOptions, seconds_per_timestamp: float
) -> list[LogitFilter]:
    """The filters that the options ask for, in openai-whisper's order. Raises UsageError for ids out of range."""
    filters: list[LogitFilter] = []
    if options.repetition_penalty != 1:
        filters.append(RepetitionPenalty(options.repetition_penalty, tokenizer.eot))
    if options.no_repeat_ngram_size:
        filters.append(NoRepeatNgram(options.no_repeat_ngram_size, tokenizer.eot))
    if options.suppress_blank:
        filters.append(SuppressBlank(tokenizer))
    filters.append(SuppressTokens(suppressed(tokenizer, options.suppress_tokens)))
    if not options.without_timestamps:
        max_initial = None
        if options.max_initial_timestamp is not None:
            max_initial = round(options.max_initial_timestamp / seconds_per_timestamp)
        filters.append(TimestampRules(tokenizer, max_initial))
    return filters


def suppressed(tokenizer: Tokenizer, tokens: object) -> list[int]:
    """The ids that are never sampled: those of `suppress_tokens`, and the special tokens that are no text."""
    try:
        given = tokens.split(",") if isinstance(tokens, str) else tokens or []
        ids = {int(token) for token in given if token != ""}  # pyright: ignore[reportGeneralTypeIssues]
    except (TypeError, ValueError):
        raise UsageError(
            f"suppress_tokens is {tokens!r}; give ids with commas between them, or -1 for the usual symbols"
        ) from None
    if -1 in ids:
        ids = ids - {-1} | set(tokenizer.non_speech_tokens)
    special = {tokenizer.transcribe, tokenizer.translate, tokenizer.sot, tokenizer.sot_prev, tokenizer.sot_lm}
    ids |= special | {tokenizer.no_speech}
    n_tokens = tokenizer.timestamp_begin + 1501
    if bad := sorted(token for token in ids if not 0 <= token < n_tokens):
        raise UsageError(f"suppress_tokens has {bad[0]}; the model's tokens are 0 to {n_tokens - 1}")
    return sorted(ids)


def _barrier(forbidden: Tensor, keepdim: bool = True) -> Tensor:
    """What is added to logits: minus infinity where forbidden, else 0. Several times faster than masked_fill where
    a row is forbidden as a whole."""
    barrier = torch.zeros(forbidden.shape, device=forbidden.device).masked_fill_(forbidden, FORBIDDEN)
    return barrier[:, None] if keepdim else barrier
