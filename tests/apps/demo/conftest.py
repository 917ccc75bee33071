"""A page whose voices are tones: every voice has its own pitch, so that whose speech it is can be measured."""

from __future__ import annotations

import threading
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from myna.apps.demo.engine import Engine, VoiceFacts
from myna.data.audio import read_audio, write_audio
from myna.errors import InputError, UsageError
from myna.tts.presets import SpeechOptions

RATE = 24_000


@dataclass(frozen=True)
class ToneVoice:
    name: str
    hertz: float
    consent: str
    said: str | None
    samples: np.ndarray
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ToneChunk:
    samples: np.ndarray
    done: float


@dataclass
class ToneEngine(Engine):
    """Says a letter as 40 ms of its voice's tone; `pace` is the seconds that making 40 ms takes."""

    sample_rate: int = RATE
    presets: dict[str, str] = field(default_factory=lambda: {"standard": "as it should be", "fast": "sooner"})
    pace: float = 0.0
    made: list[ToneVoice] = field(default_factory=list)
    library: dict[str, ToneVoice] = field(default_factory=dict)
    spoken: list[tuple[str, ToneVoice, SpeechOptions]] = field(default_factory=list)
    converted: list[tuple[Path, ToneVoice, int]] = field(default_factory=list)
    closed_early: threading.Event = field(default_factory=threading.Event)
    began: float = 0.0
    ended: float = 0.0
    at_once: int = 0
    most_at_once: int = 0

    def reset(self) -> None:
        self.__init__()

    def make_voice(self, recording: Path, name: str, consent: str, said: str | None) -> ToneVoice:
        samples = read_audio(recording, RATE, mono=True).samples[0]
        if np.abs(samples).max() < 0.01:
            raise InputError(f"{recording} is silent; record again, closer to the microphone")
        notes = ("<i>a note</i>",) if said == "note" else ()
        hertz = 200 + zlib.crc32(samples.tobytes()) % 800
        voice = ToneVoice(name, hertz, consent, said, samples[: 3 * RATE], notes)
        self.made.append(voice)
        return voice

    def prompt(self, voice: ToneVoice) -> np.ndarray:
        return voice.samples

    def speak(self, text: str, voice: ToneVoice, options: SpeechOptions):
        if text == "break":
            raise ZeroDivisionError("<b>a fault</b>")
        self.spoken.append((text, voice, options))
        self.began = time.perf_counter()
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            for i in range(len(text)):
                time.sleep(self.pace)
                at = np.arange(i * RATE // 25, (i + 1) * RATE // 25)
                yield ToneChunk(
                    (0.3 * np.sin(2 * np.pi * voice.hertz * at / RATE)).astype(np.float32),
                    (i + 1) / len(text),
                )
        except GeneratorExit:
            self.closed_early.set()
            raise
        finally:
            self.at_once -= 1
            self.ended = time.perf_counter()

    def converts(self) -> bool:
        return True

    def convert(self, recording: Path, voice: ToneVoice, seed: int):
        """The voice's tone, as loud as the recording."""
        samples = read_audio(recording, RATE, mono=True).samples[0]
        if np.abs(samples).max() < 0.01:
            raise InputError(f"{recording} is silent; record again, closer to the microphone")
        self.converted.append((recording, voice, seed))
        for start in range(0, len(samples), RATE // 4):
            part = samples[start : start + RATE // 4]
            tone = np.sin(2 * np.pi * voice.hertz * np.arange(start, start + len(part)) / RATE)
            yield ToneChunk(
                (np.abs(part).max() * tone).astype(np.float32), (start + len(part)) / len(samples)
            )

    def write(self, path: Path, samples: np.ndarray, voice: ToneVoice) -> None:
        write_audio(path, samples, RATE)

    def voices(self) -> list[VoiceFacts]:
        return [
            VoiceFacts(v.name, len(v.samples) / RATE, "a recording", "2026-11-21", v.consent)
            for _, v in sorted(self.library.items())
        ]

    def load_voice(self, name: str) -> ToneVoice:
        if name not in self.library:
            raise UsageError(f"no voice named {name}; `myna voices list` shows those there are")
        return self.library[name]

    def save_voice(self, voice: ToneVoice) -> None:
        self.library[voice.name] = voice

    def remove_voice(self, name: str) -> None:
        del self.library[name]


@pytest.fixture
def tones() -> ToneEngine:
    return ToneEngine()


@pytest.fixture(scope="module")
def shared_tones() -> ToneEngine:
    """One for a page that serves several tests."""
    return ToneEngine()
