"""Recordings and their pitch in the memory of a device, and crops of them: what a vocoder learns from.

Shapes: B batch, N samples, T hops of 10 ms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...data.corpus import Item, open_corpus
from ...errors import UsageError
from ...layers.harmonic import HIGHEST, LOWEST
from .drawn_set import DrawnSet
from .extract_mels import resample
from .extract_pitch import PitchSet

SAMPLE_RATE, HOP, BANDS = 24_000, 240, 80
_QUIETEST = math.log(1e-5)  # of a mel
_MARGIN = 2400  # samples on either side of a crop that is resampled, for its edges


@dataclass(frozen=True)
class SoundBatch:
    """wav (B, N); pitch (B, T) Hz at the end of each hop, joined over gaps; voiced (B, T) bool.

    mel (B, M, T), drawn (B, T) bool: what a decoder drew in the place of the recording's mel, and where; None without.
    """

    wav: Tensor
    pitch: Tensor
    voiced: Tensor
    mel: Tensor | None = None
    drawn: Tensor | None = None


class Sounds:
    """The recordings of one split of several corpora, those of at least `shortest` seconds.

    weights: share of the crops that each source gives, None: by seconds.   drawn: files of mels that stand for those of
    recordings.   Raises UsageError for a source with a weight but without recordings.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        pitches: Sequence[Path],
        split: str,
        cache: Path | None = None,
        weights: dict[str, float] | None = None,
        device: str | torch.device = "cpu",
        shortest: float = 1.0,
        drawn: Sequence[Path] = (),
    ):
        self.drawn = [DrawnSet(path) for path in drawn]
        tracks = [PitchSet(path) for path in pitches]
        samples: list[Tensor] = []
        hops: list[np.ndarray] = []
        self.items: list[Item] = []
        self.starts = []  # samples, all multiples of a hop
        at = 0
        for folder in folders:
            corpus = open_corpus(folder, SAMPLE_RATE, cache)
            for item in corpus.items:
                track = next((t for t in tracks if item.key in t), None)
                if item.split != split or item.length < shortest * SAMPLE_RATE or track is None:
                    continue
                n = item.length // HOP * HOP
                raw = np.asarray(corpus.audio[item.offset : item.offset + n])
                samples.append(torch.from_numpy(raw.copy()))
                pitch = track[item.key][: n // HOP]
                hops.append(np.pad(pitch, (0, n // HOP - len(pitch))))
                self.items.append(item)
                self.starts.append(at)
                at += n
        if not self.items:
            raise UsageError(f"the corpora have no recordings of the split {split} with a pitch track")
        self.wav = torch.cat(samples).to(device)
        self.pitch = torch.from_numpy(np.concatenate(hops)).to(device)
        self.lengths = np.diff([*self.starts, at])
        sources = np.array([item.source for item in self.items])
        odds = self.lengths.astype(float)
        for source in set(sources.tolist()) if weights is not None else ():
            its = sources == source
            odds[its] *= (weights or {}).get(source, 0) / odds[its].sum()
        missing = [source for source, weight in (weights or {}).items() if weight and source not in sources]
        if missing:
            raise UsageError(
                f"data.sources: {missing[0]!r} has a weight but no recordings; there is "
                f"{', '.join(sorted(set(sources.tolist())))}"
            )
        self.odds = odds / odds.sum()

    def crops(
        self,
        rng: np.random.Generator,
        size: int,
        frames: int,
        scale: float,
        gain_db: tuple[float, float],
        drawn: float = 0.0,
    ) -> SoundBatch:
        """Random crops of `frames` hops; scale: by which pitch and formants are moved.   drawn: share of the crops that
        come with a drawn mel, at scale 1, where there is one."""
        span = round(frames * HOP * scale) // HOP * HOP + HOP  # samples of the recording that a crop takes
        chosen = rng.choice(len(self.items), size=size, p=self.odds)
        hops = [int(rng.integers(0, max(1, (self.lengths[i] - span) // HOP + 1))) for i in chosen]
        starts = torch.tensor([self.starts[i] + h * HOP for i, h in zip(chosen, hops, strict=True)])
        ends = torch.tensor([self.starts[i] + int(self.lengths[i]) for i in chosen])
        gain = torch.from_numpy(10 ** (rng.uniform(*gain_db, size) / 20)).float()
        device = self.wav.device
        starts, ends, gain = starts.to(device), ends.to(device), gain.to(device)
        n = frames * HOP
        at = starts[:, None] + torch.arange(-_MARGIN, span + _MARGIN, device=device)
        inside = (at >= 0) & (at < ends[:, None])
        wav = torch.where(inside, self.wav[at.clamp(0, len(self.wav) - 1)].float() / 32768, 0)
        if scale != 1:
            before = round(_MARGIN / scale)
            wav = resample(wav, scale)[:, before : before + n]
        else:
            wav = wav[:, _MARGIN : _MARGIN + n]
        hop = starts[:, None] // HOP + ((torch.arange(frames, device=device) + 1) * scale - 1).round().long()
        track = (
            torch.where(hop * HOP < ends[:, None], self.pitch[hop.clamp(max=len(self.pitch) - 1)], 0) * scale
        )
        peak = wav.abs().amax(1).clamp(min=1e-4)
        gain = torch.minimum(gain, 0.99 / peak)
        wav = wav * gain[:, None]
        batch = SoundBatch(F.pad(wav, (0, n - wav.shape[1])), without_gaps(track), track > 0)
        if not drawn or scale != 1:
            return batch
        asked = rng.random(size) < drawn
        keys = [self.items[i].key if yes else None for i, yes in zip(chosen, asked, strict=True)]
        mel, known = self._drawn_mels(keys, hops, frames)
        mel = (mel.to(device) + gain.log()[:, None, None]).clamp(min=_QUIETEST)
        return replace(batch, mel=mel, drawn=known.to(device))

    def _drawn_mels(
        self, keys: Sequence[str | None], hops: Sequence[int], frames: int
    ) -> tuple[Tensor, Tensor]:
        """(B, M, T), natural logarithms, and where there are any (B, T), of crops that begin with `hops`."""
        mel, known = torch.zeros(len(keys), BANDS, frames), torch.zeros(len(keys), frames, dtype=torch.bool)
        for row, (key, hop) in enumerate(zip(keys, hops, strict=True)):
            found = next((one[key] for one in self.drawn if key is not None and key in one), None)
            if found is None:
                continue
            first, whole = found
            low, high = max(hop, first), min(hop + frames, first + len(whole))
            if low < high:
                mel[row, :, low - hop : high - hop] = whole[low - first : high - first].float().T
                known[row, low - hop : high - hop] = True
        return mel, known


def without_gaps(pitch: Tensor) -> Tensor:
    """A pitch (B, T) that is 0 where unvoiced, joined over the gaps in straight lines of its logarithm."""
    b, t = pitch.shape
    voiced = pitch > 0
    at = torch.arange(t, device=pitch.device).expand(b, t)
    before = torch.where(voiced, at, torch.full_like(at, -1)).cummax(1).values
    after = torch.where(voiced, at, torch.full_like(at, t)).flip(1).cummin(1).values.flip(1)
    log = pitch.clamp(min=1).log()
    low, high = log.gather(1, before.clamp(min=0)), log.gather(1, after.clamp(max=t - 1))
    low = torch.where(before < 0, high, low)
    high = torch.where(after >= t, low, high)
    share = (at - before) / (after - before).clamp(min=1)
    joined = (low + (high - low) * share.clamp(0, 1)).exp()
    return torch.where(voiced.any(1, keepdim=True), joined, (LOWEST * HIGHEST) ** 0.5).clamp(LOWEST, HIGHEST)
