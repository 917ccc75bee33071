"""What Home Assistant is told there is: voices, and Whispers."""

from __future__ import annotations

import asyncio

from wyoming.info import AsrModel, AsrProgram, Attribution, Info, TtsProgram, TtsVoice

from ....asr.model.languages import LANGUAGES
from ....version import __version__
from ..house import House
from ..voices import MYNA, TORTOISE, VoiceEntry

_OURS = Attribution(name="Myna", url="")
_WHISPER = Attribution(name="OpenAI", url="https://github.com/openai/whisper")


async def offer(house: House) -> Info:
    """Of a server."""
    tts: list[TtsProgram] = []
    if voices := _voices(await house.voice_entries()):
        tts = [
            TtsProgram(
                name="myna",
                attribution=_OURS,
                installed=True,
                description="Cloned voices",
                version=__version__,
                voices=voices,
                supports_synthesize_streaming=True,
            )
        ]
    models = [
        AsrModel(
            name=name,
            attribution=_WHISPER,
            installed=True,
            description=f"Whisper {name}",
            version=__version__,
            languages=["en"] if name.endswith(".en") else list(LANGUAGES),
        )
        for name in await asyncio.to_thread(house.recognition.installed)
    ]
    asr = AsrProgram(
        name="myna",
        attribution=_WHISPER,
        installed=True,
        description="Whisper",
        version=__version__,
        models=models,
    )
    return Info(asr=[asr] if models else [], tts=tts)


def _voices(entries: list[VoiceEntry]) -> list[TtsVoice]:
    """Those of Myna's own models by their names, then those of TorToise as tortoise/NAME: Home Assistant looks at the
    first program alone, so that a second one for TorToise would not be seen."""
    said = {entry.name: entry.name for entry in entries if MYNA in entry.models}
    said |= {f"{TORTOISE}/{one.name}": f"{one.name} (TorToise)" for one in entries if TORTOISE in one.models}
    return [
        TtsVoice(
            name=name,
            attribution=_OURS,
            installed=True,
            description=description,
            version=__version__,
            languages=["en"],
        )
        for name, description in said.items()
    ]
