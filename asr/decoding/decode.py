"""Features of windows to text: several windows at once, each with its own prompt, greedy, sampled or by beams.

Shapes: B audios (windows of 30 s), R rows = B * beams, D width, V vocabulary.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import nan

import torch
from torch import Tensor

from ...errors import UsageError
from ..model.languages import find_language
from ..model.tokenizer import SECONDS_PER_TIMESTAMP, Tokenizer
from ..model.whisper import DecoderState, Whisper
from .language_id import detect_language
from .logit_filters import filters_of
from .options import DecodingOptions
from .prompts import Prompt, prompt_of, tokenizer_of
from .search import Candidate, best, search_of
from .speculative import can_speculate, speculate

__all__ = ["DecodingOptions", "DecodingResult", "compression_ratio", "decode", "detect_language"]


@dataclass(frozen=True)
class DecodingResult:
    """What a window says.

    tokens: with timestamps, without the end.   avg_logprob: of a token, the end included.   no_speech_prob: that nobody
    speaks.   compression_ratio: of the text by zlib; high where it repeats itself.   language_probs: by code,
    None where the language was given.
    """

    language: str
    tokens: tuple[int, ...] = ()
    text: str = ""
    avg_logprob: float = nan
    no_speech_prob: float = nan
    temperature: float = nan
    compression_ratio: float = nan
    language_probs: dict[str, float] | None = None


@torch.inference_mode()
def decode(
    model: Whisper, features: Tensor, options: DecodingOptions | Sequence[DecodingOptions] | None = None
) -> list[DecodingResult]:
    """features (B, 1500, D) of `model.encode` -> B results.

    options: one for all, or one for each; windows that differ only in prompt, prefix, language, task and seed are
    decoded together. The result of a window does not depend on the others.
    Raises UsageError for options that cannot be used, or not with this model.
    """
    each = _options_of_each(model, options, len(features))
    found: list[tuple[str, dict[str, float] | None]] = [(o.language or "en", None) for o in each]
    unknown = [i for i, o in enumerate(each) if o.language is None or o.task == "lang_id"]
    if unknown and (model.dims.is_multilingual or any(o.task == "lang_id" for o in each)):
        for i, (language, probs) in zip(unknown, detect_language(model, features[unknown]), strict=True):
            found[i] = (each[i].language or language, probs)
    results: list[DecodingResult | None] = [
        DecodingResult(language, language_probs=probs) if o.task == "lang_id" else None
        for o, (language, probs) in zip(each, found, strict=True)
    ]
    groups: dict[tuple[DecodingOptions, int], list[int]] = {}
    prompts: dict[int, Prompt] = {}
    for i, o in enumerate(each):
        if results[i] is None:
            tokenizer = _tokenizer(model, found[i][0], o.task)
            prompts[i] = prompt_of(tokenizer, o, model.dims.n_text_ctx)
            groups.setdefault((_common(o), len(prompts[i].tail)), []).append(i)
    for (common, _), members in groups.items():
        rows = features if len(members) == len(features) else features[members]
        seeds = [each[i].seed for i in members]
        for i, result in zip(
            members, _decode_alike(model, rows, [prompts[i] for i in members], common, seeds), strict=True
        ):
            language, probs = found[i]
            results[i] = replace(result, language=language, language_probs=probs)
    return [result for result in results if result is not None]


def compression_ratio(text: str) -> float:
    """Bytes of the text over bytes of it compressed: above 2.4 it repeats itself."""
    data = text.encode("utf-8")
    return len(data) / len(zlib.compress(data))


def _options_of_each(
    model: Whisper, options: DecodingOptions | Sequence[DecodingOptions] | None, n: int
) -> list[DecodingOptions]:
    """Checked, languages by their codes."""
    options = options or DecodingOptions()
    each = [options] * n if isinstance(options, DecodingOptions) else list(options)
    if len(each) != n:
        raise UsageError(f"{len(each)} options for {n} windows; give one for all, or one for each")
    checked: dict[int, DecodingOptions] = {}
    for o in each:
        if id(o) not in checked:
            o.check()
            language = None if o.language is None else find_language(o.language)
            if not model.dims.is_multilingual and (language not in (None, "en") or o.task == "translate"):
                asked = "translate" if o.task == "translate" else f"write {language}"
                raise UsageError(
                    f"{model.name} knows only English and cannot {asked}; use a multilingual model"
                )
            checked[id(o)] = o if language == o.language else replace(o, language=language)
    return [checked[id(o)] for o in each]


def _common(options: DecodingOptions) -> DecodingOptions:
    """What windows must have in common to be decoded together."""
    suppress = options.suppress_tokens
    if suppress is not None and not isinstance(suppress, str):
        suppress = tuple(suppress)
    return replace(
        options, task="transcribe", language=None, prompt=None, prefix=None, seed=0, suppress_tokens=suppress
    )


def _tokenizer(model: Whisper, language: str, task: str) -> Tokenizer:
    return tokenizer_of(model, language, task) if model.dims.is_multilingual else tokenizer_of(model)


def _decode_alike(
    model: Whisper, features: Tensor, prompts: list[Prompt], options: DecodingOptions, seeds: list[int]
) -> list[DecodingResult]:
    """Windows that have their options and the length of the tail in common."""
    tokenizer = tokenizer_of(model)
    filters = filters_of(tokenizer, options, SECONDS_PER_TIMESTAMP)
    state = model.init_state(features)
    logits, state = _read(model, state, [prompt.head for prompt in prompts], tokenizer.eot)
    no_speech = logits.softmax(1)[:, tokenizer.no_speech].tolist()
    if prompts[0].tail:
        logits, state = _read(model, state, [prompt.tail for prompt in prompts], tokenizer.eot)
    alike = (
        not options.no_repeat_ngram_size
    )  # the only rule for which speculation's filling up is not nothing
    if alike and can_speculate(model, len(prompts), options.n_group, options.temperature):
        taken = speculate(model, logits, state, filters, tokenizer.eot, prompts[0].limit)
        return [_result(tokenizer, taken, no_speech[0], options)]
    if options.n_group > 1:
        state = state.spread(options.n_group)

    search = search_of(options, tokenizer.eot, seeds, features.device)
    found: dict[int, list[Candidate]] = {}
    alive = list(range(len(prompts)))
    while True:
        for change in filters:
            change(logits, search.sampled)
        rows = search.update(logits)
        n_sampled = search.sampled.shape[1]
        over = {
            slot for slot, audio in enumerate(alive) if search.done[slot] or n_sampled >= prompts[audio].limit
        }
        found |= {alive[slot]: search.candidates(slot) for slot in over}
        if len(over) == len(alive):
            break
        if rows is not None:
            state = state.select(rows)
        if over:
            kept = [slot for slot in range(len(alive)) if slot not in over]
            search.keep(kept)
            state = state.keep(torch.tensor(kept, device=features.device))
            alive = [alive[slot] for slot in kept]
        logits, state = model.step(search.sampled[:, -1:], state)

    chosen = (best(found[i], options.length_penalty) for i in range(len(prompts)))
    return [_result(tokenizer, taken, no_speech[i], options) for i, taken in enumerate(chosen)]


def _result(
    tokenizer: Tokenizer, taken: Candidate, no_speech: float, options: DecodingOptions
) -> DecodingResult:
    text = tokenizer.decode(taken.tokens).strip()
    average = taken.sum_logprob / (len(taken.tokens) + 1)
    ratio = compression_ratio(text)
    return DecodingResult("", tuple(taken.tokens), text, average, no_speech, options.temperature, ratio)


def _read(
    model: Whisper, state: DecoderState, tokens: list[tuple[int, ...]], padding: int
) -> tuple[Tensor, DecoderState]:
    """The logits (R, V) after each row's tokens, and the next state."""
    longest = max(map(len, tokens))
    padded = [[*row, *[padding] * (longest - len(row))] for row in tokens]
    device = model.device
    lengths = torch.tensor([len(row) for row in tokens], device=device)
    uniform = min(map(len, tokens)) == longest
    return model.step(torch.tensor(padded, device=device), state, None if uniform else lengths)
