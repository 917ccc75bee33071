"""Myna: compress speech, clone a voice, transcribe; offline, streaming, on a CPU or a GPU.

>>> import myna
>>> data = myna.compress("speech.wav")            # bytes of a .myna file, 5 kbps or less
>>> audio = myna.decompress(data)                 # audio.samples (C, N), audio.sample_rate
>>> codec = myna.load_codec("myna-24k-v2")        # the model itself: codec.encode, codec.decode, streams
>>> speech = myna.say("Hello.", "me.wav", consent="I am the speaker and agree")  # speech.samples (N,)
>>> for chunk in myna.stream("Hello.", "my-voice"): play(chunk)                  # while it is made
>>> myna.convert("talk.wav", "my-voice").save("mine.wav")         # speech of another in that voice
>>> transcript = myna.transcribe("talk.wav", "small.en")           # transcript.text, .segments with times
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .version import __version__

__all__ = [
    "Speaker",
    "Speech",
    "Transcriber",
    "Transcript",
    "__version__",
    "compress",
    "convert",
    "decompress",
    "load_codec",
    "say",
    "stream",
    "transcribe",
]

if TYPE_CHECKING:
    from .asr.transcriber import Transcriber, Transcript, transcribe
    from .codec.api import compress, decompress
    from .codec.registry import load_codec
    from .tts.convert import convert
    from .tts.speaker import Speaker, Speech, say, stream


def __getattr__(name: str) -> Any:
    """Import what needs torch only when it is asked for."""
    if name in ("compress", "decompress"):
        from .codec import api

        return getattr(api, name)
    if name == "load_codec":
        from .codec.registry import load_codec

        return load_codec
    if name in ("Speaker", "Speech", "say", "stream"):
        from .tts import speaker

        return getattr(speaker, name)
    if name == "convert":
        from .tts.convert import convert

        return convert
    if name in ("Transcriber", "Transcript", "transcribe"):
        from .asr import transcriber

        return getattr(transcriber, name)
    raise AttributeError(f"module 'myna' has no attribute {name!r}")
