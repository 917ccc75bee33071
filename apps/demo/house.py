"""The page's engine: the models, the voices and the watermark of this package."""

from __future__ import annotations

import threading
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...tts.presets import PRESETS, SpeechOptions
from .engine import MadeVoice, Speaking, Spoken, VoiceFacts

if TYPE_CHECKING:
    from ...tts.convert import Converter
    from ...tts.speaker import Speaker
    from ...tts.voices.voice import Voice

_KEPT = 16  # voices of the library whose state in the models is kept


class HouseEngine:
    """See `engine.Engine`. The models are loaded when they are first needed, or by `warm_up`."""

    sample_rate = 24_000

    def __init__(self) -> None:
        self.presets: Mapping[str, str] = {name: preset.description for name, preset in PRESETS.items()}
        self._lock = threading.Lock()
        self._loaded: dict[str, Voice] = {}
        self._converter: Converter | None = None

    @property
    def speaker(self) -> Speaker:
        """Raises MissingModelError while the models are not installed."""
        from ...tts.speaker import shared_speaker

        return shared_speaker()

    def warm_up(self) -> None:
        """Load the models, so that the first visitor need not wait. Raises MissingModelError."""
        from .compress import house_codec

        house_codec()
        _ = self.speaker

    def make_voice(self, recording: Path, name: str, consent: str, said: str | None) -> MadeVoice:
        from ...tts.voices.voice import make_voice

        models = self.speaker.models
        voice = make_voice(recording, models.codec, consent, name, said, aligner=models.aligner)
        return MadeVoice(voice, voice.notes)

    def prompt(self, voice: Voice) -> np.ndarray:
        from ...marks.watermark import watermark
        from ...tts.voices.voice import decode_prompt

        return watermark(decode_prompt(self.speaker.models.codec, voice).numpy(), self.sample_rate)

    def speak(self, text: str, voice: Voice, speaking: Speaking) -> Generator[Spoken, None, None]:
        from ...tts.text.long_text import split_text

        options = SpeechOptions(speaking.preset, speaking.seed)
        yield from self.speaker.chunks(split_text(text, options.language), voice, options)

    def converts(self) -> bool:
        from ...tts.registry import FLOW_FILES, flow_folder

        return all((flow_folder() / FLOW_FILES[role]).is_file() for role in ("flow", "tokens", "vocoder"))

    def convert(self, recording: Path, voice: Voice, seed: int) -> Generator[Spoken, None, None]:
        from ...data.audio import AudioReader
        from ...tts.convert import blocks_of
        from ...tts.synthesis import SpokenChunk

        with AudioReader(recording) as reader:
            n = (reader.info.n_frames or 0) / reader.info.sample_rate * self.sample_rate
        made = 0
        for chunk in self.converter.stream(blocks_of(recording), voice, seed):
            made += len(chunk)
            yield SpokenChunk(chunk, 0, False, min(1.0, made / n) if n else 0.0)

    @property
    def converter(self) -> Converter:
        """Loaded when the first recording is converted. Raises MissingModelError without its weights."""
        from ...tts.convert import Converter

        with self._lock:
            if self._converter is None:
                self._converter = Converter(codec=self.speaker.models.codec)
            return self._converter

    def write(self, path: Path, samples: np.ndarray, voice: Voice) -> None:
        from ...tts.speaker import Speech

        Speech(samples, self.sample_rate, voice.name).save(path)

    def voices(self) -> list[VoiceFacts]:
        from ...tts.voices.library import kept_voices, shipped_voices

        listed = []
        for kept in kept_voices():
            if kept.voice is None:
                listed.append(VoiceFacts(kept.name, 0.0, "", "", "", problem=kept.problem))
            else:
                voice = kept.voice
                created = voice.created.replace("T", " ")[:16]
                listed.append(VoiceFacts(kept.name, voice.seconds, voice.source, created, voice.consent))
        own = {facts.name for facts in listed}
        for name, ours in shipped_voices().items():
            if name not in own:
                listed.append(VoiceFacts(name, _seconds(ours.path), ours.source, "", ours.consent, ours=True))
        return listed

    def load_voice(self, name: str) -> Voice:
        from ...tts.voices.library import known_voice
        from ...tts.voices.voice import check_codec

        models = self.speaker.models
        with self._lock:  # one of the package is made the first time
            voice = known_voice(name, models.codec, models.aligner)
            check_codec(voice, models.codec)
            known = self._loaded.get(name)
            # The object that the models have heard before, unless another was put in its place.
            if known is not None and known.created == voice.created and known.codes.equal(voice.codes):
                return known
            if len(self._loaded) >= _KEPT:
                self._loaded.pop(next(iter(self._loaded)))
            self._loaded[name] = voice
        return voice

    def save_voice(self, voice: Voice) -> None:
        from ...tts.voices.library import add_voice

        add_voice(voice)

    def remove_voice(self, name: str) -> None:
        from ...tts.voices.library import remove_voice

        remove_voice(name)


def _seconds(path: Path) -> float:
    from ...data.audio import AudioReader

    with AudioReader(path) as reader:
        return (reader.info.n_frames or 0) / reader.info.sample_rate
