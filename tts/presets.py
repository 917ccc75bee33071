"""The options of synthesis and its three presets."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ..errors import UsageError
from .finish.tempo import FASTEST, SLOWEST
from .lm.sampling import SamplingOptions
from .registry import after_tokens, decoder_name


@dataclass(frozen=True)
class Preset:
    """How much work goes into a sentence.

    n_candidates: times it is said, the best kept (`tts.rerank`).   redraws: times more while words are missing.
    """

    description: str
    n_candidates: int
    sampling: SamplingOptions
    redraws: int = 2


# Chosen by WER and speaker similarity of unseen voices (docs/log.md). Stronger voice guidance does not raise speaker
# similarity and increases WER on noisy prompts.
# speed: durations at the median of the hazard are some 8 % shorter than those of the recordings.
_GUIDED = SamplingOptions(temperature=0.8, text_guidance=2.5, voice_guidance=1.3, speed=0.9)
PRESETS: dict[str, Preset] = {
    "standard": Preset("sound streams while it is made", 1, _GUIDED),
    "fast": Preset(
        "without guidance: a little less work, more wrong words",
        1,
        replace(_GUIDED, text_guidance=2.0, voice_guidance=1.0),
    ),
    "best": Preset("every sentence said four times, the best kept", 4, _GUIDED),
}

# The same for the token AR of the flow path, where the decoder sets the voice. Guidance by words of strangers.
_TOKENS = SamplingOptions(temperature=0.8, top_p=0.9, text_guidance=2.5, speed=0.95)
TOKEN_PRESETS: dict[str, Preset] = {
    "standard": replace(PRESETS["standard"], sampling=_TOKENS),
    "fast": replace(PRESETS["fast"], sampling=replace(_TOKENS, text_guidance=1.0)),
    "best": replace(PRESETS["best"], sampling=_TOKENS),
}


def presets_of(ar_part: str) -> dict[str, Preset]:
    """Those of an AR, by the name of its part (`Valle.ar_part`)."""
    return TOKEN_PRESETS if ar_part == "token-ar" else PRESETS


@dataclass(frozen=True)
class SpeechOptions:
    """How to say a text. None: what the preset says."""

    preset: str = "standard"  # a key of PRESETS
    seed: int = 0  # the same seed, text, voice and models give the same audio
    language: str = "en-us"  # as espeak-ng names it; the shipped weights know English
    candidates: int | None = None  # times every sentence is said, the best kept
    # Times more that a sentence is said in which words are missing. A single try is heard while it is made where this
    # is None (0 then, the preset's number otherwise), and once it is whole and judged where it is not.
    redraws: int | None = None
    patience: float = 60.0  # seconds of work on a sentence after which no further try at it begins
    temperature: float | None = None  # of the sampled codes: 0 takes the likeliest, 1 samples as trained
    top_k: int | None = None  # sample among the k likeliest codes only; 0: all
    top_p: float | None = None  # and among the likeliest that make up this probability
    cfg_text: float | None = (
        None  # classifier-free guidance: above 1 presses the text, 1 does not (and is faster)
    )
    cfg_voice: float | None = None  # the same for the voice
    speed: float = 1.0  # of the speech, at the same pitch
    decoder: str | None = (
        None  # what makes sound of the AR's latents, of `registry.DECODERS`; None: the preferred
    )

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise UsageError(f"no preset named {self.preset!r}: choose one of {', '.join(PRESETS)}")
        if self.decoder is not None:  # by one name, whichever was given
            object.__setattr__(self, "decoder", decoder_name(self.decoder))
        if not 0 <= self.seed < 1 << 63:
            raise UsageError(f"seed {self.seed} is out of range; give a whole number from 0 to 2^63 - 1")
        if self.candidates is not None and not 1 <= self.candidates <= 64:
            raise UsageError(f"candidates {self.candidates} is out of range; give 1 to 64")
        if self.redraws is not None and not 0 <= self.redraws <= 16:
            raise UsageError(f"redraws {self.redraws} is out of range; give 0 to 16")
        _check("patience", self.patience, 0, 3600)
        _check("temperature", self.temperature, 0, 2)
        _check("top-k", self.top_k, 0, 1 << 20)
        _check("top-p", self.top_p, 0.01, 1)
        _check("cfg-text", self.cfg_text, 0, 10)
        _check("cfg-voice", self.cfg_voice, 0, 10)
        _check("speed", self.speed, SLOWEST, FASTEST)

    def resolved(self) -> Preset:
        """The preset with everything that these options set themselves."""
        tokens = after_tokens(self.decoder)
        preset = (TOKEN_PRESETS if tokens else PRESETS)[self.preset]
        own = {
            "temperature": self.temperature,
            "top_k": self.top_k,
            "top_p": self.top_p,
            "text_guidance": self.cfg_text,
            "voice_guidance": self.cfg_voice,
        }
        sampling = replace(preset.sampling, **{name: v for name, v in own.items() if v is not None})
        n_candidates = self.candidates or preset.n_candidates
        redraws = (preset.redraws if n_candidates > 1 else 0) if self.redraws is None else self.redraws
        return replace(preset, n_candidates=n_candidates, redraws=redraws, sampling=sampling)

    def held(self) -> SpeechOptions:
        """The same where nobody hears a sentence while it is made: it can be said again."""
        if self.redraws is not None:
            return self
        tokens = after_tokens(self.decoder)
        return replace(self, redraws=(TOKEN_PRESETS if tokens else PRESETS)[self.preset].redraws)


def _check(name: str, value: float | None, low: float, high: float) -> None:
    if value is not None and not (math.isfinite(value) and low <= value <= high):
        raise UsageError(f"{name} {value:g} is out of range; give {low:g} to {high:g}")
