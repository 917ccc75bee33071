"""What a corpus is made with. Two runs with the same options on the same recordings give the same bytes."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass
from typing import Any

from ..asr.model.languages import find_language
from ..errors import UsageError

FORMATS = ("flac", "opus")


@dataclass(frozen=True)
class PrepareOptions:
    """Every choice that shapes the output. Raises UsageError for one that cannot be."""

    layout: str = "auto"  # how the folder is arranged: a name in readers.LAYOUTS
    source: str = "corpus"  # the corpus's name: field `source`, prefix of keys, speakers and shards
    model: str | None = (
        "tiny.en"  # Whisper, by name or path; None: nothing is transcribed and no text is checked
    )
    device: str = "cpu"  # where Whisper runs
    precision: str = "auto"  # of Whisper: float32, int8 or auto
    language: str | None = None  # spoken in all recordings; None: as the layout says, else as the model hears
    languages: tuple[str, ...] = ()  # keep only these; empty: all
    min_seconds: float = 1.0  # of a piece
    max_seconds: float = 20.0
    max_pause: float = 1.0  # seconds of silence inside a piece; a longer one always cuts
    max_cer: float = (
        0.3  # character error rate of what is heard against the given text; beyond, it is dropped
    )
    min_logprob: float = -1.0  # mean log-probability of a transcript of ours; below, it is dropped
    max_compression: float = 2.4  # of a transcript of ours by zlib; above, it repeats itself
    loudness: float | None = -23.0  # LUFS that every piece is brought to; None: as recorded
    quality: bool = True  # DNSMOS of every piece
    min_quality: float | None = None  # drop pieces below this DNSMOS (1 to 5)
    speakers: bool = True  # find the speakers of recordings whose speaker is not known
    speaker_threshold: float = 0.74  # mean cosine from which two groups of pieces are one speaker
    phonemes: bool = True  # IPA by espeak-ng
    duplicates: bool = True  # drop what is there already
    sample_rate: int = 24_000  # Hz, at most: what was recorded lower stays lower
    format: str = "flac"  # of the audio in the shards: flac (16 bit, lossless) or opus
    bitrate: int = 32_000  # bits a second, of Opus
    dev: float = 0.05  # share of the seconds held out, by speaker
    test: float = 0.05
    seed: int = 0  # of the choice of held-out speakers
    shard_mb: int = 500  # megabytes (10^6) a shard, at most
    batch_size: int = 8  # pieces decoded together; another size may round differently
    unit_files: int = 16  # recordings that a worker takes at once, and whose pieces share batches

    def __post_init__(self):
        def refuse(name: str, expected: str) -> None:
            raise UsageError(f"{name} {getattr(self, name)!r} cannot be; expected {expected}")

        if not self.source or tidy_name(self.source) != self.source:
            refuse("source", "letters, digits, - and _")
        numbers = [v for v in asdict(self).values() if isinstance(v, float)]
        if not all(math.isfinite(v) for v in numbers):
            raise UsageError("an option is not a finite number; give it as one")
        if not 0.1 <= self.min_seconds < self.max_seconds:
            refuse("min_seconds", f"0.1 to max_seconds ({self.max_seconds:g})")
        if self.max_seconds > 30:
            refuse("max_seconds", "at most 30, which is all that Whisper hears at once")
        if not 0 < self.max_pause <= self.max_seconds:
            refuse("max_pause", "seconds above 0, at most max_seconds")
        if self.max_cer < 0:
            refuse("max_cer", "a rate from 0")
        if self.loudness is not None and not -60 <= self.loudness <= -5:
            refuse("loudness", "LUFS from -60 to -5")
        if self.min_quality is not None and not 1 <= self.min_quality <= 5:
            refuse("min_quality", "a DNSMOS from 1 to 5")
        if self.min_quality is not None and not self.quality:
            raise UsageError("min_quality needs the quality score; leave one of the two options out")
        if not -1 <= self.speaker_threshold <= 1:
            refuse("speaker_threshold", "a cosine, -1 to 1")
        if not 8000 <= self.sample_rate <= 48_000:
            refuse("sample_rate", "8000 to 48000 Hz")
        if self.format not in FORMATS:
            refuse("format", " or ".join(FORMATS))
        if not 6000 <= self.bitrate <= 256_000:
            refuse("bitrate", "6000 to 256000 bits a second")
        if min(self.dev, self.test) < 0 or self.dev + self.test >= 1:
            raise UsageError(
                f"dev {self.dev:g} and test {self.test:g} are shares; expected 0 to less than 1 in all"
            )
        if self.shard_mb < 1:
            refuse("shard_mb", "at least 1")
        if self.batch_size < 1:
            refuse("batch_size", "at least 1")
        if self.unit_files < 1:
            refuse("unit_files", "at least 1")

        if self.language is not None:
            object.__setattr__(self, "language", find_language(self.language))
        object.__setattr__(self, "languages", tuple(find_language(name) for name in self.languages))

    def to_dict(self) -> dict[str, Any]:
        """As JSON gives it back."""
        return {**asdict(self), "languages": list(self.languages)}


def tidy_name(name: str) -> str:
    """Only what file names and keys of WebDataset bear: letters, digits, - and _."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_")
