"""`/v1/audio/voices`: the voices there are, and those that users add with the speaker's consent."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

from fastapi import APIRouter, Request

from ..body import Upload, fields_of, read_form, upload_of
from ..house import SPEECH_MODELS, House
from ..live import Answer, Head, Live
from ..problems import InvalidError
from ..schemas import VOICE_FORM
from ..voices import MAX_SECONDS, MYNA, OPENAI, VoiceEntry, models_of

router = APIRouter()
_TRUE = ("true", "1", "yes", "on")


@router.get("/v1/audio/voices")
async def voices(request: Request, legacy: bool = False, model: str | None = None) -> Any:
    """All voices, or those that a model can say. legacy: their names alone, of Myna's own models unless told."""
    house: House = request.app.state.house
    entries = await house.voice_entries()
    if model is None and legacy:
        model = MYNA
    if model is not None:
        engine = MYNA if model in SPEECH_MODELS else model
        entries = [entry for entry in entries if engine in entry.models]
    listed = [entry.name for entry in entries] if legacy else [_described(entry) for entry in entries]
    return {"object": "list", "voices": listed, "openai": list(OPENAI)}


@router.post("/v1/audio/voices", response_class=Live, openapi_extra=VOICE_FORM)
async def add_voice(request: Request) -> Any:
    """A voice from a recording of 1 to 30 s. Its speaker has to agree: `consent` says so in words, and is kept."""
    house: House = request.app.state.house
    client = request.scope["client_name"]
    house.admissions["speech"].check(client)
    with contextlib.ExitStack() as files:
        async with house.admissions["upload"].slot(client):
            form = await read_form(request, files)
        fields = fields_of(form)
        for name in ("name", "consent"):
            if not str(fields.get(name, "")).strip():
                raise InvalidError(
                    f"{name} is missing; a voice needs a name, a recording and its speaker's consent",
                    param=name,
                )
        part = "audio_sample" if "audio_sample" in form else "file"
        upload = upload_of(form, part, house.options.limits)
        text = str(fields["text"]) if fields.get("text") else None
        given = str(fields["name"]), str(fields["consent"]), text
        replace = str(fields.get("replace", "")).lower() in _TRUE
        return Live(house, "voices", _answer(house, upload, *given, replace, client), files.pop_all())


async def _answer(
    house: House, upload: Upload, name: str, consent: str, text: str | None, replace: bool, client: str
) -> Answer:
    library = await house.voices()
    async with house.admitted("speech", client):
        audio = await house.decoders.decode(upload.file, seconds=10 * MAX_SECONDS)
        adding = asyncio.ensure_future(asyncio.to_thread(library.add, audio, name, consent, text, replace))
        try:
            voice = await asyncio.shield(adding)
        except asyncio.CancelledError:  # a thread cannot be: its slot is free when it has ended
            await asyncio.wait([adding])
            raise
    models = models_of(True, house.tortoise.is_installed)
    entry = VoiceEntry(voice.name, house.started, False, voice.consent, "recording", models)
    answer = {**_described(entry), "seconds": voice.seconds, "notes": list(voice.notes)}
    yield Head("application/json", whole=True)
    yield json.dumps(answer, ensure_ascii=False).encode()


@router.delete("/v1/audio/voices/{name}")
async def remove_voice(request: Request, name: str) -> Any:
    """Forget a voice."""
    house: House = request.app.state.house
    library = await house.voices()
    await asyncio.to_thread(library.remove, name)
    return {"id": name, "object": "audio.voice.deleted", "deleted": True}


def _described(entry: VoiceEntry) -> dict[str, Any]:
    return {
        "id": entry.name,
        "object": "audio.voice",
        "name": entry.name,
        "created_at": entry.created,
        "owned_by": "myna" if entry.ours else "user",
        "consent": entry.consent,
        "models": list(entry.models),
    }
