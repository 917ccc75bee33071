"""A recording of any length to text with times: the sequential algorithm of openai-whisper (Radford et al. 2022,
section 3.8), one window of 30 s after the other, each beginning where the text of the one before ended.

The algorithm of one recording is a generator that asks for what the model has to do and is sent the answer; `_run`
answers for several recordings at once.

    recording 1 --> generator --.                          .--> encode, decode with fallback
    recording 2 --> generator --+--> requests of a round --+--> align words
    recording 3 --> generator --'                          '--> tell the language
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.audio import Samples
from ..errors import InputError, UsageError
from .decoding.fallback import FallbackOptions, decode_with_fallback
from .decoding.language_id import detect_language, likeliest
from .decoding.options import DecodingOptions
from .decoding.prompts import Context, tokenizer_of
from .hallucination import skip_silence
from .model.features import FRAMES_PER_SECOND, N_FRAMES, N_SAMPLES, LogMel, log_mel, pad_or_trim
from .model.languages import find_language
from .model.tokenizer import Tokenizer
from .model.whisper import Whisper
from .options import TranscribeOptions, clip_times
from .timing import WordTiming, add_word_timestamps, find_alignment
from .transcript import OnProgress, OnSegment, Segment, Transcript, Word, last_word_end
from .windows import Window, cut_into_segments

__all__ = ["Segment", "TranscribeOptions", "Transcript", "Word", "transcribe", "transcribe_many"]


def transcribe(
    model: Whisper,
    audio: Tensor | Samples,
    options: TranscribeOptions | None = None,
    on_segment: OnSegment | None = None,
    on_progress: OnProgress | None = None,
) -> Transcript:
    """audio (N,) at 16 kHz -> its transcript. What is no array is read slice by slice, in constant memory.

    on_segment: called with every segment that has text, when its window is done.   on_progress: called after every
    window with the seconds done and the seconds in all.
    Raises InputError for audio of another shape or with NaN, UsageError for options that cannot be used.
    """
    options = options or TranscribeOptions()
    options.check()
    job = sequential(model, audio, options, on_segment, on_progress)
    del audio  # so that the generator can let it go
    return next(_run(model, iter([job]), options.fallback, 1))


def transcribe_many(
    model: Whisper,
    audios: Iterable[Tensor | np.ndarray],
    options: TranscribeOptions | None = None,
    batch_size: int = 8,
) -> Iterator[Transcript]:
    """The transcripts of several recordings, in their order; `transcribe` of each, `batch_size` at a time side by side.

    audios are taken one by one, as the ones before them are done.
    """
    options = options or TranscribeOptions()
    options.check()
    if batch_size < 1:
        raise UsageError(f"batch_size is {batch_size}; give at least 1")
    jobs = (sequential(model, audio, options) for audio in audios)
    return _run(model, jobs, options.fallback, batch_size)


def clips_of(timestamps: str | Sequence[float], content_frames: int) -> list[tuple[int, int]]:
    """The stretches to be transcribed, in mel frames, from "start,end,start,end,..." in seconds; what lies after the
    recording's end is left out. Raises UsageError."""
    points = [
        min(round(time * FRAMES_PER_SECOND), content_frames) for time in clip_times(timestamps) or [0.0]
    ]
    if len(points) % 2:
        points.append(content_frames)
    return list(zip(points[::2], points[1::2], strict=True))


# What the algorithm asks for, and is sent:


@dataclass(frozen=True)
class _Detect:
    """The language spoken in mel (M, 3000), one of `among` (none: any): its code and the features."""

    mel: Tensor
    among: tuple[str, ...]


@dataclass(frozen=True)
class _Decode:
    """What mel (M, 3000) says: the features (1, 1500, D), if they are not known, and a DecodingResult."""

    mel: Tensor
    features: Tensor | None
    options: DecodingOptions


@dataclass(frozen=True)
class _Align:
    """The times of the words of a text: a list of WordTiming."""

    features: Tensor
    tokenizer: Tokenizer
    text: list[int]
    n_frames: int


_Request = _Detect | _Decode | _Align
_Job = Generator[_Request, Any, Transcript]


def sequential(
    model: Whisper,
    audio: Tensor | Samples,
    options: TranscribeOptions,
    on_segment: OnSegment | None = None,
    on_progress: OnProgress | None = None,
) -> _Job:
    """The transcript of one recording. Of one that is not in memory no more than a few windows are."""
    mel = _mel(audio, model.dims.n_mels)
    del audio  # 230 MB an hour
    content_frames = mel.n_frames - N_FRAMES
    clips = clips_of(options.clip_timestamps, content_frames)

    language = "en" if options.language is None else find_language(options.language)
    first_features = None
    if options.language is None and model.dims.is_multilingual:
        language, first_features = yield _Detect(mel.window(0, N_FRAMES), options.languages)
    tokenizer = (
        tokenizer_of(model, language, options.task) if model.dims.is_multilingual else tokenizer_of(model)
    )
    decoding = options.decoding(language=language)

    hotwords = None if options.prefix else options.hotwords
    context = Context(
        tokenizer, model.dims.n_text_ctx, options.initial_prompt, options.carry_initial_prompt, hotwords
    )
    prefix = options.prefix
    segments: list[Segment] = []
    last_speech = 0.0
    for clip_start, clip_end in clips:
        seek = clip_start
        while seek < clip_end:
            window = Window(seek, min(N_FRAMES, clip_end - seek))
            # The mel of 30 s from the start is what told the language.
            known = first_features if seek == 0 and window.size == N_FRAMES else None
            features, result = yield _Decode(
                pad_or_trim(mel.window(seek, seek + window.size)),
                known,
                replace(decoding, prompt=context.prompt(), prefix=prefix, seed=options.seed + seek),
            )
            prefix = None
            if options.fallback.is_silence(result):
                seek += window.size
                _tell(on_progress, seek, clip_end, content_frames)
                continue

            cut = cut_into_segments(window, result, tokenizer)
            found, seek = cut.segments, cut.seek
            if options.word_timestamps:
                text = [token for segment in found for token in segment.tokens if token < tokenizer.eot]
                timings = yield _Align(features, tokenizer, text, window.size)
                found = add_word_timestamps(
                    found,
                    timings,
                    tokenizer,
                    last_speech=last_speech,
                    prepend_punctuations=options.prepend_punctuations,
                    append_punctuations=options.append_punctuations,
                )
                end = last_word_end(found)
                if not cut.ended and end is not None and end > window.start:
                    seek = round(end * FRAMES_PER_SECOND)
                if options.hallucination_silence_threshold is not None:
                    guarded = skip_silence(
                        found,
                        window,
                        seek,
                        threshold=options.hallucination_silence_threshold,
                        ended=cut.ended,
                        last_speech=last_speech,
                        content_frames=content_frames,
                    )
                    found, seek = guarded.segments, guarded.seek
                    if guarded.skipped:
                        seek = max(seek, window.seek + 1)
                        continue
                end = last_word_end(found)
                if end is not None:
                    last_speech = end
            seek = seek if seek > window.seek else window.seek + window.size  # or it would never end

            for segment in found:
                segment = replace(_emptied(segment), id=len(segments))
                segments.append(segment)
                context.add(segment.tokens)
                if on_segment is not None and segment.text:
                    on_segment(segment)
            if (
                not options.condition_on_previous_text
                or result.temperature > options.prompt_reset_on_temperature
            ):
                context.reset()
            _tell(on_progress, seek, clip_end, content_frames)
    return Transcript(
        tokenizer.decode(context.said), tuple(segments), language, content_frames / FRAMES_PER_SECOND
    )


@dataclass(frozen=True)
class _WholeMel:
    """(M, T), with what `LogMel` has."""

    mel: Tensor

    @property
    def n_frames(self) -> int:
        return self.mel.shape[1]

    def window(self, start: int, stop: int) -> Tensor:
        return self.mel[:, start:stop]


def _mel(audio: Tensor | Samples, n_mels: int) -> _WholeMel | LogMel:
    """Of samples in memory the mel is made once, and takes half of their place."""
    if isinstance(audio, Tensor | np.ndarray):
        return _WholeMel(log_mel(checked_audio(audio), n_mels, padding=N_SAMPLES))
    return LogMel(audio, n_mels, padding=N_SAMPLES)


def _emptied(segment: Segment) -> Segment:
    """The segment, without its content if it has no length or no text."""
    if segment.start == segment.end or not segment.text.strip():
        return replace(segment, text="", tokens=(), words=())
    return segment


def _tell(on_progress: OnProgress | None, seek: int, clip_end: int, content_frames: int) -> None:
    if on_progress is not None:
        on_progress(min(seek, clip_end) / FRAMES_PER_SECOND, content_frames / FRAMES_PER_SECOND)


def checked_audio(audio: Tensor | np.ndarray) -> Tensor:
    samples = torch.as_tensor(audio)
    if samples.ndim != 1:
        raise InputError(f"samples of shape {tuple(samples.shape)}; expected (N,), mono at 16 kHz")
    if not samples.is_floating_point():
        raise InputError(f"samples are {samples.dtype}; expected floating point within -1 to 1")
    # Not isfinite: its copies of an hour would take 400 MB.
    if samples.numel() and not bool(torch.isfinite(torch.stack(torch.aminmax(samples))).all()):
        raise InputError("the samples hold NaN or infinity; repair the recording")
    return samples.float()


@torch.inference_mode()
def _run(
    model: Whisper, jobs: Iterator[_Job], fallback: FallbackOptions, batch_size: int
) -> Iterator[Transcript]:
    """The results of the jobs in their order, at most `batch_size` of them under way."""
    done: dict[int, Transcript] = {}
    waiting: dict[int, tuple[_Job, _Request]] = {}
    n_started = n_given = 0

    def advance(index: int, job: _Job, answer: Any) -> None:
        try:
            waiting[index] = (job, job.send(answer))
        except StopIteration as stop:
            waiting.pop(index, None)
            done[index] = stop.value

    exhausted = False
    while True:
        while not exhausted and len(waiting) < batch_size:
            job = next(jobs, None)
            if job is None:
                exhausted = True
                break
            advance(n_started, job, None)
            n_started += 1
        while n_given in done:
            yield done.pop(n_given)
            n_given += 1
        if not waiting:
            if exhausted:
                return
            continue
        indices = list(waiting)
        answers = answered(model, [waiting[i][1] for i in indices], fallback)
        for i, answer in zip(indices, answers, strict=True):
            advance(i, waiting[i][0], answer)


def answered(model: Whisper, requests: list[_Request], fallback: FallbackOptions) -> list[Any]:
    """The answers to requests, those of a kind together."""
    answers: dict[int, Any] = {}
    detect = {i: request for i, request in enumerate(requests) if isinstance(request, _Detect)}
    if detect:
        features = model.encode(torch.stack([request.mel for request in detect.values()]))
        for at, (i, (_, found)) in enumerate(zip(detect, detect_language(model, features), strict=True)):
            answers[i] = (likeliest(found, detect[i].among), features[at : at + 1])
    decode = {i: request for i, request in enumerate(requests) if isinstance(request, _Decode)}
    if decode:
        features = _encode(model, list(decode.values()))
        results = decode_with_fallback(model, features, [r.options for r in decode.values()], fallback)
        for at, (i, result) in enumerate(zip(decode, results, strict=True)):
            answers[i] = (features[at : at + 1], result)
    align = {i: request for i, request in enumerate(requests) if isinstance(request, _Align)}
    if align:
        timings = _align(model, list(align.values()))
        answers.update(zip(align, timings, strict=True))
    return [answers[i] for i in range(len(requests))]


def _encode(model: Whisper, requests: list[_Decode]) -> Tensor:
    """Features (B, 1500, D) of the windows, those that are known taken as they are."""
    new = [request.mel for request in requests if request.features is None]
    encoded = iter(model.encode(torch.stack(new)).split(1) if new else ())
    return torch.cat([next(encoded) if r.features is None else r.features for r in requests])


def _align(model: Whisper, requests: list[_Align]) -> list[list[WordTiming]]:
    features = torch.cat([request.features for request in requests])
    return find_alignment(
        model,
        [request.tokenizer for request in requests],
        [request.text for request in requests],
        features,
        [request.n_frames for request in requests],
    )
