"""Batches for codec language models: an utterance to be said, after a prompt from other speech of the same voice.

    other utterances of the speaker, at the same speed         the utterance (now and then two)
    [... | a cut of 1.5 to 4 s, its phones kept or not | ...]  [              target              ]
                        prompt frames                     +             target frames

Sequences of like length share a batch, so that next to nothing is padding, and all batches hold about the same number
of frames. A batch is a function of its number: a resumed run sees what the first would have seen.

Shapes: K codebooks, T frames, P phones.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import UsageError
from ...tts.lm.batch import SpeechBatch
from ...tts.text.phones import PUNCTUATION, SPACE, SYMBOLS
from .speech_set import Speech, SpeechSet

_PAUSES = torch.tensor([SYMBOLS.index(mark) for mark in (SPACE, *PUNCTUATION)])
_WHOLE = 1.15  # a prompt so little longer than asked for is not cut
_CLOSE = 25  # a cut may start so many frames from where it was drawn, to meet the start of a word


@dataclass(frozen=True)
class ExampleOptions:
    """How utterances become training sequences. Shares are of the examples."""

    prompt_frames: tuple[int, int] = (75, 200)  # 1.5 to 4 s at 50 frames a second
    prompt_text: float = 0.5  # keep the phones of their prompt
    join: float = 0.15  # say two utterances of the speaker in a row
    max_frames: int = 700  # of a target; longer utterances are left out
    drop_text: float = 0.1  # learn to speak without text, for classifier-free guidance
    drop_voice: float = 0.1  # learn to speak without a prompt, likewise

    def __post_init__(self) -> None:
        low, high = self.prompt_frames
        if not 1 <= low <= high:
            raise ValueError(f"prompt_frames must rise from at least 1, got {low} to {high}")
        for name in ("prompt_text", "join", "drop_text", "drop_voice"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share, 0 to 1, got {getattr(self, name)}")


class Crop(NamedTuple):
    """Frames from `start` up to `end` of an utterance."""

    utterance: int
    start: int
    end: int


@dataclass(frozen=True)
class Plan:
    """A sequence before it is read: whose frames follow each other."""

    prompt: tuple[Crop, ...]
    target: tuple[Crop, ...]
    prompt_text: bool = True
    drop_text: bool = False
    drop_voice: bool = False

    @property
    def n_frames(self) -> int:
        return sum(cut.end - cut.start for cut in (*self.prompt, *self.target))


@dataclass(frozen=True)
class Example:
    """A sequence. phones (3, P), codes (K, T), pointer (T,): as a row of a SpeechBatch."""

    phones: Tensor
    codes: Tensor
    pointer: Tensor
    n_prompt: int
    drop_text: bool
    drop_voice: bool


class Planner:
    """Draws sequences from the utterances `chosen` of a speech set."""

    def __init__(self, speech: SpeechSet, chosen: Sequence[int], options: ExampleOptions):
        self.speech, self.options = speech, options
        self._n_frames: list[int] = speech.n_frames.tolist()
        self._voice: dict[int, tuple[str, str, float]] = {}
        self._by_voice: dict[tuple[str, str, float], list[int]] = {}
        for i in chosen:
            item = speech.items[i]
            voice = (item.source, item.speaker, item.speed)
            self._voice[i] = voice
            self._by_voice.setdefault(voice, []).append(i)

    def plan(self, target: int, rng: np.random.Generator) -> Plan:
        """A sequence that says utterance `target`."""
        o = self.options
        prompt_text, drop_text, drop_voice, join = (
            bool(rng.random() < share) for share in (o.prompt_text, o.drop_text, o.drop_voice, o.join)
        )
        voice = self._by_voice[self._voice[target]]
        targets = [target]
        if join and len(voice) > 2:
            second = voice[int(rng.integers(len(voice)))]
            if second != target and self._n_frames[target] + self._n_frames[second] <= o.max_frames:
                targets.append(second)
        prompt = () if drop_voice else self._prompt(voice, targets, rng)
        return Plan(
            prompt, tuple(self._whole(i) for i in targets), prompt_text, drop_text, drop_voice or not prompt
        )

    def read(self, plan: Plan) -> Example:
        """The frames and phones of a plan."""
        prompt = [self._cut(cut) for cut in plan.prompt]
        target = [self._cut(cut) for cut in plan.target]
        parts = [*prompt, *target] if plan.prompt_text else target
        n_prompt = sum(codes.shape[1] for codes, _, _ in prompt)
        pointers, before = [], 0
        for _, phones, pointer in parts:
            pointers.append(pointer + before)
            before += phones.shape[1]
        if not plan.prompt_text and n_prompt:
            pointers.insert(0, torch.full((n_prompt,), -1))
        return Example(
            phones=torch.cat([phones for _, phones, _ in parts], dim=1),
            codes=torch.cat([codes for codes, _, _ in (*prompt, *target)], dim=1),
            pointer=torch.cat(pointers),
            n_prompt=n_prompt,
            drop_text=plan.drop_text,
            drop_voice=plan.drop_voice,
        )

    def _whole(self, utterance: int) -> Crop:
        return Crop(utterance, 0, self._n_frames[utterance])

    def _prompt(self, voice: list[int], targets: list[int], rng: np.random.Generator) -> tuple[Crop, ...]:
        """Cuts of other utterances of the voice, one if it is long enough; none if the voice has said nothing
        else."""
        others = len(voice) - sum(i in targets for i in voice)
        low, high = self.options.prompt_frames
        wanted = int(rng.integers(low, high + 1))
        cuts: list[Crop] = []
        used = set(targets)
        have = 0
        while have < low and len(used) - len(targets) < others:
            utterance = voice[int(rng.integers(len(voice)))]
            if utterance in used:
                continue
            used.add(utterance)
            cuts.append(self._stretch(utterance, wanted - have, rng))
            have += cuts[-1].end - cuts[-1].start
        return tuple(cuts)

    def _stretch(self, utterance: int, n: int, rng: np.random.Generator) -> Crop:
        """About n frames that start, if they can, with a word."""
        length = self._n_frames[utterance]
        if length <= n * _WHOLE:
            return self._whole(utterance)
        start = int(rng.integers(length - n + 1))
        one = self.speech[utterance]
        symbols = one.phones.tokens[0, one.pointer]
        pause = torch.isin(symbols, _PAUSES)
        starts = torch.nonzero(pause[:-1] & ~pause[1:])[:, 0]  # the last frame before a word
        starts = starts[starts <= length - n]
        if len(starts):
            nearest = int(starts[(starts - start).abs().argmin()])
            start = nearest if abs(nearest - start) <= _CLOSE else start
        return Crop(utterance, start, start + n)

    def _cut(self, cut: Crop) -> tuple[Tensor, Tensor, Tensor]:
        """Codes (K, t), phones (3, p) spoken in them, and pointer (t,) into these."""
        one: Speech = self.speech[cut.utterance]
        codes, pointer = one.codes[:, cut.start : cut.end], one.pointer[cut.start : cut.end]
        first, last = (
            (0, len(one.phones) - 1) if cut == self._whole(cut.utterance) else pointer[[0, -1]].tolist()
        )
        return codes, one.phones.tokens[:, first : last + 1], pointer - first


class Batches:
    """Training batches of about `n_frames` frames, all ranks' different.

    weights: share of the frames that each source gives, none if not named; None: by what there is.
    pool: batches that are drawn together and sorted by length.
    Raises UsageError for a source with a weight but without utterances.
    """

    def __init__(
        self,
        speech: SpeechSet,
        chosen: Sequence[int],
        options: ExampleOptions,
        n_frames: int,
        seed: int,
        weights: dict[str, float] | None = None,
        pool: int = 32,
    ):
        self.planner = Planner(speech, chosen, options)
        self.n_frames, self.seed, self.pool = n_frames, seed, pool
        self._chosen = np.asarray(chosen)
        self._odds = _odds(speech, self._chosen, weights)
        self._pools: dict[tuple[int, int], list[list[Plan]]] = {}

    @property
    def used(self) -> np.ndarray:
        """The utterances that are drawn: those of sources with a weight."""
        return self._chosen[self._odds > 0]

    def batch(self, step: int, rank: int = 0) -> SpeechBatch:
        """The batch of a step."""
        return collate([self.planner.read(plan) for plan in self.plans(step, rank)])

    def plans(self, step: int, rank: int = 0) -> list[Plan]:
        """What the batch of a step is made of."""
        number = step // self.pool
        key = (number, rank)
        if key not in self._pools:
            while len(self._pools) > 1:  # a step of the pool before may still be asked for
                self._pools.pop(next(iter(self._pools)))
            self._pools[key] = self._draw(number, rank)
        return self._pools[key][step % self.pool]

    def _draw(self, number: int, rank: int) -> list[list[Plan]]:
        rng = np.random.default_rng([self.seed, rank, number])
        plans: list[Plan] = []
        total, enough = 0, self.pool * self.n_frames
        while total < enough:
            for target in rng.choice(self._chosen, size=64, p=self._odds).tolist():
                if total < enough:
                    plans.append(self.planner.plan(target, rng))
                    total += plans[-1].n_frames
        if len(plans) < self.pool:
            raise UsageError(
                f"data.batch_frames is {self.n_frames}, less than most sequences have; give at least "
                f"{-(-total // len(plans))}"
            )
        plans.sort(key=lambda plan: plan.n_frames)
        batches: list[list[Plan]] = [[] for _ in range(self.pool)]
        before = 0
        for plan in plans:
            batches[before * self.pool // total].append(plan)
            before += plan.n_frames
        batches = [batch for batch in batches if batch]
        while len(batches) < self.pool:  # sequences longer than a batch leave others empty
            longest = max(batches, key=len)
            half = len(longest) // 2
            batches.append(longest[half:])
            del longest[half:]
        return [batches[i] for i in rng.permutation(self.pool).tolist()]


def collate(examples: Sequence[Example]) -> SpeechBatch:
    """Sequences padded to the longest."""
    p = max(e.phones.shape[1] for e in examples)
    t = max(e.codes.shape[1] for e in examples)
    return SpeechBatch(
        phones=torch.stack([F.pad(e.phones, (0, p - e.phones.shape[1])) for e in examples]),
        n_phones=torch.tensor([e.phones.shape[1] for e in examples]),
        codes=torch.stack([F.pad(e.codes, (0, t - e.codes.shape[1])) for e in examples]),
        pointer=torch.stack([F.pad(e.pointer, (0, t - len(e.pointer)), value=-1) for e in examples]),
        n_prompt=torch.tensor([e.n_prompt for e in examples]),
        n_frames=torch.tensor([e.codes.shape[1] for e in examples]),
        drop_text=torch.tensor([e.drop_text for e in examples]),
        drop_voice=torch.tensor([e.drop_voice for e in examples]),
    )


def select(
    speech: SpeechSet,
    splits: Sequence[str],
    sources: Collection[str] | None = None,
    speeds: Sequence[float] | None = None,
    max_frames: int | None = None,
    leave_out_worst: float = 0.0,
) -> list[int]:
    """The utterances to use, None meaning all. leave_out_worst: share of each source's, by its alignments.

    Raises UsageError when nothing is left.
    """
    chosen = [
        i
        for i, item in enumerate(speech.items)
        if item.split in splits
        and (sources is None or item.source in sources)
        and (speeds is None or item.speed in speeds)
        and (max_frames is None or speech.n_frames[i] <= max_frames)
    ]
    if leave_out_worst:
        scores: dict[str, list[float]] = {}
        for i in chosen:
            scores.setdefault(speech.items[i].source, []).append(speech.items[i].score)
        floor = {source: float(np.quantile(s, leave_out_worst)) for source, s in scores.items()}
        chosen = [i for i in chosen if speech.items[i].score >= floor[speech.items[i].source]]
    if not chosen:
        has = sorted({f"{item.source} {item.split}" for item in speech.items})
        wanted = list(sources) if sources else "all"
        raise UsageError(
            f"the speech set has nothing for splits {list(splits)}, sources {wanted}, speeds "
            f"{list(speeds) if speeds else 'all'}; it has {', '.join(has)}"
        )
    return chosen


def _odds(speech: SpeechSet, chosen: np.ndarray, weights: dict[str, float] | None) -> np.ndarray:
    """The probability of each utterance: long ones of a source are as likely as short ones."""
    source = np.array([speech.items[i].source for i in chosen])
    odds = np.ones(len(chosen))
    if weights is not None:
        odds[:] = 0
        for name, weight in weights.items():
            its = source == name
            if weight and not its.any():
                raise UsageError(
                    f"data.sources: {name!r} has a weight but no utterances; the speech set has "
                    f"{', '.join(sorted(set(source.tolist())))}"
                )
            if weight:
                odds[its] = weight / speech.n_frames[chosen[its]].sum()
    if not odds.sum():
        raise UsageError("data.sources gives no source a weight above 0")
    return odds / odds.sum()
