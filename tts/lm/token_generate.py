"""The token AR's loop: one token after another, until the pointer has passed the last phone.

Rows of the batch are what guidance compares: everything known; the text hidden; the voice hidden. The pointer is common
to them and follows the first. It moves twice a token, once for each half (`tts.lm.token_ar`).

Shapes: R rows, P phones, S tokens, W width, E speaker vector.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import InputError
from ..text.phones import Phones
from .generate import Durations, Frame
from .sampling import CodeSampler, SamplingOptions, guide, uniforms
from .token_ar import TokenAR


@dataclass(frozen=True, eq=False)
class TokenPrompt:
    """What the token AR reads of a voice: tokens (S,) of a recording, which may be none, and its speaker vector (E,)."""

    tokens: Tensor
    speaker: Tensor


class TokenGenerator:
    """The speech tokens of one utterance, and the phone spoken in each half of them.

    phones: to be said; the pointer that comes out counts from the first of them.   prompt: the voice, None for any.
    model: a TokenAR, or what `tts.lm.quantize.prepare` made of one.
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
                f"the voice has a prompt of {n_prompt} tokens, at most {model.config.context // 2} can be used; make it "
                "anew from a shorter recording"
            )
        self._symbols: list[int] = phones.tokens[0].tolist()
        self.n_phones = len(self._symbols)
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
        self._state, self._reach = model.init_state(rows), 0
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
        _, self._state = model.transformer.step(
            x.transpose(1, 2), self._state, lengths=lengths, reach=self._reach
        )
        last = model.begin.detach().expand(rows, -1).clone()
        last[shown] = embedded[-1]
        return last

    def __iter__(self) -> Iterator[Frame]:
        """Token by token. Once only."""
        run = self._run()
        while True:
            # Entered anew for every token: a generator that pauses inside would leave the mode on for its caller.
            with torch.inference_mode():
                frame = next(run, None)
            if frame is None:
                return
            yield frame

    def _run(self) -> Iterator[Frame]:
        model, options = self.model, self.options
        numbers = uniforms(options.seed)
        sample, durations = CodeSampler(options, numbers), Durations(self._symbols, options, numbers)
        constant = self._voice + model.segment.weight[1]
        # The first token begins with the first phone and stays on it.
        halves = [(0, 0), (0, 1)]
        while True:
            states = [self._text[:, p] + model.age.weight[min(a, model.config.max_age)] for p, a in halves]
            x = self._before + model.halves(torch.cat(states, dim=-1)) + constant
            hidden = self._step(x)
            token = sample(self._guided(model.head(hidden)))
            chosen = torch.tensor([token], device=hidden.device)
            pointers = torch.tensor([p for p, _ in halves])
            yield Frame(chosen.cpu(), pointers, hidden[0])
            self._before = model.token(chosen).expand(len(hidden), -1)
            halves, ended = self._moved(halves[1], hidden[:1], chosen, durations)
            if ended:
                return

    def _moved(
        self, at: tuple[int, int], hidden: Tensor, token: Tensor, durations: Durations
    ) -> tuple[list[tuple[int, int]], bool]:
        """(phone, age) of both halves of the next token, after the half `at`; whether speech is over before it."""
        model, halves = self.model, []
        for half in range(2):
            pointer, age = at
            phone = self._text[:1, pointer] + model.age.weight[min(age, model.config.max_age)]
            moves = durations(pointer, age, model.move_head(hidden, token, phone, half)[0])
            at = (pointer + moves, 0) if moves else (pointer, age + 1)
            if at[0] >= self.n_phones:
                if half == 0:
                    return [], True
                at = (pointer, age + 1)  # the last token is whole: the last phone takes its second half, too
            halves.append(at)
        return halves, False

    def _step(self, x: Tensor) -> Tensor:
        self._reach += 1
        hidden, self._state = self.model.step(x, self._state, self._reach)
        return hidden

    def _guided(self, logits: Tensor) -> Tensor:
        weights = [self.options.text_guidance - 1] * self._guides_text
        weights += [self.options.voice_guidance - 1] * self._guides_voice
        return guide(logits, torch.tensor(weights, device=logits.device))
