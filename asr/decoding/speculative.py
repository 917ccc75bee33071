"""Greedy decoding by speculation: the decoder in 8 bits writes ahead, the one in float32 reads what it wrote at once.

On a CPU a step of the float32 decoder is as slow as its weights are long in memory, for one token or for ten. The
draft's are a quarter as long, and it nearly always agrees:

    draft     a  b  c  d  e  f     one after the other
    model     a  b  c  x  -  -     all in one pass; x is its own choice where they first differ
    next      the draft goes on after x

Every token is the float32 decoder's own choice (Leviathan et al. 2023, algorithm 1, at temperature 0). Both write to
the same cache: what the draft leaves there, the model replaces by its own when it reads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..model.whisper import DecoderState, TextDecoder, Whisper
from .logit_filters import LogitFilter
from .search import Candidate, top_k

AHEAD = 8  # tokens that the draft writes before they are read


def can_speculate(model: Whisper, n_audios: int, n_group: int, temperature: float) -> bool:
    """Whether it pays: greedily, for one audio. More are decoded side by side and share the reading of the weights."""
    return model.draft is not None and n_audios == n_group == 1 and temperature == 0


def speculate(
    model: Whisper, logits: Tensor, state: DecoderState, filters: Sequence[LogitFilter], eot: int, limit: int
) -> Candidate:
    """What greedy search finds for one audio.

    logits (1, V) after the prompt, which `state` has read.   filters: what may not be sampled.   limit: tokens at most.
    """
    draft = model.draft
    assert draft is not None
    sampled = torch.empty(1, 0, dtype=torch.long)
    chosen, logprobs = _choose(logits, sampled, filters)
    sampled, total = torch.cat([sampled, chosen], 1), float(logprobs)
    while int(sampled[0, -1]) != eot and sampled.shape[1] < limit:  # `state` has read all but the last token
        n = sampled.shape[1]
        written = _write_ahead(draft, state, sampled, filters, eot, min(n + AHEAD, limit))
        over = written.shape[1] == limit or int(written[0, -1]) == eot
        reading = written[:, n - 1 : -1] if over else written[:, n - 1 :]
        x, after = model.decoder(reading, state, None)
        chosen, logprobs = _choose(
            model.decoder.logits(x[0]), _before_each(written, n, reading.shape[1]), filters
        )
        guessed = written[0, n:]
        agreed = int((chosen[: len(guessed), 0] == guessed[: len(chosen)]).long().cumprod(0).sum())
        new = min(agreed + 1, len(chosen))
        sampled = torch.cat([sampled, chosen[:new].mT], 1)
        total += float(logprobs[:new].sum())
        state = after.rewind(reading.shape[1] - new)
    tokens = sampled[0].tolist()
    return Candidate(tokens[:-1] if tokens[-1] == eot else tokens, total)


def _write_ahead(
    draft: TextDecoder,
    state: DecoderState,
    sampled: Tensor,
    filters: Sequence[LogitFilter],
    eot: int,
    length: int,
) -> Tensor:
    """sampled (1, t) -> (1, up to length), by the draft, or up to its end."""
    while sampled.shape[1] < length:
        x, state = draft(sampled[:, -1:], state, None)
        logits = draft.logits(x[:, -1])
        for change in filters:
            change(logits, sampled)
        sampled = torch.cat([sampled, top_k(logits, 1)[1]], 1)
        if int(sampled[0, -1]) == eot:
            break
    return sampled


def _choose(logits: Tensor, sampled: Tensor, filters: Sequence[LogitFilter]) -> tuple[Tensor, Tensor]:
    """logits (R, V), sampled (R, t) -> the likeliest tokens (R, 1) and their log-probabilities (R, 1)."""
    for change in filters:
        change(logits, sampled)
    logprobs = logits.log_softmax(1)
    tokens = top_k(logprobs, 1)[1]
    return tokens, logprobs.gather(1, tokens)


def _before_each(written: Tensor, n: int, rows: int) -> Tensor:
    """What stands before the tokens n, n + 1, ... of written (1, t): (rows, n + rows - 1), aligned at their ends. The
    first token fills up the beginning, where for every rule it is as if it were there once."""
    index = torch.arange(n + rows - 1) - torch.arange(rows - 1, -1, -1)[:, None]
    return written[0][index.clamp(min=0)]
