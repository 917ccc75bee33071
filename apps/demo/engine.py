"""What the page asks of the package: voices, speech and the library; models are loaded when they are first needed.

Shapes: N samples of mono audio at `sample_rate`.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...tts.presets import PRESETS, SpeechOptions
from ...tts.remarks import remarks

if TYPE_CHECKING:
    from ...tts.convert import Converter
    from ...tts.speaker import Speaker
    from ...tts.synthesis import SpokenChunk
    from ...tts.voices.voice import Voice

_KEPT = 16  # voices of the library whose state in the models is kept


@dataclass(frozen=True)
class VoiceFacts:
    """A voice of the library, as a visitor sees it.

    seconds: length of its prompt.   created: ISO date.   ours: it ships with the package and cannot be removed.
    problem: why it cannot be used, where it cannot.   remarks: what its user should know, a line each.
    """

    name: str
    seconds: float
    source: str
    created: str
    consent: str
    ours: bool = False
    problem: str | None = None
    remarks: tuple[str, ...] = ()


class Engine:
    """Every method raises MynaError with one readable line, and may be called from several threads at once.

    presets: what each is for; the first is the default.
    """

    sample_rate: int = 24_000

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

    def make_voice(self, recording: Path, name: str, consent: str, said: str | None) -> Voice:
        """A voice from a recording of 1 to 30 s.   said: its transcript where it is known."""
        from ...tts.voices.voice import make_voice

        models = self.speaker.models
        return make_voice(recording, models.codec, consent, name, said, aligner=models.aligner)

    def prompt(self, voice: Voice) -> np.ndarray:
        """The seconds (N,) of the recording that the voice kept, as the models hear them, watermarked."""
        from ...marks.watermark import watermark
        from ...tts.voices.voice import decode_prompt

        return watermark(decode_prompt(self.speaker.models.codec, voice).numpy(), self.sample_rate)

    def speak(self, text: str, voice: Voice, options: SpeechOptions) -> Generator[SpokenChunk, None, None]:
        """The text in the voice, chunk by chunk while it is made; closing the generator stops the work."""
        from ...tts.text.long_text import split_text

        yield from self.speaker.chunks(split_text(text, options.language), voice, options)

    def converts(self) -> bool:
        """Whether recordings can be converted here: the weights may not be installed."""
        from ...tts.registry import flow_files

        found = flow_files()
        return all(found[role].is_file() for role in ("flow", "tokens", "vocoder"))

    def convert(self, recording: Path, voice: Voice, seed: int) -> Generator[SpokenChunk, None, None]:
        """A recording in the voice, as `speak`."""
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
        """Write speech (N,) as WAV, marked as synthetic."""
        from ...tts.speaker import Speech

        Speech(samples, self.sample_rate, voice.name).save(path)

    def voices(self) -> list[VoiceFacts]:
        """What the library holds, the visitors' own first."""
        from ...tts.voices.library import kept_voices, shipped_voices

        listed = []
        for kept in kept_voices():
            if kept.voice is None:
                listed.append(VoiceFacts(kept.name, 0.0, "", "", "", problem=kept.problem))
            else:
                voice = kept.voice
                created = voice.created.replace("T", " ")[:16]
                listed.append(
                    VoiceFacts(
                        kept.name,
                        voice.seconds,
                        voice.source,
                        created,
                        voice.consent,
                        remarks=remarks(voice),
                    )
                )
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
        """Put a voice into the library under its name. A name that is taken is refused."""
        from ...tts.voices.library import add_voice

        add_voice(voice)

    def remove_voice(self, name: str) -> None:
        from ...tts.voices.library import remove_voice

        remove_voice(name)


def _seconds(path: Path) -> float:
    from ...data.audio import AudioReader

    with AudioReader(path) as reader:
        return (reader.info.n_frames or 0) / reader.info.sample_rate
