"""The decoder's prompt: special tokens, previous text, prefix and hotwords.

    <|startofprev|> previous text   <|startoftranscript|> language task <|notimestamps|>   prefix
    '------------------- head ---------------------------'  '----------- tail -------------------'

The model says at the head's end how likely it is that nobody speaks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from ...errors import UsageError
from ..model.tokenizer import Tokenizer
from ..model.whisper import Whisper
from .options import DecodingOptions

_tokenizers: WeakKeyDictionary[Whisper, dict[tuple[str | None, str | None], Tokenizer]] = WeakKeyDictionary()


def tokenizer_of(model: Whisper, language: str | None = None, task: str | None = None) -> Tokenizer:
    """The model's tokenizer for a language and a task, made once.

    Raises UsageError for a language that the model does not know, and for a model without a vocabulary.
    """
    known = _tokenizers.setdefault(model, {})
    if (language, task) not in known:
        if model.vocabulary is None:
            raise UsageError(f"the model {model.name} has no vocabulary; load it with load_whisper")
        known[language, task] = Tokenizer(model.vocabulary, model.dims.n_vocab, language, task)
    return known[language, task]


@dataclass(frozen=True)
class Prompt:
    """The tokens up to the start of the transcript, and those after it, see above. limit: tokens to be sampled at
    most, so that the context holds them all but the last."""

    head: tuple[int, ...]
    tail: tuple[int, ...]
    limit: int


def prompt_of(tokenizer: Tokenizer, options: DecodingOptions, n_text_ctx: int) -> Prompt:
    """The prompt that the options describe. Of the previous text the last tokens count, half of the context less one.

    Raises UsageError for a prefix that leaves no room.
    """
    start = tokenizer.sot_sequence
    if options.without_timestamps:
        start = tokenizer.sot_sequence_including_notimestamps
    sample_len = options.sample_len or n_text_ctx // 2
    prefix = text_tokens(tokenizer, options.prefix)
    if (room := n_text_ctx // 2 - sample_len) > 0:
        prefix = prefix[-room:]
    previous = text_tokens(tokenizer, options.prompt)[-most_previous(n_text_ctx) :]
    head = (tokenizer.sot_prev, *previous, tokenizer.sot) if previous else (tokenizer.sot,)
    tail = (*start[1:], *prefix)
    limit = min(sample_len, n_text_ctx - len(head) - len(tail) + 1)
    if limit < 1:
        raise UsageError(
            f"prefix takes {len(prefix)} tokens of the model's {n_text_ctx}, which leaves none; shorten it"
        )
    return Prompt(head, tail, limit)


def text_tokens(tokenizer: Tokenizer, text: str | Sequence[int] | None) -> list[int]:
    """Tokens of a text that is said after another, or the tokens themselves. Raises UsageError for ids out of range."""
    if isinstance(text, str):
        return tokenizer.encode(" " + text.strip()) if text.strip() else []
    tokens = [int(token) for token in text or ()]
    if bad := [token for token in tokens if not 0 <= token < tokenizer.n_vocab]:
        raise UsageError(f"token {bad[0]} is not in the model's vocabulary of {tokenizer.n_vocab}")
    return tokens


def most_previous(n_text_ctx: int) -> int:
    """Tokens of previous text that the model was trained with at most."""
    return n_text_ctx // 2 - 1


class Context:
    """The previous text of a recording, window by window.

    initial_prompt: stands before the first window's text, and with carry before every window's.
    hotwords: words to expect, before every window's text and before all else.
    Raises UsageError where these fill the context.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        n_text_ctx: int,
        initial_prompt: str | Sequence[int] | None = None,
        carry_initial_prompt: bool = False,
        hotwords: str | None = None,
    ):
        self.room = most_previous(n_text_ctx)
        self.initial = text_tokens(tokenizer, initial_prompt)
        self.hotwords = text_tokens(tokenizer, hotwords)
        self.carry = carry_initial_prompt
        if len(self.hotwords) > self.room:
            raise UsageError(
                f"hotwords take {len(self.hotwords)} tokens; there is room for {self.room}, leave some out"
            )
        self.tokens: list[int] = list(self.initial)
        self.reset_at = 0

    def prompt(self) -> list[int]:
        """The previous text for the next window: at most half of the context less one token, the oldest cut off."""
        if not self.carry:
            return _fill(self.room, self.hotwords, self.tokens[self.reset_at :])
        said = self.tokens[max(len(self.initial), self.reset_at) :]
        return _fill(self.room, [*self.hotwords, *self.initial], said)

    def add(self, tokens: Sequence[int]) -> None:
        """What a window said, timestamps included."""
        self.tokens.extend(tokens)

    def reset(self) -> None:
        """Nothing said so far is shown to the model again."""
        self.reset_at = len(self.tokens)

    @property
    def said(self) -> list[int]:
        """All that was said, without the initial prompt."""
        return self.tokens[len(self.initial) :]


def _fill(room: int, fixed: list[int], rest: list[int]) -> list[int]:
    """The fixed tokens and as many of the last of the rest as there is room for."""
    fixed = fixed[:room]
    room -= len(fixed)
    return [*fixed, *rest[max(0, len(rest) - room) :]]
