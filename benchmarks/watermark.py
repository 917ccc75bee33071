"""How often the watermark is found where it is, and where it is not, in short cuts of speech.

    python benchmarks/watermark.py DATA... [--cuts 5000] [--marked 200] [--seconds 2] [--codec myna-24k]

DATA: shards or folders with recordings of people (a mark in them counts as a false alarm). Every recording is cut into
pieces of --seconds, of which --cuts are drawn (seed 0) and looked at; --marked of them are marked and looked at again,
and once more after a round trip through the files of the codec. An upper bound is that of 95 % (Clopper and
Pearson 1934).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import myna
import numpy as np
import torch
from myna.data.audio import Audio
from myna.evaluation.clips import load_clips
from myna.marks.watermark import detect_watermark, watermark
from rich.progress import track
from scipy.stats import beta

RATE = 24_000
QUIETEST = 1e-3  # root mean square of a cut that counts as speech


def cuts(data: list[str], seconds: float) -> Iterator[tuple[str, np.ndarray]]:
    """Source and samples (N,) of every piece with sound in it."""
    n = round(seconds * RATE)
    for clip in load_clips(data, RATE):
        for start in range(0, len(clip.wav) - n + 1, n):
            piece = clip.wav[start : start + n]
            if np.sqrt(np.square(piece).mean()) > QUIETEST:
                yield clip.source or "", piece


def drawn(data: list[str], seconds: float, wanted: int) -> list[tuple[str, np.ndarray]]:
    """A fair draw of so many pieces (Vitter 1985, algorithm R), in the memory of those."""
    rng, kept = np.random.default_rng(0), []
    for number, piece in enumerate(cuts(data, seconds)):
        if number < wanted:
            kept.append(piece)
        elif (at := int(rng.integers(number + 1))) < wanted:
            kept[at] = piece
    return kept


def bound(found: int, n: int) -> float:
    """The largest share that is still likely (95 %, one-sided) after so many of n."""
    return 1.0 if found == n else float(beta.ppf(0.95, found + 1, n - found))


def through(codec: str, wav: np.ndarray) -> np.ndarray:
    data = myna.compress(Audio(wav[None], RATE), model=codec)
    return myna.decompress(data).samples[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", nargs="+")
    parser.add_argument("--cuts", type=int, default=5000)
    parser.add_argument("--marked", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--codec", default="myna-24k")
    options = parser.parse_args()
    torch.set_num_threads(1)
    pieces = drawn(options.data, options.seconds, options.cuts)
    if not pieces:
        raise SystemExit(f"no recording is as long as {options.seconds:g} s")
    alarms = []
    for source, wav in track(pieces, "as they are"):
        detection = detect_watermark(wav, RATE)
        if detection.found:
            alarms.append((source, detection))
    n = len(pieces)
    print(
        f"{n} cuts of {options.seconds:g} s without a mark: {len(alarms)} found in, at most {bound(len(alarms), n):.3%}"
    )
    for source, detection in alarms:
        print(f"  {source}: confidence {detection.confidence:.2f}, prominence {detection.prominence:.1f}")
    chosen = [piece for _, piece in pieces[: options.marked]]
    marked = [watermark(wav, RATE) for wav in track(chosen, "marking")]
    for name, change in (("marked", None), (f"marked, then through a file of {options.codec}", through)):
        heard = [
            detect_watermark(wav if change is None else change(options.codec, wav), RATE)
            for wav in track(marked, name)
        ]
        found = sum(d.found for d in heard)
        print(f"{len(heard)} cuts {name}: {found} found ({found / len(heard):.1%})")


if __name__ == "__main__":
    main()
