"""Examples for the flow decoder: an utterance to be said, after a prompt of the same voice.

    other utterance of the voice, or this one's beginning      the utterance
    [...| a cut of 1.5 to 4 s |...]                            [   target   ]

A voice is a speaker at one scale and tempo (`mel_set`). What is drawn is a function of the seed and the step. Shapes:
B batch, T frames of 50 Hz.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from ...errors import UsageError
from .mel_set import MelSet


@dataclass(frozen=True)
class ExampleOptions:
    """How utterances become examples. Shares are of the examples."""

    prompt_frames: tuple[int, int] = (70, 200)  # 1.4 to 4 s
    own_prompt: float = 0.15  # the prompt is cut from the utterance itself, though others are there
    max_frames: int = 600  # of a target; longer ones are cut
    hide_voice: float = 0.1  # neither prompt nor speaker vector, for classifier-free guidance
    hide_prompt: float = 0.1  # the speaker vector only
    hide_speaker: float = 0.1  # the prompt only
    hide_phones: float = 0.15
    hide_tokens: float = 0.35
    hide_both: float = 0.1  # of those without phones, tokens are hidden too
    hide_highs: float = 0.5  # bands above 7.4 kHz of the prompt
    hide_clarity: float = 0.2  # how clearly the target is said
    disturb_prompt: float = (
        0.0  # noise and reverberation are added to the prompt, and the target stays as it is
    )

    def __post_init__(self) -> None:
        low, high = self.prompt_frames
        if not 2 <= low <= high:
            raise ValueError(f"prompt_frames must rise from at least 2, got {low} to {high}")
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not 0 <= value <= 1:
                raise ValueError(f"{field.name} is a share, 0 to 1, got {value}")


ALL_SHOWN = ExampleOptions(
    own_prompt=0,
    hide_voice=0,
    hide_prompt=0,
    hide_speaker=0,
    hide_phones=0,
    hide_tokens=0,
    hide_highs=0,
    hide_clarity=0,
    disturb_prompt=0,
)


@dataclass(frozen=True)
class Plans:
    """Examples before they are read. All (B,): where the prompt and the target begin in the set, and how many frames
    they have (all even); the target's utterance, the prompt's, what is hidden (bool), and whether the prompt is
    disturbed."""

    prompt_start: Tensor
    prompt_frames: Tensor
    start: Tensor
    frames: Tensor
    utterance: Tensor
    prompt_utterance: Tensor
    hide_prompt: Tensor
    hide_speaker: Tensor
    hide_phones: Tensor
    hide_tokens: Tensor
    hide_highs: Tensor
    hide_clarity: Tensor
    disturb_prompt: Tensor

    def to(self, device: str | torch.device) -> Plans:
        return Plans(*(getattr(self, field.name).to(device, non_blocking=True) for field in fields(self)))

    def rows(self, chosen: Sequence[int] | Tensor) -> Plans:
        at = torch.as_tensor(chosen)
        return Plans(*(getattr(self, field.name)[at] for field in fields(self)))


@dataclass(frozen=True)
class Voice:
    """The utterances of a speaker at one scale and tempo, and those of them that are said."""

    targets: list[int]
    utterances: list[int]


class Planner:
    """Draws examples from the utterances `chosen` of a mel set: a source by weight, a voice of it, an utterance.

    weights: share of the examples that each source gives; None: by its number of voices.   least_quality: DNSMOS of
    the targets; prompts may have less.
    Raises UsageError for a source with a weight but without utterances, and where a quality is asked for that was not
    measured.
    """

    def __init__(
        self,
        speech: MelSet,
        chosen: Sequence[int],
        options: ExampleOptions,
        weights: dict[str, float] | None = None,
        least_quality: float | None = None,
    ):
        self.speech, self.options = speech, options
        self._voices: dict[str, list[Voice]] = {}
        spoken = set(_good(speech, chosen, least_quality))
        by_voice: dict[tuple[str, str, float, float], list[int]] = {}
        for i in chosen:
            item = speech.items[i]
            by_voice.setdefault((item.source, item.speaker, item.scale, item.tempo), []).append(i)
        for (source, _, _, _), utterances in by_voice.items():
            if targets := [i for i in utterances if i in spoken]:
                self._voices.setdefault(source, []).append(Voice(targets, utterances))
        if weights is None:
            weights = {source: len(voices) for source, voices in self._voices.items()}
        missing = [source for source, weight in weights.items() if weight and source not in self._voices]
        if missing:
            raise UsageError(
                f"data.sources: {missing[0]!r} has a weight but no utterances; the mel sets have "
                f"{', '.join(sorted(self._voices))}"
            )
        self._sources = [source for source, weight in weights.items() if weight]
        total = sum(weights[source] for source in self._sources)
        self._odds = [weights[source] / total for source in self._sources]
        self._n_frames, self._n_phones = speech.n_frames, speech.n_phones

    def draw(self, rng: np.random.Generator, n: int) -> Plans:
        """n examples."""
        sources = rng.choice(len(self._sources), size=n, p=self._odds)
        return self._told(_stacked([self._one(self._voices[self._sources[s]], rng) for s in sources]), rng)

    def each(self, targets: Sequence[int], rng: np.random.Generator) -> Plans:
        """One example of each of the utterances `targets`, which are among the chosen ones."""
        mates = {i: v.utterances for voices in self._voices.values() for v in voices for i in v.utterances}
        return self._told(_stacked([self._example(i, mates[i], rng) for i in targets]), rng)

    def _told(self, plans: Plans, rng: np.random.Generator) -> Plans:
        """Of a share it is not told how clearly they are said, and of a share the prompt is disturbed. By generators of
        their own: examples of recipes that do not ask for it stay what they were."""
        hidden, disturbed = (one.random(len(plans.utterance)) for one in rng.spawn(2))
        return replace(
            plans,
            hide_clarity=plans.hide_clarity | torch.from_numpy(hidden < self.options.hide_clarity),
            disturb_prompt=torch.from_numpy(disturbed < self.options.disturb_prompt),
        )

    def _one(self, voices: list[Voice], rng: np.random.Generator) -> list[int | bool]:
        voice = voices[int(rng.integers(len(voices)))]
        return self._example(voice.targets[int(rng.integers(len(voice.targets)))], voice.utterances, rng)

    def _example(self, target: int, utterances: list[int], rng: np.random.Generator) -> list[int | bool]:
        """An example of an utterance; those of its voice are what the prompt is cut from."""
        o = self.options
        prompt = target
        if len(utterances) > 1 and rng.random() >= o.own_prompt:
            while prompt == target:
                prompt = utterances[int(rng.integers(len(utterances)))]
        wanted = int(rng.integers(o.prompt_frames[0], o.prompt_frames[1] + 1)) // 2 * 2
        start, frames = int(self.speech.starts[target]), int(self._n_frames[target])
        if prompt == target:  # its beginning, at most half
            n_prompt = min(wanted, frames // 4 * 2)
            prompt_start = start
            start, frames = start + n_prompt, frames - n_prompt
        else:
            whole = int(self._n_frames[prompt])
            n_prompt = min(wanted, whole)
            prompt_start = (
                int(self.speech.starts[prompt]) + int(rng.integers(0, (whole - n_prompt) // 2 + 1)) * 2
            )
        if frames > o.max_frames:
            start += int(rng.integers(0, (frames - o.max_frames) // 2 + 1)) * 2
            frames = o.max_frames // 2 * 2
        u = rng.random(4)
        hide_voice = u[0] < o.hide_voice
        hide_prompt = hide_voice or o.hide_voice <= u[0] < o.hide_voice + o.hide_prompt
        hide_speaker = hide_voice or 0 <= u[0] - o.hide_voice - o.hide_prompt < o.hide_speaker
        hide_phones = bool(self._n_phones[target] == 0 or u[1] < o.hide_phones)
        hide_tokens = bool(u[2] < (o.hide_both if hide_phones else o.hide_tokens))
        hide_highs = bool(self.speech.items[prompt].bandwidth < 11_000 or u[3] < o.hide_highs)
        return [
            *(prompt_start, n_prompt, start, frames, target, prompt),
            *(bool(hide_prompt), bool(hide_speaker), hide_phones, hide_tokens, hide_highs),
            bool(self._n_phones[target] == 0),
            False,
        ]


class Batches:
    """Batches of about `batch_frames` frames with padding, examples of like length together; pool: batches that are
    drawn at a time."""

    def __init__(self, planner: Planner, batch_frames: int, seed: int, pool: int = 16):
        self.planner, self.batch_frames, self.seed, self.pool = planner, batch_frames, seed, pool
        self._cache: dict[tuple[int, int], list[Plans]] = {}

    def batch(self, step: int, rank: int = 0) -> Plans:
        """The batch of a step."""
        key = (step // self.pool, rank)
        if key not in self._cache:
            while len(self._cache) > 1:  # a step of the pool before may still be asked for
                self._cache.pop(next(iter(self._cache)))
            self._cache[key] = self._draw(*key)
        batches = self._cache[key]
        return batches[step % self.pool % len(batches)]

    def _draw(self, number: int, rank: int) -> list[Plans]:
        rng = np.random.default_rng([self.seed, rank, number])
        options = self.planner.options
        typical = sum(options.prompt_frames) / 2 + min(220, options.max_frames)
        plans = self.planner.draw(rng, max(1, round(self.pool * self.batch_frames / typical)))
        lengths = (plans.prompt_frames + plans.frames).numpy()
        order = np.argsort(lengths, kind="stable")
        groups: list[list[int]] = [[]]
        for row in order.tolist():  # rising: the last of a group is its longest
            if groups[-1] and lengths[row] * (len(groups[-1]) + 1) > self.batch_frames:
                groups.append([])
            groups[-1].append(row)
        return [plans.rows(groups[i]) for i in rng.permutation(len(groups)).tolist()]


def select(speech: MelSet, split: str, leave_out_worst: float) -> list[int]:
    """The utterances of a split, without those of each source that align worst. Raises UsageError without any."""
    chosen = [i for i, item in enumerate(speech.items) if item.split == split]
    scores: dict[str, list[float]] = {}
    for i in chosen:
        scores.setdefault(speech.items[i].source, []).append(speech.items[i].score)
    floor = {source: float(np.quantile(s, leave_out_worst)) for source, s in scores.items()}
    chosen = [i for i in chosen if speech.items[i].score >= floor[speech.items[i].source]]
    if not chosen:
        raise UsageError(f"the mel sets have no utterance of the split {split}")
    return chosen


def held_out(
    speech: MelSet, n: int, options: ExampleOptions | None = None, with_text: bool = False, batch: int = 16
) -> list[Plans]:
    """n examples of the split dev at the recorded pitch, the same at every call, `batch` of them at a time.

    options: None hides nothing.   with_text: only utterances that have one. Raises UsageError without any.
    """
    plain = [
        i
        for i in select(speech, "dev", 0.0)
        if speech.items[i].scale == 1 and (speech.n_phones[i] or not with_text)
    ]
    plans = Planner(speech, plain, options or ALL_SHOWN).draw(np.random.default_rng(0), n)
    return [plans.rows(range(i, min(i + batch, n))) for i in range(0, n, batch)]


def _good(speech: MelSet, chosen: Sequence[int], least_quality: float | None) -> Sequence[int]:
    """Those of the chosen that were recorded well enough, or were not measured."""
    if least_quality is None:
        return chosen
    quality = {i: speech.items[i].quality for i in chosen}
    if all(q is None for q in quality.values()):
        raise UsageError(
            "data.least_quality: the mel sets have no quality; make them again with `extract_mels --quality`"
        )
    return [i for i, q in quality.items() if q is None or q >= least_quality]


def _stacked(rows: list[list[int | bool]]) -> Plans:
    columns = list(zip(*rows, strict=True))
    return Plans(*(torch.tensor(column) for column in columns))
