"""How TorToise says a text: the published presets, and the options that start from them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from ...diffusion import (
    DDIM,
    Ancestral,
    DPMSolver2M,
    Guidance,
    SampleOptions,
    Uniform,
    even_log_snr,
    linear_schedule,
)
from ...errors import UsageError, did_you_mean
from .generate import CodeOptions

SamplerName = Literal["ddpm", "ddim", "dpm++2m"]
SAMPLERS: tuple[SamplerName, ...] = ("ddpm", "ddim", "dpm++2m")
N_TRAINING_STEPS = 4000
MAX_CANDIDATES = 1024


@dataclass(frozen=True)
class TortoisePreset:
    """How much work goes into a sentence."""

    description: str
    candidates: int  # drawn, the one that says the text best kept
    steps: int  # of the diffusion
    guided: bool  # the diffusion is asked a second time without the condition
    decoder: Literal["diffusion", "hifigan"] = "diffusion"


PRESETS = {
    "ultra_fast": TortoisePreset("16 candidates, 30 steps of diffusion, no guidance", 16, 30, False),
    "fast": TortoisePreset("96 candidates, 80 steps", 96, 80, True),
    "standard": TortoisePreset("256 candidates, 200 steps", 256, 200, True),
    "high_quality": TortoisePreset("256 candidates, 400 steps", 256, 400, True),
    "streaming": TortoisePreset(
        "one candidate, sound while it is made, no diffusion", 1, 0, False, "hifigan"
    ),
}


@dataclass(frozen=True)
class TortoiseOptions:
    """How to say a text. None: what the preset says. The defaults are TorToise's."""

    preset: str = "fast"  # a key of PRESETS
    seed: int = 0  # the same seed, text, voice and networks give the same audio
    candidates: int | None = None  # drawn for every sentence
    steps: int | None = None  # of the diffusion
    sampler: SamplerName = "ddpm"  # "ddpm" as published; "ddim" and "dpm++2m" need a third of the steps
    guidance: float | None = None  # of the diffusion, 0: none, and half the work
    temperature: float = 0.8  # of the codes
    top_k: int = 50
    top_p: float = 0.8
    repetition_penalty: float = 2.0
    max_codes: int = 500  # of a sentence: 23 seconds
    noise_temperature: float = 1.0  # of the noise that the diffusion begins with
    batch: int = 16  # candidates that are drawn side by side
    speed: float = 1.0  # of the speech, at the same pitch
    language: str = field(default="en-us", init=False)  # TorToise knows no other

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            near = did_you_mean(self.preset, PRESETS)
            raise UsageError(
                f"TorToise has no preset {self.preset!r}: {near}choose one of {', '.join(PRESETS)}"
            )
        if self.sampler not in SAMPLERS:
            near = did_you_mean(self.sampler, SAMPLERS)
            raise UsageError(f"no sampler named {self.sampler!r}: {near}choose one of {', '.join(SAMPLERS)}")
        _check("seed", self.seed, 0, 2**63 - 1)
        _check("candidates", self.candidates, 1, MAX_CANDIDATES)
        _check("steps", self.steps, 2, N_TRAINING_STEPS)
        _check("guidance", self.guidance, 0, 10)
        _check("max-codes", self.max_codes, 10, 604)
        _check("noise temperature", self.noise_temperature, 0, 2)
        _check("batch", self.batch, 1, MAX_CANDIDATES)
        _check("speed", self.speed, 0.5, 2)
        if self.streams and (self.candidates or 1) > 1:
            raise UsageError(
                "the preset streaming says what comes first and cannot choose among candidates; "
                "leave --candidates out, or take another preset"
            )
        _ = self.codes  # refused now rather than after the networks are loaded

    @property
    def streams(self) -> bool:
        return PRESETS[self.preset].decoder == "hifigan"

    @property
    def n_candidates(self) -> int:
        return self.candidates or PRESETS[self.preset].candidates

    @property
    def codes(self) -> CodeOptions:
        return CodeOptions(self.temperature, self.top_k, self.top_p, self.repetition_penalty, self.max_codes)

    @property
    def diffusion(self) -> SampleOptions:
        """For `diffusion.sample`."""
        preset = PRESETS[self.preset]
        weight = (2.0 if preset.guided else 0.0) if self.guidance is None else self.guidance
        steps = self.steps or preset.steps or 30
        path = linear_schedule(N_TRAINING_STEPS, 2.5e-5, 0.005)
        solver = self.sampler == "dpm++2m"
        return SampleOptions(
            sampler={"ddpm": Ancestral, "ddim": DDIM, "dpm++2m": DPMSolver2M}[self.sampler](steps),
            path=path,
            parametrisation="epsilon",
            grid=even_log_snr(path, steps) if solver else Uniform(),
            guidance=Guidance(weight, ramp=True) if weight else None,
            temperature=self.noise_temperature,
            clamp=1.0,
        )


def _check(name: str, value: float | None, low: float, high: float) -> None:
    if value is not None and not (math.isfinite(value) and low <= value <= high):
        raise UsageError(f"{name} {value:g} is out of range; give {low:g} to {high:g}")
