"""Temperature fallback: failed windows are decoded again at a higher temperature (Radford et al. 2022, section 4.5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from ...errors import UsageError
from ..model.whisper import Whisper
from .decode import DecodingResult, decode
from .options import TEMPERATURES, DecodingOptions


@dataclass(frozen=True)
class FallbackOptions:
    """When a result is not good enough, and what is tried then. A threshold of None is not looked at."""

    temperatures: tuple[float, ...] = TEMPERATURES  # one after the other
    compression_ratio_threshold: float | None = 2.4  # above: the text repeats itself
    logprob_threshold: float | None = -1.0  # average log-probability; below: the model guessed
    no_speech_threshold: float | None = (
        0.6  # above, and the model guessed: silence, which no temperature helps
    )

    def check(self) -> None:
        """Raises UsageError."""
        if not self.temperatures:
            raise UsageError("no temperature is given; expected 0, or several to be tried in turn")

    def fails(self, result: DecodingResult) -> bool:
        """Whether the window is to be decoded again."""
        guessed = self.logprob_threshold is not None and result.avg_logprob < self.logprob_threshold
        silent = self.no_speech_threshold is not None and result.no_speech_prob > self.no_speech_threshold
        if guessed and silent:
            return False
        ratio = self.compression_ratio_threshold
        return guessed or (ratio is not None and result.compression_ratio > ratio)

    def is_silence(self, result: DecodingResult) -> bool:
        """Whether nobody speaks in the window: the model says so and was not sure of its text."""
        if self.no_speech_threshold is None or not result.no_speech_prob > self.no_speech_threshold:
            return False
        return self.logprob_threshold is None or not result.avg_logprob > self.logprob_threshold


def decode_with_fallback(
    model: Whisper,
    features: Tensor,
    options: DecodingOptions | Sequence[DecodingOptions],
    fallback: FallbackOptions | None = None,
) -> list[DecodingResult]:
    """features (B, 1500, D) -> B results: each of the first temperature that does not fail, or else of the last.

    options: their own temperature does not count; beam_size and patience are for temperature 0, best_of for those
    above. Only the windows that fail are decoded again.
    """
    fallback = fallback or FallbackOptions()
    fallback.check()
    each = [options] * len(features) if isinstance(options, DecodingOptions) else list(options)
    if len(each) != len(features):
        raise UsageError(
            f"{len(each)} options for {len(features)} windows; give one for all, or one for each"
        )
    results: list[DecodingResult] = []
    pending = list(range(len(features)))
    for temperature in fallback.temperatures:
        rows = features if len(pending) == len(features) else features[pending]
        again = decode(model, rows, [at_temperature(each[i], temperature) for i in pending])
        if not results:
            results = again
        else:
            for i, result in zip(pending, again, strict=True):
                results[i] = result
        pending = [i for i in pending if fallback.fails(results[i])]
        if not pending:
            break
    return results


def at_temperature(options: DecodingOptions, temperature: float) -> DecodingOptions:
    """The options at a temperature, without those that do not go with it."""
    if temperature > 0:
        return replace(options, temperature=float(temperature), beam_size=None, patience=None)
    return replace(options, temperature=0.0, best_of=None)
