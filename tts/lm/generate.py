"""The AR's loop: one frame of coarse codes after another, until the pointer has passed the last phone.

Rows of the batch are what guidance compares: everything known; the text hidden; the prompt hidden. The pointer is
common to them and follows the first.

How long a phone lasts is drawn by its hazard: at each frame the model says how likely the pointer moves on; it does
once the probability of having stayed so long falls below a number drawn for the phone. A number of a half
gives the median duration, numbers all over (0, 1) the model's own spread; `duration_temperature` lies between.

Shapes: R rows, P phones, K codebooks, N coarse ones, V codebook_size, T frames, W width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from ...errors import InputError
from ...layers.streaming import State
from ..text.phones import PUNCTUATION, SPACE, SYMBOLS, Phones
from .ar import MAX_ADVANCE, ARModel
from .batch import Prompt, SpeechBatch
from .pointer import spoken_in
from .sampling import CodeSampler, SamplingOptions, draw, guide, uniforms

_PAUSES = frozenset(SYMBOLS.index(symbol) for symbol in (SPACE, *PUNCTUATION))
_SPACE = SYMBOLS.index(SPACE)
PLAIN_FRAMES = 16, 100  # without a pointer: frames a phone and besides, at most


class Frame(NamedTuple):
    """One frame of what is said."""

    codes: Tensor  # (N,) long
    pointer: Tensor  # () long: the phone that is said, -1 with a model that has no pointer
    hidden: Tensor  # (W,) the model's state that the codes were drawn from


class Ask(NamedTuple):
    """What the model has to compute for one utterance.

    part: a part of it that reads every row on its own, None: the next step of the transformer.   inputs: (R, ...) each.
    """

    part: Callable[..., Tensor] | None
    inputs: tuple[Tensor, ...]


_Run = Generator[Ask | Frame, Any, None]


class ARGenerator:
    """The coarse codes of one utterance, and the phone spoken in each frame.

    phones: to be said; the pointer that comes out counts from the first of them.   prompt: the voice, None for
    any.   model: an ARModel, or what `tts.lm.quantize.prepare` made of one.   rhythm: the phone of every frame, where
    durations are not to be drawn.
    Raises InputError for phones, a prompt or a rhythm that the model cannot take.

    >>> for frame in ARGenerator(model, phones, prompt, SamplingOptions(seed=7)):
    ...     frame.codes, frame.pointer
    """

    def __init__(
        self,
        model: ARModel,
        phones: Phones,
        prompt: Prompt | None = None,
        options: SamplingOptions | None = None,
        rhythm: Sequence[int] | None = None,
    ):
        self.model, self.options = model, options or SamplingOptions()
        self._check(phones, prompt)
        self._rhythm = None if rhythm is None else self._checked(rhythm, len(phones))
        self._symbols: list[int] = phones.tokens[0].tolist()
        own, own_pointer = spoken_in(prompt)
        n_prompt = 0 if prompt is None else prompt.codes.shape[1]
        self.n_phones, self._n_prompt = len(self._symbols), n_prompt
        self._guides_text = self.options.text_guidance != 1
        self._guides_voice = self.options.voice_guidance != 1 and n_prompt > 0
        with torch.inference_mode():
            self._start(own, phones.tokens, own_pointer, prompt)

    # ---- before the first frame

    def _check(self, phones: Phones, prompt: Prompt | None) -> None:
        config = self.model.config
        if len(phones) == 0:
            raise InputError("there are no phones to be said; give a text with letters or digits")
        if prompt is None:
            return
        k, n = prompt.codes.shape
        if k != config.n_codebooks or (n and int(prompt.codes.max()) >= config.codebook_size):
            raise InputError(
                f"the voice's codes ({k} codebooks) are not of the codec that {config.name} speaks "
                f"({config.n_codebooks} of {config.codebook_size}); make the voice anew"
            )
        if n > config.context // 2:
            raise InputError(
                f"the voice has a prompt of {n} frames, at most {config.context // 2} can be used; make it anew "
                "from a shorter recording"
            )

    def _checked(self, rhythm: Sequence[int], n_phones: int) -> Sequence[int]:
        steps = [after - before for before, after in pairwise(rhythm)]
        if self.model.config.alignment != "pointer":
            raise InputError(f"{self.model.config.name} has no pointer, and cannot follow a rhythm")
        if not rhythm or not 0 <= rhythm[0] <= rhythm[-1] < n_phones or min(steps, default=0) < 0:
            raise InputError(
                f"a rhythm goes from phone to phone of the {n_phones} that are said, and never back"
            )
        return rhythm

    def _start(self, own: Tensor, target: Tensor, own_pointer: Tensor, prompt: Prompt | None) -> None:
        """Read phones and prompt in every row. own: the prompt's phones (3, P'), own_pointer: (T,)."""
        model, device = self.model, self.model.begin.device
        both = torch.cat([own, target], dim=1).to(device)
        encoded = [model.encode_text(both[None], torch.tensor([both.shape[1]], device=device))[0]]
        if self._guides_text:
            encoded.append(model.no_text.expand_as(encoded[0]))
        if self._guides_voice:  # speech without a prompt has no phones of one either
            alone = target.to(device)
            alone = model.encode_text(alone[None], torch.tensor([alone.shape[1]], device=device))[0]
            encoded.append(alone if own.shape[1] == 0 else _padded_before(alone, own.shape[1]))
        rows = len(encoded)
        encoding = torch.stack(encoded)  # (R, P' + P, W)
        self._state = model.init_state(rows)
        self._reach = 0
        if model.config.alignment == "none":
            hidden = [own.shape[1] if self._hides_voice(r) else 0 for r in range(rows)]
            self._prefill([row[n:] for row, n in zip(encoding, hidden, strict=True)])
        self._before = model.begin.detach().expand(rows, -1)
        if prompt is not None and self._n_prompt:
            self._before = self._read_prompt(prompt.codes.to(device), own_pointer.to(device), encoding)
        # What the target's frames add to the code before them, phone by phone.
        self._phone_rows = encoding[:, own.shape[1] :] + model.segment.weight[1]
        self._n_rows = rows

    def _hides_voice(self, row: int) -> bool:
        return self._guides_voice and row == 1 + self._guides_text

    def _read_prompt(self, codes: Tensor, pointer: Tensor, encoding: Tensor) -> Tensor:
        """Take the prompt's frames in; returns what its last frame was, (R, W)."""
        model, rows, n = self.model, encoding.shape[0], self._n_prompt
        counts = torch.full((rows,), n, device=codes.device)
        batch = SpeechBatch(
            phones=torch.zeros(rows, 3, 0, dtype=torch.long, device=codes.device),  # encoded already
            n_phones=counts,
            codes=codes.expand(rows, -1, -1),
            pointer=pointer.expand(rows, -1),
            n_prompt=counts,
            n_frames=counts,
            drop_text=counts < 0,
            drop_voice=counts < 0,
        )
        x = model.frame_inputs(batch, encoding)
        self._prefill([row[: 0 if self._hides_voice(r) else n] for r, row in enumerate(x)])
        last = model.prompt_embedding(codes[None, :, -1:])[0, 0]
        return torch.stack([model.begin if self._hides_voice(r) else last for r in range(rows)])

    def _prefill(self, rows: list[Tensor]) -> None:
        """Take in rows (T_r, W) of different lengths."""
        lengths = torch.tensor([len(row) for row in rows], device=rows[0].device)
        x = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        if self._reach + x.shape[1] > self.model.config.context:
            raise InputError(
                f"text and prompt are {self._reach + x.shape[1]} frames long, {self.model.config.name} reads "
                f"{self.model.config.context}; split the text into sentences"
            )
        self._reach += x.shape[1]
        _, self._state = self.model.transformer.step(
            x.transpose(1, 2), self._state, lengths=lengths, reach=self._reach
        )

    # ---- frame by frame

    def __iter__(self) -> Iterator[Frame]:
        """Frame by frame. Once only."""
        run = self.run()
        answer: Tensor | None = None
        while True:
            # Entered anew for every frame: a generator that pauses inside would leave the mode on for its caller.
            with torch.inference_mode():
                try:
                    asked = run.send(answer)
                    while isinstance(asked, Ask):
                        x = asked.inputs
                        asked = run.send(self._step(*x) if asked.part is None else asked.part(*x))
                except StopIteration:
                    return
            answer = None
            yield asked

    def run(self) -> _Run:
        """The loop as a coroutine, so that several can share the steps of the model: it asks for what the model has to
        compute, is sent the answer, and gives frames in between. To be run in inference mode, once."""
        return self._pointed() if self.model.config.alignment == "pointer" else self._plain()

    def _pointed(self) -> _Run:
        model, options = self.model, self.options
        tables = _tables(model)
        ages = model.age.weight
        numbers = uniforms(options.seed)
        sample = CodeSampler(options, numbers)
        if self._rhythm is None:
            durations, pointer = _Durations(self._symbols, options, numbers), 0
        else:
            durations, pointer = _Rhythm(self._rhythm, self.n_phones), self._rhythm[0]
        before, age = self._before, 0
        while pointer < self.n_phones:
            x = before + self._phone_rows[:, pointer] + ages[min(age, model.config.max_age)]
            hidden = yield Ask(None, (x,))
            code = sample(self._guided((yield Ask(model.logits, (hidden,)))))
            chosen = torch.tensor([code], device=hidden.device)
            moves = durations(pointer, age, (yield Ask(model.advance_head, (hidden[:1], chosen)))[0])
            codes = yield from self._deeper(hidden, code, numbers)
            yield Frame(torch.tensor(codes), torch.tensor(pointer), hidden[0])
            before = self._embed(tables, codes)
            pointer, age = (pointer + moves, 0) if moves else (pointer, age + 1)

    def _plain(self) -> _Run:
        """Without a pointer: until the end-of-speech token, or the longest that so many phones can take."""
        model, end = self.model, self.model.config.codebook_size
        tables = _tables(model)
        numbers = uniforms(self.options.seed)
        sample = CodeSampler(self.options, numbers, end)
        before = self._before
        for _ in range(PLAIN_FRAMES[0] * self.n_phones + PLAIN_FRAMES[1]):
            hidden = yield Ask(None, (before + model.segment.weight[1],))
            code = sample(self._guided((yield Ask(model.logits, (hidden,)))))
            if code == end:
                return
            codes = yield from self._deeper(hidden, code, numbers)
            yield Frame(torch.tensor(codes), torch.tensor(-1), hidden[0])
            before = self._embed(tables, codes)

    def _deeper(
        self, hidden: Tensor, first: int, numbers: Iterator[float]
    ) -> Generator[Ask, Tensor, tuple[int, ...]]:
        """All coarse codes of the frame whose first one is drawn."""
        codes, o = [first], self.options
        for head in self.model.depth_heads:
            known = torch.tensor([codes], device=hidden.device).expand(self._n_rows, -1)
            logits = self._guided((yield Ask(head, (hidden, known))))
            codes.append(draw(logits, next(numbers), o.temperature, o.top_k, o.top_p))
        return tuple(codes)

    def _embed(self, tables: Tensor, codes: tuple[int, ...]) -> Tensor:
        """The frame as the next one reads it, (R, W)."""
        rows = sum(table[code] for table, code in zip(tables, codes, strict=True))
        return cast(Tensor, rows).expand(self._n_rows, -1)

    def _step(self, x: Tensor) -> Tensor:
        self._reach += 1
        hidden, self._state = self.model.step(x, self._state, self._reach)
        return hidden

    @staticmethod
    def step_many(generators: Sequence[ARGenerator], inputs: Sequence[Tensor]) -> list[Tensor]:
        """The next step (R, W) of several utterances of one model, in one pass over its weights."""
        for one in generators:
            one._reach += 1
        hidden, states = generators[0].model.transformer.step_many(
            torch.cat(list(inputs)), [one._state for one in generators], [one._reach for one in generators]
        )
        for one, state in zip(generators, states, strict=True):
            one._state = state
        return list(hidden.split([len(x) for x in inputs]))

    def _guided(self, logits: Tensor) -> Tensor:
        weights = [self.options.text_guidance - 1] * self._guides_text
        weights += [self.options.voice_guidance - 1] * self._guides_voice
        return guide(logits, torch.tensor(weights, device=logits.device))

    @property
    def state(self) -> State:
        """The transformer's state after the frames so far."""
        return self._state


class _Durations:
    """When the pointer moves, and how far: never over a sound, never later than a phone may last."""

    def __init__(self, symbols: list[int], options: SamplingOptions, numbers: Iterator[float]):
        self.symbols, self.options, self._numbers = symbols, options, numbers
        self._stayed, self._until = 1.0, 0.5

    def __call__(self, pointer: int, age: int, logits: Tensor) -> int:
        """Phones to move on after this frame, from logits (4,)."""
        if age == 0:
            self._stayed, self._until = 1.0, self._number()
        which = self._number()
        scores = logits[: self._furthest(pointer) + 1].tolist()
        top = max(scores)
        weights = [math.exp(score - top) for score in scores]
        self._stayed *= (weights[0] / sum(weights)) ** self.options.speed
        pause = self.symbols[pointer] in _PAUSES
        longest = self.options.max_pause_frames if pause else self.options.max_sound_frames
        if self._stayed >= self._until and age + 1 < longest:
            return 0
        rest = which * sum(weights[1:])
        for moves, weight in enumerate(weights[1:], 1):
            rest -= weight
            if rest < 0:
                return moves
        return 1

    def _number(self) -> float:
        return 0.5 + self.options.duration_temperature * (next(self._numbers) - 0.5)

    def _furthest(self, pointer: int) -> int:
        """Only spaces are passed over: they need not last."""
        moves = 1
        while moves < MAX_ADVANCE and pointer + moves < len(self.symbols) - 1:
            if self.symbols[pointer + moves] != _SPACE:
                break
            moves += 1
        return moves


class _Rhythm:
    """When the pointer moves, and how far, as it did in a recording."""

    def __init__(self, pointer: Sequence[int], n_phones: int):
        self._after = iter([*pointer[1:], n_phones])

    def __call__(self, pointer: int, age: int, logits: Tensor) -> int:
        return next(self._after) - pointer


def _tables(model: ARModel) -> Tensor:
    """The embeddings of all coarse codes of the target, (N, V, W)."""
    embedding = model.response_embedding
    if isinstance(embedding, torch.nn.Embedding):
        return embedding.weight[None]
    table = embedding.table
    rows = table if isinstance(table, Tensor) else table()
    return rows if rows.ndim == 3 else rows[None]


def _padded_before(encoded: Tensor, n: int) -> Tensor:
    return torch.cat([encoded.new_zeros(n, encoded.shape[1]), encoded])
