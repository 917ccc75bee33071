"""Add codes to an aligned corpus: the speech that codec language models are trained on (a SpeechSet).

    python -m myna.training.sets.extract_speech CODEC CORPUS_FOLDER ALIGNED OUT [--workers 2]

CODEC is a name ("myna-24k") or a checkpoint; ALIGNED is what `python -m myna.training.sets.align_corpus` wrote.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...codec.base import Codec
from ...codec.checkpoint import codes_hash
from ...codec.registry import load_codec
from ...data.augment import change_speed
from ...data.corpus import Corpus, Item, open_corpus
from ...data.files import atomic_output, check_output
from ...errors import InputError, MynaError
from .align_corpus import round_samples
from .speech_set import Aligned, AlignedSet, Speech, SpeechItem, speech_set_bytes

_SLICE = 64  # utterances that a worker is given at a time
_BATCH_SECONDS = 40.0


@dataclass(frozen=True)
class ExtractionOptions:
    """codec: name or checkpoint.   corpus: folder of shards.   cache: of the decoded corpus."""

    codec: str
    corpus: Path
    aligned: Path
    cache: Path | None = None
    device: str = "cpu"
    workers: int = 1  # processes
    threads: int = 1  # of each


class Extractor:
    """Codes of utterances as they were aligned: cut, resampled, and encoded by the nearest rows."""

    def __init__(self, codec: Codec, corpus: Corpus):
        self.codec, self.corpus = codec, corpus
        self.items = {item.key: item for item in corpus.items}

    def read(self, described: SpeechItem) -> Tensor:
        """(N,) what an item says of which part of which recording, and how fast."""
        item: Item | None = self.items.get(described.key)
        if item is None:
            raise InputError(
                f"the corpus has no recording {described.key}, which the alignments name; align it again with "
                "`python -m myna.training.sets.align_corpus`"
            )
        rate = self.corpus.sample_rate
        first, last = round(described.start * rate), round(described.end * rate)
        wav = self.corpus.read(item, first, last - first)
        if described.speed != 1.0:
            n = round_samples(len(wav), described.speed)
            wav = change_speed(wav, described.speed)[:n]
            wav = np.pad(wav, (0, n - len(wav)))
        return torch.from_numpy(wav)

    @torch.inference_mode()
    def codes(self, aligned: Sequence[Aligned]) -> list[np.ndarray]:
        """(K, T) int16 of each. Raises InputError where T is not that of its pointer."""
        device = next(self.codec.parameters()).device
        found: list[np.ndarray] = [np.empty(0)] * len(aligned)
        for batch in _batches(aligned, _BATCH_SECONDS * float(self.codec.frame_rate)):
            wavs = [self.read(aligned[i].item) for i in batch]
            n = max(len(wav) for wav in wavs)
            stacked = torch.stack([torch.nn.functional.pad(wav, (0, n - len(wav))) for wav in wavs])
            # Without a search, whose codes depend on the codes after them and carry more that cannot be predicted. The
            # codec is causal: the silence after the shorter ones changes none of their frames.
            codes = self.codec.encode(stacked[:, None].to(device)).codes.cpu().numpy().astype(np.int16)
            for row, i, wav in zip(codes, batch, wavs, strict=True):
                frames = len(aligned[i].pointer)
                if abs(len(wav) - frames * self.codec.frame_size) > 2 * self.codec.frame_size:
                    raise InputError(
                        f"{aligned[i].item.key} has {frames} aligned frames, {self.codec.name} makes "
                        f"{len(wav) // self.codec.frame_size} of it; the alignments are of another frame rate"
                    )
                found[i] = row[:, :frames]
        return found


def _batches(aligned: Sequence[Aligned], frames: float) -> Iterator[list[int]]:
    """Utterances of like length, about so many frames of them at a time."""
    order = sorted(range(len(aligned)), key=lambda i: len(aligned[i].pointer))
    batch: list[int] = []
    for i in order:
        if batch and (len(batch) + 1) * len(aligned[i].pointer) > frames:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def extract_speech(
    options: ExtractionOptions, progress: Callable[[int, int], None] | None = None
) -> list[Speech]:
    """Codes of everything in the AlignedSet, in its order.

    progress: called with (frames done, frames in all). Raises InputError where corpus and alignments differ.
    """
    aligned = AlignedSet(options.aligned)
    total, done = int(aligned.n_frames.sum()), 0
    # Like lengths go together; the longest first, so that no worker is left alone with them.
    order = np.argsort(-aligned.n_frames, kind="stable")
    slices = [order[first : first + _SLICE].tolist() for first in range(0, len(order), _SLICE)]
    codes: dict[int, np.ndarray] = {}
    for chosen, found in _run(options, slices):
        codes |= dict(zip(chosen, found, strict=True))
        done += sum(c.shape[1] for c in found)
        if progress:
            progress(done, total)
    return [
        Speech(a.item, a.phones, a.pointer, torch.from_numpy(codes[i]).long()) for i, a in enumerate(aligned)
    ]


def _run(
    options: ExtractionOptions, slices: Sequence[list[int]]
) -> Iterator[tuple[list[int], list[np.ndarray]]]:
    if options.workers <= 1:
        _set_up(options)
        for chosen in slices:
            yield chosen, _work(chosen)
        return
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    with ProcessPoolExecutor(options.workers, context, _set_up, (options,)) as pool:
        futures = {pool.submit(_work, chosen): chosen for chosen in slices}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


_worker: tuple[Extractor, AlignedSet] | None = None  # of this process


def _set_up(options: ExtractionOptions) -> None:
    global _worker
    torch.set_num_threads(options.threads)
    codec = load_codec(options.codec, options.device)
    corpus = open_corpus(options.corpus, codec.sample_rate, options.cache)
    _worker = Extractor(codec, corpus), AlignedSet(options.aligned)


def _work(chosen: list[int]) -> list[np.ndarray]:
    assert _worker is not None
    extractor, aligned = _worker
    return extractor.codes([aligned[i] for i in chosen])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m myna.training.sets.extract_speech", description=__doc__)
    parser.add_argument("codec", help="name or checkpoint")
    parser.add_argument("corpus", type=Path, help="folder of WebDataset shards")
    parser.add_argument("aligned", type=Path, help="file of `python -m myna.training.sets.align_corpus`")
    parser.add_argument("out", type=Path, help="file to write (.safetensors)")
    parser.add_argument("--workers", type=int, default=1, help="processes, of one thread each")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--force", action="store_true", help="replace an output that exists")
    options = parser.parse_args(arguments)

    def progress(done: int, total: int) -> None:
        print(f"\r{done} / {total} frames", end="", file=sys.stderr, flush=True)

    try:
        check_output(options.out, options.force)
        codec = load_codec(options.codec, options.device)
        open_corpus(options.corpus, codec.sample_rate)  # decoded once, before the workers look for it
        wanted = ExtractionOptions(
            options.codec, options.corpus, options.aligned, device=options.device, workers=options.workers
        )
        speech = extract_speech(wanted, progress)
        about = codec.codebook_size, codec.name, codes_hash(codec)[:16], float(codec.frame_rate)
        with atomic_output(options.out, options.force) as file:
            file.write(speech_set_bytes(speech, *about))
    except MynaError as error:
        print(f"\n{error}", file=sys.stderr)
        return error.exit_code
    print(f"\n{len(speech)} utterances -> {options.out}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
