"""Recordings through their mel spectrograms and the mel vocoder: likeness to the very recording, quality, speed.

    python benchmarks/mel_vocoder.py DATA... [--limit 20] [--weights FILE]

DATA: shards or folders with recordings, a row each. FILE: weights in the place of the repository's. On one thread.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from myna.codec.mel_vocoder import MelVocoder, MelVocoderConfig
from myna.data.checkpoint import load_checkpoint
from myna.evaluation.clips import Clip, load_clips
from myna.evaluation.tts.scores import Judge
from myna.tts.registry import flow_files
from rich.progress import track

RATE = 24_000


def row(name: str, clips: list[Clip], vocoder: MelVocoder, judge: Judge) -> str:
    """Of a table in Markdown: means, and 5 % of the clips are less like."""
    likeness, second, before, after, seconds = [], [], [], [], 0.0
    for clip in track(clips, name):
        start = time.perf_counter()
        with torch.inference_mode():
            mel = vocoder.mel(torch.from_numpy(clip.wav)[None])
            generator = torch.Generator().manual_seed(0)
            made = vocoder.speak(mel, generator=generator)[0, : len(clip.wav)].numpy()
        seconds += time.perf_counter() - start
        like = judge.likeness(made, RATE, [clip], [])
        likeness.append(like.same)
        second.append(like.judge)
        before.append(judge.quality(clip.wav, RATE))
        after.append(judge.quality(made, RATE))
    speed = sum(clip.duration for clip in clips) / seconds
    return (
        f"| {name} | {len(clips)} | {np.nanmean(likeness):.3f} ({np.nanquantile(likeness, 0.05):.3f}) "
        f"| {np.nanmean(second):.3f} | {np.mean(after):.2f} ({np.mean(before):.2f}) | {speed:.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", nargs="+")
    parser.add_argument("--limit", type=int, default=20)
    parser.add_argument("--weights", type=Path, default=flow_files()["vocoder"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    vocoder = load_checkpoint(MelVocoder, MelVocoderConfig, options.weights, "mel-vocoder").eval()
    judge = Judge(("similarity", "judge", "dnsmos"))
    rows = [
        row(Path(data).stem, load_clips([data], RATE, limit=options.limit), vocoder, judge)
        for data in options.data
    ]
    print("| copies of | clips | similarity (5 %) | second judge | DNSMOS (recordings) | x real time |")
    print("|---|---:|---:|---:|---:|---:|", *rows, sep="\n")


if __name__ == "__main__":
    main()
