"""What a longer recording is worth: likeness and words of voices made of the first seconds of the same speech.

    python benchmarks/recording_length.py DATA... --texts DATA... [--seconds 3 6 10] [--limit 20] [--sentences 2]

DATA: shards or folders with recordings of people whom no model heard. All that a person says is joined in the order of
the recordings; the voice is made of its first seconds, likeness is compared with what follows the longest of them, 2 s
at least. Everybody says the same number of short texts of --texts, with the same seed whatever the recording. After the
table: how likeness differs from the first row, in pairs, with the middle 95 % of it over people.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from myna.codec.registry import VOICE_CODEC, load_codec
from myna.data.audio import Audio
from myna.errors import InputError
from myna.evaluation.clips import Clip, load_clips
from myna.evaluation.measures.bootstrap import RESAMPLES, interval
from myna.evaluation.tts.report import CONSENT
from myna.evaluation.tts.scores import Judge
from myna.evaluation.tts.systems import load_speaker, say_timed
from myna.evaluation.tts.texts import as_written, joined
from myna.tts.presets import SpeechOptions
from myna.tts.voices.voice import Voice, make_voice
from rich.progress import track

RATE = 24_000
SHORTEST_HEARD = 2  # seconds


@dataclass(frozen=True)
class Person:
    """voices: by the seconds that they were made of.   heard: what likeness is compared with."""

    voices: dict[float, Voice]
    heard: Clip
    texts: Sequence[str]


def people(options: argparse.Namespace) -> list[Person]:
    by_name: dict[str, list[Clip]] = {}
    for clip in load_clips(options.data, RATE):
        by_name.setdefault(clip.speaker or clip.key, []).append(clip)
    texts = [c.text for c in load_clips(options.texts, RATE) if c.text and 6 <= len(c.text.split()) <= 16]
    if not texts:
        raise SystemExit("none of the texts has 6 to 16 words")
    codec, longest = load_codec(VOICE_CODEC), max(options.seconds)
    rng, found = np.random.default_rng(0), []
    for name, clips in sorted(by_name.items()):
        wav = joined(sorted(clips, key=lambda clip: clip.key))
        heard = wav[round(longest * RATE) :]
        if len(heard) < SHORTEST_HEARD * RATE or len(found) == options.limit:
            continue
        said = [as_written(texts[int(i)]) for i in rng.integers(len(texts), size=options.sentences)]
        parts = {s: Audio(wav[None, : round(s * RATE)], RATE) for s in options.seconds}
        try:
            voices = {s: make_voice(part, codec, CONSENT, name="voice") for s, part in parts.items()}
        except InputError as error:
            print(f"left out: {name}: {error}")
            continue
        found.append(Person(voices, replace(clips[0], wav=heard), said))
    if not found:
        raise SystemExit(f"nobody says more than {longest + SHORTEST_HEARD:g} s")
    return found


def differences(rows: dict[float, np.ndarray]) -> None:
    """rows: (people, 2), likeness by either network."""
    first, *others = rows
    rng = np.random.default_rng(0)
    for seconds in others:
        apart = rows[seconds] - rows[first]
        drawn = apart[rng.integers(len(apart), size=(RESAMPLES, len(apart)))].mean(1)
        low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
        means = apart.mean(0)
        said = [f"{means[i]:+.3f} ({low[i]:+.3f} to {high[i]:+.3f})" for i in range(2)]
        print(f"{seconds:g} s less {first:g} s: similarity {said[0]}, second judge {said[1]}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="+")
    parser.add_argument("--texts", nargs="+", required=True)
    parser.add_argument("--seconds", type=float, nargs="+", default=[3.0, 6.0, 10.0])
    parser.add_argument("--limit", type=int, default=20, help="people")
    parser.add_argument("--sentences", type=int, default=2, help="of each of them")
    options = parser.parse_args()
    torch.set_num_threads(1)
    speaker, judge, found = load_speaker(load_codec(VOICE_CODEC)), Judge(), people(options)
    print(f"{len(found)} people, {options.sentences} sentences each\n")
    print("| recording | WER % | similarity | second judge | DNSMOS |\n|---|---:|---:|---:|---:|", flush=True)
    rows: dict[float, np.ndarray] = {}
    for seconds in options.seconds:
        errors, totals, likeness, quality = [], [], [], []
        for i, person in enumerate(track(found, f"{seconds:g} s")):
            own = []
            for n, text in enumerate(person.texts):
                said = say_timed(speaker, text, person.voices[seconds], SpeechOptions(seed=10 * i + n))
                text_heard = judge.hear(said.samples, speaker.sample_rate, text)
                like = judge.likeness(said.samples, speaker.sample_rate, [person.heard], [])
                errors.append(text_heard.word_errors)
                totals.append(text_heard.n_words)
                own.append((like.same, like.judge))
                quality.append(judge.quality(said.samples, speaker.sample_rate))
            likeness.append(np.mean(own, axis=0))
        rows[seconds] = np.array(likeness)
        low, high = interval(errors, totals)
        same, second = rows[seconds].mean(0)
        wer = f"{100 * sum(errors) / sum(totals):.1f} ({100 * low:.1f}-{100 * high:.1f})"
        print(
            f"| {seconds:g} s | {wer} | {same:.3f} | {second:.3f} | {np.mean(quality):.2f} |",
            flush=True,
        )
    print()
    differences(rows)


if __name__ == "__main__":
    main()
