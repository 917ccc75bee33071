"""A recogniser that knows what it will hear: by the length of a piece. Importable in workers (see conftest.py)."""

import json
import os
import signal
import time
from pathlib import Path

from myna.preparation.records import Transcription


class Scripted:
    """hears the words in $MYNA_SCRIPT, a JSON object of text by rounded seconds; "pause" there makes every call slow,
    "deadly" is a length that ends the process, "odd" one that raises what nobody expects."""

    def __init__(self):
        self.script = json.loads(Path(os.environ["MYNA_SCRIPT"]).read_text())

    def hear(self, audios, languages):
        time.sleep(self.script.get("pause", 0))
        made = []
        for audio, language in zip(audios, languages, strict=True):
            seconds = f"{len(audio) / 16000:.0f}"
            if seconds == self.script.get("deadly"):
                os.kill(os.getpid(), signal.SIGKILL)
            if seconds == self.script.get("odd"):
                raise ValueError("no stage is ready for this")
            text = self.script.get(seconds, f"about {seconds} seconds of speech")
            made.append(Transcription(text, language or "en", -0.25, 1.2))
        return made


def scripted(options):
    return Scripted() if options.model else None
