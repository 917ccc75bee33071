"""The spectrogram of a recording that is not in memory is the same one, and reads no more than a few windows of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from myna.asr.diarization.turns import find_turns
from myna.asr.model.features import N_FRAMES, N_SAMPLES, LogMel, log_mel
from myna.asr.model.whisper import Whisper, WhisperDims
from myna.asr.transcribe import TranscribeOptions, transcribe
from myna.asr.vad import speech_spans
from myna.asr.vocabularies import vocabulary_for

RATE = 16_000


class Read:
    """Samples that are read slice by slice. longest: of all slices."""

    def __init__(self, samples: np.ndarray):
        self.samples, self.longest = samples, 0

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, at: slice) -> np.ndarray:
        part = self.samples[at].copy()
        self.longest = max(self.longest, len(part))
        return part


def noise(seconds: float) -> np.ndarray:
    """Louder and louder."""
    x = np.random.default_rng(0).normal(0, 0.1, round(seconds * RATE)).astype(np.float32)
    return x * np.linspace(0.01, 1, len(x), dtype=np.float32)


@pytest.mark.parametrize("n_mels", [80, 128])
@pytest.mark.parametrize("padding", [0, N_SAMPLES])
@pytest.mark.parametrize("seconds", [0.02, 7.0, 30.0, 151.2345])
def test_windows_have_the_values_of_the_whole(seconds, padding, n_mels):
    samples = noise(seconds)
    whole = log_mel(samples, n_mels, padding)
    read = Read(samples)
    mel = LogMel(read, n_mels, padding)
    n = mel.n_frames
    assert n == whole.shape[1]
    for start in (0, 1, 1234, N_FRAMES - 1, N_FRAMES, n - 17, 2 * N_FRAMES + 5, 0):
        if 0 <= start < n:
            assert torch.equal(mel.window(start, start + N_FRAMES), whole[:, start : start + N_FRAMES])
    assert torch.equal(mel.window(0, 1), whole[:, :1])
    assert read.longest <= N_SAMPLES + RATE // 10


def test_nothing_is_no_frames():
    assert LogMel(Read(noise(0))).n_frames == 0
    assert torch.equal(
        LogMel(Read(noise(0)), 80, N_SAMPLES).window(0, 3), log_mel(noise(0), 80, N_SAMPLES)[:, :3]
    )


def test_a_transcript_is_that_of_an_array():
    torch.manual_seed(0)
    small = {"n_audio_state": 64, "n_audio_head": 2, "n_audio_layer": 1}
    small |= {"n_text_state": 64, "n_text_head": 2, "n_text_layer": 1}
    model = Whisper(WhisperDims(**small), vocabulary=vocabulary_for(51864)).eval()
    options = TranscribeOptions(beam_size=None, best_of=None, temperature=0.0, sample_len=6)
    read = Read(noise(200))
    assert transcribe(model, read, options) == transcribe(model, read.samples, options)
    assert read.longest <= N_SAMPLES + RATE // 10


def test_whoever_looks_for_speech_and_speakers_reads_on_too():
    pytest.importorskip("silero_vad")
    read = Read(noise(100))
    assert speech_spans(read) == speech_spans(read.samples)
    assert find_turns(read) == find_turns(read.samples)
    assert read.longest <= N_SAMPLES + RATE // 10
