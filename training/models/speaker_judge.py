"""The second judge of likeness (`evaluation.measures.speaker_judge`), computed from mel sets: a mixture by expectation
and maximisation, principal axes, and linear discriminant analysis (Fisher 1936) over the speakers.

python -m myna.training.models.speaker_judge runs/mels.safetensors -o speaker-judge.safetensors
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ...data.checkpoint import save_checkpoint
from ...errors import InputError, MynaError, UsageError
from ...evaluation.measures.speaker_judge import SpeakerJudge, SpeakerJudgeConfig
from ..sets.mel_set import MelSet

_SAMPLE = 100_000  # frames that the mixture is fitted to, about
_PART = 300  # frames of 10 ms: recordings are cut into parts of so many, each a vector of its speaker
_SHORTEST = 100
_FLOOR = 0.05  # of a variance, where everybody's is 1
_SHRINK = 0.1  # of the scatter within speakers, towards the same in all directions


@torch.no_grad()
def fit(
    speech: MelSet,
    config: SpeakerJudgeConfig | None = None,
    seed: int = 0,
    rounds: int = 12,
    say: Callable[[str], None] = lambda line: None,
) -> SpeakerJudge:
    """A judge from the split train of a mel set. Raises UsageError for too few speakers."""
    judge = SpeakerJudge(config)
    c = judge.config
    mels, speakers = _parts(speech)
    n_speakers = int(speakers.max()) + 1 if len(speakers) else 0
    if n_speakers < 2 or len(mels) <= c.axes:
        raise UsageError(
            f"{len(mels)} parts of {n_speakers} speakers are too few for {c.axes} axes; give larger mel sets, or --axes"
        )
    _mixture(judge, mels, torch.Generator().manual_seed(seed), rounds)
    say(f"a mixture of {c.gaussians} Gaussians")
    vectors = torch.stack([judge.supervector(mel) for mel in mels])
    judge.get_buffer("origin").copy_(vectors.mean(0))
    vectors -= vectors.mean(0)
    torch.manual_seed(seed)
    judge.get_buffer("axes").copy_(torch.svd_lowrank(vectors, q=c.axes, niter=2)[2])
    say(f"{c.axes} axes of {len(vectors)} supervectors")
    judge.get_buffer("discriminant").copy_(discriminant(vectors @ judge.axes, speakers, c.dims))
    say(f"{c.dims} directions that tell {n_speakers} speakers apart")
    return judge


def _parts(speech: MelSet) -> tuple[list[Tensor], Tensor]:
    """Log-mels (M, T) of about 3 s, and whose each is (number of a speaker)."""
    mels: list[Tensor] = []
    owners: list[int] = []
    known: dict[tuple[str, str], int] = {}
    for i, item in enumerate(speech.items):
        if item.split != "train" or item.scale != 1:
            continue
        mel = speech.mel[2 * speech.starts[i] : 2 * speech.starts[i + 1]].t()
        if mel.shape[1] < _SHORTEST:
            continue
        owner = known.setdefault((item.source, item.speaker), len(known))
        n = max(1, round(mel.shape[1] / _PART))
        if n == 1 and mel.shape[1] >= 2 * _SHORTEST:
            n = 2
        for part in mel.tensor_split(n, dim=1):
            mels.append(part)
            owners.append(owner)
    return mels, torch.tensor(owners)


def _mixture(judge: SpeakerJudge, mels: Sequence[Tensor], generator: torch.Generator, rounds: int) -> None:
    every = max(1, sum(mel.shape[1] for mel in mels) // _SAMPLE)
    x = torch.cat([judge.frames(mel)[::every] for mel in mels])
    if len(x) < judge.config.gaussians:
        raise UsageError(f"{len(x)} frames of speech are too few for {judge.config.gaussians} Gaussians")
    judge.get_buffer("centre").copy_(x.mean(0))
    judge.get_buffer("deviation").copy_(x.std(0).clamp(min=1e-3))
    x = (x - judge.centre) / judge.deviation
    judge.get_buffer("mean").copy_(x[torch.randperm(len(x), generator=generator)[: judge.config.gaussians]])
    judge.get_buffer("variance").fill_(1)
    judge.get_buffer("weight").fill_(1 / judge.config.gaussians)
    for _ in range(rounds):
        share = judge.posterior(x)
        n = share.sum(0)[:, None] + 1e-3
        mean = share.t() @ x / n
        judge.get_buffer("variance").copy_((share.t() @ x.square() / n - mean.square()).clamp(min=_FLOOR))
        judge.get_buffer("mean").copy_(mean)
        judge.get_buffer("weight").copy_(n[:, 0] / n.sum())


def discriminant(vectors: Tensor, owners: Tensor, dims: int) -> Tensor:
    """Vectors (U, R) of the speakers `owners` (U,) -> (R, dims): directions in which speakers differ most from each
    other for what one differs from himself, each of unit scatter within speakers."""
    count = torch.bincount(owners).float()[:, None]
    centres = torch.zeros(len(count), vectors.shape[1]).index_add_(0, owners, vectors) / count
    own = vectors - centres[owners]
    within = own.t() @ own / max(1, len(vectors) - len(count))
    within += _SHRINK * within.diagonal().mean() * torch.eye(len(within))
    values, directions = torch.linalg.eigh(within)
    white = directions * values.rsqrt() @ directions.t()
    among = (centres - centres.mean(0)) @ white
    return white @ torch.linalg.eigh(among.t() @ among)[1][:, -dims:].flip(1)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Compute the second judge of likeness from mel sets.")
    parser.add_argument("mel_sets", nargs="+", help="files of `python -m myna.training.sets.extract_mels`")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--axes", type=int, default=SpeakerJudgeConfig.axes)
    parser.add_argument("--dims", type=int, default=SpeakerJudgeConfig.dims)
    parser.add_argument("--gaussians", type=int, default=SpeakerJudgeConfig.gaussians)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    try:
        if given.output.exists():
            raise UsageError(f"{given.output} exists; choose another name")
        if not 1 <= given.dims <= given.axes:
            raise InputError(f"--dims {given.dims} must be from 1 to --axes {given.axes}")
        speech = MelSet(given.mel_sets)
        config = SpeakerJudgeConfig(gaussians=given.gaussians, axes=given.axes, dims=given.dims)
        judge = fit(speech, config, given.seed, say=lambda line: print(line, file=sys.stderr))
        save_checkpoint(judge.half(), config, given.output, "speaker-judge")
    except MynaError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(given.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
