"""Mel spectrograms, pitch, phones and speaker vectors of a corpus, at several scales of the voice (a MelSet).

    python -m myna.training.sets.extract_mels CORPUS_FOLDER OUT --aligned FILE --pitch FILE [--scale 0.9:1.0 ...]
        [--content tiny.en] [--quality]

A recording is resampled by `scale`, which moves pitch and formants as another speaker has them, and its frames are
taken at a hop that makes it faster by `tempo` alone. Recordings without text keep their sound and lose nothing else.

Shapes: B batch, N samples.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...asr.model.registry import load_whisper
from ...data.corpus import Corpus, Item, open_corpus
from ...errors import InputError, MynaError
from ...layers.mel import MelFrames
from ...pretrained.dnsmos import RATE as DNSMOS_RATE
from ...pretrained.dnsmos import dnsmos
from ...pretrained.ge2e import GE2E, RATE, cut, load_ge2e
from .content import RATE as CONTENT_RATE
from .content import STEP, Content
from .extract_pitch import PitchSet
from .mel_set import MelItem, MelUtterance, write_mel_set
from .speech_set import Aligned, AlignedSet

SAMPLE_RATE = 24_000
FRAME = 480  # samples of a frame of 50 Hz
_SHORTEST = 50  # frames of an utterance
_EDGE = 0.04  # of the loudest 20 ms: what is quieter at both ends of a recording without text is cut off
_KEPT = 10  # frames of silence that stay
_BATCH = 32
_LEVEL = 10 ** (-30 / 20)  # root mean square that the speaker network was trained at


@dataclass(frozen=True)
class Utterance:
    """Frames [first, last) of 50 Hz of a recording, and its alignment if it has a text."""

    item: Item
    first: int
    last: int
    aligned: Aligned | None


def utterances(corpus: Corpus, aligned: AlignedSet) -> list[Utterance]:
    """Of every recording, the part that speaks. Those with a text that was dropped are left out. Raises InputError for
    alignments of resampled recordings alone."""
    by_key = {one.key: i for i, one in enumerate(aligned.items) if one.speed == 1}
    if aligned.items and not by_key:
        raise InputError(
            "the alignments are of resampled recordings; make them with `align_corpus --speed 1`"
        )
    with_text = {one.source for one in aligned.items}
    found = []
    for item in corpus.items:
        if item.key in by_key:
            one = aligned[by_key[item.key]]
            first = round(one.item.start * SAMPLE_RATE / FRAME)
            found.append(Utterance(item, first, first + len(one.pointer), one))
        elif item.source not in with_text:
            first, last = spoken(corpus.read(item, 0, item.length))
            found.append(Utterance(item, first, last, None))
    return [one for one in found if one.last - one.first >= _SHORTEST]


def spoken(wav: np.ndarray) -> tuple[int, int]:
    """From which frame to which (not included) a recording (N,) is not silent."""
    n = len(wav) // FRAME
    if not n:
        return 0, 0
    level = np.sqrt(np.square(wav[: n * FRAME].reshape(n, FRAME)).mean(1))
    loud = np.flatnonzero(level > _EDGE * level.max())
    if not len(loud):
        return 0, 0
    return max(0, int(loud[0]) - _KEPT), min(n, int(loud[-1]) + 1 + _KEPT)


def resample(wav: Tensor, factor: float) -> Tensor:
    """wav (B, N) -> (B, round(N / factor)), by its spectrum: what is `factor` times as fast."""
    n = wav.shape[-1]
    out = round(n / factor)
    if out == n:
        return wav
    spectrum = torch.fft.rfft(wav)
    bins = out // 2 + 1
    spectrum = (
        spectrum[:, :bins] if bins <= spectrum.shape[1] else F.pad(spectrum, (0, bins - spectrum.shape[1]))
    )
    return torch.fft.irfft(spectrum, n=out) * (out / n)


class Extractor:
    """Makes the frames of utterances on a device."""

    def __init__(
        self,
        corpus: Corpus,
        pitches: PitchSet,
        speakers: GE2E,
        device: str | torch.device = "cpu",
        content: Content | None = None,
        quality: bool = False,
    ):
        self.content, self.quality = content, quality
        self.corpus, self.pitches, self.device = corpus, pitches, torch.device(device)
        self.mel = MelFrames(SAMPLE_RATE).to(self.device)
        self.speakers = speakers.to(self.device)

    def all(self, chosen: Sequence[Utterance], scale: float, tempo: float) -> Iterator[MelUtterance]:
        """The utterances at a scale and a tempo, those of like length together."""
        order = sorted(chosen, key=lambda u: u.last - u.first)
        for first in range(0, len(order), _BATCH):
            yield from self.batch(order[first : first + _BATCH], scale, tempo)

    @torch.inference_mode()
    def batch(self, chosen: Sequence[Utterance], scale: float, tempo: float) -> list[MelUtterance]:
        wavs = [self.corpus.read(u.item, u.first * FRAME, (u.last - u.first) * FRAME) for u in chosen]
        longest = (max(map(len, wavs)) // SAMPLE_RATE + 2) * SAMPLE_RATE  # few lengths: FFTs are planned once
        batch = torch.from_numpy(np.stack([np.pad(w, (0, longest - len(w))) for w in wavs])).to(self.device)
        moved = resample(batch, scale)
        hop = round(self.mel.hop * tempo / scale)
        true_tempo = hop * scale / self.mel.hop
        mels = self.mel(moved, hop).transpose(1, 2).half().cpu().numpy()
        low, lengths = resample(moved, SAMPLE_RATE / RATE), [len(w) / scale / 1.5 for w in wavs]
        vectors = self._speakers(low, lengths).cpu().numpy()
        states: list[np.ndarray | None] = [None] * len(wavs)
        if self.content is not None:
            ends = [max(1, int(n)) for n in lengths]
            heard = self.content([row[:n] for row, n in zip(low, ends, strict=True)])
            states = [
                self._at_frames(one.half().numpy(), len(mel) // 2, 2 * hop)
                for one, mel in zip(heard, mels, strict=True)
            ]
        return [
            self._one(u, mel, vector, content, scale, true_tempo)
            for u, mel, vector, content in zip(chosen, mels, vectors, states, strict=True)
        ]

    @staticmethod
    def _at_frames(states: np.ndarray, n: int, hop: int) -> np.ndarray:
        """The states (T, C) at the centres of n frames of `hop` samples at 24 kHz."""
        centre = (np.arange(n) + 0.5) * hop * CONTENT_RATE / SAMPLE_RATE / STEP
        return states[centre.round().astype(int).clip(0, len(states) - 1)]

    def _speakers(self, wav: Tensor, lengths: Sequence[float]) -> Tensor:
        """Speaker vectors (B, E) of wav (B, N) at 16 kHz."""
        ends = [max(1, int(n)) for n in lengths]
        level = torch.stack([row[:n].square().mean().sqrt() for row, n in zip(wav, ends, strict=True)])
        mels = self.speakers.mel(wav * (_LEVEL / level.clamp(min=1e-6))[:, None])
        windows = [cut(mel[: 1 + n // 160], 80) for mel, n in zip(mels, ends, strict=True)]
        vectors = self.speakers(torch.cat(windows)).split([len(w) for w in windows])
        return F.normalize(torch.stack([v.mean(0) for v in vectors]), dim=1)

    def _quality(self, u: Utterance) -> float | None:
        """DNSMOS of what is said, as it was recorded, to two decimals."""
        wav = self.corpus.read(u.item, u.first * FRAME, (u.last - u.first) * FRAME)
        score = dnsmos(resample(torch.from_numpy(wav)[None], SAMPLE_RATE / DNSMOS_RATE)[0].numpy())
        return None if score is None else round(score, 2)

    def _one(
        self,
        u: Utterance,
        mel: np.ndarray,
        vector: np.ndarray,
        content: np.ndarray | None,
        scale: float,
        tempo: float,
    ) -> MelUtterance:
        n = int((u.last - u.first) / tempo) // 2 * 2
        hops = ((np.arange(2 * n) + 1) * tempo - 1).round().astype(int) + 2 * u.first
        track = self.pitches[u.item.key]
        pitch = np.where(hops < len(track), track[hops.clip(0, len(track) - 1)], 0) * scale
        if u.aligned is None:
            pointer, phones, score = np.full(n, -1), np.zeros((3, 0), np.int64), 0.0
        else:
            frames = ((np.arange(n) + 0.5) * tempo).astype(int).clip(0, len(u.aligned.pointer) - 1)
            pointer, phones = u.aligned.pointer.numpy()[frames], u.aligned.phones.tokens.numpy()
            score = u.aligned.item.score
        i = u.item
        item = MelItem(
            i.key,
            i.source,
            i.split,
            i.speaker,
            scale,
            round(tempo, 3),
            min(i.bandwidth * scale, 12_000.0),
            score,
            self._quality(u) if self.quality else None,
        )
        said = None if content is None else content[:n]
        return MelUtterance(item, mel[: 2 * n], pitch, pointer, phones, vector, said)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m myna.training.sets.extract_mels", description=__doc__)
    parser.add_argument("corpus", type=Path, help="folder of WebDataset shards")
    parser.add_argument("out", type=Path, help="file to write (.safetensors)")
    parser.add_argument("--aligned", type=Path, required=True, help="file of training.sets.align_corpus")
    parser.add_argument("--pitch", type=Path, required=True, help="file of training.sets.extract_pitch")
    parser.add_argument(
        "--scale", action="append", help="scale:tempo, such as 0.9:1; repeat for more; default 1:1"
    )
    parser.add_argument(
        "--leave-out", action="append", default=[], help="a source, or source/speaker; repeat for more"
    )
    parser.add_argument(
        "--split", action="append", help="only this split; repeat for more; default train and dev"
    )
    parser.add_argument(
        "--content", metavar="WHISPER", help="a model, such as tiny.en, whose states the tokens learn from"
    )
    parser.add_argument(
        "--quality", action="store_true", help="with DNSMOS of each, which data.least_quality needs"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--force", action="store_true", help="replace an output that exists")
    options = parser.parse_args(arguments)
    splits = options.split or ["train", "dev"]
    try:
        corpus = open_corpus(options.corpus, SAMPLE_RATE)
        pitches = PitchSet(options.pitch)
        chosen = [
            u
            for u in utterances(corpus, AlignedSet(options.aligned))
            if u.item.split in splits
            and u.item.key in pitches
            and not {u.item.source, f"{u.item.source}/{u.item.speaker}"} & set(options.leave_out)
        ]
        teacher = Content(load_whisper(options.content, options.device)) if options.content else None
        extractor = Extractor(corpus, pitches, load_ge2e(), options.device, teacher, options.quality)
        made: list[MelUtterance] = []
        for pair in options.scale or ["1:1"]:
            scale, tempo = map(float, pair.split(":"))
            some = chosen if scale == 1 else [u for u in chosen if u.item.split == "train"]
            made += extractor.all(some, scale, tempo)
            print(f"scale {scale}, tempo {tempo}: {len(made)} utterances so far", file=sys.stderr, flush=True)
        write_mel_set(made, options.out, options.force)
    except MynaError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
