"""A trained codec as the file that ships: its name, how its codes are searched for, most weights in 8 bits.

    python -m myna.training.models.release_codec RUN/last.safetensors... weights/myna-24k-v2.safetensors \\
        --name myna-24k-v2 [--paths 8] [--rate-weight 0.04]

Of several runs that went on from the same weights, the mean of their weights is released (Wortsman et al. 2022, "Model
soups"), where they have the same codes.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ...codec.checkpoint import codes_hash, save_checkpoint
from ...codec.myna import MynaCodec
from ...codec.registry import load_codec
from ...errors import MynaError, UsageError


def release(
    sources: Sequence[str | Path], target: str | Path, name: str, paths: int, rate_weight: float
) -> MynaCodec:
    """Write the codec of `sources` to `target` under `name`; see the module. Returns it as it was written.

    Raises UsageError for a codec of another kind, or several whose codes are not the same, else as `load_codec` and
    `save_checkpoint` do.
    """
    codecs = [load_codec(source) for source in sources]
    for source, codec in zip(sources, codecs, strict=True):
        if not isinstance(codec, MynaCodec):
            raise UsageError(
                f"{source} holds {codec.name}, which is not of myna-24k's kind; give one that is"
            )
        if codes_hash(codec) != codes_hash(codecs[0]):
            raise UsageError(
                f"{source} has other codes than {sources[0]}, so that they have no mean; give runs of one encoder "
                "(trained=decoder)"
            )
    codec = codecs[0]
    assert isinstance(codec, MynaCodec)
    codec.load_state_dict(mean([each.state_dict() for each in codecs]))
    config = dataclasses.replace(codec.config, name=name, n_paths=paths, rate_weight=rate_weight)
    released = MynaCodec(config).eval()
    released.load_state_dict(codec.state_dict())
    released.codes_of = codec.codes_of
    save_checkpoint(released, target, int8=True)
    written = load_codec(target)
    assert isinstance(written, MynaCodec)
    return written


def mean(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of weights of the same shapes; what is no number with a point is the first's."""
    return {
        key: torch.stack([state[key].float() for state in states]).mean(0).to(value)
        if value.is_floating_point() and len(states) > 1
        else value
        for key, value in states[0].items()
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sources", type=Path, nargs="+")
    parser.add_argument("target", type=Path)
    parser.add_argument("--name", required=True)
    parser.add_argument("--paths", type=int, default=8, help="of the search for codes")
    parser.add_argument("--rate-weight", type=float, default=0.04, help="what the search pays for a bit")
    given = parser.parse_args(arguments)
    try:
        codec = release(given.sources, given.target, given.name, given.paths, given.rate_weight)
    except MynaError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    size = given.target.stat().st_size / 1e6
    print(f"{given.target}: {codec.name}, {codec.n_codebooks} codebooks, {size:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
