"""`myna.transcribe` and `myna.Transcriber`: a recording to its words, in a call.

Shapes: C channels, N samples at 16 kHz.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from ..data.audio import Audio, AudioReader
from ..data.checkpoint import place
from ..data.resample import Resampler, resample
from ..errors import InputError, MissingModelError, UsageError
from ..kernels.precision import check_precision, choose
from .diarization.label import Turns, told_apart
from .diarization.turns import find_turns
from .model.features import FRAMES_PER_SECOND, HOP_LENGTH, SAMPLE_RATE
from .model.inference import for_inference
from .model.languages import find_language
from .model.registry import find_weights, load_whisper
from .model.whisper import Whisper
from .transcribe import TranscribeOptions, clips_of, transcribe_many
from .transcribe import transcribe as transcribe_samples
from .transcript import OnProgress, OnSegment, Transcript
from .vad import VadOptions, speech_spans

WhoSpeaks = Callable[[np.ndarray], Turns]  # of samples (N,) at 16 kHz
Source = str | Path | BinaryIO | Audio | np.ndarray | torch.Tensor

_LARGE = 1 << 30  # bytes of float32 weights from which "auto" prefers int8: those of `medium`, not of `small`
_SILENCE = 2.0  # seconds that are left out with `vad`
_BEST_FIRST = (
    "turbo",
    "large-v3",
    "large-v2",
    "large-v1",
    *(f"{size}{english}" for size in ("medium", "small", "base", "tiny") for english in ("", ".en")),
)


class Transcriber:
    """A Whisper model, loaded once, for any number of recordings.

    model: a name (tiny.en, ..., turbo), a checkpoint's path, or a model that is loaded and not prepared; None for the
        best that is on this machine.
    device: where it runs.
    precision: float32, bf16 or int8 (linear layers, on CPUs), or auto: float32, the original's own numbers, while the
        weights take less than 1 GB, int8 for larger models on a CPU.
    Raises MissingModelError, UsageError.

    >>> transcriber = myna.Transcriber("small.en")
    >>> transcriber.transcribe("talk.wav", word_timestamps=True).segments[0].words
    """

    def __init__(
        self,
        model: str | Path | Whisper | None = None,
        device: str | torch.device = "cpu",
        precision: str = "auto",
    ):
        check_precision(precision, device)
        if isinstance(model, Whisper):
            loaded = place(model, device)
        else:
            loaded = load_whisper(default_model() if model is None else model, device)
        size = 4 * sum(parameter.numel() for parameter in loaded.parameters())
        work = "large whisper" if size >= _LARGE else "whisper"
        self.precision, self.name = choose(precision, work, loaded.device), loaded.name
        self.model = for_inference(loaded, self.precision)

    def options(self, given: TranscribeOptions | None = None, **changes: Any) -> TranscribeOptions:
        """Options that this model can follow, languages by their codes. changes: single fields of TranscribeOptions.

        Raises UsageError for what it cannot do: another language or a translation with an English-only model.
        """
        known = {field.name for field in fields(TranscribeOptions)}
        if unknown := sorted(set(changes) - known):
            raise UsageError(f"no option {', '.join(unknown)}; there are {', '.join(sorted(known))}")
        options = replace(given or TranscribeOptions(), **changes)
        options.check()
        if options.language is not None:
            options = replace(options, language=find_language(options.language))
        if options.languages:
            options = replace(options, languages=tuple(map(find_language, options.languages)))
        check_english_only(self.name, self.model.dims.is_multilingual, options)
        return options

    def transcribe(
        self,
        source: Source,
        options: TranscribeOptions | None = None,
        *,
        batch_size: int = 0,
        vad: bool = False,
        diarize: bool | WhoSpeaks = False,
        on_segment: OnSegment | None = None,
        on_progress: OnProgress | None = None,
        **changes: Any,
    ) -> Transcript:
        """One recording, as `load_samples` takes it, of any length.

        batch_size: 0 for the original's sequential algorithm; otherwise stretches of speech are found first, and so
        many are decoded together, independently of each other.
        diarize: words and segments have their speakers, and words their times. Who speaks when is found before anything
        is transcribed, by `find_turns` or by what is given instead: a `partial` of it with other options.
        on_segment: called with every segment as soon as it is settled. on_progress: with the seconds done and in all.
        changes: single fields of TranscribeOptions.
        Raises InputError, UsageError.

        >>> transcriber.transcribe("talk.wav", diarize=partial(find_turns, options=DiarizeOptions(speakers=2)))
        """
        options = self.options(options, **changes)
        held = [load_samples(source)]  # popped, so that an hour of samples goes when its features are there
        turns = None
        if diarize:
            turns = find_turns(held[0]) if diarize is True else diarize(held[0])
            options = replace(options, word_timestamps=True)
            on_segment = None if on_segment is None else told_apart(turns, on_segment)
        if batch_size:
            from .batched import transcribe_batched

            transcript = transcribe_batched(
                self.model, held.pop(), options, batch_size, on_segment, on_progress
            )
        else:
            if vad:
                options = replace(options, clip_timestamps=_speech_in(held[0], options))
            transcript = transcribe_samples(self.model, held.pop(), options, on_segment, on_progress)
        return transcript if turns is None else turns.label(transcript)

    def transcribe_many(
        self,
        sources: Iterable[Source],
        options: TranscribeOptions | None = None,
        *,
        batch_size: int = 8,
        **changes: Any,
    ) -> Iterator[Transcript]:
        """Several recordings, each by the sequential algorithm, so many side by side; in their order."""
        options = self.options(options, **changes)
        return transcribe_many(self.model, map(load_samples, sources), options, batch_size)


def transcribe(
    source: Source,
    model: str | Path | Whisper | Transcriber | None = None,
    *,
    device: str | torch.device = "cpu",
    precision: str = "auto",
    batch_size: int = 0,
    vad: bool = False,
    diarize: bool | WhoSpeaks = False,
    on_segment: OnSegment | None = None,
    **options: Any,
) -> Transcript:
    """What is said in a recording: text, segments with times, language.

    source: a path, an open file, an `Audio`, or samples (N,) at 16 kHz.   model, device, precision: as in
    `Transcriber`, which loads them once for many recordings.   batch_size, vad, diarize, on_segment: as in its
    `transcribe`.
    options: fields of TranscribeOptions: language, task, beam_size, word_timestamps, initial_prompt, ...
    Raises InputError, MissingModelError, UsageError.

    >>> transcript = transcribe("talk.wav", "small.en", word_timestamps=True)
    >>> transcript.text, transcript.segments[0].words[0].start
    """
    own = model if isinstance(model, Transcriber) else Transcriber(model, device, precision)
    return own.transcribe(
        source, batch_size=batch_size, vad=vad, diarize=diarize, on_segment=on_segment, **options
    )


def load_samples(source: Source) -> np.ndarray:
    """A recording as mono samples (N,) float32 at 16 kHz, channels averaged.

    source: a path, "-" for standard input, an open file, an `Audio`, or samples (N,) or (C, N) that are at 16 kHz.
    Raises InputError for what is no audio, has no samples, or holds NaN or infinity.
    """
    if isinstance(source, torch.Tensor):
        source = source.detach().cpu().numpy()
    if isinstance(source, np.ndarray):
        source = Audio(source, SAMPLE_RATE)
    if isinstance(source, Audio):
        return _in_memory(source)
    with AudioReader(source) as reader:
        resampler = Resampler(reader.info.sample_rate, SAMPLE_RATE, 1)
        blocks = [resampler.push(block.mean(axis=0, keepdims=True))[0] for block in reader.blocks()]
        blocks.append(resampler.flush()[0])
    samples = np.empty(sum(map(len, blocks)), np.float32)
    at = len(samples)
    while blocks:  # each is let go when it is copied: an hour is never there twice
        block = blocks.pop()
        at -= len(block)
        samples[at : at + len(block)] = block
    return samples


def default_model(
    language: str | None = None, task: str = "transcribe", languages: Sequence[str] = ()
) -> str:
    """The name of the best Whisper that is on this machine and knows the language and the task.

    languages: one of which it is, where `language` is None; one that knows English alone is taken for English and
    others where there is no better. Raises MissingModelError if there is none, UsageError for an unknown language.
    """
    wanted = set(map(find_language, languages if language is None else (language,)))
    for name in _BEST_FIRST:
        english = name.endswith(".en") and (wanted - {"en"} or task != "transcribe")
        untrained = name == "turbo" and task == "translate"
        if not english and not untrained and find_weights(name) is not None:
            return name
    if "en" in wanted and len(wanted) > 1:
        return default_model("en", task)
    raise MissingModelError(
        "no Whisper that can do this is on this machine; get one with `myna models download small` (or tiny, base, "
        "medium, turbo), or give its file or folder"
    )


def check_english_only(name: str, multilingual: bool, options: TranscribeOptions) -> None:
    """Raises UsageError if a model that knows only English is asked for more."""
    if multilingual:
        return
    if options.task != "transcribe":
        raise UsageError(f"{name} knows English only and cannot {options.task}; {_remedy(name)}")
    if options.language not in (None, "en"):
        raise UsageError(
            f"{name} knows English only; {_remedy(name)}, or leave the language {options.language} out"
        )
    if options.language is None and options.languages and "en" not in options.languages:
        raise UsageError(f"{name} knows English only; {_remedy(name)}, or leave the languages out")


def _remedy(name: str) -> str:
    return (
        f"use {name.removesuffix('.en')}"
        if name.endswith(".en")
        else "use a multilingual model, such as small"
    )


def _speech_in(samples: np.ndarray, options: TranscribeOptions) -> tuple[float, ...]:
    """clip_timestamps of the speech within those that are asked for."""
    spans = speech_spans(samples, VadOptions(min_silence=_SILENCE))
    clips = clips_of(options.clip_timestamps, len(samples) // HOP_LENGTH)
    found: list[float] = []
    for clip_start, clip_end in (
        (start / FRAMES_PER_SECOND, end / FRAMES_PER_SECOND) for start, end in clips
    ):
        for span in spans:
            start, end = max(span.start, clip_start), min(span.end, clip_end)
            if start < end:
                found += [start, end]
    return tuple(found) or (0.0, 0.0)  # nothing would be everything


def _in_memory(audio: Audio) -> np.ndarray:
    samples = np.asarray(audio.samples)
    if samples.ndim not in (1, 2):
        raise InputError(f"samples of shape {samples.shape}; expected (N,) or (channels, N)")
    if samples.dtype.kind != "f":
        raise InputError(f"samples are {samples.dtype}; expected floating point within -1 to 1")
    mono = (samples if samples.ndim == 1 else samples.mean(axis=0)).astype(np.float32, copy=False)
    if not len(mono):
        raise InputError("there are no samples; expected a recording of at least one")
    if not np.isfinite(mono).all():
        raise InputError("the samples hold NaN or infinity; repair the recording")
    if audio.sample_rate == SAMPLE_RATE:
        return mono
    return resample(mono[None], audio.sample_rate, SAMPLE_RATE)[0]
