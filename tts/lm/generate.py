"""The AR's loop: one frame of coarse codes after another, until the pointer has passed the last phone.

Rows of the batch are what guidance compares: everything known; the text hidden; the prompt hidden. The pointer is
common to them and follows the first.

Shapes: R rows, P phones, K codebooks, N coarse ones, V codebook_size, T frames, W width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch
from torch import Tensor

from ...errors import InputError
from ...layers.streaming import tree_map
from ..text.phones import Phones
from .ar import ARModel
from .batch import Prompt, SpeechBatch
from .durations import Drawn, Durations, Given
from .pointer import spoken_in
from .sampling import SamplingOptions, uniforms
from .step import ARStep, Ask, Frame, SpeechStep

if TYPE_CHECKING:
    from typing_extensions import Self

    from .slots_base import Slots

S = TypeVar("S", bound=SpeechStep)


def may_capture(tensor: Tensor) -> bool:
    """Whether steps of a model whose tensor this is can be captured."""
    return tensor.device.type == "cuda"


class SpeechGenerator(Generic[S]):
    """One utterance of an autoregressive model, before its first frame; this file has one, `token_generate` another.

    step: from frame to frame.   state: before the first one.
    """

    model: Any
    options: SamplingOptions
    n_phones: int
    step: S
    state: Any
    _reach: int  # frames that have been read

    def begin(self, source: Iterator[float]) -> Any:
        """The state before the first frame, with what has to be drawn for it."""
        return self.state

    def fork(self, seed: int) -> Self:
        """Another utterance of the same phones in the same voice, which need not be read again; to be called before
        the first frame."""
        other = copy.copy(self)
        other.options = replace(self.options, seed=seed)
        other.state = self.state._replace(cache=tree_map(lambda t: t.clone(), self.state.cache))
        return other

    def on(self, model: Any) -> Self:
        """The same, going on with another view of the same weights (`row_exact`, say); before the first frame."""
        self.step = copy.copy(self.step)
        self.model = self.step.model = model
        return self

    def __iter__(self) -> Iterator[Frame]:
        """Frame by frame; on a GPU with a captured step. Once only."""
        if may_capture(self.model.begin):
            from .slots import captured_slots  # with Triton, which takes its time to load

            slots = captured_slots(self.step, self.state)
            if slots is not None:
                yield from self._captured(slots)
                return
        run, answer = self.run(), None
        while True:
            # Entered anew for every frame: a generator that pauses inside would leave the mode on for its caller.
            with torch.inference_mode():
                try:
                    while isinstance(asked := run.send(answer), Ask):
                        answer = asked.answer(self.model)
                except StopIteration:
                    return
            answer = None
            yield asked

    def _captured(self, slots: Slots) -> Iterator[Frame]:
        """As `run`, in a slot of its own."""
        source, begins = uniforms(self.options.seed), True
        state = self.begin(source)
        pointer = int(state.pointer)
        active = torch.ones(1, dtype=torch.bool, device=self.model.begin.device)
        slots.join(0, self.step, state)
        while pointer < self.n_phones:
            with torch.inference_mode():
                frame = slots.frame(0, slots(self.step.numbers(source, begins)[None], active))
                before, pointer = pointer, int(slots.pointer[0])
            begins = pointer != before
            yield frame

    def run(self) -> Generator[Ask | Frame, Any, None]:
        """The loop as a coroutine, so that several can share the steps of the model: it asks for what the model has to
        compute, is sent the answer, and gives frames in between. To be run in inference mode, once."""
        source, begins = uniforms(self.options.seed), True
        state = self.begin(source)
        pointer = int(state.pointer)
        while pointer < self.n_phones:
            self._reach += 1
            frame, state = yield from self.step.asks(state, self.step.numbers(source, begins), self._reach)
            before, pointer = pointer, int(state.pointer)
            begins = pointer != before
            yield frame


# Of a model, phones, a prompt and options.
Reads = Callable[[Any, Phones, "Prompt | None", SamplingOptions], SpeechGenerator[Any]]


class ARGenerator(SpeechGenerator[ARStep]):
    """The coarse codes of one utterance, and the phone spoken in each frame.

    phones: to be said; the pointer that comes out counts from the first of them.   prompt: the voice, None for
    any.   model: an ARModel, or what `for_inference` made of one.   rhythm: the phone of every frame, where
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
        own, own_pointer = spoken_in(prompt)
        n_prompt = 0 if prompt is None else prompt.codes.shape[1]
        self.n_phones, self._n_prompt = len(phones), n_prompt
        self._guides_text = self.options.text_guidance != 1
        self._guides_voice = self.options.voice_guidance != 1 and n_prompt > 0
        device, durations = model.begin.device, self._durations(phones, rhythm)
        weights = [self.options.text_guidance - 1] * self._guides_text
        weights += [self.options.voice_guidance - 1] * self._guides_voice
        with torch.inference_mode():
            encoding, before = self._start(own, phones.tokens, own_pointer, prompt)
            guidance = torch.tensor(weights, dtype=torch.float32, device=device)
            self.step = ARStep(model, self.options, encoding[:, own.shape[1] :], guidance, durations)
            self.state = self.step.begin(self._cache, before, rhythm[0] if rhythm else 0)

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

    def _durations(self, phones: Phones, rhythm: Sequence[int] | None) -> Durations:
        device = self.model.begin.device
        if rhythm is None:
            return Drawn(phones.tokens[0].tolist(), self.options, device)
        steps = [after - before for before, after in pairwise(rhythm)]
        if not rhythm or not 0 <= rhythm[0] <= rhythm[-1] < len(phones) or min(steps, default=0) < 0:
            raise InputError(
                f"a rhythm goes from phone to phone of the {len(phones)} that are said, and never back"
            )
        return Given(rhythm, len(phones), device)

    def _start(
        self, own: Tensor, target: Tensor, own_pointer: Tensor, prompt: Prompt | None
    ) -> tuple[Tensor, Tensor]:
        """Read phones and prompt in every row: what is known of all phones (R, P' + P, W), and the frame before the
        first (R, W). own: the prompt's phones (3, P'), own_pointer: (T,)."""
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
        self._cache = model.init_state(rows)
        self._reach = 0
        before = model.begin.detach().expand(rows, -1)
        if prompt is not None and self._n_prompt:
            before = self._read_prompt(prompt.codes.to(device), own_pointer.to(device), encoding)
        return encoding, before

    def _read_prompt(self, codes: Tensor, pointer: Tensor, encoding: Tensor) -> Tensor:
        """Take the prompt's frames in; returns what its last frame was, (R, W)."""
        model, rows, n = self.model, encoding.shape[0], self._n_prompt
        reading = rows - self._guides_voice  # the last row does not get to hear the prompt
        counts = torch.full((reading,), n, device=codes.device)
        batch = SpeechBatch(
            phones=torch.zeros(reading, 3, 0, dtype=torch.long, device=codes.device),  # encoded already
            n_phones=counts,
            codes=codes.expand(reading, -1, -1),
            pointer=pointer.expand(reading, -1),
            n_prompt=counts,
            n_frames=counts,
            drop_text=counts < 0,
            drop_voice=counts < 0,
        )
        self._reach = n
        x = model.frame_inputs(batch, encoding[:reading]).transpose(1, 2)
        position, caches = self._cache
        own = position[:reading], tree_map(lambda cache: cache[:reading], caches)  # written in place
        _, (read, _) = model.transformer.step(x, own, reach=n)
        self._cache = torch.cat([read, position[reading:]]), caches
        last = model.prompt_embedding(codes[None, :, -1:])[0]
        return torch.cat([last.expand(reading, -1), model.begin.detach().expand(rows - reading, -1)])


def _padded_before(encoded: Tensor, n: int) -> Tensor:
    return torch.cat([encoded.new_zeros(n, encoded.shape[1]), encoded])
