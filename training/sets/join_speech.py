"""One speech set of several, of the same codec: other speeds, or recordings that came later.

python -m myna.training.sets.join_speech OUT FIRST SECOND ...
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ...data.files import atomic_output, check_output
from ...errors import MynaError, UsageError
from .speech_set import Speech, SpeechSet, speech_set_bytes


def join_speech(sets: Sequence[SpeechSet]) -> bytes:
    """The file of all utterances, set after set; of one that is in several (key and speed), the first counts.

    Raises UsageError for sets of different codecs.
    """
    first = sets[0]
    seen: set[tuple[str, float]] = set()
    joined: list[Speech] = []
    for speech in sets:
        if speech.codec_hash != first.codec_hash:
            raise UsageError(
                f"the speech sets are of different codecs ({first.codec} {first.codec_hash}, {speech.codec} "
                f"{speech.codec_hash}); extract them with the same one"
            )
        for i, item in enumerate(speech.items):
            if (item.key, item.speed) not in seen:
                seen.add((item.key, item.speed))
                joined.append(speech[i])
    about = first.codebook_size, first.codec, first.codec_hash, first.frame_rate
    return speech_set_bytes(joined, *about)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m myna.training.sets.join_speech", description=__doc__)
    parser.add_argument("out", type=Path, help="file to write (.safetensors)")
    parser.add_argument(
        "sets", type=Path, nargs="+", help="files of `python -m myna.training.sets.extract_speech`"
    )
    parser.add_argument("--force", action="store_true", help="replace an output that exists")
    options = parser.parse_args(arguments)
    try:
        check_output(options.out, options.force)
        sets = [SpeechSet(path) for path in options.sets]
        with atomic_output(options.out, options.force) as file:
            file.write(join_speech(sets))
        joined = SpeechSet(options.out)
    except MynaError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(f"{len(joined)} utterances, {joined.hours:.2f} h -> {options.out}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
