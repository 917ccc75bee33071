"""Which of several tries at a sentence is heard: words and likeness of the best of 1, 2, 4, 8 by each score.

    python benchmarks/tries.py draw DATA... --out tries.json [--voices 9] [--limit 3] [--tries 8]   # say, judge
    python benchmarks/tries.py choose tries.json... [--weights aligner=1,recogniser=1,likeness=5]    # tables

DATA: shards or folders with recordings of people whom no model heard. `draw` says every sentence with so many seeds,
preset `standard`, and writes after each sentence, so that a run that ends early is not lost. `choose` takes every
choice of N of the tries of a sentence, has each score choose among them, and reports the means. Whisper tiny.en counts
the words and is one of the scores, too; where `pocketsphinx` is installed, its recogniser, which chooses nothing,
counts them besides.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from myna.codec.registry import VOICE_CODEC, load_codec
from myna.data.audio import Audio
from myna.data.resample import resample
from myna.evaluation.clips import load_clips
from myna.evaluation.tts.report import CONSENT
from myna.evaluation.tts.scores import MOST_REFERENCES, Judge, compare
from myna.evaluation.tts.systems import load_speaker, say_timed
from myna.evaluation.tts.texts import joined, lines_for, people_of, some_of
from myna.tts.presets import SpeechOptions
from myna.tts.rerank.base import Attempt
from myna.tts.text.normalize import normalize
from myna.tts.text.phonemes import phonemize
from myna.tts.voices.voice import make_voice

_SEED = 7  # of voices and texts
_SCORES = ("aligner", "recogniser", "likeness", "clvp")
_RESAMPLES = 1000


@dataclass(frozen=True)
class Try:
    """errors: words that the judge missed.   likeness, second: to other speech of the speaker, by Resemblyzer and by
    a judge that no model learned from.   dnsmos: of its sound.   scores: of the scorers.   missing: words that the
    aligner does not find.   other: errors by PocketSphinx, None without it."""

    errors: int
    likeness: float
    second: float
    dnsmos: float
    missing: int
    scores: Mapping[str, float]
    other: int | None = None


@dataclass(frozen=True)
class Sentence:
    voice: str
    text: str
    words: int
    tries: tuple[Try, ...]


class Sphinx:
    """A recogniser of another kind than Whisper, hidden Markov models and a trigram (https://cmusphinx.github.io)."""

    def __init__(self) -> None:
        from pocketsphinx import Decoder

        self._decoder: Any = Decoder(samprate=16_000, loglevel="FATAL")

    def errors(self, wav: np.ndarray, sample_rate: int, text: str) -> int:
        """Words of the text that it does not hear in wav (N,), or hears besides."""
        samples = (resample(wav[None], sample_rate, 16_000)[0].clip(-1, 1) * 32767).astype(np.int16)
        self._decoder.start_utt()
        self._decoder.process_raw(samples.tobytes(), full_utt=True)
        self._decoder.end_utt()
        found = self._decoder.hyp()
        return compare(text, "" if found is None else found.hypstr).word_errors


def draw(data: Sequence[str], out: Path, voices: int, limit: int, tries: int) -> None:
    """Say and judge everything; `out` grows by a sentence at a time."""
    codec = load_codec(VOICE_CODEC).eval()
    speaker, judge = load_speaker(codec), Judge()
    sphinx = Sphinx() if find_spec("pocketsphinx") else None
    everybody = people_of(load_clips(data, codec.sample_rate, max_seconds=60))
    found: list[dict[str, object]] = []
    for person in some_of(everybody, voices):
        prompt = next(iter(person.prompts(_SEED)))
        voice = make_voice(Audio(joined(prompt)[None], codec.sample_rate), codec, CONSENT, name="voice")
        same = person.beside(prompt)[:MOST_REFERENCES]
        for line in lines_for(person, everybody, prompt, limit, _SEED):
            phones = phonemize(normalize(line.text))
            told = []
            for seed in range(tries):
                said = say_timed(speaker, line.text, voice, SpeechOptions(seed=seed))
                heard = judge.hear(said.samples, codec.sample_rate, line.text)
                likeness = judge.likeness(said.samples, codec.sample_rate, same, ())
                attempt = Attempt(said.samples, codec.sample_rate, phones, line.text, voice.prompt())
                verdict = speaker.models.judge(attempt, False)
                dnsmos = judge.quality(said.samples, codec.sample_rate)
                told.append(
                    {
                        "errors": heard.word_errors,
                        "likeness": likeness.same,
                        "second": likeness.judge,
                        "dnsmos": dnsmos,
                        "missing": verdict.missing,
                        "other": sphinx and sphinx.errors(said.samples, codec.sample_rate, line.text),
                        "scores": dict(verdict.scores),
                    }
                )
            found.append({"voice": person.name, "text": line.text, "words": heard.n_words, "tries": told})
            out.write_text(json.dumps(found, indent=1))
            print(f"{person.name}: {[t['errors'] for t in told]} of {heard.n_words}", flush=True)


def read(paths: Sequence[Path]) -> list[Sentence]:
    rows = [row for path in paths for row in json.loads(path.read_text())]
    return [
        Sentence(row["voice"], row["text"], row["words"], tuple(Try(**t) for t in row["tries"]))
        for row in rows
    ]


def choice(sentence: Sentence, n: int, weights: Mapping[str, float]) -> np.ndarray:
    """Mean of (errors, likeness, second judge, DNSMOS, errors by PocketSphinx) of the try chosen among each n, (5,)."""
    rows = []
    for some in itertools.combinations(sentence.tries, n):
        best = max(some, key=lambda t: sum(w * t.scores.get(name, 0.0) for name, w in weights.items()))
        other = math.nan if best.other is None else best.other
        rows.append((best.errors, best.likeness, best.second, best.dnsmos, other))
    return np.array(rows).mean(axis=0)


def table(sentences: Sequence[Sentence], every: Mapping[str, Mapping[str, float]]) -> None:
    most = min(len(s.tries) for s in sentences)
    counts = [n for n in (1, 2, 4, 8) if n <= most]
    words = np.array([s.words for s in sentences])
    print(f"{len(sentences)} sentences, {words.sum()} words, {most} tries\n")
    print(
        "| chosen by | of | WER % | gain (95 %) | by PocketSphinx | gain | similarity | second judge | DNSMOS |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    one = np.array([choice(s, 1, {}) for s in sentences])
    for name, weights in every.items():
        for n in counts if name == next(iter(every)) else counts[1:]:
            each = np.array([choice(s, n, weights) for s in sentences])
            means = np.nanmean(each, axis=0)  # likeness is that to other speech, which not everybody has
            columns = [name, str(n)]
            for judge in (0, 4):
                columns += [_rate(each[:, judge], words), _gain(one[:, judge], each[:, judge], words)]
            columns += [f"{means[1]:.3f}", f"{means[2]:.3f}", f"{means[3]:.2f}"]
            print(f"| {' | '.join(columns)} |")


def _rate(errors: np.ndarray, words: np.ndarray) -> str:
    return "" if np.isnan(errors).any() else f"{100 * errors.sum() / words.sum():.1f}"


def _gain(one: np.ndarray, some: np.ndarray, words: np.ndarray) -> str:
    """Points of the word error rate that are gained, in 95 % of resampled sentences."""
    if np.isnan(one).any():
        return ""
    rng, gains = np.random.default_rng(0), []
    for _ in range(_RESAMPLES):
        at = rng.integers(len(words), size=len(words))
        gains.append(100 * (one[at] - some[at]).sum() / words[at].sum())
    low, high = np.percentile(gains, [2.5, 97.5])
    return f"{low:+.1f} to {high:+.1f}"


def choose(paths: Sequence[Path], given: Sequence[str]) -> None:
    """One table: every score alone, then those of `given` together."""
    sentences = read(paths)
    known = [name for name in _SCORES if name in sentences[0].tries[0].scores]
    every: dict[str, Mapping[str, float]] = {name: {name: 1.0} for name in known}
    for text in given:
        pairs = (part.split("=") for part in text.split(","))
        every[text] = {name: float(value) for name, value in pairs}
    table(sentences, every)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(dest="part", required=True)
    drawn = parts.add_parser("draw")
    drawn.add_argument("data", nargs="+")
    drawn.add_argument("--out", type=Path, required=True)
    drawn.add_argument("--voices", type=int, default=9)
    drawn.add_argument("--limit", type=int, default=3)
    drawn.add_argument("--tries", type=int, default=8)
    drawn.add_argument("--threads", type=int, default=1)
    chosen = parts.add_parser("choose")
    chosen.add_argument("tries", nargs="+", type=Path)
    chosen.add_argument("--weights", action="append", default=[])
    given = parser.parse_args()
    if given.part == "draw":
        torch.set_num_threads(given.threads)
        draw(given.data, given.out, given.voices, given.limit, given.tries)
    else:
        choose(given.tries, given.weights)


if __name__ == "__main__":
    main()
