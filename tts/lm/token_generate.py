"""The token AR's loop: one token after another, until the pointer has passed the last phone.

Rows of the batch are what guidance compares: everything known; the text hidden; the voice hidden. The pointer is common
to them and follows the first. It moves twice a token, once for each half (`tts.lm.token_ar`).

Shapes: R rows, P phones, S tokens, W width, E speaker vector.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ...errors import InputError
from ..text.phones import Phones
from .durations import Drawn
from .generate import SpeechGenerator
from .sampling import SamplingOptions
from .token_ar import TokenAR
from .token_step import TokenState, TokenStep


class ReadTokens(NamedTuple):
    """What a model made of the tokens of a voice. caches: keys and values of every block, (1, G, S, D).   last: (W,)
    the last token."""

    caches: tuple[tuple[Tensor, Tensor], ...]
    last: Tensor


@dataclass(frozen=True, eq=False)
class TokenPrompt:
    """What the token AR reads of a voice: tokens (S,) of a recording, which may be none, and its speaker vector
    (E,). A model reads it once: what it made of the tokens, which no text changes, is kept until the model goes."""

    tokens: Tensor
    speaker: Tensor
    _read: WeakKeyDictionary[nn.Module, ReadTokens] = field(
        default_factory=WeakKeyDictionary, init=False, repr=False
    )

    def read_by(self, model: TokenAR, voice: Tensor) -> ReadTokens:
        """voice: (1, W), what the model makes of the speaker vector. In inference mode."""
        read = self._read.get(model)
        if read is None:
            read = self._read[model] = _read(model, self.tokens.to(voice.device), voice)
        return read


class TokenGenerator(SpeechGenerator[TokenStep]):
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
        text = torch.stack(texts)  # (R, P, W)
        rows = len(texts)
        speaker = model.begin.new_zeros(rows, model.config.speaker)
        shown = [r for r in range(rows) if not (self._guides_voice and r == rows - 1)]
        if prompt is not None:
            speaker[shown] = prompt.speaker.to(speaker)
        voice = model.voice(speaker * 16)
        weights = [self.options.text_guidance - 1] * self._guides_text
        weights += [self.options.voice_guidance - 1] * self._guides_voice
        guidance = torch.tensor(weights, dtype=torch.float32, device=device)
        self._cache, self._reach = model.init_state(rows), 0
        before = model.begin.detach().expand(rows, -1)
        if prompt is not None and len(prompt.tokens):
            before = self._read_prompt(prompt, voice, shown)
        durations = Drawn(phones[0].tolist(), self.options, device)
        self.step = TokenStep(model, self.options, text, voice, guidance, durations)
        self.state = self.step.begin(self._cache, before)

    def _read_prompt(self, prompt: TokenPrompt, voice: Tensor, shown: list[int]) -> Tensor:
        """Take the prompt's tokens in where the voice is shown; returns what the last token was, (R, W). They are the
        same in all these rows: before the first phone there is no text to be hidden."""
        model, n = self.model, len(prompt.tokens)
        read = prompt.read_by(model, voice[shown[:1]])
        position, caches = self._cache
        for cache, found in zip(caches, read.caches, strict=True):
            for slots, own in zip(cache, found, strict=True):
                slots[shown, :, :n] = own
        position = position.clone()
        position[shown] = n
        self._cache, self._reach = (position, caches), n
        last = model.begin.detach().expand(len(voice), -1).clone()
        last[shown] = read.last
        return last

    def begin(self, source: Iterator[float]) -> TokenState:
        return self.step.timed(self.state, next(source))


def _read(model: TokenAR, tokens: Tensor, voice: Tensor) -> ReadTokens:
    """Tokens (S,) and what stands for the speaker, (1, W)."""
    n = len(tokens)
    embedded = model.token(tokens)
    before = torch.cat([model.begin[None].to(embedded), embedded[:-1]])[None]
    none = torch.full((1, 2 * n), -1, device=tokens.device)
    phones = model.phones(model.no_text.expand(1, 1, -1), none)
    both = model.halves(phones.unflatten(1, (-1, 2)).flatten(2))
    target = torch.zeros(1, n, dtype=torch.long, device=tokens.device)
    x = before + both + model.segment(target) + voice[:, None]
    _, (_, caches) = model.transformer.step(x.transpose(1, 2), model.init_state(1), reach=n)
    kept = tuple((keys[:, :, :n].clone(), values[:, :, :n].clone()) for keys, values in caches)
    return ReadTokens(kept, embedded[-1].clone())
