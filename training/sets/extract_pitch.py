"""The pitch of every recording of a corpus, by Praat's tracker (Boersma 1993): made once, read by
`training.sets.mel_set`.

python -m myna.training.sets.extract_pitch CORPUS_FOLDER OUT [--jobs 2]

safetensors: pitch uint16 (T,)  Hz / 0.1 at the end of every hop of 10 ms, 0: unvoiced
             starts int64 (U + 1,)
metadata:    keys (JSON: a list, one for each recording)
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ...data.corpus import Corpus, Item, open_corpus
from ...data.files import atomic_output
from ...errors import InputError, MissingModelError, MynaError
from ...layers.harmonic import HIGHEST, LOWEST

HOP = 0.01  # seconds
_UNIT = 0.1  # Hz


def track_pitch(wav: np.ndarray, sample_rate: int, n: int) -> np.ndarray:
    """wav (N,) -> Hz at the end of each of n hops, 0 where unvoiced, float32."""
    try:
        import parselmouth
    except ImportError:
        raise MissingModelError(
            "training needs Praat's pitch tracker: pip install praat-parselmouth"
        ) from None
    if len(wav) < 0.06 * sample_rate:  # three periods of the lowest pitch
        return np.zeros(n, np.float32)
    sound: Any = parselmouth.Sound(wav.astype(np.float64), sample_rate)
    found = sound.to_pitch_ac(time_step=HOP, pitch_floor=LOWEST, pitch_ceiling=HIGHEST)
    hz, first = found.selected_array["frequency"], float(found.xs()[0])
    nearest = np.round(((np.arange(n) + 1) * HOP - first) / HOP).astype(int)
    inside = (nearest >= 0) & (nearest < len(hz))
    return np.where(inside, hz[nearest.clip(0, len(hz) - 1)], 0).astype(np.float32)


class PitchSet:
    """The file at `path`. Raises InputError when it is something else."""

    def __init__(self, path: str | Path):
        try:
            with safe_open(str(path), framework="np") as file:
                self._pitch, self._starts = file.get_tensor("pitch"), file.get_tensor("starts")
                keys = json.loads((file.metadata() or {})["keys"])
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise InputError(
                f"{path} is not a file of `python -m myna.training.sets.extract_pitch` ({error}); make it again"
            ) from error
        self._row = {key: row for row, key in enumerate(keys)}

    def __contains__(self, key: str) -> bool:
        return key in self._row

    def __getitem__(self, key: str) -> np.ndarray:
        """Hz of every hop of a recording, float32, 0 where unvoiced."""
        first, last = self._starts[self._row[key] : self._row[key] + 2]
        return self._pitch[first:last].astype(np.float32) * _UNIT


def _track(corpus: Corpus, items: Sequence[Item]) -> list[np.ndarray]:
    rate = corpus.sample_rate
    tracks = []
    for item in items:
        wav = corpus.read(item, 0, item.length)
        tracks.append(track_pitch(wav, rate, int(len(wav) / rate / HOP)))
    return tracks


def _track_shared(folder: Path, first: int, last: int) -> list[np.ndarray]:
    corpus = open_corpus(folder, 24_000)
    return _track(corpus, corpus.items[first:last])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m myna.training.sets.extract_pitch", description=__doc__)
    parser.add_argument("corpus", type=Path, help="folder of WebDataset shards")
    parser.add_argument("out", type=Path, help="file to write (.safetensors)")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--force", action="store_true", help="replace an output that exists")
    options = parser.parse_args(arguments)
    try:
        corpus = open_corpus(options.corpus, 24_000)
        cuts = list(range(0, len(corpus.items), 200))
        spans = [(first, min(first + 200, len(corpus.items))) for first in cuts]
        tracks: list[np.ndarray] = []
        if options.jobs == 1:
            for first, last in spans:
                tracks += _track(corpus, corpus.items[first:last])
                print(f"\r{last} / {len(corpus.items)}", end="", file=sys.stderr, flush=True)
        else:
            with ProcessPoolExecutor(options.jobs) as pool:
                folder = [options.corpus] * len(spans)
                for part in pool.map(_track_shared, folder, *zip(*spans, strict=True)):
                    tracks += part
        tensors = {
            "pitch": np.round(np.concatenate(tracks) / _UNIT).astype(np.uint16),
            "starts": np.cumsum([0, *map(len, tracks)]).astype(np.int64),
        }
        keys = json.dumps([item.key for item in corpus.items])
        with atomic_output(options.out, options.force) as file:
            file.write(save(tensors, metadata={"keys": keys}))
    except MynaError as error:
        print(f"\n{error}", file=sys.stderr)
        return error.exit_code
    print(f"\n{len(tracks)} recordings -> {options.out}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
