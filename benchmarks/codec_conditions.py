"""What a speech codec does with what it was not made for: rates, noise, several speakers, music.

    python benchmarks/codec_conditions.py DATA... [--music FOLDER] [--codec myna-24k-v2] [--clips 8] [--seconds 6]

DATA: shards or folders with recordings of speech.   --music: a folder of recordings of music (Debian's package
asterisk-moh-opsound-wav has some, at 8 kHz). Every row is the mean over the same clips, at the rate of the row. PESQ-WB
and STOI compare with what went in, noise included; WER is Whisper tiny.en's on the noisy recording and on its copy.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from myna.codec.registry import load_codec
from myna.data.audio import read_audio
from myna.data.resample import resample
from myna.evaluation.clips import Clip, load_clips
from myna.evaluation.codec.systems import Outcome, through_codec, through_opus
from myna.evaluation.measures.distances import mel_distance
from myna.evaluation.measures.intelligibility import transcribe
from myna.evaluation.measures.perceptual import pesq_wb, stoi
from myna.evaluation.tts.scores import compare

RATE = 24_000
MUSIC = "music"


@dataclass(frozen=True)
class Condition:
    """name: of the row.   make: speech (N,) at RATE and the clip's number to (sound, its rate)."""

    name: str
    make: Callable[[np.ndarray, int], tuple[np.ndarray, int]]


def noisy(kind: str, decibels: float) -> Callable[[np.ndarray, int], tuple[np.ndarray, int]]:
    """Noise at so many decibels below the speech. kind: white, or pink (3 dB an octave)."""

    def make(wav: np.ndarray, number: int) -> tuple[np.ndarray, int]:
        noise = np.random.default_rng(number).standard_normal(len(wav))
        if kind == "pink":
            spectrum = np.fft.rfft(noise)
            noise = np.fft.irfft(spectrum / np.sqrt(np.arange(1, len(spectrum) + 1)), len(wav))
        scale = np.sqrt(np.square(wav).mean() / np.square(noise).mean()) * 10 ** (-decibels / 20)
        return fitted(wav + scale * noise), RATE

    return make


def at_rate(rate: int) -> Callable[[np.ndarray, int], tuple[np.ndarray, int]]:
    return lambda wav, _: (resample(wav[None], RATE, rate)[0], rate)


def fitted(wav: np.ndarray) -> np.ndarray:
    """Without clipping."""
    return (wav / max(1.0, float(np.abs(wav).max()) / 0.99)).astype(np.float32)


def conditions(clips: list[Clip]) -> Iterator[Condition]:
    yield Condition("24 kHz, as recorded", lambda wav, _: (wav, RATE))
    yield Condition("8 kHz (telephone)", at_rate(8000))
    yield Condition("16 kHz", at_rate(16_000))
    yield Condition("48 kHz", at_rate(48_000))
    yield Condition("white noise, 20 dB", noisy("white", 20))
    yield Condition("pink noise, 10 dB", noisy("pink", 10))
    yield Condition("pink noise, 0 dB", noisy("pink", 0))
    yield Condition("two speakers at once", lambda wav, n: (fitted(wav + other(clips, n, 1, len(wav))), RATE))
    yield Condition(
        "four speakers at once",
        lambda wav, n: (fitted(wav + sum(other(clips, n, k, len(wav)) for k in (1, 2, 3))), RATE),
    )


def other(clips: list[Clip], number: int, by: int, n: int) -> np.ndarray:
    """Another clip, as long as is asked."""
    wav = clips[(number + by) % len(clips)].wav
    return np.resize(wav, n)


def music(folder: Path, n: int, seconds: float) -> list[tuple[np.ndarray, int]]:
    paths = sorted(folder.rglob("*.wav"))[:n]
    found = []
    for path in paths:
        audio = read_audio(path)
        start = audio.samples.shape[1] // 3
        found.append(
            (audio.samples[0, start : start + round(seconds * audio.sample_rate)], audio.sample_rate)
        )
    return found


def row(
    name: str, inputs: list[tuple[np.ndarray, int]], texts: list[str | None], systems: dict[str, Callable]
) -> str:
    """A line of the table: each system's measures, means over the clips."""
    cells = []
    before = wer([(wav, rate) for wav, rate in inputs], texts)
    for through in systems.values():
        outcomes: list[Outcome] = [
            through(Clip(str(i), wav, rate, None, None, None)) for i, (wav, rate) in enumerate(inputs)
        ]
        pairs = [(wav, outcome.wav, rate) for (wav, rate), outcome in zip(inputs, outcomes, strict=True)]
        is_speech = name != MUSIC
        quality = float(np.nanmean([pesq_wb(*pair) for pair in pairs])) if is_speech else np.nan
        clear = float(np.nanmean([stoi(*pair) for pair in pairs])) if is_speech else np.nan
        distance = float(np.mean([mel_distance(*pair) for pair in pairs]))
        words = wer([(out, rate) for _, out, rate in pairs], texts)
        cells.append(f"{shown(quality)} / {shown(clear, 3)} / {distance:.2f} / {shown(100 * words, 0)}")
    return f"| {name} | {shown(100 * before, 0)} | " + " | ".join(cells) + " |"


def wer(sounds: list[tuple[np.ndarray, int]], texts: list[str | None]) -> float:
    heard = [
        compare(text, transcribe(wav, rate))
        for (wav, rate), text in zip(sounds, texts, strict=True)
        if text is not None
    ]
    return sum(h.word_errors for h in heard) / sum(h.n_words for h in heard) if heard else np.nan


def shown(value: float, digits: int = 2) -> str:
    return "" if np.isnan(value) else f"{value:.{digits}f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", nargs="+")
    parser.add_argument("--music", type=Path)
    parser.add_argument("--codec", default="myna-24k-v2")
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    codec = load_codec(options.codec)
    clips = load_clips(options.data, RATE, limit=options.clips, max_seconds=options.seconds)
    k = codec.n_codebooks
    systems: dict[str, Callable[[Clip], Outcome]] = {
        f"{options.codec}, {codec.bitrates[-1] / 1000:g} kbps": lambda clip: next(
            through_codec(codec, clip, [k])
        )[1],
        "Opus, 8 kbps": lambda clip: through_opus(clip, 8000),
        "Opus, 12 kbps": lambda clip: through_opus(clip, 12_000),
    }
    print("| PESQ-WB / STOI / mel distance / WER % | WER before, % | " + " | ".join(systems) + " |")
    print("|---|---:|" + "---:|" * len(systems))
    for condition in conditions(clips):
        inputs = [condition.make(clip.wav, number) for number, clip in enumerate(clips)]
        single = "speakers" not in condition.name
        print(
            row(condition.name, inputs, [clip.text if single else None for clip in clips], systems),
            flush=True,
        )
    if options.music:
        inputs = music(options.music, options.clips, options.seconds)
        print(row(MUSIC, inputs, [None] * len(inputs), systems), flush=True)


if __name__ == "__main__":
    main()
