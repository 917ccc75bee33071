"""Speech of some people in the voices of others (`myna convert`): words, likeness to both, quality.

    python benchmarks/convert.py SOURCES --voices VOICES [--limit 8] [--weights FOLDER]

SOURCES, VOICES: shards or folders with recordings; sources have texts, a person among the voices has two recordings or
more: the first is the voice, the others are what likeness is compared with. Sources and voices are paired in order.
FOLDER: of weights in the place of those of the repository.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from myna.data.audio import Audio
from myna.evaluation.clips import Clip, load_clips
from myna.evaluation.tts.scores import Judge
from myna.tts.convert import Converter, load_decoder
from myna.tts.voices.voice import make_voice
from rich.progress import track

RATE = 24_000
CONSENT = "the speaker of a recording that was published for research"


def people(clips: list[Clip]) -> list[list[Clip]]:
    """The recordings of everybody who has two or more, in order."""
    by_name: dict[str, list[Clip]] = {}
    for clip in clips:
        by_name.setdefault(clip.speaker or clip.key, []).append(clip)
    return [own for own in by_name.values() if len(own) > 1]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sources", nargs="+")
    parser.add_argument("--voices", nargs="+", required=True)
    parser.add_argument("--limit", type=int, default=8)
    parser.add_argument("--weights")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sources = [clip for clip in load_clips(options.sources, RATE) if clip.text][: options.limit]
    voices = people(load_clips(options.voices, RATE))
    if not sources or not voices:
        raise SystemExit("no source has a text, or nobody among the voices has two recordings")
    converter, judge = Converter(load_decoder(folder=options.weights)), Judge()
    rows: dict[str, list[tuple[float, ...]]] = {"recordings": [], "converted": []}
    for i, clip in enumerate(track(sources, "converting")):
        first, *others = voices[i % len(voices)]
        voice = make_voice(Audio(first.wav[None], RATE), converter.codec, CONSENT)
        made = converter.convert(Audio(clip.wav[None], RATE), voice)
        for name, wav in (("recordings", clip.wav), ("converted", made.samples)):
            heard = judge.hear(wav, RATE, clip.text or "")
            like = judge.likeness(wav, RATE, others, [clip])
            quality = judge.quality(wav, RATE)
            rows[name].append((heard.word_errors, heard.n_words, like.same, like.different, quality))
    print("|  | clips | WER % | similarity to the voice | to the source | DNSMOS |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, found in rows.items():
        errors, words, same, different, quality = np.array(found).T
        source = f"{different.mean():.3f}" if name == "converted" else ""
        print(
            f"| {name} | {len(found)} | {100 * errors.sum() / words.sum():.0f} | {same.mean():.3f} | {source} "
            f"| {quality.mean():.2f} |"
        )


if __name__ == "__main__":
    main()
