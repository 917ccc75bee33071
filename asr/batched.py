"""A recording to text with several windows in a batch: many times as fast as one after the other where there are
cores, or a GPU, to be filled.

    recording -> [voice activity] -> windows of speech -> batches -> encode, decode with fallback -> segments
                                          ^                              |
                                          '---- what was left unsaid ----'

Silence never reaches the model, so that it cannot make up words for it. All thresholds and temperatures of the
sequential algorithm hold, window by window; a window whose text ends before its speech does is continued in a later
batch, beginning where the text ended. Times are those of the recording.

What differs from the sequential algorithm: a window does not know the text of the one before it (only a continued one
knows its own), so condition_on_previous_text counts for those alone. initial_prompt and prefix are for the first
window, with carry_initial_prompt the prompt is for all; hotwords are for all. Segments without text are left out.

Shapes: B windows, N samples at 16 kHz, M mels, A frames of the encoder, D width.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageError
from .decoding.decode import DecodingResult
from .decoding.fallback import decode_with_fallback
from .decoding.language_id import detect_language, likeliest
from .decoding.options import DecodingOptions
from .decoding.prompts import Context, tokenizer_of
from .hallucination import skip_silence
from .model.features import FRAMES_PER_SECOND, HOP_LENGTH, N_FRAMES, SAMPLE_RATE, log_mel, pad_or_trim
from .model.languages import find_language
from .model.tokenizer import SECONDS_PER_TIMESTAMP, Tokenizer
from .model.whisper import Whisper
from .speech_windows import SpeechWindow, pack
from .timing import WordTiming, add_word_timestamps, find_alignment
from .transcribe import TranscribeOptions, checked_audio, clips_of
from .transcript import OnProgress, OnSegment, Segment, Transcript, last_word_end
from .vad import Span, VadOptions, speech_probabilities
from .windows import Window, WindowSegments, cut_into_segments

SPEECH = VadOptions(min_silence=0.1, pad=0.4, max_length=30.0)

_MISSED = 1.0  # seconds of speech after the last word, from which on the window is continued
_SHORTEST = 0.5  # seconds of a window that its text covers at least, or it would be continued for ever
_LONG_PAUSE = 2.0  # seconds left out, over which no segment goes
_NEAR = 0.2  # seconds: a segment so near to speech may be it


@torch.inference_mode()
def transcribe_batched(
    model: Whisper,
    audio: Tensor | np.ndarray,
    options: TranscribeOptions | None = None,
    batch_size: int = 8,
    on_segment: OnSegment | None = None,
    on_progress: OnProgress | None = None,
    vad: VadOptions | None = None,
) -> Transcript:
    """audio (N,) at 16 kHz -> its transcript, `batch_size` windows at a time, see above.

    on_segment: called with every segment in their order.   on_progress: with the seconds done and the seconds in all.
    vad: what counts as speech.
    Raises InputError for audio of another shape or with NaN, UsageError for options that cannot be used,
    MissingModelError without silero-vad.
    """
    options = options or TranscribeOptions()
    options.check()
    if batch_size < 1:
        raise UsageError(f"batch_size is {batch_size}; give at least 1")
    samples = checked_audio(audio).cpu().numpy()
    seconds = len(samples) / SAMPLE_RATE
    clips = [
        Span(start / FRAMES_PER_SECOND, min(seconds, end / FRAMES_PER_SECOND))
        for start, end in clips_of(options.clip_timestamps, -(-len(samples) // HOP_LENGTH))
    ]
    windows = pack(speech_probabilities(samples), seconds, vad or SPEECH, clips)
    recording = _Recording(model, samples, options)
    parts = [_Part(window, is_first=i == 0) for i, window in enumerate(windows)]
    segments: list[Segment] = []
    while parts:
        batch = list(itertools.islice((part for part in parts if not part.done), batch_size))
        for part, rest in zip(batch, recording.decode(batch), strict=True):
            if rest is not None:
                parts.insert(parts.index(part) + 1, rest)
        while parts and parts[0].done:
            part = parts.pop(0)
            for segment in part.segments:
                segments.append(replace(segment, id=len(segments)))
                if on_segment is not None:
                    on_segment(segments[-1])
            if on_progress is not None:
                on_progress(part.window.end, seconds)
    if on_progress is not None:
        on_progress(seconds, seconds)
    text = "".join(segment.text for segment in segments)
    return Transcript(text, tuple(segments), recording.language or "en", seconds)


@dataclass(eq=False)
class _Part:
    """A window, or what is left of one, and what became of it. before: tokens said in the window before it."""

    window: SpeechWindow
    is_first: bool = False
    before: tuple[int, ...] = ()
    done: bool = False
    segments: list[Segment] = field(default_factory=list)


@dataclass(frozen=True)
class _DecodedPart:
    """What the model said in a part. cut: its segments, in times of the window.   end: seconds of the window after
    which nothing was said.   open: the text after that belongs to what follows."""

    result: DecodingResult
    cut: WindowSegments
    size: int  # mel frames
    end: float
    open: bool


class _Recording:
    """One recording with its model and options. language: None until it is told."""

    def __init__(self, model: Whisper, samples: np.ndarray, options: TranscribeOptions):
        self.model, self.samples, self.options = model, samples, options
        self.language = None if options.language is None else find_language(options.language)
        if not model.dims.is_multilingual and self.language is None:
            self.language = "en"
        self.last_speech = 0.0

    def decode(self, parts: Sequence[_Part]) -> list[_Part | None]:
        """The segments of the parts, and of each the part that has to follow, if any."""
        mels, sizes = zip(*(self._mel(part.window) for part in parts), strict=True)
        features = self.model.encode(torch.stack(mels))
        tokenizer = self._tokenizer(features)
        decoding = [self._decoding(part, tokenizer) for part in parts]
        results = decode_with_fallback(self.model, features, decoding, self.options.fallback)
        heard = [
            self._hear(part, result, size, tokenizer)
            for part, result, size in zip(parts, results, sizes, strict=True)
        ]
        timings = self._align(parts, heard, features, tokenizer)
        return [
            self._finish(part, said, words, tokenizer)
            for part, said, words in zip(parts, heard, timings, strict=True)
        ]

    def _mel(self, window: SpeechWindow) -> tuple[Tensor, int]:
        """(M, 3000), and how many of the frames are the window's."""
        mel = log_mel(window.samples(self.samples), self.model.dims.n_mels)
        return pad_or_trim(mel), min(mel.shape[1], N_FRAMES)

    def _tokenizer(self, features: Tensor) -> Tokenizer:
        """For the language of the recording: that of its first windows together, where it is not given."""
        if not self.model.dims.is_multilingual:
            return tokenizer_of(self.model)
        if self.language is None:
            found = [probabilities for _, probabilities in detect_language(self.model, features)]
            together = {code: sum(p[code] for p in found) for code in found[0]}
            self.language = likeliest(together, self.options.languages)
        return tokenizer_of(self.model, self.language, self.options.task)

    def _decoding(self, part: _Part, tokenizer: Tokenizer) -> DecodingOptions:
        options = self.options
        carry = options.carry_initial_prompt
        context = Context(
            tokenizer,
            self.model.dims.n_text_ctx,
            options.initial_prompt if part.is_first or carry else None,
            carry,
            None if options.prefix else options.hotwords,
        )
        context.add(part.before)
        return options.decoding(
            language=self.language,
            prompt=context.prompt(),
            prefix=options.prefix if part.is_first else None,
            seed=options.seed + round(part.window.start * FRAMES_PER_SECOND),
        )

    def _hear(self, part: _Part, result: DecodingResult, size: int, tokenizer: Tokenizer) -> _DecodedPart:
        if self.options.fallback.is_silence(result):
            return _DecodedPart(result, WindowSegments([], size, True), size, size / FRAMES_PER_SECOND, False)
        cut = cut_into_segments(Window(0, size), result, tokenizer)
        if cut.seek < size:
            return _DecodedPart(result, cut, size, cut.seek / FRAMES_PER_SECOND, True)
        return _DecodedPart(result, cut, size, cut.segments[-1].end if cut.ended else 0.0, False)

    def _align(
        self, parts: Sequence[_Part], heard: Sequence[_DecodedPart], features: Tensor, tokenizer: Tokenizer
    ) -> list[list[WordTiming] | None]:
        """The times of the words where they are needed: asked for; or to know where the text of a window ends, or to
        part a segment at a pause."""
        texts = [
            [token for segment in said.cut.segments for token in segment.tokens if token < tokenizer.eot]
            for said in heard
        ]
        rows = [
            i
            for i, (part, said) in enumerate(zip(parts, heard, strict=True))
            if self.options.word_timestamps
            or (not said.open and part.window.speech_after(said.end) > _MISSED)
            or any(_pauses_in(segment, part.window) for segment in said.cut.segments)
        ]
        timings: list[list[WordTiming] | None] = [None] * len(parts)
        if rows:
            sizes = [heard[i].size for i in rows]
            found = find_alignment(
                self.model, [tokenizer] * len(rows), [texts[i] for i in rows], features[rows], sizes
            )
            for i, words in zip(rows, found, strict=True):
                timings[i] = words
        return timings

    def _finish(
        self, part: _Part, heard: _DecodedPart, timings: list[WordTiming] | None, tokenizer: Tokenizer
    ) -> _Part | None:
        """Settles a part: its segments, in times of the recording; what is left of it is the part that is returned."""
        options, window = self.options, part.window
        found, end = heard.cut.segments, heard.end
        if timings is not None:
            found, timings = _parted(found, timings, window, tokenizer)
            if not heard.open:  # the times of words tell better than a timestamp where the text ends
                end = max(end, timings[-1].end if timings else 0.0)
        left = end if heard.open or window.speech_after(end) > _MISSED else None
        if options.word_timestamps:
            last_speech = self.last_speech - window.start
            found = add_word_timestamps(
                found,
                timings or [],
                tokenizer,
                last_speech=last_speech,
                prepend_punctuations=options.prepend_punctuations,
                append_punctuations=options.append_punctuations,
            )
            last = last_word_end(found)
            if heard.open and last:
                left = last
            if options.hallucination_silence_threshold is not None:
                seek = heard.size if left is None else round(left * FRAMES_PER_SECOND)
                guarded = skip_silence(
                    found,
                    Window(0, heard.size),
                    seek,
                    threshold=options.hallucination_silence_threshold,
                    ended=left is None,
                    last_speech=last_speech,
                    content_frames=heard.size,
                )
                found = guarded.segments
                left = guarded.seek / FRAMES_PER_SECOND if guarded.seek < heard.size else None
        if left is not None and not heard.open and found:
            found = [*found[:-1], replace(found[-1], end=min(found[-1].end, left))]
        part.done = True
        part.segments = [
            segment
            for segment in (_in_recording(segment, window) for segment in found)
            if segment.text.strip()
            and segment.end > segment.start
            and window.speech_between(segment.start - _NEAR, segment.end + _NEAR) > 0
        ]
        last = last_word_end(part.segments)
        self.last_speech = self.last_speech if last is None else last
        if left is None or left < _SHORTEST or not (rest := window.after(left)).speech:
            return None
        keep = options.condition_on_previous_text
        if heard.result.temperature > options.prompt_reset_on_temperature:
            keep = False
        said = [token for segment in found for token in segment.tokens] if keep else []
        return _Part(rest, before=(*part.before, *said) if keep else ())


def _pauses_in(segment: Segment, window: SpeechWindow) -> list[float]:
    """Times of the window, inside the segment, at which a long pause was left out."""
    return [at for at, gap in window.joins if gap > _LONG_PAUSE and segment.start < at < segment.end]


def _parted(
    segments: Sequence[Segment], timings: Sequence[WordTiming], window: SpeechWindow, tokenizer: Tokenizer
) -> tuple[list[Segment], list[WordTiming]]:
    """The segments, parted at long pauses; the words are those of the segments, in order."""
    made: list[Segment] = []
    left = list(timings)
    for segment in segments:
        words: list[WordTiming] = []
        n_tokens = sum(token < tokenizer.eot for token in segment.tokens)
        while left and n_tokens > 0:
            words.append(left.pop(0))
            n_tokens -= len(words[-1].tokens)
        made += _part(segment, words, _pauses_in(segment, window), tokenizer)
    return made, list(timings)


def _part(
    segment: Segment, words: Sequence[WordTiming], pauses: Sequence[float], tokenizer: Tokenizer
) -> list[Segment]:
    if not pauses or not words:
        return [segment]
    edges = [segment.start, *pauses, segment.end]
    sides: list[list[WordTiming]] = [[] for _ in edges[1:]]
    side = 0
    for word in words:
        if any(c.isalnum() for c in word.word):  # punctuation stays with the word before it
            side = max(side, sum((word.start + word.end) / 2 >= pause for pause in pauses))
        sides[side].append(word)
    made = []
    for start, end, inside in zip(edges, edges[1:], sides, strict=False):
        text = [token for word in inside for token in word.tokens]
        if text:
            first, last = (
                tokenizer.timestamp_begin + round(time / SECONDS_PER_TIMESTAMP) for time in (start, end)
            )
            said = replace(segment, start=start, end=end, tokens=(first, *text, last))
            made.append(replace(said, text=tokenizer.decode(text)))
    return made


def _in_recording(segment: Segment, window: SpeechWindow) -> Segment:
    """A segment with its times, and its words', of the recording."""
    words = segment.words and tuple(
        replace(
            word,
            start=round(window.to_recording(word.start), 2),
            end=round(window.to_recording(word.end, is_end=True), 2),
        )
        for word in segment.words
    )
    return replace(
        segment,
        seek=round(window.start * FRAMES_PER_SECOND),
        start=round(window.to_recording(segment.start), 3),
        end=round(min(window.to_recording(segment.end, is_end=True), window.end), 3),
        words=words,
    )
