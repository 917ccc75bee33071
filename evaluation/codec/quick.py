"""The few numbers to look at while a codec trains, within minutes:

python -m myna.evaluation.codec.quick CHECKPOINT [--files 10] [--corpus ../shared/corpus] [--codebooks 8 4]
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ...codec import Codec
from ...codec.registry import load_codec
from ...errors import MynaError
from ..clips import Clip, load_clips
from ..measures.distances import mel_distance
from ..measures.perceptual import at_rate, pesq_wb, stoi

RATE = 24000
SETS = ("lj-test", "speechocean-test", "synth-test")


@dataclass(frozen=True)
class QuickResult:
    """Means over the clips of one set at one number of codebooks; speed, times real time."""

    data: str
    n_codebooks: int
    n_clips: int
    pesq: float
    stoi: float
    mel: float
    speed: float


def reconstruct(
    codec: Codec, wav: np.ndarray, sample_rate: int, n_codebooks: int | None = None
) -> np.ndarray:
    """(N,) at `sample_rate` through a codec of any rate and number of channels, and back to (N,)."""
    device = next(codec.parameters(), torch.zeros(())).device
    x = torch.from_numpy(at_rate(wav, sample_rate, codec.sample_rate)).to(device)
    y = codec.reconstruct(x.expand(1, codec.channels, -1), n_codebooks, search=True)
    return at_rate(y[0].mean(0).float().cpu().numpy(), codec.sample_rate, sample_rate)[: len(wav)]


def measure(codec: Codec, name: str, clips: list[Clip], n_codebooks: int) -> QuickResult:
    scores, seconds = [], 0.0
    for clip in clips:
        start = time.perf_counter()
        y = reconstruct(codec, clip.wav, clip.sample_rate, n_codebooks)
        seconds += time.perf_counter() - start
        pair = clip.wav, y, clip.sample_rate
        scores.append((pesq_wb(*pair), stoi(*pair), mel_distance(*pair)))
    pesq, intelligibility, mel = (float(v) for v in np.nanmean(np.array(scores), axis=0))
    speed = sum(clip.duration for clip in clips) / seconds
    return QuickResult(name, n_codebooks, len(clips), pesq, intelligibility, mel, speed)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m myna.evaluation.codec.quick", description=__doc__)
    parser.add_argument("checkpoint", help="a file that load_codec takes, or the name of a model")
    parser.add_argument("--files", type=int, default=10, help="clips of each set")
    parser.add_argument("--corpus", type=Path, default=Path("../shared/corpus"))
    parser.add_argument("--codebooks", type=int, nargs="*", help="default: all, and 4")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(argv)
    try:
        codec = load_codec(options.checkpoint, device=options.device).eval()
        print(f"{'data':18}{'books':>6}{'clips':>6}{'PESQ-WB':>9}{'STOI':>8}{'mel':>7}{'x real time':>13}")
        for name in SETS:
            shards = [str(options.corpus / f"{name}-*.tar")]
            clips = load_clips(shards, RATE, limit=options.files, max_seconds=20)
            for n in options.codebooks or sorted(
                {codec.n_codebooks, min(4, codec.n_codebooks)}, reverse=True
            ):
                r = measure(codec, name, clips, n)
                print(
                    f"{r.data:18}{r.n_codebooks:6}{r.n_clips:6}{r.pesq:9.3f}{r.stoi:8.4f}{r.mel:7.3f}{r.speed:13.1f}",
                    flush=True,
                )
    except MynaError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
