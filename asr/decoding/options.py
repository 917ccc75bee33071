"""How a window of 30 s is decoded: openai-whisper's options by their names, and two of CTranslate2's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...errors import UsageError

TASKS = ("transcribe", "translate", "lang_id")
TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # tried in turn, where a window fails


@dataclass(frozen=True)
class DecodingOptions:
    """How one window becomes text. `check` refuses what cannot be used together."""

    task: str = (
        "transcribe"  # to text in the language spoken; "translate": to English; "lang_id": the language only
    )
    language: str | None = None  # "de" or "German"; None: detected
    temperature: float = 0.0  # 0: the likeliest token, or beams; above: sampled
    sample_len: int | None = None  # tokens at most; None: half of the context
    best_of: int | None = None  # samples of which the likeliest is taken, at a temperature above 0
    beam_size: int | None = None  # beams, at temperature 0
    patience: float | None = (
        None  # as many finished beams are awaited as beam_size * patience (arXiv:2204.05424)
    )
    length_penalty: float | None = (
        None  # exponent of Google's length norm, 0 to 1; None: by the length itself
    )
    prompt: str | Sequence[int] | None = None  # what was said before, text or tokens
    prefix: str | Sequence[int] | None = None  # how the text of this window begins; not in the result
    suppress_tokens: str | Sequence[int] | None = "-1"  # ids, or "1,2"; -1: the symbols that nobody speaks
    suppress_blank: bool = True  # neither a space nor the end first
    without_timestamps: bool = False
    max_initial_timestamp: float | None = 1.0  # seconds; the first timestamp is not later
    repetition_penalty: float = (
        1.0  # above 1: the logits of text tokens that were sampled already are lowered
    )
    no_repeat_ngram_size: int = 0  # above 0: no sequence of so many tokens is sampled twice in a window
    seed: int = 0  # of the sampling, at a temperature above 0

    @property
    def n_group(self) -> int:
        """Sequences that are decoded side by side."""
        return self.beam_size or self.best_of or 1

    def check(self) -> None:
        """Raises UsageError for a value out of range, or options that cannot be used together."""
        if self.task not in TASKS:
            raise UsageError(f"task is {self.task!r}; choose {', '.join(TASKS)}")
        for name in ("best_of", "beam_size", "sample_len"):
            value = getattr(self, name)
            if value is not None and (value < 1 or value != int(value)):
                raise UsageError(f"{name} is {value}; give a whole number of at least 1, or leave it out")
        if not 0 <= self.temperature < float("inf"):
            raise UsageError(f"temperature is {self.temperature}; give 0, or a number above it (0.2 to 1)")
        if self.beam_size is not None and self.best_of is not None:
            raise UsageError(
                "beam_size and best_of are both given; beams are for temperature 0, samples for above"
            )
        if self.best_of is not None and self.temperature == 0:
            raise UsageError(
                "best_of is given at temperature 0, where all samples are equal; raise the temperature"
            )
        if self.beam_size is not None and self.temperature > 0:
            raise UsageError("beam_size is given at a temperature above 0; set it to 0, or give best_of")
        if self.patience is not None:
            if self.beam_size is None:
                raise UsageError("patience is given without beam_size; give both")
            if not self.patience > 0 or round(self.beam_size * self.patience) < 1:
                raise UsageError(
                    f"patience is {self.patience}; beam_size * patience must come to at least one beam"
                )
        if self.length_penalty is not None and not 0 <= self.length_penalty <= 1:
            raise UsageError(f"length_penalty is {self.length_penalty}; give a number from 0 to 1")
        if self.max_initial_timestamp is not None and not self.max_initial_timestamp >= 0:
            raise UsageError(
                f"max_initial_timestamp is {self.max_initial_timestamp}; give seconds, 0 or more"
            )
        if not self.repetition_penalty > 0:
            raise UsageError(
                f"repetition_penalty is {self.repetition_penalty}; 1 is none, give a number above 0"
            )
        if self.no_repeat_ngram_size < 0:
            raise UsageError(
                f"no_repeat_ngram_size is {self.no_repeat_ngram_size}; 0 is none, give 1 or more"
            )
