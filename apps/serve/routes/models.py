"""`/v1/models`: what speaks and what transcribes here, by the names that requests may use."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request

from ..engines.recognition import OPENAI
from ..house import SPEECH_MODELS, House
from ..problems import NotFoundError
from ..voices import MYNA

router = APIRouter()


@router.get("/v1/models")
async def models(request: Request) -> Any:
    """All of them."""
    return {"object": "list", "data": await _all(request)}


@router.get("/v1/audio/models")
async def audio_models(request: Request) -> Any:
    """The same as Open WebUI asks for it."""
    return {"models": await _all(request)}


@router.get("/v1/models/{name:path}")
async def model(request: Request, name: str) -> Any:
    """One of them."""
    for entry in await _all(request):
        if entry["id"] == name:
            return entry
    raise NotFoundError(
        f"no model named {name[:64]!r}; /v1/models lists them", param="model", code="model_not_found"
    )


async def _all(request: Request) -> list[dict[str, Any]]:
    house: House = request.app.state.house
    installed = await asyncio.to_thread(house.recognition.installed)
    loaded = house.recognition.pool.loaded
    entries = await house.voice_entries()
    tortoise = house.tortoise
    loaded_speech: dict[str, bool] = dict.fromkeys(SPEECH_MODELS, house.problem is None)
    if tortoise.is_installed:
        loaded_speech[tortoise.name] = tortoise.name in tortoise.pool.loaded
    speak = []
    for name, is_loaded in loaded_speech.items():
        engine = MYNA if name in SPEECH_MODELS else name
        voices = [entry.name for entry in entries if engine in entry.models]
        speak.append({**_entry(house, name, "speech", is_loaded), "voices": voices})
    names = installed + [name for name in OPENAI if installed]
    return speak + [_entry(house, name, "transcription", name in loaded) for name in names]


def _entry(house: House, name: str, task: str, loaded: bool) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": house.started,
        "owned_by": "myna",
        "task": task,
        "loaded": loaded,
    }
