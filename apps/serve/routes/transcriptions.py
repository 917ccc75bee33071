"""`POST /v1/audio/transcriptions` and `/v1/audio/translations`: a recording to its text."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from pydantic import ValidationError

from ....asr.diarization.label import Labeller, Turns
from ....asr.model.features import SAMPLE_RATE
from ....asr.model.languages import LANGUAGES
from ....asr.transcribe import TranscribeOptions
from ....asr.transcript import Segment, Transcript
from ....asr.vad import VadOptions, speech_spans
from ....asr.writers import render
from ....data.audio import Samples
from ..body import Upload, fields_of, read_form, upload_of
from ..diarized import Reference, check_known_speakers, known_speakers, references_of, segment_of, who_speaks
from ..engines.recognition import SharedWhisper
from ..house import House
from ..live import STREAM_HEADERS, Answer, Head, Live
from ..problems import InvalidError, envelope, problem_of
from ..schemas import TRANSCRIPTION_FORM, ServerVad, TranscriptionRequest
from .speech import event

router = APIRouter()
_RAW_RATE = 16_000  # of uploads of type audio/pcm


@router.post("/v1/audio/transcriptions", response_class=Live, openapi_extra=TRANSCRIPTION_FORM)
async def transcriptions(request: Request) -> Any:
    """What is said in a recording, in its language."""
    return await _live(request, "transcribe")


@router.post("/v1/audio/translations", response_class=Live, openapi_extra=TRANSCRIPTION_FORM)
async def translations(request: Request) -> Any:
    """What is said in a recording, in English."""
    return await _live(request, "translate")


async def _live(request: Request, task: str) -> Live:
    house: House = request.app.state.house
    client = request.scope["client_name"]
    house.admissions["transcription"].check(client)  # before the body is read
    with contextlib.ExitStack() as files:
        async with house.admissions["upload"].slot(client):
            form = await read_form(request, files)
        try:
            body = TranscriptionRequest(**fields_of(form))
        except ValidationError as error:
            raise invalid(error.errors()[0]) from None
        check_known_speakers(body, task)
        upload = upload_of(form, "file", house.options.limits)
        references = references_of(body, files)
        # It may wait, and many beside it: what is long of it waits on the disk.
        body = body.model_copy(update={"known_speaker_references": []})
        answer = _answer(house, body, task, upload, references, client)
        return Live(house, task, answer, files.pop_all())


async def _answer(
    house: House,
    body: TranscriptionRequest,
    task: str,
    upload: Upload,
    references: Sequence[Reference],
    client: str,
) -> Answer:
    name = house.recognition.resolve(body.model, task, body.language, body.languages)
    async with house.admitted("transcription", client), house.recognition.pool.use(name) as recogniser:
        options = _options(recogniser, body, task)
        raw = _RAW_RATE if upload.kind == "audio/pcm" else None
        with await house.decoders.store(upload.file, SAMPLE_RATE, raw) as samples:
            upload.file.close()  # the disk has it no longer than it must
            house.metrics.transcribed.inc(len(samples) / SAMPLE_RATE)
            if (vad := _vad(body)) is not None:
                options = await speech_only(samples, options, vad)
            turns = None
            if body.response_format == "diarized_json":
                known = await known_speakers(house.decoders, references)
                turns = await who_speaks(samples, known)
            if body.stream:
                async for part in _events(recogniser, samples, options, bool(body.include), turns):
                    yield part
                return
            transcript = await recogniser.transcribe(samples, options)
        transcript = transcript if turns is None else turns.label(transcript)
    media_type, text = rendered(transcript, body, task)
    yield Head(media_type, whole=True)
    yield text.encode()


def _options(recogniser: SharedWhisper, body: TranscriptionRequest, task: str) -> TranscribeOptions:
    """Raises UsageError for what the model cannot do."""
    # OpenAI: at 0 "the model will use log probability to automatically increase the temperature".
    given: dict[str, Any] = {} if body.temperature == 0 else {"temperature": body.temperature}
    return recogniser.transcriber.options(
        task=task,
        language=body.language or None,
        languages=tuple(body.languages),
        initial_prompt=body.prompt or None,
        hotwords=", ".join([body.hotwords or "", *body.keywords]).strip(", ") or None,
        beam_size=body.beam_size if body.temperature == 0 else 5,
        # Probabilities of tokens come with the times of words.
        word_timestamps=bool(body.include)
        or body.response_format == "diarized_json"
        or ("word" in body.timestamp_granularities and body.response_format == "verbose_json"),
        **given,
    )


def _vad(body: TranscriptionRequest) -> VadOptions | None:
    """Which silences are left out; None for none."""
    strategy = body.chunking_strategy
    if isinstance(strategy, ServerVad):
        return VadOptions(
            threshold=strategy.threshold,
            min_silence=strategy.silence_duration_ms / 1000,
            pad=strategy.prefix_padding_ms / 1000,
        )
    return VadOptions(min_silence=2.0) if body.vad_filter or strategy else None


async def speech_only(samples: Samples, options: TranscribeOptions, vad: VadOptions) -> TranscribeOptions:
    """The options with the stretches in which somebody speaks."""
    spans = await asyncio.to_thread(speech_spans, samples, vad)
    times = [time for span in spans for time in (span.start, span.end)]
    return replace(options, clip_timestamps=tuple(times) or (0.0, 0.0))


async def _events(
    recogniser: SharedWhisper,
    samples: Samples,
    options: TranscribeOptions,
    with_logprobs: bool,
    turns: Turns | None,
) -> Answer:
    labeller = turns and Labeller(turns)
    n, duration = 0, round(len(samples) / SAMPLE_RATE, 3)

    def also(segments: Sequence[Segment]) -> dict[str, Any]:
        return {"logprobs": _logprobs(segments)} if with_logprobs else {}

    yield Head("text/event-stream", STREAM_HEADERS)
    try:
        said = ""
        async for item in recogniser.stream(samples, options):
            if isinstance(item, Segment):
                for part in labeller.parts(item) if labeller else [item]:
                    # All deltas together are the text that the last event has.
                    delta = part.text if said else part.text.lstrip()
                    said += delta
                    content = {"type": "transcript.text.delta", "delta": delta, **also([part])}
                    if labeller is None:
                        yield event(content)
                        continue
                    n += 1
                    whole = segment_of(part, n, duration)
                    yield event({**content, "segment_id": whole["id"]})
                    yield event(whole)
            else:
                done = {"type": "transcript.text.done", "text": said, "usage": _usage(item)}
                yield event({**done, **also(item.segments)})
    except Exception as error:
        yield event(envelope(problem_of(error)))


def rendered(transcript: Transcript, body: TranscriptionRequest, task: str) -> tuple[str, str]:
    """Media type and text of a format. Whisper's last timestamp may lie after the end of the recording: it is moved."""
    end = round(transcript.duration, 3)
    segments = tuple(
        replace(segment, start=min(segment.start, end), end=min(segment.end, end))
        for segment in transcript.segments
    )
    transcript = replace(transcript, segments=segments)
    text = transcript.text.strip()
    kind = body.response_format
    if kind == "text":
        return "text/plain; charset=utf-8", text + "\n"
    if kind in ("srt", "vtt"):
        shown = replace(
            transcript, segments=tuple(segment for segment in transcript.segments if segment.text.strip())
        )
        media_type = "text/vtt" if kind == "vtt" else "application/x-subrip"
        return f"{media_type}; charset=utf-8", render(shown, kind)
    if kind == "diarized_json":
        shown = [segment for segment in transcript.segments if segment.text.strip()]
        segments = [segment_of(segment, number, end) for number, segment in enumerate(shown, 1)]
        answer = {"task": task, "duration": end, "text": text, "segments": segments}
        return "application/json", _json({**answer, "usage": _usage(transcript)})
    answer: dict[str, Any] = {"text": text, "usage": _usage(transcript)}
    if body.include:
        answer["logprobs"] = _logprobs(transcript.segments)
    if kind == "verbose_json":
        answer = {**_verbose(transcript, body, task), **answer}
    return "application/json", _json(answer)


def _json(answer: dict[str, Any]) -> str:
    return json.dumps(answer, ensure_ascii=False, allow_nan=False)


def _verbose(transcript: Transcript, body: TranscriptionRequest, task: str) -> dict[str, Any]:
    language = "english" if task == "translate" else LANGUAGES.get(transcript.language, transcript.language)
    answer: dict[str, Any] = {"task": task, "language": language, "duration": round(transcript.duration, 3)}
    if "segment" in body.timestamp_granularities:
        answer["segments"] = [_segment(segment) for segment in transcript.segments]
    if "word" in body.timestamp_granularities:
        answer["words"] = [
            {"word": word.word.strip(), "start": word.start, "end": word.end}
            for segment in transcript.segments
            for word in segment.words or ()
        ]
    return answer


def _logprobs(segments: Sequence[Segment]) -> list[dict[str, Any]]:
    return [
        {
            "token": token.text.decode("utf-8", "replace"),
            "bytes": list(token.text),
            "logprob": token.logprob,
        }
        for segment in segments
        for word in segment.words or ()
        for token in word.tokens
    ]


def _segment(segment: Segment) -> dict[str, Any]:
    fields = {name: value for name, value in segment.to_dict().items() if name != "words"}
    # A window that was not decoded has no numbers, and JSON has no NaN.
    return {
        name: 0.0 if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in fields.items()
    }


def _usage(transcript: Transcript) -> dict[str, Any]:
    return {"type": "duration", "seconds": math.ceil(transcript.duration)}


def invalid(error: Any) -> InvalidError:
    """One of pydantic's errors as ours."""
    where = [str(part) for part in error["loc"] if part not in ("body", "query", "path")]
    message = str(error["msg"])
    return InvalidError(
        f"{'.'.join(where) or 'the request'}: {message[:1].lower()}{message[1:]}",
        param=where[0] if where else None,
    )
