"""Encode a corpus: recordings to a file of codes (CodeSet).

    python -m myna.training.sets.extract_codes CODEC CORPUS_FOLDER OUT --split train [--source synth] [--hours 5]
        [--packets 5]

CODEC is a name ("myna-24k") or a checkpoint; the corpus is a folder of WebDataset shards.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from ...codec.base import Codec
from ...codec.checkpoint import codes_hash
from ...codec.formats.container import find_context_model
from ...codec.formats.context_model import ContextModel
from ...codec.myna import MynaCodec
from ...codec.pipeline import FILE_PACKET_SECONDS
from ...codec.registry import load_codec
from ...data.corpus import Corpus, open_corpus
from ...data.files import atomic_output
from ...errors import InputError, MynaError, UsageError
from .code_set import CodeSet

_PIECE_SECONDS = 60  # a long recording is cut into pieces of this length


def extract_codes(
    codec: Codec,
    corpus: Corpus,
    hours: float | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    packets: tuple[ContextModel, float] | None = None,
) -> CodeSet:
    """Codes of the corpus's items in random order, `hours` of them at most, found by search.

    progress: called with (items done, items in all). Mono recordings go to every channel of the codec.
    packets: an entropy model and seconds of a packet; the codes are then those that files with it hold, near and cheap
    (`codec.packet_search`); None: the nearest.   Raises UsageError for packets where the codec does not search.
    """
    device = next(codec.parameters()).device
    order = np.random.default_rng(seed).permutation(len(corpus.items))
    limit = float("inf") if hours is None else hours * 3600 * corpus.sample_rate
    taken, codes, lengths = 0, [], []
    for done, index in enumerate(order):
        item = corpus.items[index]
        if taken >= limit:
            break
        taken += item.length
        wav = torch.from_numpy(corpus.read(item, 0, item.length)).to(device)
        for piece in _pieces(wav, _PIECE_SECONDS * corpus.sample_rate):
            found = _codes(codec, piece.expand(1, codec.channels, -1), packets)[0]
            codes.append(found.cpu().numpy().astype(np.int16))
            lengths.append(found.shape[-1])
        if progress:
            progress(done + 1, len(order))
    if not codes:
        raise InputError("no recording was selected; check --split and --source against the corpus")
    return CodeSet(
        codes=np.concatenate(codes, axis=1),
        starts=np.cumsum([0, *lengths]).astype(np.int64),
        codebook_size=codec.codebook_size,
        codec=codec.name,
        codec_hash=codes_hash(codec)[:16],
    )


@torch.inference_mode()
def _codes(codec: Codec, wav: torch.Tensor, packets: tuple[ContextModel, float] | None) -> torch.Tensor:
    """wav (1, C, N) to codes (1, K, T)."""
    if packets is None:
        return codec.encode(wav, search=True).codes
    if not isinstance(codec, MynaCodec):
        raise UsageError(
            f"{codec.name} does not search for codes, so that they cannot be chosen by their bits"
        )
    model, seconds = packets
    stream = codec.packet_stream(1, codec.n_codebooks, round(seconds * codec.frame_rate), model)
    return torch.cat([stream.push(wav), stream.flush()], dim=-1)


def _pieces(wav: torch.Tensor, size: int) -> Iterator[torch.Tensor]:
    for start in range(0, len(wav), size):
        piece = wav[start : start + size]
        if len(piece):
            yield piece


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m myna.training.sets.extract_codes", description=__doc__)
    parser.add_argument("codec", help="name or checkpoint")
    parser.add_argument("corpus", type=Path, help="folder of WebDataset shards")
    parser.add_argument("out", type=Path, help="file of codes to write (.safetensors)")
    parser.add_argument("--split", action="append", help="only this split; repeat for more")
    parser.add_argument("--source", action="append", help="only this source; repeat for more")
    parser.add_argument("--hours", type=float, help="at most so much audio, chosen at random")
    parser.add_argument(
        "--packets",
        type=float,
        metavar="SECONDS",
        help="codes as files with packets of this length hold them: chosen by what the entropy model charges, too "
        f"(myna compress writes {FILE_PACKET_SECONDS:g} s)",
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--force", action="store_true", help="replace an output that exists")
    options = parser.parse_args(arguments)
    try:
        codec = load_codec(options.codec, options.device)
        corpus = open_corpus(options.corpus, codec.sample_rate).select(
            tuple(options.split) if options.split else None, tuple(options.source) if options.source else None
        )

        def progress(done: int, total: int) -> None:
            if done % 100 == 0:
                print(f"\r{done} / {total}", end="", file=sys.stderr, flush=True)

        packets = None
        if options.packets is not None:
            context = find_context_model(codec.name)
            if (
                context is None
                or not codes_hash(codec).startswith(context.codec_hash)
                or options.packets <= 0
            ):
                raise UsageError(
                    f"--packets needs seconds above 0, and an entropy model of {codec.name}; leave it out"
                )
            packets = context, options.packets
        codes = extract_codes(codec, corpus, options.hours, progress=progress, packets=packets)
        with atomic_output(options.out, options.force) as file:
            file.write(codes.to_bytes())
    except MynaError as error:
        print(f"\n{error}", file=sys.stderr)
        return error.exit_code
    print(f"\n{len(codes.starts) - 1} utterances, {codes.n_frames} frames -> {options.out}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
