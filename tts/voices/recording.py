"""From a recording to the three-second prompt that a voice is cloned from.

    recording -> 30 s at most, mono -> high-pass -> voice activity -> checks -> noise reduced
              -> the best stretch, cut in pauses -> level

Unusable recordings are refused with one line: why, and what to do. Defects that can be repaired are repaired and noted.
The limits were set on real recordings: see `PromptOptions`.

Shapes: C channels, N samples, F frames of voice activity (32 ms).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from ...data.audio import Audio, AudioReader
from ...data.filters import butterworth_high_pass, filtered
from ...data.resample import resample
from ...errors import InputError
from ...pretrained import silero as voice_activity
from ..finish.level import TARGET, active_level


@dataclass(frozen=True)
class PromptOptions:
    """Limits and lengths, in seconds and dB.

    The defaults refuse none of 400 recordings of speechocean762's test split (homes and classrooms, half of the
    people children), and none of the corpus's clean test voices.
    """

    min_seconds: float = 1.0  # of a recording
    max_seconds: float = 30.0  # what follows is not read
    best_seconds: float = 3.0  # of the stretch that is kept
    keep_seconds: float = (
        4.0  # speech no longer than this is kept whole: the models have learned from prompts of 1.5 to 4 s
    )
    min_speech: float = 0.6  # of speech within the recording
    silence: float = -60.0  # peak, dB of full scale, below which there is nothing
    min_snr: float = 6.0  # dB of speech over the noise in its pauses, below which nothing is cloned but noise
    clean_snr: float = 25.0  # dB below which steady noise is reduced
    max_clipped: float = (
        0.03  # share of the speech's samples that hit the ceiling, beyond which the voice is lost
    )
    two_people: bool = True  # look for a second voice, where Resemblyzer is installed


@dataclass(frozen=True)
class CleanPrompt:
    """samples (N,) at `sample_rate`, cut and levelled.   recording: all of it (M,), cleaned.   start: the first of
    `samples` in it, a whole number of frames.   spoken: seconds of speech in it.   notes: what the user should know, a
    line each."""

    samples: np.ndarray
    sample_rate: int
    recording: np.ndarray
    start: int
    spoken: float
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.sample_rate


_HIGH_PASS = 60.0  # Hz: below any voice
_SPEECH = 0.5  # probability from which a frame is speech
_FRAME_SECONDS = voice_activity.FRAME / voice_activity.RATE
_EDGE = 0.1  # seconds of the pause that stay on either side of the speech
_FADE = 0.005  # seconds


def clean_prompt(
    source: str | Path | BinaryIO | Audio,
    sample_rate: int = 24_000,
    frame_size: int = 480,
    options: PromptOptions | None = None,
) -> CleanPrompt:
    """The best stretch of a recording, as the codec wants it.

    source: a path, "-", an open file, or samples in memory.   frame_size: the codec's. Raises InputError, one line,
    for what is no recording of one person speaking.
    """
    options = options or PromptOptions()
    name = "the recording" if isinstance(source, Audio) else str(getattr(source, "name", source))
    audio, notes = _read(source, options)
    if notes:
        name = f"the first {options.max_seconds:g} s of {name}"
    _check_length(name, audio, options)
    mono = _mono(audio.samples)
    _check_sound(name, mono, options)
    ceiling = float(np.abs(mono).max())
    clipped = np.abs(mono) > 0.99 * ceiling if _is_clipped(mono, ceiling) else np.zeros(len(mono), bool)
    wav = _high_pass(resample(mono[None], audio.sample_rate, sample_rate)[0], sample_rate)
    speech = _speech(wav, sample_rate)
    seconds = _check_speech(name, speech, options)
    spoken = _expand(speech, len(mono), audio.sample_rate)
    lost = float((clipped & spoken).sum() / spoken.sum())
    if lost > options.max_clipped:
        raise InputError(
            f"{name} is clipped in {lost:.0%} of its speech: the loud parts are lost; record it again more quietly"
        )
    if lost > 0.001:
        notes.append("the recording is clipped in places; a quieter one would sound cleaner")
    wav, noise_note = _reduce_noise(name, wav, speech, sample_rate, options)
    notes += noise_note
    if _bandwidth(wav, sample_rate) < 4500:
        notes.append("the recording has no sound above 4 kHz, like a telephone; the voice will sound so too")
    if options.two_people:
        _check_one_person(name, wav, speech, sample_rate)
    first, last = _best_stretch(wav, speech, _expand_share(clipped, len(speech)), sample_rate, options)
    first -= first % frame_size
    cut = _level(_fade(wav[first:last], sample_rate), sample_rate)
    return CleanPrompt(cut, sample_rate, wav, first, seconds, tuple(notes))


def _read(source: str | Path | BinaryIO | Audio, options: PromptOptions) -> tuple[Audio, list[str]]:
    """The first `max_seconds`, and a note if that is not all."""
    if isinstance(source, Audio):
        samples, rate = np.atleast_2d(source.samples), source.sample_rate
        if not np.isfinite(samples).all():
            raise InputError("the recording holds NaN or infinity; give samples from -1 to 1")
        limit = int(options.max_seconds * rate)
        more = samples.shape[1] > limit
        samples = samples[:, :limit]
    else:
        with AudioReader(source) as reader:
            rate = reader.info.sample_rate
            limit = int(options.max_seconds * rate)
            blocks, n, more = [], 0, False
            for block in reader.blocks():
                blocks.append(block[:, : limit - n])
                n += blocks[-1].shape[1]
                if n >= limit:
                    more = (reader.info.n_frames or n + 1) > limit
                    break
        samples = np.concatenate(blocks, axis=1)
    note = f"only the first {options.max_seconds:g} s of the recording were looked at"
    return Audio(samples.astype(np.float32), rate), [note] if more else []


def _check_length(name: str, audio: Audio, options: PromptOptions) -> None:
    seconds = audio.samples.shape[1] / audio.sample_rate
    if seconds < options.min_seconds:
        raise InputError(
            f"{name} lasts {seconds:.2f} s; a voice needs {options.min_seconds:g} to {options.max_seconds:g} s "
            "of speech, three are best"
        )


def _mono(samples: np.ndarray) -> np.ndarray:
    """(C, N) -> (N,): the mean of the channels, or the loudest one where they cancel each other, where only one speaks,
    and where they have little in common, such as two people at two microphones."""
    if len(samples) == 1:
        return samples[0]
    power = np.square(samples, dtype=np.float64).mean(axis=1)
    mean = samples.mean(axis=0)
    if np.square(mean, dtype=np.float64).mean() < 0.7 * power.max():
        return samples[int(power.argmax())]
    return mean


def _check_sound(name: str, mono: np.ndarray, options: PromptOptions) -> None:
    steady = mono - mono.mean()  # a constant offset is no sound
    peak = 20 * math.log10(max(float(np.abs(steady).max()), 1e-9))
    if peak < options.silence:
        raise InputError(f"{name} is silent (peak {peak:.0f} dB); check the microphone and record again")


def _is_clipped(mono: np.ndarray, ceiling: float) -> bool:
    """Whether the largest samples lie in rows, as a ceiling makes them, rather than one at the top of each wave."""
    high = np.abs(mono) > 0.99 * ceiling
    rows = high[:-2] & high[1:-1] & high[2:]
    return int(rows.sum()) >= 8


def _high_pass(wav: np.ndarray, sample_rate: int) -> np.ndarray:
    high_passed = filtered(wav, butterworth_high_pass(_HIGH_PASS, sample_rate))
    return np.clip(high_passed, -1.0, 1.0).astype(np.float32)


def _speech(wav: np.ndarray, sample_rate: int) -> np.ndarray:
    """(F,) probability of speech, of the recording at a level that the detector knows."""
    peak = float(np.quantile(np.abs(wav), 0.999))
    levelled = np.clip(wav * (0.5 / max(peak, 1e-6)), -1, 1)
    return voice_activity.speech_probability(resample(levelled[None], sample_rate, voice_activity.RATE)[0])


def _check_speech(name: str, speech: np.ndarray, options: PromptOptions) -> float:
    """Seconds of speech."""
    seconds = float((speech > _SPEECH).sum()) * _FRAME_SECONDS
    if seconds == 0:
        raise InputError(
            f"{name} holds no speech: is it music or noise? Record three seconds of one person speaking"
        )
    if seconds < options.min_speech:
        raise InputError(
            f"{name} holds {seconds:.1f} s of speech; a voice needs at least {options.min_speech:g} s, three are best"
        )
    return seconds


def _expand(speech: np.ndarray, n: int, sample_rate: int) -> np.ndarray:
    """Frames of speech as a mask over n samples."""
    at = (np.arange(n) / (sample_rate * _FRAME_SECONDS)).astype(int)
    return speech[np.minimum(at, len(speech) - 1)] > _SPEECH


def _expand_share(mask: np.ndarray, n_frames: int) -> np.ndarray:
    """(N,) mask -> (F,) share of each frame."""
    return np.array(
        [part.mean() if len(part) else 0.0 for part in np.array_split(mask.astype(float), n_frames)]
    )


def _reduce_noise(
    name: str, wav: np.ndarray, speech: np.ndarray, sample_rate: int, options: PromptOptions
) -> tuple[np.ndarray, list[str]]:
    """Steady noise turned down, by the spectrum of the pauses (Ephraim and Malah's decision-directed Wiener filter,
    1984). Raises InputError where there is more noise than voice."""
    n_fft, hop = 1024 * sample_rate // 24_000, 256 * sample_rate // 24_000
    window = torch.hann_window(n_fft)
    stft = torch.stft(torch.from_numpy(wav), n_fft, hop, window=window, return_complex=True)
    power = stft.abs().square()
    at = (np.arange(power.shape[1]) * hop / (sample_rate * _FRAME_SECONDS)).astype(int)
    probability = speech[np.minimum(at, len(speech) - 1)]
    spoken = torch.from_numpy(probability > _SPEECH)
    total = power.sum(0)
    # Without a pause to listen to, the quietest moments between the words.
    quiet = torch.from_numpy(probability < 0.2)
    if int(quiet.sum()) < 15:
        quiet = total <= torch.quantile(total, 0.1)
    level, floor = float(total[spoken].mean()), float(total[quiet].median())
    snr = 10 * math.log10(max(level, 1e-12) / max(floor, 1e-12))
    if snr < options.min_snr:
        raise InputError(
            f"{name} is too noisy: speech only {snr:.0f} dB above the background; record it in a quieter place"
        )
    if snr > options.clean_snr:
        return wav, []
    noise = power[:, quiet].mean(1)
    gains, before = torch.empty_like(power), torch.zeros_like(noise)
    for t in range(power.shape[1]):
        posterior = power[:, t] / noise.clamp(min=1e-12)
        prior = 0.96 * before + 0.04 * (posterior - 1).clamp(min=0)
        gain = (prior / (1 + prior)).clamp(min=0.15)
        gains[:, t] = gain
        before = gain.square() * posterior
    cleaned = torch.istft(stft * gains, n_fft, hop, window=window, length=len(wav)).numpy()
    return cleaned, [
        f"background noise was reduced (speech {snr:.0f} dB above it); a quieter recording sounds better"
    ]


def _bandwidth(wav: np.ndarray, sample_rate: int) -> float:
    """Hz below which 99.9 % of the energy lies, after the tilt of speech is taken away."""
    spectrum = np.abs(np.fft.rfft(np.diff(wav))) ** 2
    share = np.cumsum(spectrum) / max(float(spectrum.sum()), 1e-20)
    return float(np.searchsorted(share, 0.999)) * sample_rate / 2 / len(spectrum)


def _check_one_person(name: str, wav: np.ndarray, speech: np.ndarray, sample_rate: int) -> None:
    from .two_voices import holds_two_voices

    at_rate = resample(wav[None], sample_rate, voice_activity.RATE)[0]
    mask = _expand(speech, len(at_rate), voice_activity.RATE)
    if holds_two_voices(at_rate[mask]):
        raise InputError(f"{name} seems to hold two people; give a stretch in which only one of them speaks")


def _best_stretch(
    wav: np.ndarray, speech: np.ndarray, clipped: np.ndarray, sample_rate: int, options: PromptOptions
) -> tuple[int, int]:
    """First and last sample: all of the speech if it is short, else the stretch with most speech of an even level,
    least clipping, and pauses at its ends."""
    frames = np.flatnonzero(speech > _SPEECH)
    begin, end = int(frames[0]), int(frames[-1]) + 1
    if (end - begin) * _FRAME_SECONDS > options.keep_seconds:
        begin, end = _best_window(wav, speech, clipped, sample_rate, options, begin, end)
    edge = round(_EDGE * sample_rate)
    first, last = (round(i * _FRAME_SECONDS * sample_rate) for i in (begin, end))
    return max(0, first - edge), min(len(wav), last + edge)


def _best_window(
    wav: np.ndarray,
    speech: np.ndarray,
    clipped: np.ndarray,
    sample_rate: int,
    options: PromptOptions,
    begin: int,
    end: int,
) -> tuple[int, int]:
    """Frames from and to. The length may vary by a sixth, to end in pauses."""
    power = np.array([np.square(part, dtype=np.float64).mean() for part in np.array_split(wav, len(speech))])
    level = 10 * np.log10(np.maximum(power, 1e-9))
    typical = float(np.median(level[speech > _SPEECH]))
    good = speech * np.exp(-np.square((level - typical) / 15)) - 20 * clipped
    total = np.concatenate([[0.0], np.cumsum(good)])
    wanted = options.best_seconds / _FRAME_SECONDS
    # A cut through a word costs as much as a third of a second without speech; the ends of the speech cost nothing.
    cut = np.append(10 * speech, np.float32(0))[: end + 1]
    cut[: begin + 1] = cut[end] = 0
    best = (-math.inf, begin, end)
    for first in range(begin, end):
        lasts = np.arange(round(first + 0.84 * wanted), min(end, round(first + 1.16 * wanted)) + 1)
        if not len(lasts):
            break
        cuts = (cut[first - 1] if first > begin else 0) + cut[lasts]
        scores = (total[lasts] - total[first]) / (lasts - first) * wanted - cuts
        i = int(scores.argmax())
        if scores[i] > best[0]:
            best = (float(scores[i]), first, int(lasts[i]))
    return best[1], best[2]


def _fade(wav: np.ndarray, sample_rate: int) -> np.ndarray:
    ramp = np.linspace(0, 1, max(1, round(_FADE * sample_rate)), dtype=np.float32)
    wav = wav.copy()
    wav[: len(ramp)] *= ramp
    wav[-len(ramp) :] *= ramp[::-1]
    return wav


def _level(wav: np.ndarray, sample_rate: int) -> np.ndarray:
    """At the level that speech has in the corpora, peaks below full scale."""
    level = active_level(wav, sample_rate)
    gain = 10 ** ((TARGET - level) / 20) if level is not None else 1.0
    return (wav * min(gain, 0.95 / max(float(np.abs(wav).max()), 1e-6))).astype(np.float32)
