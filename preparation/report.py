"""One page about a corpus: what is in it, how it sounds, what was left out and why; with plots where matplotlib is."""

from __future__ import annotations

import json
from array import array
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..data.files import atomic_output
from .options import PrepareOptions
from .records import Dropped
from .splits import HELD_OUT_FIRST

REPORT, PICTURE, STATS = "report.md", "report.png", "stats.json"
MEASURES = {
    "duration": "seconds of a piece",
    "quality": "DNSMOS",
    "loudness": "LUFS as recorded",
    "cer": "CER against the given text",
    "logprob": "log-probability of what was heard",
}
EXAMPLES = 8  # of what was dropped, each reason
MOST_SPEAKERS = 40  # bars of a plot


class Statistics:
    """Counts that grow with every piece; memory is a few numbers a piece."""

    def __init__(self, layout: str, n_recordings: int):
        self.layout, self.n_recordings = layout, n_recordings
        self.seconds_in = 0.0
        self.values: dict[str, array[float]] = {name: array("d") for name in MEASURES}
        self.splits: dict[str, list[float]] = defaultdict(lambda: [0, 0.0])  # pieces, seconds
        self.speakers: dict[str, float] = defaultdict(float)
        self.split_speakers: dict[str, set[str]] = defaultdict(set)
        self.languages: dict[str, float] = defaultdict(float)
        self.text_from: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.dropped_seconds: dict[str, float] = defaultdict(float)
        self.examples: dict[str, list[Dropped]] = defaultdict(list)
        self.bad_files: list[Dropped] = []

    def keep(self, facts: Mapping[str, Any]) -> None:
        for name, values in self.values.items():
            if facts[name] is not None:
                values.append(facts[name])
        seconds = facts["duration"]
        self.splits[facts["split"]][0] += 1
        self.splits[facts["split"]][1] += seconds
        self.speakers[facts["speaker"]] += seconds
        self.split_speakers[facts["split"]].add(facts["speaker"])
        self.languages[facts["language"] or "unknown"] += seconds
        self.text_from[facts["text_from"] or "none"] += 1

    def drop(self, one: Dropped) -> None:
        self.dropped[one.reason] += 1
        if one.start is not None and one.end is not None:
            self.dropped_seconds[one.reason] += one.end - one.start
        if len(self.examples[one.reason]) < EXAMPLES:
            self.examples[one.reason].append(one)
        if one.reason == "unreadable" and len(self.bad_files) < 1000:
            self.bad_files.append(one)

    @property
    def n_pieces(self) -> int:
        return sum(int(n) for n, _ in self.splits.values())

    @property
    def seconds(self) -> float:
        return sum(seconds for _, seconds in self.splits.values())

    def to_dict(self) -> dict[str, Any]:
        """What stats.json and `--json` say."""
        order = [split for split in reversed(HELD_OUT_FIRST) if split in self.splits]
        return {
            "layout": self.layout,
            "recordings": self.n_recordings,
            "hours_in": round(self.seconds_in / 3600, 6),
            "pieces": self.n_pieces,
            "hours": round(self.seconds / 3600, 6),
            "speakers": len(self.speakers),
            "splits": {
                split: {
                    "pieces": int(self.splits[split][0]),
                    "hours": round(self.splits[split][1] / 3600, 6),
                    "speakers": len(self.split_speakers[split]),
                }
                for split in order
            },
            "languages": {name: round(s / 3600, 6) for name, s in sorted(self.languages.items())},
            "text": dict(sorted(self.text_from.items())),
            "measures": {name: _summary(values) for name, values in self.values.items() if len(values)},
            "dropped": dict(sorted(self.dropped.items())),
            "dropped_hours": {name: round(s / 3600, 6) for name, s in sorted(self.dropped_seconds.items())},
        }


def write_report(
    folder: Path, statistics: Statistics, options: PrepareOptions, notes: Sequence[str] = ()
) -> None:
    """report.md, stats.json and, with matplotlib, report.png. notes: what the reader should know about this run."""
    picture = find_spec("matplotlib") is not None and statistics.n_pieces > 0
    if picture:
        with atomic_output(folder / PICTURE) as file:
            file.write(plot(statistics))
    with atomic_output(folder / STATS) as file:
        file.write(
            (json.dumps(statistics.to_dict(), indent=1, ensure_ascii=False) + "\n").encode("utf-8", "replace")
        )
    with atomic_output(folder / REPORT) as file:
        file.write(page(statistics, options, notes, picture).encode("utf-8", "backslashreplace"))


def page(statistics: Statistics, options: PrepareOptions, notes: Sequence[str], picture: bool) -> str:
    """The report, in Markdown."""
    facts = statistics.to_dict()
    lines = [f"# {options.source}", ""]
    lines.append(
        f"{_hours(statistics.seconds)} in {facts['pieces']} pieces of {facts['speakers']} speakers, out of "
        f"{_hours(statistics.seconds_in)} in {facts['recordings']} recordings (layout: {facts['layout']})."
    )
    lines += ["", *(f"- {note}" for note in notes), *([""] if notes else [])]
    rows = [
        [split, s["pieces"], _hours(s["hours"] * 3600), s["speakers"]] for split, s in facts["splits"].items()
    ]
    lines += _table(["split", "pieces", "length", "speakers"], rows)
    if picture:
        lines += [f"![Durations, quality, loudness, agreement, speakers, languages]({PICTURE})", ""]
    rows = [
        [MEASURES[name], *(f"{s[k]:.2f}" for k in ("p5", "median", "p95")), s["n"]]
        for name, s in facts["measures"].items()
    ]
    lines += _table(["measure", "5 %", "median", "95 %", "pieces"], rows)
    lines += _table(
        ["language", "length"], [[name, _hours(hours * 3600)] for name, hours in facts["languages"].items()]
    )
    words = {"given": "with a given text", "heard": "transcribed here", "none": "without a text"}
    lines += [", ".join(f"{n} {words[name]}" for name, n in facts["text"].items()) + ".", ""]
    lines += ["## What was left out", ""]
    if not statistics.dropped:
        lines += ["Nothing.", ""]
    rows = [
        [
            reason,
            n,
            _hours(statistics.dropped_seconds[reason]) if reason in statistics.dropped_seconds else "",
        ]
        for reason, n in statistics.dropped.most_common()
    ]
    lines += _table(["reason", "files or pieces", "length"], rows)
    for reason, examples in sorted(statistics.examples.items()):
        shown = statistics.bad_files if reason == "unreadable" else examples
        lines += [f"**{reason}**", "", *(f"- {_example(one)}" for one in shown)]
        if statistics.dropped[reason] > len(shown):
            lines.append(f"- ... and {statistics.dropped[reason] - len(shown)} more, in `dropped.jsonl`")
        lines.append("")
    lines += [
        "## Options",
        "",
        "```json",
        json.dumps(options.to_dict(), indent=1, ensure_ascii=False),
        "```",
        "",
    ]
    return "\n".join(lines)


def plot(statistics: Statistics) -> bytes:
    """Six panels, as PNG."""
    from ..evaluation.codec.plots import new_figure, to_png

    figure, axes = new_figure(6, 4.2, 3.0)
    for axis, name in zip(axes, ("duration", "quality", "loudness", "cer"), strict=False):
        values = np.asarray(statistics.values[name])
        if len(values):
            axis.hist(values, bins=40, color="#4c72b0")
            axis.axvline(float(np.median(values)), color="0.3", linestyle=":")
        else:
            axis.text(
                0.5, 0.5, "not measured", ha="center", va="center", transform=axis.transAxes, color="0.5"
            )
        axis.set(xlabel=MEASURES[name], ylabel="pieces")
    loudest = sorted(statistics.speakers.items(), key=lambda item: (-item[1], item[0]))
    bars = [seconds / 60 for _, seconds in loudest[:MOST_SPEAKERS]]
    axes[4].bar(range(len(bars)), bars, color="#55a868")
    n = len(loudest)
    axes[4].set(
        xlabel=f"speakers ({n})" if n <= MOST_SPEAKERS else f"{MOST_SPEAKERS} of {n} speakers",
        ylabel="minutes",
    )
    reasons = statistics.dropped.most_common(8)
    languages = sorted(statistics.languages.items(), key=lambda item: (-item[1], item[0]))[:6]
    total = max(statistics.seconds, 1e-9)
    names = [f"{name} ({100 * s / total:.0f} %)" for name, s in languages]
    axes[5].barh(range(len(reasons)), [count for _, count in reasons], color="#c44e52")
    axes[5].set_yticks(range(len(reasons)), [reason for reason, _ in reasons])
    axes[5].invert_yaxis()
    axes[5].set(xlabel="left out", title=", ".join(names))
    axes[5].title.set_fontsize(8)
    return to_png(figure)


def _summary(values: Sequence[float]) -> dict[str, float]:
    numbers = np.asarray(values)
    p5, median, p95 = np.percentile(numbers, [5, 50, 95])
    return {
        "n": len(numbers),
        "mean": round(float(numbers.mean()), 4),
        "p5": round(float(p5), 4),
        "median": round(float(median), 4),
        "p95": round(float(p95), 4),
    }


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    if not rows:
        return []
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return [*("| " + " | ".join(str(cell) for cell in row) + " |" for row in lines), ""]


def _example(one: Dropped) -> str:
    where = f" {one.start:.1f} to {one.end:.1f} s" if one.start is not None and one.end is not None else ""
    detail = " ".join(one.detail.split())
    return f"`{one.path}`{where}: {detail}" if detail else f"`{one.path}`{where}"


def _hours(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
