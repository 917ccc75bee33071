"""The options of a transcription: openai-whisper's by their names, each declared once.

A field says what the library does with it and, in its metadata, how the command line shows it; `apps/option_fields.py`
makes the parameters of `myna transcribe` of both. Nothing heavy is imported: `--help` reads this file.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from .decoding.options import TEMPERATURES, DecodingOptions

if TYPE_CHECKING:
    from .decoding.fallback import FallbackOptions

PREPEND_PUNCTUATIONS = "\"'“¿([{-"
APPEND_PUNCTUATIONS = "\"'.。,，!！?？:：”)]}、"

WORDS, DECODING, PROMPTS = "Words and subtitles", "Decoding", "Prompts"  # headings of the help text
SILENCE = "Silence and long recordings"


def option(default: Any, help: str, panel: str | None = None, **cli: Any) -> Any:
    """A field that is an option of the command line too.

    help, panel: its line, and the heading above it.   cli: `names` with a short one, `metavar`, and where the command
    line takes it in another form `type`, `cli_default` and `parse`.
    """
    return field(default=default, metadata={"help": help, "panel": panel, **cli})


def optional_number(name: str, text: str) -> float | None:
    """A number, or None for "none": a threshold that is not to be looked at. Raises UsageError."""
    if text.lower() == "none":
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"--{name} {text} is not a number; give one, or none")
    return number


def token_ids(name: str, text: str) -> tuple[int, ...]:
    """ "-1,50256" to token ids; "" to none. Raises UsageError."""
    try:
        return tuple(int(token) for token in text.split(",") if token.strip())
    except ValueError:
        raise UsageError(f"--{name} {text}: expected token ids and commas, such as -1,50256") from None


def language_names(name: str, text: str) -> tuple[str, ...]:
    """ "de, French" to codes; "" to none. Raises UsageError."""
    from .model.languages import find_language

    return tuple(find_language(part.strip()) for part in text.split(",") if part.strip())


def threshold(default: float, help: str) -> Any:
    """A number that can be switched off."""
    return option(
        default,
        help,
        DECODING,
        type=str,
        cli_default=str(default),
        metavar="FLOAT|none",
        parse=optional_number,
    )


@dataclass(frozen=True)
class TranscribeOptions:
    """openai-whisper's options, by its names and with the defaults of its command line, and a few more."""

    # "de" or "German"; None: told from the first 30 s
    language: str | None = option(None, "de, German, ...  [default: it is heard]", names=("--language", "-l"))
    # where it is told: among these; none: among all
    languages: tuple[str, ...] = option(
        (), "Hear one of these: de,fr,...", type=str, cli_default=None, parse=language_names
    )
    task: str = option("transcribe", "transcribe, or translate: into English.")
    word_timestamps: bool = option(False, "When each word is said.", WORDS, names=("--word-timestamps", "-w"))
    prepend_punctuations: str = option(
        PREPEND_PUNCTUATIONS, "Marks that belong to the next word.", WORDS, cli_default=None
    )
    append_punctuations: str = option(
        APPEND_PUNCTUATIONS, "Marks that belong to the word before.", WORDS, cli_default=None
    )
    # several are tried in turn, where a window fails
    temperature: float | tuple[float, ...] = option(
        TEMPERATURES, "0: the most probable text.", DECODING, type=float, cli_default=0.0
    )
    # beams, at temperature 0; None: greedy
    beam_size: int | None = option(
        5,
        "Beams at temperature 0; 1 is greedy and fastest.  [default: 5; --live: 1]",
        DECODING,
        cli_default=None,
    )
    best_of: int | None = option(5, "Texts to choose from above 0.", DECODING, type=int)
    patience: float | None = option(None, "Of beam search.  [default: 1]", DECODING)  # see DecodingOptions
    length_penalty: float | None = option(
        None, "Of beam search, 0 to 1.  [default: mean by length]", DECODING
    )
    suppress_tokens: str | Sequence[int] | None = option(
        "-1", "Token ids never said; -1: signs that are not spoken.", DECODING, type=str, parse=token_ids
    )
    # see FallbackOptions, also for the next ones
    compression_ratio_threshold: float | None = threshold(2.4, "A text that repeats more looks wrong.")
    logprob_threshold: float | None = threshold(-1.0, "A text less probable looks wrong.")
    no_speech_threshold: float | None = threshold(0.6, "From here an improbable text is silence.")
    # previous text of the first window, as text or tokens
    initial_prompt: str | Sequence[int] | None = option(
        None, "A text as if said before: names, style.", PROMPTS, type=str
    )
    carry_initial_prompt: bool = option(False, "Before every window.", PROMPTS)
    # how the text of the first window begins; hotwords do not go with it
    prefix: str | Sequence[int] | None = option(
        None, "The text the recording begins with.", PROMPTS, type=str
    )
    # before the previous text of every window
    hotwords: str | None = option(None, "Words to listen for, all along.", PROMPTS)
    condition_on_previous_text: bool = option(True, "Each window knows the text of the last.", PROMPTS)
    # the last end may be left out
    clip_timestamps: str | Sequence[float] = option(
        "0", "Only start,end,start,end,... in seconds.", SILENCE, type=str
    )
    hallucination_silence_threshold: float | None = option(
        None, "With word times: skip silence of so many seconds around unlikely text.", SILENCE
    )
    # in Python only
    sample_len: int | None = None
    suppress_blank: bool = True
    without_timestamps: bool = False
    max_initial_timestamp: float | None = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    seed: int = 0
    prompt_reset_on_temperature: float = 0.5  # above: what was said so far is shown no more

    @property
    def temperatures(self) -> tuple[float, ...]:
        given = self.temperature
        return tuple(given) if isinstance(given, Iterable) else (float(given),)

    @property
    def fallback(self) -> FallbackOptions:
        from .decoding.fallback import FallbackOptions

        return FallbackOptions(
            self.temperatures,
            self.compression_ratio_threshold,
            self.logprob_threshold,
            self.no_speech_threshold,
        )

    def decoding(self, **changes: Any) -> DecodingOptions:
        """The options of a window; prompt, prefix, language and seed are given by the caller."""
        options = DecodingOptions(**{name: getattr(self, name) for name in _OF_A_WINDOW})
        return replace(options, **changes)

    def check(self) -> None:
        """Raises UsageError for a value out of range, or options that cannot be used together."""
        if self.task not in ("transcribe", "translate"):
            raise UsageError(f"task is {self.task!r}; choose transcribe or translate")
        self.fallback.check()
        if self.patience is not None and self.beam_size is None:
            raise UsageError("patience is given without beam_size; give both")
        for temperature in self.temperatures:
            above = isinstance(temperature, int | float) and temperature > 0
            without = {"beam_size": None, "patience": None} if above else {"best_of": None}
            self.decoding(temperature=temperature, **without).check()
        if self.hallucination_silence_threshold is not None and not self.word_timestamps:
            raise UsageError("hallucination_silence_threshold is given without word_timestamps; give both")
        if self.carry_initial_prompt and self.initial_prompt is None:
            raise UsageError("carry_initial_prompt is given without initial_prompt; give both")
        clip_times(self.clip_timestamps)


_OF_A_WINDOW = (
    "task",
    "best_of",
    "beam_size",
    "patience",
    "length_penalty",
    "sample_len",
    "suppress_tokens",
    "suppress_blank",
    "without_timestamps",
    "max_initial_timestamp",
    "repetition_penalty",
    "no_repeat_ngram_size",
)


def clip_times(timestamps: str | Sequence[float]) -> list[float]:
    """Seconds of "start,end,start,end,...", in order. Raises UsageError."""
    try:
        given = timestamps.split(",") if isinstance(timestamps, str) else timestamps
        times = [float(time) for time in given if time != ""]
    except (TypeError, ValueError):
        times = [math.nan]
    in_order = all(earlier <= later for earlier, later in itertools.pairwise(times))
    if not in_order or not all(0 <= time < math.inf for time in times):
        raise UsageError(
            f"clip_timestamps is {timestamps!r}; give seconds as start,end,start,end, each after the one before"
        )
    return times
