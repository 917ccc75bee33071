"""The flow decoder as a stream: phones, pointer and tokens in as they come, mel frames out block by block.

Blocks are cut at the same places however the stream is fed, and noise is drawn frame by frame, so that the mel is
the same. Rows of the batch are what guidance compares: the voice as it is, and no voice (Ho and Salimans 2022).

Shapes: R rows, T frames of 50 Hz, S = T / 2 tokens, F numbers of a frame, M mel bands, P phones, E speaker vector.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ....layers import steady
from ....layers.dit import DiTState
from .decoder import PATCH, FlowDecoder, TokenFrames
from .timing import timing

_NEVER = 1_000_000  # frames: more than any stream has
_HIGHS = 68  # the first mel band above 7.4 kHz


@dataclass(frozen=True)
class FlowOptions:
    """How mel frames are drawn."""

    steps: int = 2  # of the head, 0: the trunk's mean alone
    # 0: none; above, what the voice changes is exaggerated: likeness gains and words are lost (docs/log.md)
    guidance: float = 0.0
    sway: float = (
        0.0  # below 0: steps lie nearer to the noise (Chen et al. 2024, F5-TTS, section 3.3), at least -1
    )
    temperature: float = 0.4  # of the noise; by words and likeness of vox-dev (docs/log.md)
    blocks: tuple[int, ...] = (12, 16, 24, 32)  # frames, even; the last repeats
    # How clearly to speak, in nats of the aligner's score (`decoder.Clarity`); None: as it comes. Decoders that were
    # not told of it in training ignore it.
    clarity: float | None = None
    tokens: bool = True  # whether the AR's tokens are read, where it says any; else its pointer alone

    @property
    def told(self) -> float:
        return math.nan if self.clarity is None else self.clarity

    def __post_init__(self) -> None:
        if self.steps < 0 or self.guidance < 0 or not -1 <= self.sway <= 1:
            raise ValueError(f"steps and guidance are 0 or more, sway is -1 to 1, got {self}")
        if not self.blocks or any(block < 2 or block % 2 for block in self.blocks):
            raise ValueError(f"blocks are even numbers of frames, got {self.blocks}")

    def times(self) -> list[float]:
        """Where the steps begin, 0 noise, and 1, where the last ends."""
        even = torch.linspace(0, 1, max(self.steps, 1) + 1)
        return (even + self.sway * (torch.cos(torch.pi / 2 * even) - 1 + even)).tolist()


@dataclass(frozen=True)
class FlowVoice:
    """What is kept of a prompt of T frames. condition (1, C): the voice as a whole.   trunk: its state after the
    prompt. heads: that of the head, for every step.   steps: of the options that they were made for."""

    condition: Tensor
    trunk: DiTState
    heads: tuple[DiTState, ...]
    steps: tuple[float, ...]


@torch.inference_mode()
def read_voice(
    model: FlowDecoder,
    mel: Tensor,
    speaker: Tensor,
    tokens: Tensor | None,
    options: FlowOptions,
    narrow: bool = False,
) -> FlowVoice:
    """A prompt's natural log-mel (M, 2 T), T even, its speaker vector (E,) and the levels of its tokens (T / 2, D).

    narrow: the recording has no high frequencies, and what is above 7.4 kHz is not looked at.
    """
    prompt = model.frames(mel[None])
    if narrow:
        shown = torch.arange(model.config.mel_bands, device=prompt.device) < _HIGHS
        prompt = prompt * shown.repeat(PATCH)
    n = prompt.shape[1]
    yes = torch.ones(1, n, dtype=torch.bool, device=prompt.device)
    mean, spread = model.statistics(prompt, yes)
    voice = model.voice(speaker[None].to(prompt), mean, spread)
    condition = model.told(voice, prompt.new_full((1,), options.told))
    known = yes[:, ::2] if tokens is not None else ~yes[:, ::2]
    levels = (
        prompt.new_zeros(1, n // 2, model.config.token_dims) if tokens is None else tokens[None].to(prompt)
    )
    read = model.token_frames(levels, known, torch.zeros_like(known, dtype=torch.long))
    phones = model.no_phone.expand(1, n, -1)
    trunk = model.trunk.init_state(1, prompt, slots=n)
    hidden, trunk = model.trunk.step(model.joined(phones, read, prompt, yes), F.silu(condition), trunk)
    stage = model.out(hidden), hidden, prompt
    heads = []
    times = options.times()[:-1] if options.steps else []
    for time in times:
        x = model.head_embed(torch.zeros_like(prompt), stage)
        timed = model.timed(condition, prompt.new_full((1,), time))
        heads.append(model.head.step(x, timed, model.head.init_state(1, prompt, slots=n))[1])
    return FlowVoice(condition, trunk, tuple(heads), tuple(times))


class FlowState(NamedTuple):
    """trunk, and the head for every step: what they have seen, in R rows."""

    trunk: DiTState
    heads: tuple[DiTState, ...]


class FlowStream:
    """One utterance.

    phones (3, P): what is said.   voice: of `read_voice` with the same options, None for no voice in particular.

    >>> stream = FlowStream(model, phones, voice, FlowOptions(), seed=7)
    >>> mel = [stream.push(pointer, tokens) for pointer, tokens in latents] + [stream.flush()]
    """

    def __init__(
        self, model: FlowDecoder, phones: Tensor, voice: FlowVoice | None, options: FlowOptions, seed: int = 0
    ):
        self.model, self.options, c = model, options, model.config
        like = model.no_phone
        self._device = like.device
        self._generator = torch.Generator().manual_seed(seed % 2**63)
        tokens = phones[None].to(self._device)
        guided = voice is not None and options.guidance > 0
        if voice is not None and options.steps and voice.steps != tuple(options.times()[:-1]):
            raise ValueError(f"the voice was read for the steps {voice.steps}, not {options.times()[:-1]}")
        with torch.inference_mode():
            self._text = model.text_encoder(tokens, torch.tensor([phones.shape[1]], device=self._device))
            nobody = model.voice(
                like.new_zeros(1, c.speaker), like.new_zeros(1, c.mel_bands), like.new_zeros(1, c.mel_bands)
            )
            nobody = model.told(nobody, like.new_full((1,), options.told))
            n = 0 if voice is None else int(voice.trunk.position)  # frames of the prompt
            slots = max(c.trunk.context, 2 * n)
            captures = steady.may_capture(like)  # steps that read every slot
            rows = [] if voice is None else [(voice.condition, voice.trunk, voice.heads)]
            if voice is None or guided:
                head = [model.head.init_state(1, like, 1)] * options.steps
                rows.append((nobody, model.trunk.init_state(1, like, 1), tuple(head)))
            self._condition = torch.cat([row[0] for row in rows])
            zeros = captures or len(rows) > 1  # they are not equally far
            self._state = FlowState(
                _rows([model.trunk.continued(row[1], slots, zeros) for row in rows]),
                tuple(
                    _rows([model.head.continued(row[2][k], slots, zeros) for row in rows])
                    for k in range(options.steps)
                ),
            )
        times, guidance = tuple(options.times()) if options.steps else (), options.guidance * guided
        self._steps = steady.SteadyStep(
            model, partial(_step, times=times, guidance=guidance), ("flow", times, guidance)
        )
        self._reach = n
        self._pointer = torch.zeros(0, dtype=torch.long, device=self._device)
        self._tokens: Tensor | None = None
        self._done = self._blocks = 0
        self.finished = False

    @torch.inference_mode()
    def push(self, pointer: Tensor, tokens: Tensor | None = None) -> Tensor:
        """The phone of each frame, pointer (T,), T even, -1 where it is not known, and the levels of their tokens
        (T / 2, D), None where there are none -> the mel (M, 2 n) of the n frames that are certain."""
        return self._advance(pointer, tokens, final=False)

    @torch.inference_mode()
    def flush(self) -> Tensor:
        """The mel still owed (M, 2 n); the stream is over."""
        mel = self._advance(self._pointer[:0], None, final=True)
        self.finished = True
        return mel

    def _advance(self, pointer: Tensor, tokens: Tensor | None, final: bool) -> Tensor:
        if self.finished:
            raise ValueError("this stream has been flushed; open a new one")
        if len(pointer) % 2 or (tokens is not None and 2 * len(tokens) != len(pointer)):
            raise ValueError(
                f"frames come in pairs, a token each; got {len(pointer)} frames"
                + ("" if tokens is None else f" and {len(tokens)} tokens")
            )
        if len(pointer):
            if self._done + len(self._pointer) and (tokens is None) != (self._tokens is None):
                raise ValueError("tokens are given for all frames of a stream or for none")
            self._pointer = torch.cat([self._pointer, pointer.to(self._device)])
            if tokens is not None:
                tokens = tokens.to(self.model.no_phone)
                self._tokens = tokens if self._tokens is None else torch.cat([self._tokens, tokens])
        mels = []
        while (block := self._next(final)) > 0:
            mels.append(self._block(self._done, self._done + block, final))
            self._done += block
            self._blocks += 1
        if not mels:
            return self._text.new_zeros(self.model.config.mel_bands, 0)
        return torch.cat(mels, dim=1)

    def _next(self, final: bool) -> int:
        """Frames of the next block, 0 if more must come first."""
        blocks, have = self.options.blocks, len(self._pointer) - self._done
        block = blocks[min(self._blocks, len(blocks) - 1)]
        if final:
            return min(block, have)
        return block if have >= block + self.model.config.look_ahead else 0

    def _block(self, first: int, last: int, final: bool) -> Tensor:
        """Frames [first, last) -> mel (M, 2 n)."""
        model, n = self.model, len(self._pointer)
        seen = last + model.config.look_ahead
        ended = final and seen >= n
        pointer = self._pointer[None, : min(seen, n)]
        visible = torch.full_like(pointer, _NEVER if ended else seen)
        when = timing(pointer, visible)
        here = slice(first, last)
        phone = self._text[:, pointer[0, here].clamp(min=0)]
        phones = phone + model.age(when.age[:, here]) + model.left(when.left[:, here])
        phones = torch.where(pointer[:, here, None] >= 0, phones, model.no_phone.to(phones.dtype))
        tokens = self._token_frames(first // 2, last // 2)
        prompt = phones.new_zeros(1, last - first, model.config.frame)
        no = torch.zeros(1, last - first, dtype=torch.bool, device=self._device)
        x = model.joined(phones, tokens, prompt, no)
        self._reach += last - first
        inputs = x, self._noise(x), self._condition
        mel, self._state = self._steps(inputs, self._state, reach=self._reach)
        return mel[0]

    def _noise(self, x: Tensor) -> Tensor:
        """Of a block x (1, T, W): (1, T, F), frame by frame."""
        size = self.model.config.frame
        if self.options.steps == 0:
            return x.new_zeros(1, 0, size)
        noise = [torch.randn(size, generator=self._generator) for _ in range(x.shape[1])]
        return (self.options.temperature * torch.stack(noise))[None].to(x)

    def _token_frames(self, first: int, last: int) -> Tensor:
        """Channels (1, T, C) of tokens [first, last), those around them taken as far as there are any."""
        reach, model = TokenFrames.REACH, self.model.token_frames
        n = len(self._pointer) // 2
        low, high = max(0, first - reach), min(n, last + reach)
        if self._tokens is None:
            dims = self.model.config.token_dims
            levels = self._text.new_zeros(high - low, dims)
        else:
            levels = self._tokens[low:high]
        known = torch.full((1, high - low), self._tokens is not None, device=self._device)
        x = model.embedded(levels[None], known).transpose(1, 2)
        return model.spread(F.pad(x, (reach - (first - low), reach - (high - last))))


def _step(
    model: FlowDecoder,
    inputs: tuple[Tensor, Tensor, Tensor],
    state: FlowState,
    times: tuple[float, ...],
    guidance: float,
    reach: int | None = None,
) -> tuple[Tensor, FlowState]:
    """A block through trunk and head: what the trunk reads (1, T, W), noise (1, T, F) and the rows' condition (R, C) ->
    mel (1, M, 2 T). Flow matching by Euler steps along the predicted clean frames.

    times: where the steps begin, and 1; none: the mean alone.   guidance: 0 where there is one row.
    reach: an upper bound of the frames so far, these included, which spares reading slots that are empty.
    """
    x, noise, condition = inputs
    rows, t = len(condition), x.shape[1]
    hidden, trunk = model.trunk.step(x.expand(rows, -1, -1), F.silu(condition), state.trunk, reach)
    mean = model.out(hidden)
    prompt = mean.new_zeros(1, 1, model.config.frame).expand(rows, t, -1)

    def guide(frames: Tensor) -> Tensor:
        """(R, T, F) -> (1, T, F)."""
        if not guidance:
            return frames[:1]
        return frames[:1] + guidance * (frames[:1] - frames[1:])

    if not times:
        return model.mel(guide(mean)), FlowState(trunk, ())
    drawn, heads = noise.to(mean), []
    for (now, then), own in zip(pairwise(times), state.heads, strict=True):
        timed = model.timed(condition, mean.new_full((rows,), now))
        x = model.head_embed(drawn.expand(rows, -1, -1), (mean, hidden, prompt))
        hidden_head, own = model.head.step(x, timed, own, reach)
        heads.append(own)
        clean = guide(mean + model.head_out(hidden_head))
        drawn = clean if then == 1 else drawn + (then - now) / (1 - now) * (clean - drawn)
    return model.mel(drawn), FlowState(trunk, tuple(heads))


def _rows(states: list[DiTState]) -> DiTState:
    """States of one row each as one of several."""
    if len(states) == 1:
        return states[0]
    return DiTState(
        torch.cat([state.position for state in states]),
        tuple(torch.cat(tails) for tails in zip(*(state.tails for state in states), strict=True)),
        tuple(
            (torch.cat([keys for keys, _ in pairs]), torch.cat([values for _, values in pairs]))
            for pairs in zip(*(state.caches for state in states), strict=True)
        ),
    )
