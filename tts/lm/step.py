"""One frame of the AR: tensors in, tensors out, of fixed shapes, so that a CUDA graph can hold it.

Random numbers are inputs, and nothing is read back: whoever runs the loop looks at the frame.

Shapes: R rows that guidance compares, P phones, N coarse codebooks, V codebook_size, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, TypeVar, cast

import torch
from torch import Tensor

from ...layers.streaming import State
from ...layers.transformer import Transformer
from .ar import ARModel
from .durations import Durations, Stay
from .sampling import SamplingOptions, as_drawn, draw_apart_rows, draw_rows, guide, no_codes, remembered

T = TypeVar("T")


class Frame(NamedTuple):
    """One frame of what is said."""

    codes: Tensor  # (N,) long
    pointer: Tensor  # () long: the phone that is said
    hidden: Tensor  # (W,) the model's state that the codes were drawn from


class ARState(NamedTuple):
    """What a frame hands to the next."""

    cache: State  # the transformer's, of R rows
    before: Tensor  # (R, W) the frame before
    stay: Stay
    recent: Tensor  # the codes that repetition-aware sampling looks at

    @property
    def stays(self) -> tuple[Stay, ...]:
        """Every place of the pointer that is kept."""
        return (self.stay,)

    @property
    def pointer(self) -> Tensor:
        """The phone that is said next; the utterance is over when it has passed the last."""
        return self.stay.pointer


class SpeechLM(Protocol):
    """What the loops of the autoregressive models share: one frame, or token, for each row."""

    @property
    def transformer(self) -> Transformer: ...

    def step(self, x: Tensor, state: State, reach: int | None = None) -> tuple[Tensor, State]: ...


class Ask(NamedTuple):
    """What has to be computed for a frame, and can be for several utterances at once.

    part: of the model, or a way to draw, that reads every row on its own; None: the transformer's next step, answered
    by the hidden states and the next cache.   inputs: (R, ...) each.   cache, reach: of the transformer.
    """

    part: Callable[..., Tensor] | None
    inputs: tuple[Tensor, ...]
    cache: State = None
    reach: int | None = None

    def answer(self, model: SpeechLM) -> Any:
        if self.part is not None:
            return self.part(*self.inputs)
        return model.step(self.inputs[0], self.cache, self.reach)


def answered(asking: Generator[Ask, Any, T], model: SpeechLM) -> T:
    """What a coroutine gives in the end, the model answering all that it asks for."""
    answer: Any = None
    while True:
        try:
            answer = asking.send(answer).answer(model)
        except StopIteration as stop:
            return stop.value


class SpeechStep:
    """From frame, or token, to the next: what the steps of all autoregressive models have.

    phones: (R, P, W), what each row knows of each phone.   guidance: (R - 1,), the weights of the rows that hide
    something, less one.
    """

    model: Any
    options: SamplingOptions
    phones: Tensor
    guidance: Tensor
    durations: Durations

    def drawn(self, source: Iterator[float], begins: bool) -> list[float]:
        """The numbers of a frame. begins: whether the pointer has just moved."""
        raise NotImplementedError

    def numbers(self, source: Iterator[float], begins: bool) -> Tensor:
        """The same as a tensor."""
        return torch.tensor(self.drawn(source, begins), dtype=torch.float64, device=self.phones.device)

    def asks(
        self, state: Any, numbers: Tensor, reach: int | None = None
    ) -> Generator[Ask, Any, tuple[Frame, Any]]:
        """One frame as a coroutine that asks for what the model has to compute, so that several can share it
        (`tts.lm.shared`). reach: an upper bound of the frames since the beginning, this one included, which spares
        work."""
        raise NotImplementedError

    def __call__(self, state: Any, numbers: Tensor, reach: int | None = None) -> tuple[Frame, Any]:
        """One frame: tensors in, tensors out, of fixed shapes."""
        return answered(self.asks(state, numbers, reach), self.model)


class ARStep(SpeechStep):
    """From frame to frame.

    phones: (R, P, W), what each row knows of each phone.   guidance: (R - 1,), the weights of the rows that hide
    something, less one.
    """

    def __init__(
        self,
        model: ARModel,
        options: SamplingOptions,
        phones: Tensor,
        guidance: Tensor,
        durations: Durations,
    ):
        self.model: ARModel = model
        self.options, self.guidance = options, guidance
        # What the target's frames add to the code before them, phone by phone.
        self.phones, self.durations = phones + model.segment.weight[1], durations
        self.tables, self.ages = tables_of(model), model.age.weight
        self._first, self._further = draws(as_drawn(options))

    def begin(self, cache: State, before: Tensor, pointer: int) -> ARState:
        """Before the first frame; before: (R, W)."""
        return ARState(
            cache, before, Stay.begin(pointer, before.device), no_codes(self.options, before.device)
        )

    def drawn(self, source: Iterator[float], begins: bool) -> list[float]:
        """The numbers of a frame, 3 + N: two for the first code, two for the duration (the first of them only where a
        phone `begins`), one for each further code."""
        drawn, draws = [next(source), next(source)], self.durations.draws
        drawn += [next(source) if draws and begins else 0.0, next(source) if draws else 0.0]
        return drawn + [next(source) for _ in self.model.depth_heads]

    def asks(
        self, state: ARState, numbers: Tensor, reach: int | None = None
    ) -> Generator[Ask, Any, tuple[Frame, ARState]]:
        model, stay = self.model, state.stay
        age = stay.age.clamp(max=model.config.max_age).reshape(1)
        x = state.before + self.phones[:, stay.pointer.reshape(1)][:, 0] + self.ages[age]
        hidden, cache = yield Ask(None, (x,), state.cache, reach)
        logits = self._guided((yield Ask(model.code_head, (hidden,))))
        drawn = yield Ask(self._first, (logits[None], state.recent[None], numbers[None, :2]))
        advance = yield Ask(model.advance_head, (hidden[:1], drawn))
        after = self.durations(stay, advance[0], numbers[2:4])
        codes = yield from self._deeper(hidden, drawn[0], numbers[4:])
        recent = remembered(state.recent, drawn, self.options)
        before = sum(table[c.reshape(1)] for table, c in zip(self.tables, codes, strict=True))
        following = ARState(cache, cast(Tensor, before).expand(len(x), -1), after, recent)
        return Frame(torch.stack(codes), stay.pointer, hidden[0]), following

    def _deeper(self, hidden: Tensor, first: Tensor, numbers: Tensor) -> Generator[Ask, Tensor, list[Tensor]]:
        """All coarse codes of the frame whose first one is drawn."""
        codes = [first]
        for k, head in enumerate(self.model.depth_heads):
            known = torch.stack(codes).expand(len(hidden), -1)
            logits = self._guided((yield Ask(head, (hidden, known))))
            codes.append((yield Ask(self._further, (logits[None], numbers[k : k + 1])))[0])
        return codes

    def _guided(self, logits: Tensor) -> Tensor:
        return guide(logits, self.guidance)


@lru_cache(maxsize=64)
def draws(options: SamplingOptions) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """How the first code of a frame and the others are drawn: the same objects for equal options, so that utterances
    can be told to ask for the same."""
    o = options

    def first(logits: Tensor, recent: Tensor, numbers: Tensor) -> Tensor:
        return draw_apart_rows(logits, recent, numbers, o)

    def further(logits: Tensor, numbers: Tensor) -> Tensor:
        return draw_rows(logits, numbers, o.temperature, o.top_k, o.top_p)

    return first, further


def tables_of(model: ARModel) -> Tensor:
    """The embeddings of all coarse codes of the target, (N, V, W)."""
    embedding = model.response_embedding
    if isinstance(embedding, torch.nn.Embedding):
        return embedding.weight[None]
    table = embedding.table
    rows = table if isinstance(table, Tensor) else table()
    return rows if rows.ndim == 3 else rows[None]
