"""Align a corpus: which phone is said when, in every recording that has a text (an AlignedSet).

    python -m myna.training.sets.align_corpus CORPUS_FOLDER OUT [--aligner FILE] [--speed 0.88 --speed 1 --speed 1.13]

Done once: `training.sets.extract_speech` adds the codes of a codec, in a few minutes, whenever there is a new one.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ...data.corpus import Corpus, open_corpus
from ...data.files import atomic_output
from ...errors import MynaError
from ...tts.aligner import SHIPPED, Aligner, fits, load_aligner
from ...tts.text.phones import Phones
from .speech_set import Aligned, SpeechItem, aligned_set_bytes
from .utterances import Utterance, read_utterances

SPEEDS = (0.88, 1.0, 1.13)
MARGIN = 12  # frames of silence that are kept before the first sound and after the last
_BATCH = 16


@dataclass
class Dropped:
    """Utterances left out: how many of each source, and why."""

    unfit: Counter[str] = field(default_factory=Counter)  # more phones than the frames can hold
    unlike: Counter[str] = field(default_factory=Counter)  # alignments that are not plausible

    def __str__(self) -> str:
        total = sum(self.unfit.values()) + sum(self.unlike.values())
        each = ", ".join(
            f"{source} {self.unfit[source] + self.unlike[source]}"
            for source in sorted({*self.unfit, *self.unlike})
        )
        return f"{total} utterances dropped, whose text does not match" + (f" ({each})" if each else "")


def align_corpus(
    aligner: Aligner,
    corpus: Corpus,
    utterances: Sequence[Utterance],
    speeds: Sequence[float] = SPEEDS,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Aligned], Dropped]:
    """Every utterance at every speed, in the order of the corpus, silences around the speech cut to MARGIN frames.

    The network hears each recording once, as it is; for another speed its log-probabilities are stretched.
    progress: called with (utterances done, utterances in all).
    """
    rate = aligner.config.sample_rate
    device = next(aligner.parameters()).device
    dropped, found = Dropped(), {}
    order = sorted(
        range(len(utterances)), key=lambda i: utterances[i].item.length
    )  # little padding in a batch
    for first in range(0, len(order), _BATCH):
        chosen = [utterances[i] for i in order[first : first + _BATCH]]
        wavs = [torch.from_numpy(corpus.read(u.item, 0, u.item.length)) for u in chosen]
        log_probs = aligner.log_probs([wav.to(device) for wav in wavs])
        room = [fits(len(lp), u.phones) for lp, u in zip(log_probs, chosen, strict=True)]
        dropped.unfit.update(u.item.source for u, ok in zip(chosen, room, strict=True) if not ok)
        kept = [(u, lp) for u, lp, ok in zip(chosen, log_probs, room, strict=True) if ok]
        if kept:
            trimmed = _trim(aligner, kept, dropped)
            for speed in speeds:
                for utterance, aligned in _at_speed(aligner, trimmed, speed, rate):
                    found[utterance.item.key, speed] = aligned
        if progress:
            progress(min(first + _BATCH, len(order)), len(order))
    keys = [(u.item.key, speed) for speed in speeds for u in utterances]
    return [found[key] for key in keys if key in found], dropped


@dataclass(frozen=True)
class _Trimmed:
    """The part of a recording that is used: frames [first, last) of it, their log-probabilities, and the score."""

    utterance: Utterance
    log_probs: Tensor
    first: int
    last: int
    score: float


def _trim(aligner: Aligner, pairs: Sequence[tuple[Utterance, Tensor]], dropped: Dropped) -> list[_Trimmed]:
    """Align at the recording's own speed; drop what does not fit, cut the silence around the rest."""
    alignments = aligner.align_log_probs([lp for _, lp in pairs], [u.phones for u, _ in pairs])
    trimmed = []
    for (utterance, log_probs), alignment in zip(pairs, alignments, strict=True):
        if not alignment.plausible:
            dropped.unlike[utterance.item.source] += 1
            continue
        pointer, n = alignment.pointer, len(utterance.phones)
        sounding = torch.nonzero((pointer > 0) & (pointer < n - 1))[:, 0]
        first = max(0, int(sounding[0]) - MARGIN)
        last = min(len(pointer), int(sounding[-1]) + 1 + MARGIN)
        trimmed.append(_Trimmed(utterance, log_probs[first:last], first, last, alignment.score))
    return trimmed


def _at_speed(
    aligner: Aligner, trimmed: Sequence[_Trimmed], speed: float, sample_rate: int
) -> list[tuple[Utterance, Aligned]]:
    size, ready = aligner.config.frame_size, []
    for kept in trimmed:
        item = kept.utterance.item
        start, end = kept.first * size, min(kept.last * size, item.length)
        # As many frames as the codec will make of it.
        n = aligner.mel.n_frames(round_samples(end - start, speed))
        if not fits(n, kept.utterance.phones):
            continue
        described = SpeechItem(
            item.key,
            item.source,
            item.split,
            item.speaker,
            speed,
            start / sample_rate,
            end / sample_rate,
            kept.utterance.text,
            round(kept.score, 3),
        )
        ready.append((kept, described, stretch(kept.log_probs, n, speed)))
    if not ready:
        return []
    alignments = aligner.align_log_probs(
        [lp for _, _, lp in ready], [c.utterance.phones for c, _, _ in ready]
    )
    return [
        (kept.utterance, Aligned(described, Phones(kept.utterance.phones.tokens), alignment.pointer))
        for (kept, described, _), alignment in zip(ready, alignments, strict=True)
    ]


def round_samples(n_samples: int, speed: float) -> int:
    """Samples of a recording of `n_samples` that is played `speed` times as fast."""
    return max(1, round(n_samples / speed))


def stretch(log_probs: Tensor, n_frames: int, speed: float) -> Tensor:
    """(T, C) to (n_frames, C): what the frames say when all goes `speed` times as fast."""
    if speed == 1.0 and n_frames == len(log_probs):
        return log_probs
    places = ((torch.arange(n_frames, device=log_probs.device) + 0.5) * speed - 0.5).clamp(
        0, len(log_probs) - 1
    )
    low = places.floor().long()
    high = (low + 1).clamp(max=len(log_probs) - 1)
    share = (places - low)[:, None]
    return log_probs[low].lerp(log_probs[high], share)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m myna.training.sets.align_corpus", description=__doc__)
    parser.add_argument("corpus", type=Path, help="folder of WebDataset shards")
    parser.add_argument("out", type=Path, help="file to write (.safetensors)")
    parser.add_argument("--aligner", type=Path, default=SHIPPED, help="default: the one that ships")
    parser.add_argument("--speed", type=float, action="append", help="repeat for more; default 0.88, 1, 1.13")
    parser.add_argument("--source", action="append", help="only this source; repeat for more")
    parser.add_argument("--language", default="en", help="of the texts")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--force", action="store_true", help="replace an output that exists")
    options = parser.parse_args(arguments)

    def progress(done: int, total: int) -> None:
        print(f"\r{done} / {total}", end="", file=sys.stderr, flush=True)

    try:
        aligner = load_aligner(options.aligner, options.device)
        corpus = open_corpus(options.corpus, aligner.config.sample_rate)
        corpus = corpus.select(None, tuple(options.source) if options.source else None)
        utterances = read_utterances(options.corpus, corpus, options.language)
        speeds = tuple(options.speed) if options.speed else SPEEDS
        aligned, dropped = align_corpus(aligner, corpus, utterances, speeds, progress)
        with atomic_output(options.out, options.force) as file:
            file.write(aligned_set_bytes(aligned, aligner.config.frame_rate))
    except MynaError as error:
        print(f"\n{error}", file=sys.stderr)
        return error.exit_code
    print(f"\n{len(aligned)} utterances -> {options.out}; {dropped}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
