"""Drawing codes from a model's logits: temperature, top-k, top-p, repetition-aware sampling, and guidance.

Nucleus (top-p) sampling: Holtzman et al. 2020. Repetition-aware sampling: VALL-E 2, Chen et al. 2024, section 4.2.
Classifier-free guidance: Ho and Salimans 2022, eq. 6, once for the text and once for the voice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...errors import UsageError


@dataclass(frozen=True)
class SamplingOptions:
    """How speech is drawn. The same seed and options give the same speech on the same machine."""

    temperature: float = 0.9  # of the codes; 0: always the likeliest
    top_k: int = 0  # only the k likeliest codes, 0: all
    top_p: float = 0.9  # only the likeliest codes that together have this probability, 1: all
    repetition_window: int = 10  # frames in which a code is looked for again, 0: never
    repetition_threshold: float = (
        0.5  # a code with more than this share of them is drawn anew, from all codes
    )
    text_guidance: float = 1.0  # above 1 exaggerates what the text changes; 1: as the model has learned it
    voice_guidance: float = 1.0  # the same for the voice of the prompt
    duration_temperature: float = 0.7  # 1: durations as varied as the model believes, 0: always the median
    speed: float = 1.0  # above 1: faster speech
    max_sound_frames: int = 40  # a sound is left for the next then; most sooner (`durations`)
    max_pause_frames: int = 60  # a pause
    seed: int = 0

    def __post_init__(self) -> None:
        wrong = (
            ("temperature", self.temperature, self.temperature >= 0, "0 or more"),
            ("top_k", self.top_k, self.top_k >= 0, "0 (all) or more"),
            ("top_p", self.top_p, 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("repetition_window", self.repetition_window, self.repetition_window >= 0, "0 (off) or more"),
            ("repetition_threshold", self.repetition_threshold, self.repetition_threshold >= 0, "0 or more"),
            ("text_guidance", self.text_guidance, self.text_guidance >= 0, "0 or more, 1 being none"),
            ("voice_guidance", self.voice_guidance, self.voice_guidance >= 0, "0 or more, 1 being none"),
            (
                "duration_temperature",
                self.duration_temperature,
                0 <= self.duration_temperature <= 1,
                "0 to 1",
            ),
            ("speed", self.speed, 0.25 <= self.speed <= 4, "0.25 to 4"),
            ("max_sound_frames", self.max_sound_frames, self.max_sound_frames >= 1, "1 or more"),
            ("max_pause_frames", self.max_pause_frames, self.max_pause_frames >= 1, "1 or more"),
        )
        for name, value, fits, expected in wrong:
            if not (fits and math.isfinite(value)):
                raise UsageError(f"{name} {value:g} cannot be used; give {expected}")


def uniforms(seed: int) -> Iterator[float]:
    """Endless numbers in [0, 1) from a generator of their own, so that nothing else disturbs a seed."""
    generator = torch.Generator().manual_seed(seed % 2**63)
    while True:
        yield from torch.rand(256, generator=generator).tolist()


def draw(logits: Tensor, u: Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """A code () by its probability: logits (V,), u () in [0, 1)."""
    return draw_rows(logits[None], u.reshape(1), temperature, top_k, top_p)[0]


def draw_rows(
    logits: Tensor, numbers: Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> Tensor:
    """Codes (B,) by their probabilities, each row on its own: logits (B, V), numbers (B,) in [0, 1)."""
    if temperature == 0:
        return logits.argmax(dim=1)
    order, reached = _likeliest_first(logits, temperature, top_k)
    return _drawn(order, reached, numbers, top_p)


def draw_apart(
    logits: Tensor, recent: Tensor, numbers: Tensor, options: SamplingOptions
) -> tuple[Tensor, Tensor]:
    """A code (), and those before the next: logits (V,), numbers (2,) in [0, 1), recent (window,), -1 for none.

    One that repeats too much of what was before is drawn anew, from all codes (repetition-aware sampling).
    """
    code = draw_apart_rows(logits[None], recent[None], numbers[None], options)
    return code[0], remembered(recent, code, options)


def draw_apart_rows(logits: Tensor, recent: Tensor, numbers: Tensor, options: SamplingOptions) -> Tensor:
    """Codes (B,) as `draw_apart` has them, each row on its own: logits (B, V), recent (B, window), numbers (B, 2)."""
    o = options
    if not (o.repetition_window and o.temperature):
        return draw_rows(logits, numbers[:, 0], o.temperature, o.top_k, o.top_p)
    order, reached = _likeliest_first(logits, o.temperature, o.top_k)
    code = _drawn(order, reached, numbers[:, 0], o.top_p)
    if o.top_k:
        order, reached = _likeliest_first(logits, o.temperature)
    repeats = (recent == code[:, None]).sum(1) / o.repetition_window > o.repetition_threshold
    return torch.where(repeats, _drawn(order, reached, numbers[:, 1]), code)


def remembered(recent: Tensor, code: Tensor, options: SamplingOptions) -> Tensor:
    """The codes before the next one: recent (..., window), code (..., 1)."""
    if not (options.repetition_window and options.temperature):
        return recent
    return torch.cat([recent[..., 1:], code], dim=-1)


def as_drawn(options: SamplingOptions) -> SamplingOptions:
    """Options without what comes with an utterance: equal for those whose codes can be drawn together."""
    return replace(options, seed=0, text_guidance=1.0, voice_guidance=1.0)


def _likeliest_first(logits: Tensor, temperature: float, top_k: int = 0) -> tuple[Tensor, Tensor]:
    """Codes (B, k), and the probability up to each."""
    if 0 < top_k < logits.shape[1]:
        values, order = logits.topk(top_k, dim=1)
    else:
        values, order = logits.sort(dim=1, descending=True)
    return order, torch.softmax(values / temperature, dim=1).cumsum(1)


def _drawn(order: Tensor, reached: Tensor, numbers: Tensor, top_p: float = 1.0) -> Tensor:
    """The codes (B,) in which numbers (B,) of the probability fall."""
    if top_p < 1:
        # The nucleus ends with the code that reaches top_p.
        limit = torch.full_like(reached[:, :1], top_p)
        last = torch.searchsorted(reached, limit).clamp(max=reached.shape[1] - 1)
        mass = reached.gather(1, last)
    else:
        last, mass = reached.shape[1] - 1, reached[:, -1:]
    place = torch.searchsorted(reached, numbers[:, None].to(reached) * mass, right=True)
    place = place.clamp(max=last) if isinstance(last, int) else place.minimum(last)
    return order.gather(1, place)[:, 0]


def no_codes(options: SamplingOptions, device: torch.device) -> Tensor:
    """What is before the first code, for `draw_apart`."""
    return torch.full((max(options.repetition_window, 1),), -1, device=device)


def guide(logits: Tensor, weights: Tensor) -> Tensor:
    """Logits (R, V) of the conditional row and of rows that hide something, to one row (V,).

    weights: (R - 1,), guidance less one: conditional + sum of weight * (conditional - hiding).
    """
    if logits.shape[0] == 1:
        return logits[0]
    return logits[0] + weights @ (logits[:1] - logits[1:])
