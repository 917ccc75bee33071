"""Speaker vectors (GE2E) of short windows of speech: what tells who speaks when.

    |  speech of 4 s  |      one window of 1.6 s every 0.4 s, each at the level that the network was trained at;
    [-----]           |      a stretch that is shorter is said again until it fills a window
      [-----] ...

The network's vectors all lie on one side of the sphere (strangers have a cosine of 0.55). Seen from the mean of many
people (`weights/ge2e.centre.safetensors`) strangers are at right angles, and half as much speech is confused.

Shapes: N samples at 16 kHz, W windows, E = 256.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...data.audio import Samples
from ...pretrained.ge2e import DIMS, LEVEL, RATE, load_centre, load_ge2e
from ..vad import Span, VadOptions

SPEECH = VadOptions(min_silence=0.1, pad=0.05)  # a new speaker mostly begins after a pause, however short
WINDOW, HOP = 1.6, 0.4  # seconds
_N, _N_HOP, _FRAME = round(WINDOW * RATE), round(HOP * RATE), 160  # samples
_BATCH = 64  # windows
_SILENT = 1e-12  # mean square below which there is nothing to be levelled


@dataclass(frozen=True)
class Voices:
    """Of the windows of a recording, in order: vectors (W, E) of length one, middles (W,) in seconds, the seconds
    (W,) of speech in each, and which span (W,) it lies in."""

    vectors: np.ndarray
    middles: np.ndarray
    seconds: np.ndarray
    spans: np.ndarray


def find_voices(
    audio: Samples,
    spans: Sequence[Span],
    proceed: Callable[[], None] | None = None,
    centred: bool = True,
) -> Voices:
    """audio (N,) at 16 kHz and where somebody speaks in it -> the voices there.

    proceed: called before every 64 windows; what it raises ends the work. Memory does not grow with the recording, but
    by 1 kB a window.   centred: seen from the mean of many people; otherwise the network's own vectors.
    """
    centre = load_centre() if centred else torch.zeros(DIMS)
    vectors: list[np.ndarray] = []
    middles: list[float] = []
    seconds: list[float] = []
    numbers: list[int] = []
    for number, starts, wav in _stretches(audio, spans):
        if proceed is not None:
            proceed()
        vectors.append(_vectors(wav, [start - starts[0] for start in starts], centre))
        span = spans[number]
        length = min(span.seconds, WINDOW)
        middles += [start / RATE + length / 2 for start in starts]
        seconds += [length] * len(starts)
        numbers += [number] * len(starts)
    return Voices(
        np.concatenate([np.zeros((0, DIMS), np.float32), *vectors]),
        np.array(middles, float),
        np.array(seconds, float),
        np.array(numbers, int),
    )


def of_length_one(vectors: np.ndarray) -> np.ndarray:
    """(..., E) to the same directions."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)


def _stretches(audio: Samples, spans: Sequence[Span]) -> Iterator[tuple[int, list[int], np.ndarray]]:
    """Number of the span, starts of up to 64 windows of it in samples of the recording, and the samples from the first
    to the end of the last."""
    for number, span in enumerate(spans):
        first, last = round(span.start * RATE), min(round(span.end * RATE), len(audio))
        if last <= first:
            continue
        if last - first < _N:
            yield number, [first], np.resize(audio[first:last], _N)
            continue
        starts = list(range(first, last - _N, _N_HOP))
        if not starts or last - _N - starts[-1] >= _N_HOP // 2:
            starts.append(last - _N)
        for i in range(0, len(starts), _BATCH):
            some = starts[i : i + _BATCH]
            yield number, some, audio[some[0] : some[-1] + _N]


@torch.inference_mode()
def _vectors(wav: np.ndarray, starts: list[int], centre: Tensor) -> np.ndarray:
    """Samples (N,) -> vectors (W, E) of the windows that begin at `starts`, seen from `centre` (E,)."""
    network = load_ge2e()
    samples = torch.from_numpy(np.array(wav, np.float32))  # a copy: what was sent cannot be written to
    mel = network.mel(samples[None])[0]
    windows = [
        _levelled(
            mel[start // _FRAME : start // _FRAME + _N // _FRAME],
            float(samples[start : start + _N].square().mean()),
        )
        for start in starts
    ]
    return F.normalize(network(torch.stack(windows)) - centre, dim=1).numpy()


def _levelled(mel: Tensor, power: float) -> Tensor:
    return mel * (LEVEL**2 / max(power, _SILENT))
