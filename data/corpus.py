"""A corpus of WebDataset shards, decoded once, and random crops of it that are a pure function of the step.

    shards (KEY.opus + KEY.json) --decode, mono, resample--> audio.i16 + index.json in the cache
    batch of step s on rank r = f(seed, s, r)

Decoding Opus again in every epoch would cost a CPU trainer most of its time; a memory map of 16-bit samples
costs nothing. Since no loader has a state, a run that resumes at step s sees what it would have seen.

Shapes: B batch, N samples.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError, OutputError, UsageError
from .augment import AugmentOptions, augment

FORMAT = 2  # of the cache; a new number decodes again
AUDIO_SUFFIXES = ("opus", "flac", "wav", "ogg", "mp3")


@dataclass(frozen=True)
class Item:
    """One recording: where its samples lie in the memory map, and what it is."""

    key: str
    source: str
    split: str
    speaker: str
    bandwidth: float  # Hz, where the spectrum ends: as described, or half the rate of the original recording
    offset: int
    length: int


@dataclass(frozen=True)
class Skipped:
    """What could not be used while decoding: counts, and the first few reasons."""

    shards: int = 0
    items: int = 0
    reasons: tuple[str, ...] = ()

    def __str__(self) -> str:
        detail = f" (first: {self.reasons[0]})" if self.reasons else ""
        return f"skipped {self.items} bad items and {self.shards} bad shards{detail}"


@dataclass(frozen=True)
class Batch:
    """wav (B, 1, N) in [-1, 1]; bandwidth (B,) Hz, above which the recordings hold nothing."""

    wav: Tensor
    bandwidth: Tensor

    def to(self, device: torch.device) -> Batch:
        return Batch(self.wav.to(device, non_blocking=True), self.bandwidth.to(device, non_blocking=True))


@dataclass(frozen=True)
class Corpus:
    """Decoded recordings, memory-mapped."""

    sample_rate: int
    audio: np.ndarray
    items: tuple[Item, ...]
    skipped: Skipped = field(default_factory=Skipped)

    @property
    def hours(self) -> float:
        return sum(item.length for item in self.items) / self.sample_rate / 3600

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(sorted({item.source for item in self.items}))

    def select(self, splits: tuple[str, ...] | None = None, sources: tuple[str, ...] | None = None) -> Corpus:
        """Only the items of these splits and sources. Raises InputError when nothing is left."""
        kept = tuple(
            item
            for item in self.items
            if (splits is None or item.split in splits) and (sources is None or item.source in sources)
        )
        if not kept:
            wanted = f"splits {list(splits or ())} and sources {list(sources or ())}"
            there = sorted({(item.source, item.split) for item in self.items})
            raise InputError(f"the corpus has nothing for {wanted}; it has {there}")
        return replace(self, items=kept)

    def read(self, item: Item, start: int, n: int) -> np.ndarray:
        """n samples from `start` of an item, float32 in [-1, 1], zeros outside of it."""
        first, last = max(start, 0), min(start + n, item.length)
        wav = np.zeros(n, np.float32)
        if last > first:
            stored = self.audio[item.offset + first : item.offset + last]
            wav[first - start : last - start] = stored.astype(np.float32) / 32768
        return wav


def open_corpus(
    folder: str | Path,
    sample_rate: int,
    cache: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Corpus:
    """The shards of `folder` (*.tar), from the cache if they have been decoded before at this rate.

    cache: folder of decoded corpora (default: ~/.cache/myna/corpus, or $MYNA_CACHE/corpus). progress: called
    with (bytes read, bytes in all) while decoding. Raises InputError for a folder that is missing or has no
    shards, or whose shards hold nothing that can be read, OutputError when
    the cache cannot be written, UsageError without the package webdataset.
    """
    folder = Path(folder)
    shards = sorted(folder.glob("*.tar"))
    if not shards:
        what = "is not there" if not folder.is_dir() else "has no .tar shards"
        raise InputError(f"corpus folder {folder} {what}; set data.corpus to a folder of WebDataset shards")
    root = (
        Path(cache)
        if cache
        else Path(os.environ.get("MYNA_CACHE", Path.home() / ".cache" / "myna")) / "corpus"
    )
    decoded = root / _key(shards, sample_rate)
    if not (decoded / "index.json").exists():
        try:
            root.mkdir(parents=True, exist_ok=True)
            _decode(shards, sample_rate, decoded, progress or (lambda done, total: None))
        except OSError as error:
            raise OutputError(
                f"cannot write the decoded corpus to {root}: {error.strerror or error}"
            ) from error
    return _load(decoded)


def _key(shards: list[Path], sample_rate: int) -> str:
    """Names, sizes and rate decide whether a corpus must be decoded again."""
    listing = json.dumps([FORMAT, sample_rate, [(shard.name, shard.stat().st_size) for shard in shards]])
    return hashlib.sha256(listing.encode()).hexdigest()[:16]


def _load(decoded: Path) -> Corpus:
    index = json.loads((decoded / "index.json").read_text())
    items = tuple(Item(**dict(zip(index["fields"], row, strict=True))) for row in index["items"])
    skipped = Skipped(**{**index["skipped"], "reasons": tuple(index["skipped"]["reasons"])})
    if not items:
        raise InputError(f"no recording of the corpus could be read: {skipped}")
    return Corpus(index["sample_rate"], np.memmap(decoded / "audio.i16", np.int16, mode="r"), items, skipped)


def _decode(
    shards: list[Path], sample_rate: int, decoded: Path, progress: Callable[[int, int], None]
) -> None:
    """Write the memory map and its index under another name, and rename the folder when both are whole."""
    partial = decoded.with_name(f".{decoded.name}.{os.getpid()}.part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    total, done = sum(shard.stat().st_size for shard in shards), 0
    items: list[Item] = []
    bad = _Bad()
    offset = 0
    try:
        with open(partial / "audio.i16", "wb") as audio, ThreadPoolExecutor(os.cpu_count()) as pool:
            for shard in shards:
                samples = list(_samples(shard, bad))
                for sample, result in zip(
                    samples, pool.map(lambda s: _decode_sample(s, sample_rate), samples), strict=True
                ):
                    if isinstance(result, Exception):
                        bad.item(shard, sample.get("__key__", "?"), result)
                        continue
                    item, pcm = result
                    audio.write(pcm.tobytes())
                    items.append(replace(item, offset=offset))
                    offset += len(pcm)
                done += shard.stat().st_size
                progress(done, total)
        names = list(Item.__dataclass_fields__)
        index = {
            "sample_rate": sample_rate,
            "fields": names,
            "items": [[asdict(item)[name] for name in names] for item in items],
            "skipped": asdict(bad.skipped),
        }
        (partial / "index.json").write_text(json.dumps(index))
        try:
            partial.rename(decoded)
        except OSError:
            if not (decoded / "index.json").exists():
                raise
            # Another process was faster; its result is the same.
    finally:
        shutil.rmtree(partial, ignore_errors=True)


class _Bad:
    """Counts what is skipped."""

    def __init__(self):
        self.skipped = Skipped()

    def shard(self, shard: Path, error: Exception) -> None:
        self.skipped = replace(
            self.skipped, shards=self.skipped.shards + 1, reasons=self._reasons(f"{shard.name}: {error}")
        )

    def item(self, shard: Path, key: str, error: Exception) -> None:
        reasons = self._reasons(f"{key} in {shard.name}: {error}")
        self.skipped = replace(self.skipped, items=self.skipped.items + 1, reasons=reasons)

    def _reasons(self, reason: str) -> tuple[str, ...]:
        return (*self.skipped.reasons, reason.splitlines()[0])[:5]


def _samples(shard: Path, bad: _Bad) -> Iterator[dict[str, Any]]:
    """The samples of one shard, up to where it is damaged."""
    try:
        from webdataset import tariterators as wds
    except ImportError:
        raise UsageError("reading a corpus needs the package webdataset: pip install 'myna[train]'") from None

    failures: list[Exception] = []

    def note(error: Exception) -> bool:
        failures.append(error)
        return True  # go on

    # The pipeline by hand: WebDataset's own splits shards over the workers of a distributed run, and every
    # rank needs the same cache.
    files = wds.tar_file_expander(wds.url_opener([{"url": str(shard)}], handler=note), handler=note)
    yield from wds.group_by_keys(files, handler=note)
    if failures or not _whole(shard):
        bad.shard(shard, failures[0] if failures else ValueError("damaged, the rest is not read"))


def _whole(shard: Path) -> bool:
    """Whether a tar that could be opened ends where its members do: a damaged header in its middle looks like
    the end to every reader."""
    try:
        with tarfile.open(shard) as tar, open(shard, "rb") as file:
            tar.getmembers()
            file.seek(tar.offset)
            return not any(file.read(tarfile.BLOCKSIZE))
    except (tarfile.TarError, OSError):
        return False


def _decode_sample(sample: dict[str, Any], sample_rate: int) -> tuple[Item, np.ndarray] | Exception:
    """One recording as 16-bit mono at `sample_rate`, or what is wrong with it."""
    import soundfile as sf
    import soxr

    try:
        if "json" not in sample:
            raise ValueError("no .json beside the audio")
        meta = json.loads(sample["json"])
        suffix = next((s for s in AUDIO_SUFFIXES if s in sample), None)
        if suffix is None:
            raise ValueError(f"no audio file of a known kind ({', '.join(AUDIO_SUFFIXES)})")
        wav, rate = sf.read(io.BytesIO(sample[suffix]), dtype="float32", always_2d=True)
        if not len(wav) or not np.isfinite(wav).all():
            raise ValueError("no samples" if not len(wav) else "samples that are not finite")
        mono = wav.mean(axis=1)
        if rate != sample_rate:
            mono = soxr.resample(mono, rate, sample_rate)
        pcm = np.clip(np.round(mono * 32767), -32768, 32767).astype(np.int16)
        item = Item(
            key=str(sample["__key__"]),
            source=str(meta.get("source", "unknown")),
            split=str(meta.get("split", "train")),
            speaker=str(meta.get("speaker", "")),
            bandwidth=min(float(meta.get("sample_rate") or rate) / 2, float(meta.get("bandwidth") or np.inf)),
            offset=0,
            length=len(pcm),
        )
        return item, pcm
    except Exception as error:  # a damaged file may fail in any of the libraries above
        return error


@dataclass(frozen=True)
class Crops:
    """Random crops of fixed length: batches as a pure function of (seed, step, rank).

    n_samples: of a crop. weights: how often each source is drawn, relative to the others; None draws every
    second of the corpus equally often. Sources without a weight are not used. min_rms: a quieter crop is
    drawn again (ten times at most), measured before augmentation.
    """

    corpus: Corpus
    n_samples: int
    batch_size: int
    seed: int = 0
    weights: dict[str, float] | None = None
    augment: AugmentOptions = field(default_factory=AugmentOptions)
    min_rms: float = 0.0

    def __post_init__(self):
        weights = self.weights
        if weights is not None:
            unknown = set(weights) - set(self.corpus.sources)
            if unknown:
                raise UsageError(
                    f"source {sorted(unknown)[0]!r} has a weight but no recordings; the corpus has "
                    f"{', '.join(self.corpus.sources)}"
                )
            if min(weights.values(), default=0) < 0 or not sum(weights.values()) > 0:
                raise UsageError(f"source weights must be positive numbers, got {weights}")
        items = [item for item in self.corpus.items if weights is None or item.source in weights]
        lengths = np.array([item.length for item in items], dtype=np.float64)
        # Every second of a source is drawn equally often, whatever the length of the recording it is in.
        share = lengths / lengths.sum()
        if weights is not None:
            sources = np.array([item.source for item in items])
            for source, weight in weights.items():
                share[sources == source] = (
                    lengths[sources == source] / lengths[sources == source].sum() * weight
                )
        object.__setattr__(self, "_items", items)
        object.__setattr__(self, "_cumulative", np.cumsum(share) / share.sum())

    def batch(self, step: int, rank: int = 0) -> Batch:
        """The batch of this step on this rank; any two calls with the same arguments give the same one."""
        rng = np.random.default_rng([self.seed, step, rank])
        wavs, bandwidths = [], []
        for _ in range(self.batch_size):
            wav, bandwidth = self._crop(rng)
            wavs.append(wav)
            bandwidths.append(bandwidth)
        return Batch(torch.from_numpy(np.stack(wavs)).unsqueeze(1), torch.tensor(bandwidths))

    def _crop(self, rng: np.random.Generator) -> tuple[np.ndarray, float]:
        for _ in range(10):
            place = int(np.searchsorted(self._cumulative, rng.random(), side="right"))  # pyright: ignore
            item: Item = self._items[min(place, len(self._items) - 1)]  # pyright: ignore
            where = rng.random()

            def read(n: int, item: Item = item, where: float = where) -> np.ndarray:
                # A recording shorter than the crop lies anywhere within it.
                low, high = sorted((0, item.length - n))
                return self.corpus.read(item, low + round(where * (high - low)), n)

            if self.min_rms <= 0 or np.sqrt(np.mean(read(self.n_samples) ** 2)) >= self.min_rms:
                break
        result = augment(read, self.n_samples, self.augment, rng)
        return result.wav, min(item.bandwidth * result.speed, self.corpus.sample_rate / 2)


@dataclass(frozen=True)
class HeldOut:
    """Fixed crops for validation: their audio, and the source of each."""

    batch: Batch
    sources: tuple[str, ...]


def held_out(corpus: Corpus, n_crops: int, n_samples: int) -> HeldOut:
    """The middles of `n_crops` recordings, as many of each source, spread evenly over its items."""
    by_source = {source: [i for i in corpus.items if i.source == source] for source in corpus.sources}
    chosen: list[Item] = []
    for rank, items in enumerate(by_source.values()):
        items = [item for item in items if item.length >= n_samples] or items
        n = n_crops // len(by_source) + (rank < n_crops % len(by_source))
        places = np.linspace(0, len(items) - 1, min(n, len(items))).round().astype(int)
        chosen.extend(items[i] for i in dict.fromkeys(places.tolist()))
    wavs = [corpus.read(item, (item.length - n_samples) // 2, n_samples) for item in chosen]
    bandwidths = torch.tensor([min(item.bandwidth, corpus.sample_rate / 2) for item in chosen])
    batch = Batch(torch.from_numpy(np.stack(wavs)).unsqueeze(1), bandwidths)
    return HeldOut(batch, tuple(item.source for item in chosen))


Made = TypeVar("Made")


class Prefetch(Generic[Made]):
    """make(step) for consecutive steps, computed ahead by one background thread."""

    def __init__(self, make: Callable[[int], Made], ahead: int = 2):
        self._make, self._ahead = make, ahead
        self._pool = ThreadPoolExecutor(1)
        self._waiting: dict[int, Future[Made]] = {}

    def __getitem__(self, step: int) -> Made:
        for following in range(step, step + 1 + self._ahead):
            if following not in self._waiting:
                self._waiting[following] = self._pool.submit(self._make, following)
        return self._waiting.pop(step).result()

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
