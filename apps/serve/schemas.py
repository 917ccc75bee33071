"""The bodies of requests: OpenAI's fields by their names, and ours after them. Fields that nobody knows are left alone,
since clients send what one server or another understands."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator


def _voice_name(voice: Any) -> Any:
    """A name, or a voice object {"id": name}."""
    return voice.get("id") if isinstance(voice, dict) else voice


class SpeechRequest(BaseModel):
    """`POST /v1/audio/speech`."""

    model_config = ConfigDict(extra="ignore")

    model: str = Field(
        "myna", description="myna, any of OpenAI's speech models, which stand for it, or tortoise."
    )
    input: str = Field(description="What to say.")
    voice: Annotated[str, BeforeValidator(_voice_name)] = Field(
        "alloy", description="A name of /v1/audio/voices, one of OpenAI's voices, or a voice object."
    )
    instructions: str | None = Field(
        None, max_length=4096, description="Taken and not followed: no model has an input for it."
    )
    response_format: str = Field("mp3", description="mp3, opus, aac, flac, wav or pcm.")
    speed: float = Field(1.0, description="0.25 to 4 (tortoise: 0.5 to 2), at the same pitch.")
    stream_format: Literal["audio", "sse"] = "audio"

    seed: int = Field(0, description="The same seed, text and voice give the same audio.")
    preset: str = Field(
        "standard",
        description="fast, standard, or best; tortoise: ultra_fast (without a preset), fast, standard, high_quality, "
        "or streaming.",
    )
    decoder: str | None = Field(None, description="What makes the sound: flow, or nar. Not with tortoise.")
    language: str = Field("en-us", description="As espeak-ng names it. Not with tortoise.")
    temperature: float | None = Field(None, description="Variety, 0 to 2.")
    timestamp_granularities: list[Literal["word"]] = Field(
        [],
        description="With stream_format sse: when each word is said, as speech.audio.words events. Not with tortoise.",
    )


class ServerVad(BaseModel):
    """Where a recording is cut: between stretches of speech."""

    type: Literal["server_vad"]
    threshold: float = Field(0.5, gt=0, lt=1)
    prefix_padding_ms: int = Field(300, ge=0, le=10_000)
    silence_duration_ms: int = Field(200, ge=0, le=60_000)


def _strategy(given: Any) -> Any:
    """Clients send it as "auto", as JSON, or field by field."""
    return json.loads(given) if isinstance(given, str) and given.startswith("{") else given


class TranscriptionRequest(BaseModel):
    """`POST /v1/audio/transcriptions` and `/translations`, without the file."""

    model_config = ConfigDict(extra="ignore")

    model: str = "whisper-1"
    language: str | None = Field(None, max_length=64)
    prompt: str | None = None
    response_format: Literal["json", "text", "srt", "verbose_json", "vtt", "diarized_json"] = "json"
    temperature: float = Field(0.0, ge=0, le=1)
    timestamp_granularities: list[Literal["word", "segment"]] = ["segment"]
    stream: bool = False
    languages: list[Annotated[str, Field(max_length=64)]] = Field(
        [], max_length=100, description="Where no language is given: it is one of these."
    )
    include: list[Literal["logprobs"]] = Field([], description="Of every token, in the format json.")
    chunking_strategy: Annotated[
        Literal["auto"] | ServerVad | None,
        BeforeValidator(_strategy),
        WithJsonSchema({"anyOf": [{"const": "auto"}, ServerVad.model_json_schema()]}),
    ] = Field(None, description="Leave silence out first: auto, or by which silences.")
    keywords: list[Annotated[str, Field(max_length=200)]] = Field(
        [], max_length=100, description="As hotwords, one by one."
    )
    known_speaker_names: list[str] = Field(
        [], max_length=4, description="Of people who speak, with diarized_json; the others are A, B, ..."
    )
    known_speaker_references: list[str] = Field(
        [],
        max_length=4,
        description="Of each name a data URL of a recording, 2 to 10 s of this person alone.",
    )

    beam_size: int | None = Field(5, ge=1, le=16, description="Beams at temperature 0.")
    hotwords: str | None = Field(None, max_length=4096, description="Words to expect.")
    vad_filter: bool = Field(False, description="Leave silence out first.")

    @model_validator(mode="after")
    def _only_json_has_logprobs(self) -> TranscriptionRequest:
        if self.include and self.response_format != "json":
            raise ValueError(
                f"include asks for logprobs, which {self.response_format} has no place for; use response_format json"
            )
        return self


# For the description of the interface: FastAPI does not see a form that is read by hand.
TRANSCRIPTION_FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    **TranscriptionRequest.model_json_schema(),
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        **TranscriptionRequest.model_json_schema()["properties"],
                    },
                    "required": ["file"],
                }
            }
        },
    }
}
VOICE_FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "name": {"type": "string"},
                        "audio_sample": {"type": "string", "format": "binary"},
                        "consent": {"type": "string", "description": "That the speaker agrees, in words."},
                        "text": {"type": "string", "description": "What is said in the recording."},
                        "replace": {"type": "boolean"},
                    },
                    "required": ["name", "audio_sample", "consent"],
                }
            }
        },
    }
}
