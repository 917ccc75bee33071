"""Recordings of different requests share the rounds of a model, and each has the transcript that it has alone."""

from __future__ import annotations

import contextvars
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from myna.asr.model.whisper import Whisper, WhisperDims
from myna.asr.shared import CancelledError, SharedTranscription, Transcription, given_up
from myna.asr.transcribe import TranscribeOptions, transcribe
from myna.asr.vocabularies import vocabulary_for
from myna.errors import UsageError

OPTIONS = TranscribeOptions(beam_size=None, best_of=None, temperature=0.0, sample_len=6)


@pytest.fixture(scope="module")
def model() -> Whisper:
    torch.manual_seed(0)
    small = {"n_audio_state": 64, "n_audio_head": 2, "n_audio_layer": 1}
    small |= {"n_text_state": 64, "n_text_head": 2, "n_text_layer": 1}
    return Whisper(WhisperDims(**small), vocabulary=vocabulary_for(51864)).eval()


def noise(seed: int, seconds: float) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, int(seconds * 16_000)).astype(np.float32)


def test_each_has_the_transcript_that_it_has_alone(model):
    jobs = [(noise(i, 10 + 25 * (i % 3)), replace(OPTIONS, temperature=(0.0, 0.5)[i % 2])) for i in range(6)]
    alone = [transcribe(model, audio, options) for audio, options in jobs]
    shared = SharedTranscription(model, batch_size=4)
    running = [shared.submit(audio, options) for audio, options in jobs]
    together = [one.result.result(60) for one in running]
    assert [t.text for t in together] == [t.text for t in alone]
    assert [[s.tokens for s in t.segments] for t in together] == [
        [s.tokens for s in t.segments] for t in alone
    ]
    assert shared.rounds < shared.windows
    assert shared.n_running == 0


def test_segments_are_told_as_they_are_settled(model):
    told = []
    shared = SharedTranscription(model)
    transcript = shared.submit(noise(1, 70), OPTIONS, told.append).result.result(60)
    assert told == [segment for segment in transcript.segments if segment.text]


def _held(model, monkeypatch) -> tuple[threading.Event, threading.Event]:
    """The encoder says that it has begun by the first event, and waits for the second."""
    entered, go_on = threading.Event(), threading.Event()
    encode = model.encode

    def waiting(mel):
        entered.set()
        go_on.wait(10)
        return encode(mel)

    monkeypatch.setattr(model, "encode", waiting)
    return entered, go_on


def test_who_is_cancelled_takes_part_no_more(model, monkeypatch):
    shared = SharedTranscription(model)
    entered, go_on = _held(model, monkeypatch)
    running = shared.submit(noise(1, 100), OPTIONS)
    entered.wait(10)
    running.cancel()
    go_on.set()
    with pytest.raises(CancelledError):
        running.result.result(20)
    windows = shared.windows
    time.sleep(0.1)
    assert shared.windows == windows == 0


def test_who_computes_beside_the_rounds_ends_before_the_next_layer(model, monkeypatch):
    """A live transcription whose client has gone; another in another context goes on."""
    shared = SharedTranscription(model)
    gone, steps, decoder_step = threading.Event(), [], model.step

    def step(*args):
        steps.append(len(steps))
        if len(steps) == 2:
            gone.set()
        return decoder_step(*args)

    monkeypatch.setattr(model, "step", step)

    def work():
        given_up.set(gone)
        transcribe(model, noise(4, 5), OPTIONS)

    with pytest.raises(CancelledError):
        contextvars.copy_context().run(work)
    assert len(steps) == 2
    assert transcribe(model, noise(4, 5), OPTIONS).segments is not None
    assert shared.submit(noise(3, 5), OPTIONS).result.result(20).text is not None


def test_a_round_goes_on_as_long_as_somebody_waits_for_it(model, monkeypatch):
    """And ends before its next layer when the last one has gone."""
    shared = SharedTranscription(model)
    _, go_on = _held(model, monkeypatch)
    go_on.set()
    steps, decoder_step = [], model.step
    running: list[Transcription] = []

    def step(*args):
        steps.append(len(steps))
        if len(steps) == 3:
            running[0].cancel()
        if len(steps) == 5:
            running[1].cancel()
        return decoder_step(*args)

    monkeypatch.setattr(model, "step", step)
    with shared._changed:  # both are in the first round
        running += [shared.submit(noise(i, 5), OPTIONS) for i in (1, 2)]
    for one in running:
        with pytest.raises(CancelledError):
            one.result.result(20)
    assert len(steps) == 5  # of the fifth, no layer
    monkeypatch.undo()
    assert shared.submit(noise(3, 5), OPTIONS).result.result(20).text is not None


def test_what_is_under_way_ends_with_it(model, monkeypatch):
    shared = SharedTranscription(model)
    entered, go_on = _held(model, monkeypatch)
    running = shared.submit(noise(1, 100), OPTIONS)
    entered.wait(10)
    thread = shared._thread
    assert thread is not None
    threading.Timer(0.1, go_on.set).start()
    shared.close()
    assert not thread.is_alive()
    for one in (running, shared.submit(noise(1, 5), OPTIONS)):
        with pytest.raises(CancelledError):
            one.result.result(0)


_LEAVES_IN_THE_MIDDLE = """
import threading
import numpy as np
import torch
from myna.asr.model.whisper import Whisper, WhisperDims
from myna.asr.shared import SharedTranscription
from myna.asr.transcribe import TranscribeOptions
from myna.asr.vocabularies import vocabulary_for
small = {"n_text_state": 64, "n_text_head": 2, "n_text_layer": 1}
model = Whisper(WhisperDims(n_audio_state=512, n_audio_layer=8, **small), vocabulary=vocabulary_for(51864)).eval()
begun = threading.Event()
model.encoder.blocks[0].register_forward_pre_hook(lambda *_: begun.set())
for _ in range(2):
    SharedTranscription(model).submit(np.zeros(16_000, np.float32), TranscribeOptions(beam_size=None, best_of=None))
begun.wait()
"""


def test_a_program_that_ends_in_the_middle_is_not_aborted():
    """Python ends such a thread in the middle of C++: "terminate called without an active exception", signal 6."""
    done = subprocess.run([sys.executable, "-c", _LEAVES_IN_THE_MIDDLE], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_future_that_its_client_cancels_ends_no_other_transcription(model, monkeypatch):
    """As asyncio does when the client of a server goes."""
    shared = SharedTranscription(model)
    entered, go_on = _held(model, monkeypatch)
    left = shared.submit(noise(1, 5), OPTIONS)
    entered.wait(10)
    left.result.cancel()
    go_on.set()
    assert shared.submit(noise(2, 5), OPTIONS).result.result(20).text is not None


def test_an_error_is_its_own_recording_s(model):
    shared = SharedTranscription(model)
    with pytest.raises(UsageError):
        shared.submit(noise(1, 5), replace(OPTIONS, task="dance"))
    broken = shared.submit(np.full(16_000, np.nan, np.float32), OPTIONS)
    good = shared.submit(noise(2, 5), OPTIONS)
    with pytest.raises(Exception, match="NaN"):
        broken.result.result(20)
    assert good.result.result(20).text == transcribe(model, noise(2, 5), OPTIONS).text
