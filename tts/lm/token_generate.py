"""The token AR's loop: one token after another, until the pointer has passed the last phone.

Rows of the batch are what guidance compares: everything known; the text hidden; the voice hidden. The pointer is common
to them and follows the first. It moves twice a token, once for each half (`tts.lm.token_ar`).

Shapes: R rows, P phones, S tokens, W width, E speaker vector.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...errors import InputError
from ...layers.streaming import State, tree_map
from ..text.phones import Phones
from .durations import Drawn, Stay
from .sampling import SamplingOptions, as_drawn, guide, no_codes, remembered, uniforms
from .step import Ask, Frame, answered, draws
from .token_ar import TokenAR

_NUMBERS = 6  # that a token takes: two for itself, two for the pointer's move before each half of the next


class TokenState(NamedTuple):
    """What a token hands to the next."""

    cache: State  # the transformer's, of R rows
    before: Tensor  # (R, W) the token before
    halves: tuple[Stay, Stay]  # the pointer in both halves of the next token
    recent: Tensor  # the tokens that repetition-aware sampling looks at


@dataclass(frozen=True, eq=False)
class TokenPrompt:
    """What the token AR reads of a voice: tokens (S,) of a recording, which may be none, and its speaker vector
    (E,)."""

    tokens: Tensor
    speaker: Tensor


class TokenGenerator:
    """The speech tokens of one utterance, and the phone spoken in each half of them.

    phones: to be said; the pointer that comes out counts from the first of them.   prompt: the voice, None for any.
    model: a TokenAR, or what `for_inference` made of one.
    Raises InputError for phones or a prompt that the model cannot take.

    >>> for frame in TokenGenerator(model, phones, prompt, SamplingOptions(seed=7)):
    ...     frame.codes, frame.pointer, frame.hidden   # (1,), (2,), (W,)
    """

    def __init__(
        self,
        model: TokenAR,
        phones: Phones,
        prompt: TokenPrompt | None = None,
        options: SamplingOptions | None = None,
    ):
        self.model, self.options = model, options or SamplingOptions()
        n_prompt = 0 if prompt is None else len(prompt.tokens)
        if len(phones) == 0:
            raise InputError("there are no phones to be said; give a text with letters or digits")
        if n_prompt > model.config.context // 2:
            raise InputError(
                f"the voice has a prompt of {n_prompt} tokens, at most {model.config.context // 2} can be used; "
                "make it anew from a shorter recording"
            )
        self.n_phones = len(phones)
        self._durations = Drawn(phones.tokens[0].tolist(), self.options, model.begin.device)
        self._guides_text = self.options.text_guidance != 1
        self._guides_voice = self.options.voice_guidance != 1 and prompt is not None
        with torch.inference_mode():
            self._start(phones.tokens, prompt)

    def _start(self, phones: Tensor, prompt: TokenPrompt | None) -> None:
        """Read phones and prompt in every row."""
        model, device = self.model, self.model.begin.device
        phones = phones.to(device)
        encoded = model.encode_text(phones[None], torch.tensor([phones.shape[1]], device=device))[0]
        no_text = model.no_text.expand_as(encoded)
        texts = [encoded, *[no_text] * self._guides_text, *[encoded] * self._guides_voice]
        self._text = torch.stack(texts)  # (R, P, W)
        rows = len(texts)
        speaker = model.begin.new_zeros(rows, model.config.speaker)
        shown = [r for r in range(rows) if not (self._guides_voice and r == rows - 1)]
        if prompt is not None:
            speaker[shown] = prompt.speaker.to(speaker)
        self._voice = model.voice(speaker * 16)
        weights = [self.options.text_guidance - 1] * self._guides_text
        weights += [self.options.voice_guidance - 1] * self._guides_voice
        self._guidance = torch.tensor(weights, dtype=torch.float32, device=device)
        self._cache, self._reach = model.init_state(rows), 0
        self._before = model.begin.detach().expand(rows, -1)
        if prompt is not None and len(prompt.tokens):
            self._before = self._read_prompt(prompt.tokens.to(device), shown)

    def _read_prompt(self, tokens: Tensor, shown: list[int]) -> Tensor:
        """Take the prompt's tokens in where the voice is shown; returns what the last token was, (R, W)."""
        model, rows = self.model, len(self._text)
        embedded = model.token(tokens)
        before = torch.cat([model.begin[None].to(embedded), embedded[:-1]]).expand(rows, -1, -1)
        pointer = torch.full((rows, 2 * len(tokens)), -1, device=tokens.device)
        target = torch.zeros(rows, len(tokens), dtype=torch.bool, device=tokens.device)
        both = model.halves(model.phones(self._text, pointer).unflatten(1, (-1, 2)).flatten(2))
        x = before + both + model.segment(target.long()) + self._voice[:, None]
        lengths = torch.zeros(rows, dtype=torch.long, device=tokens.device)
        lengths[shown] = len(tokens)
        self._reach = len(tokens)
        _, self._cache = model.transformer.step(
            x.transpose(1, 2), self._cache, lengths=lengths, reach=self._reach
        )
        last = model.begin.detach().expand(rows, -1).clone()
        last[shown] = embedded[-1]
        return last

    def fork(self, seed: int) -> TokenGenerator:
        """Another utterance of the same phones in the same voice, which need not be read again; to be called before
        the first token."""
        other = copy.copy(self)
        other.options = replace(self.options, seed=seed)
        other._cache = tree_map(lambda t: t.clone(), self._cache)
        return other

    def on(self, model: TokenAR) -> TokenGenerator:
        """The same, going on with another view of the same weights (`row_exact`, say); before the first token."""
        self.model = model
        return self

    def __iter__(self) -> Iterator[Frame]:
        """Token by token. Once only."""
        run, answer = self.run(), None
        while True:
            # Entered anew for every token: a generator that pauses inside would leave the mode on for its caller.
            with torch.inference_mode():
                try:
                    while isinstance(asked := run.send(answer), Ask):
                        answer = asked.answer(self.model)
                except StopIteration:
                    return
            answer = None
            yield asked

    def run(self) -> Generator[Ask | Frame, Any, None]:
        """The loop as a coroutine, so that several can share the steps of the model: it asks for what the model has to
        compute, is sent the answer, and gives tokens in between. To be run in inference mode, once."""
        source = uniforms(self.options.seed)
        state = self._begin(next(source))
        while int(state.halves[0].pointer) < self.n_phones:
            numbers = [next(source) for _ in range(_NUMBERS)]
            drawn = torch.tensor(numbers, dtype=torch.float64, device=self._before.device)
            self._reach += 1
            frame, state = yield from self.asks(state, drawn, self._reach)
            yield frame

    def _begin(self, number: float) -> TokenState:
        """Before the first token, which begins with the first phone and stays on it. number: of its duration."""
        device = self._before.device
        first = Stay.begin(0, device)
        until = 0.5 + self.options.duration_temperature * (number - 0.5)
        second = first._replace(age=first.age + 1, until=first.until + until)
        return TokenState(self._cache, self._before, (first, second), no_codes(self.options, device))

    def step(self, state: TokenState, numbers: Tensor, reach: int | None = None) -> tuple[Frame, TokenState]:
        """One token: tensors in, tensors out, of fixed shapes. numbers (6,) in [0, 1).   reach: an upper bound of
        the tokens since the beginning, this one included, which spares work."""
        return answered(self.asks(state, numbers, reach), self.model)

    def asks(
        self, state: TokenState, numbers: Tensor, reach: int | None = None
    ) -> Generator[Ask, Any, tuple[Frame, TokenState]]:
        """The same as a coroutine that asks for what the model has to compute (`tts.lm.step`)."""
        model, (first, second) = self.model, state.halves
        draw, _ = draws(as_drawn(self.options))
        states = torch.cat([self._phone(self._text, first), self._phone(self._text, second)], dim=-1)
        x = state.before + model.halves(states) + self._voice + model.segment.weight[1]
        hidden, cache = yield Ask(None, (x,), state.cache, reach)
        logits = guide((yield Ask(model.head, (hidden,))), self._guidance)
        token = yield Ask(draw, (logits[None], state.recent[None], numbers[None, :2]))  # (1,)
        frame = Frame(token, torch.stack([first.pointer, second.pointer]), hidden[0])
        following = yield from self._move(second, hidden[:1], token, model.move_first, numbers[2:4])
        after = yield from self._move(following, hidden[:1], token, model.move_second, numbers[4:])
        # The last token is whole: the last phone takes its second half, too.
        over = after.pointer >= self.n_phones
        held = following._replace(age=following.age + 1)
        after = Stay(*(torch.where(over, h, a) for h, a in zip(held, after, strict=True)))
        before = model.token(token).expand(len(hidden), -1)
        recent = remembered(state.recent, token, self.options)
        return frame, TokenState(cache, before, (following, after), recent)

    def _phone(self, text: Tensor, stay: Stay) -> Tensor:
        """What each row knows of the phone that is said, (R, W)."""
        at = stay.pointer.clamp(max=self.n_phones - 1).reshape(1)
        age = stay.age.clamp(max=self.model.config.max_age).reshape(1)
        return text[:, at][:, 0] + self.model.age.weight[age]

    def _move(
        self, stay: Stay, hidden: Tensor, token: Tensor, head: Callable[..., Tensor], numbers: Tensor
    ) -> Generator[Ask, Any, Stay]:
        """The pointer in the half after `stay`; head: of the model, for which half of its token that one is."""
        logits = yield Ask(head, (hidden, token, self._phone(self._text[:1], stay)))
        inside = stay._replace(pointer=stay.pointer.clamp(max=self.n_phones - 1))
        moved = self._durations(inside, logits[0], numbers)
        return moved._replace(pointer=moved.pointer + stay.pointer - inside.pointer)
