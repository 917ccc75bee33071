"""The voice activity detector: the published one's values, at any cut of the audio."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from myna.data.audio import read_audio
from myna.pretrained.silero import FRAME, RATE, VoiceActivity, speech_probability

ASSETS = Path(__file__).parents[1] / "assets"


@pytest.fixture(scope="module")
def speech():
    return read_audio(ASSETS / "speechocean.flac", RATE, mono=True).samples[0]


def test_it_says_what_the_published_detector_says(speech):
    spec = find_spec("silero_vad")
    assert spec is not None
    assert spec.submodule_search_locations
    published = torch.jit.load(Path(spec.submodule_search_locations[0]) / "data" / "silero_vad.jit")
    with torch.inference_mode():
        expected = published.audio_forward(torch.from_numpy(speech)[None], RATE)[0].numpy()
    assert np.abs(speech_probability(speech) - expected).max() < 1e-5


@pytest.mark.parametrize("sizes", [(1, 511, 513, 3), (FRAME,), (100_000, 7)])
def test_chunks_of_any_length_are_the_whole(speech, sizes):
    detector, made, at = VoiceActivity(), [], 0
    while at < len(speech):
        size = sizes[len(made) % len(sizes)]
        made.append(detector.push(speech[at : at + size]))
        at += size
        assert sum(map(len, made)) == min(at, len(speech)) // FRAME
    made.append(detector.flush())
    assert np.allclose(np.concatenate(made), speech_probability(speech), atol=1e-5)


def test_after_a_flush_it_begins_anew(speech):
    detector = VoiceActivity()
    detector.push(speech[10_000:])
    detector.flush()
    again = np.concatenate([detector.push(speech), detector.flush()])
    assert np.allclose(again, speech_probability(speech), atol=1e-6)


@pytest.mark.parametrize(("n", "frames"), [(0, 0), (1, 1), (FRAME, 1), (FRAME + 1, 2)])
def test_every_frame_begun_has_one_probability(n, frames):
    assert len(speech_probability(np.zeros(n, np.float32))) == frames


def test_what_it_keeps_does_not_grow(speech):
    detector = VoiceActivity()
    for _ in range(20):
        detector.push(speech)
    assert len(detector._heard) < 2 * FRAME
    assert detector._heard.untyped_storage().nbytes() < 8 * 2 * FRAME  # nor a view of what was heard
