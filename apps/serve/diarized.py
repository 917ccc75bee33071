"""Who speaks, for `/v1/audio/transcriptions`: references of known speakers, turns, and OpenAI's segments of them."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from ...asr.diarization.known import KnownSpeaker, know
from ...asr.diarization.label import Turns
from ...asr.diarization.options import check_names
from ...asr.diarization.turns import find_turns
from ...asr.model.features import SAMPLE_RATE
from ...asr.transcript import Segment
from ...data.audio import Samples
from ...errors import InputError
from .audio.decoding import Decoders
from .body import Upload
from .problems import InvalidError
from .schemas import TranscriptionRequest

NAMES, REFERENCES = "known_speaker_names", "known_speaker_references"
_LONGEST = 60.0  # seconds that are decoded of a reference, to say how long it is
_RAW_RATE = 16_000  # of references of type audio/pcm, as of uploads
_IN_MEMORY = 1 << 16  # bytes of a reference that waits; longer ones do so on the disk


@dataclass(frozen=True)
class Reference:
    """A known speaker and a recording of theirs, not read yet."""

    name: str
    upload: Upload


def check_known_speakers(body: TranscriptionRequest, task: str) -> None:
    """Raises InvalidError for what cannot be, UsageError for names that cannot be shown."""
    diarized = body.response_format == "diarized_json"
    if diarized and task != "transcribe":
        raise InvalidError(
            "translations do not tell who speaks; ask /v1/audio/transcriptions for diarized_json",
            param="response_format",
        )
    names, references = body.known_speaker_names, body.known_speaker_references
    if (names or references) and not diarized:
        raise InvalidError(
            f"known speakers go with response_format diarized_json, not {body.response_format}", param=NAMES
        )
    if len(names) != len(references):
        raise InvalidError(
            f"{NAMES} has {len(names)} entries and {REFERENCES} {len(references)}; give a reference for each name",
            param=REFERENCES,
        )
    check_names(names)


def references_of(body: TranscriptionRequest, files: contextlib.ExitStack) -> list[Reference]:
    """What the data URLs hold, in files that `files` closes. Raises InvalidError for what is no data URL."""
    found = []
    for name, url in zip(body.known_speaker_names, body.known_speaker_references, strict=True):
        kind, data = _data_of(name, url)
        file = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115
        files.callback(file.close)
        file.write(data)
        found.append(Reference(name, Upload(cast(BinaryIO, file), kind)))
    return found


async def known_speakers(decoders: Decoders, references: Sequence[Reference]) -> list[KnownSpeaker]:
    """Raises InvalidError for a reference that is no audio, or not of 2 to 10 s of speech."""
    known = []
    for reference in references:
        name, upload = reference.name, reference.upload
        raw = _RAW_RATE if upload.kind == "audio/pcm" else None
        try:
            audio = await decoders.decode(upload.file, SAMPLE_RATE, raw, _LONGEST)
        except InputError as error:
            about = f"the reference of {name}: {error}"
            raise InvalidError(about, param=REFERENCES, code="invalid_audio") from None
        try:
            known.append(await asyncio.to_thread(know, name, audio.samples[0]))
        except InputError as error:
            raise InvalidError(str(error), param=REFERENCES, code="invalid_audio") from None
    return known


def _data_of(name: str, reference: str) -> tuple[str, bytes]:
    """Media type and content of a data URL. Nothing is ever fetched."""
    head, comma, content = reference.partition(",")
    if not (comma and head.startswith("data:") and head.endswith(";base64")):
        raise InvalidError(
            f"the reference of {name} is no data URL; give data:audio/wav;base64,... and the file",
            param=REFERENCES,
        )
    try:
        data = base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidError(f"the reference of {name} is not valid base64", param=REFERENCES) from None
    return head.removeprefix("data:").partition(";")[0], data


class _GoneError(Exception):
    """Nobody waits for it."""


async def who_speaks(samples: Samples, known: Sequence[KnownSpeaker]) -> Turns:
    """samples (N,) at 16 kHz. Cancelled, the work ends at its next block of windows."""
    gone = threading.Event()

    def proceed() -> None:
        if gone.is_set():
            raise _GoneError

    try:
        return await asyncio.to_thread(find_turns, samples, None, known, proceed)
    finally:
        gone.set()


def segment_of(segment: Segment, number: int, duration: float) -> dict[str, Any]:
    """OpenAI's segment, the number from 1. Whisper's last timestamp may lie after the end: it is moved."""
    return {
        "type": "transcript.text.segment",
        "id": f"seg_{number:03}",
        "start": min(segment.start, duration),
        "end": min(segment.end, duration),
        "text": segment.text,
        # Where no voice was found although there are words, there is one speaker.
        "speaker": segment.speaker or "A",
    }
