"""Listening to a recording for the watermark: to all of it, or of a long one to stretches that lie evenly over it."""

from __future__ import annotations

from ..data.audio import AudioReader
from .watermark import Detection, WatermarkDetector

LISTEN_TO = 72.0  # seconds that are heard of a long recording,
STRETCHES = 6  # in so many places


def listen(reader: AudioReader, quick: bool = False) -> Detection:
    """What the detector finds in a recording of which nothing has been read yet; quick: as `WatermarkDetector` has it.

    Raises InputError as `AudioReader.blocks`, and MissingModelError where Perth's weights are not installed, unless
    `quick`.
    """
    rate, n_frames = reader.info.sample_rate, reader.info.n_frames
    duration = 0.0 if n_frames is None else n_frames / rate
    passed_over = max(0.0, duration - LISTEN_TO) / STRETCHES
    detector = WatermarkDetector(rate, quick)
    heard = passed = 0.0
    for block in reader.blocks(seconds=1.0):
        seconds = block.shape[1] / rate
        if passed_over and heard >= LISTEN_TO / STRETCHES:
            detector.skip(block.shape[1])
            passed += seconds
            if passed >= passed_over:
                heard = passed = 0.0
            continue
        detector.push(block.mean(axis=0))
        heard += seconds
    return detector.result()
