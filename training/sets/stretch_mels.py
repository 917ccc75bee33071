"""Speech of a mel set at other tempos, by its frames alone: seconds, where `extract_mels --scale 1:TEMPO` computes
everything again.

    python -m myna.training.sets.stretch_mels runs/mels.safetensors runs/stretched.safetensors --tempo 0.87 --tempo 1.15

Only utterances of the split train that have a text are written: these teach when each phone is said. Pitch, formants
and the speaker vector stay; mels between two frames are interpolated. Shapes: as `mel_set`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ...errors import MynaError, UsageError
from .mel_set import MelSet, MelUtterance, write_mel_set

SLOWEST, FASTEST = 0.5, 2.0


def stretched(utterance: MelUtterance, tempo: float) -> MelUtterance:
    """The utterance said `tempo` times as fast. Raises UsageError for a tempo that is not 0.5 to 2."""
    if not SLOWEST <= tempo <= FASTEST:
        raise UsageError(f"a tempo is {SLOWEST} to {FASTEST}, got {tempo}")
    u = utterance
    n = int(len(u.pointer) / tempo) // 2 * 2
    frames = ((np.arange(n) + 0.5) * tempo).astype(int).clip(0, len(u.pointer) - 1)
    at = ((np.arange(2 * n) + 0.5) * tempo - 0.5).clip(0, len(u.mel) - 1)
    before = at.astype(int)
    after, share = np.minimum(before + 1, len(u.mel) - 1), (at - before)[:, None]
    mel = u.mel.astype(np.float32)
    return MelUtterance(
        replace(u.item, tempo=round(u.item.tempo * tempo, 3)),
        (1 - share) * mel[before] + share * mel[after],
        u.pitch[at.round().astype(int)],  # not between two: half voiced is nothing
        u.pointer[frames],
        u.phones,
        u.speaker,
        None if u.content is None else u.content[frames],
    )


def spoken_texts(speech: MelSet) -> Iterator[MelUtterance]:
    """The utterances of the split train that have a text."""
    for i, item in enumerate(speech.items):
        if item.split != "train" or not speech.n_phones[i]:
            continue
        frames = slice(int(speech.starts[i]), int(speech.starts[i + 1]))
        hops = slice(2 * frames.start, 2 * frames.stop)
        phones = slice(int(speech.phone_starts[i]), int(speech.phone_starts[i + 1]))
        yield MelUtterance(
            item,
            speech.mel[hops].numpy(),
            speech.pitch[hops].numpy(),
            speech.pointer[frames].numpy(),
            speech.phones[:, phones].numpy(),
            speech.speakers[i].numpy(),
            None if speech.content is None else speech.content[frames].numpy(),
        )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m myna.training.sets.stretch_mels", description=__doc__)
    parser.add_argument("mels", type=Path, help="file of training.sets.extract_mels")
    parser.add_argument("out", type=Path, help="file to write (.safetensors)")
    parser.add_argument("--tempo", type=float, action="append", required=True, help="repeat for more")
    parser.add_argument("--force", action="store_true", help="replace an output that exists")
    options = parser.parse_args(arguments)
    try:
        speech = MelSet([options.mels])
        made = [stretched(u, tempo) for tempo in options.tempo for u in spoken_texts(speech)]
        write_mel_set(made, options.out, options.force)
    except MynaError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
