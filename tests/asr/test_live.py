"""Live transcription: what is settled stays, however the audio arrives; with a recogniser that knows the text."""

from __future__ import annotations

import numpy as np
import pytest
from myna.asr import live as module
from myna.asr.live import LiveOptions, LiveTranscriber
from myna.asr.transcript import Word
from myna.errors import InputError, UsageError
from myna.pretrained.silero import FRAME, RATE

PAUSE = "|"


class EnergyDetector:
    """A voice activity detector for tones: whatever is loud is speech."""

    def __init__(self):
        self.heard = np.zeros(0, np.float32)

    def push(self, samples):
        self.heard = np.concatenate([self.heard, samples])
        n = len(self.heard) // FRAME
        frames, self.heard = self.heard[: n * FRAME].reshape(n, FRAME), self.heard[n * FRAME :]
        return np.where(np.abs(frames).max(axis=1, initial=0) > 0.05, 0.95, 0.02).astype(np.float32)

    def flush(self):
        return self.push(np.zeros(-len(self.heard) % FRAME, np.float32))


@pytest.fixture(autouse=True)
def _tones(monkeypatch):
    monkeypatch.setattr(module, "VoiceActivity", EnergyDetector)


class Reader:
    """A text as tones, a word taking 0.3 s and "|" a pause of a second; and the recogniser that knows it.

    Words are heard when they are over; one that is cut off, is heard wrongly, differently every time.
    """

    def __init__(self, text, pause=1.0, wrong=()):
        self.words, at = [], 0.75
        pieces = [np.zeros(int(0.75 * RATE))]
        for token in text.split():
            n = int((pause if token == PAUSE else 0.3) * RATE)
            tone = np.zeros(n) if token == PAUSE else 0.5 * np.sin(np.arange(n))
            if token != PAUSE:
                self.words.append(Word(" " + token, at, at + n / RATE, 1.0))
            pieces.append(tone)
            at += n / RATE
        pieces.append(np.zeros(2 * RATE))
        mark = np.random.default_rng(0).normal(0, 1e-5, sum(map(len, pieces)))
        self.audio = (np.concatenate(pieces) + mark).astype(np.float32)
        self.calls, self.longest, self.wrong = 0, 0.0, wrong

    def __call__(self, audio, begun, before):
        self.calls += 1
        self.longest = max(self.longest, len(audio) / RATE)
        where = self.audio.tobytes().find(audio[:50].tobytes())
        assert where >= 0
        assert where % 4 == 0, "the audio kept is a piece of the stream"
        start, end = where / 4 / RATE, where / 4 / RATE + len(audio) / RATE
        heard = [w for w in self.words if w.start >= start - 0.05 and w.start < end - 0.05]
        text = "".join(w.word for w in heard)
        assert text.startswith(begun), f"{begun!r} is not how {text!r} begins"
        said = "".join(w.word for w in self.words if w.start < start - 0.05)
        assert said.endswith(before)
        heard = heard[len(begun.split()) :]
        made = []
        for word in heard:
            cut = word.end > end or word.word.strip() in self.wrong
            name = f" {word.word.strip()[:1]}{self.calls}" if cut else word.word
            made.append(Word(name, word.start - start, min(word.end, end) - start, 1.0))
        return made


def run(reader, live=None, sizes=(1600,), **options):
    """The words settled, and the updates."""
    transcriber = LiveTranscriber(reader, live=live or LiveOptions())
    updates, at = [], 0
    while at < len(reader.audio):
        size = sizes[len(updates) % len(sizes)]
        updates.append(transcriber.push(reader.audio[at : at + size], **options))
        at += size
    updates.append(transcriber.flush())
    return [word for update in updates for word in update.words], updates


def sentences(n, length=8):
    return " ".join(
        " ".join(f"w{i}x{j}" for j in range(length - 1)) + f" end{i}." + (f" {PAUSE}" if i % 3 == 2 else "")
        for i in range(n)
    )


def test_everything_said_is_settled_once_with_its_times():
    reader = Reader(sentences(30))
    words, _ = run(reader)
    assert [w.word for w in words] == [w.word for w in reader.words]
    assert np.allclose([w.start for w in words], [w.start for w in reader.words], atol=0.05)
    assert np.allclose([w.end for w in words], [w.end for w in reader.words], atol=0.05)


@pytest.mark.parametrize("sizes", [(1,), (100_000, 3), (16_000,), (40_000_000,)])
def test_the_cuts_of_the_input_do_not_matter(sizes):
    reader = Reader(sentences(3 if sizes == (1,) else 12))
    assert run(reader, sizes=sizes)[0] == run(reader, sizes=(1234,))[0]


@pytest.mark.parametrize("step", [0.5, 1.0, 2.0])
def test_a_word_is_settled_within_the_delay_stated(step):
    reader = Reader(sentences(20))
    transcriber = LiveTranscriber(reader, live=LiveOptions(step=step))
    settled = 0
    for at in range(0, len(reader.audio), 800):
        update = transcriber.push(reader.audio[at : at + 800])
        settled += len(update.words)
        due = [w for w in reader.words if w.end <= update.seconds - transcriber.delay]
        assert settled >= len(due)
    assert transcriber.delay == 2 * step


def test_a_pause_settles_at_once():
    reader = Reader("one two three")
    transcriber = LiveTranscriber(reader, live=LiveOptions(step=3.0, silence=0.5))
    update = transcriber.push(reader.audio[: 3 * RATE])
    assert update.stable == " one two three"
    assert update.tentative == ""
    assert reader.calls == 1


def test_what_is_not_agreed_on_is_tentative():
    reader = Reader("one two three four five six seven")
    transcriber = LiveTranscriber(reader, live=LiveOptions(step=1.0))
    first = transcriber.push(reader.audio[: 2 * RATE - 100])  # to 1.99 s: one recognition, of a second
    assert first.words == ()
    second = transcriber.push(reader.audio[2 * RATE - 100 : 2 * RATE])
    assert second.stable == ""  # "one" was cut off a second ago
    assert second.tentative.startswith(" one two three four")
    third = transcriber.push(reader.audio[2 * RATE : 3 * RATE])
    assert third.stable == " one two three four"
    assert third.tentative.startswith(" five six")


def test_capitals_and_punctuation_do_not_hold_a_word_back():
    said = iter([" Well,", " well"])

    def recognise(audio, begun, before):
        return [] if begun else [Word(next(said), 0.1, 0.4, 1.0)]

    tone = (0.5 * np.sin(np.arange(4 * RATE))).astype(np.float32)
    transcriber = LiveTranscriber(recognise)
    assert transcriber.push(tone[:RATE]).stable == ""
    assert transcriber.push(tone[RATE : 2 * RATE]).stable == " well"


def test_silence_gives_nothing_and_is_not_kept():
    def recognise(audio, begun, before):
        raise AssertionError("there is nothing to recognise")

    transcriber = LiveTranscriber(recognise)
    noise = np.random.default_rng(0).normal(0, 1e-5, 60 * RATE).astype(np.float32)
    for at in range(0, len(noise), RATE):
        assert transcriber.push(noise[at : at + RATE]).stable == ""
        assert len(transcriber._audio) <= 2 * RATE
    assert transcriber.flush().stable == ""


def test_memory_is_bounded_without_a_pause_and_without_a_full_stop():
    reader = Reader(" ".join(f"word{i}" for i in range(1000)))  # five minutes in one breath
    live = LiveOptions(max_buffer=12)
    transcriber = LiveTranscriber(reader, live=live)
    settled, sizes = [], []
    for at in range(0, len(reader.audio), 8000):
        settled += transcriber.push(reader.audio[at : at + 8000]).words
        sizes.append(len(transcriber._audio) / RATE)
        assert len(transcriber._begun) < 60
        assert len(transcriber._before) <= 600
    settled += transcriber.flush().words
    assert [w.word for w in settled] == [w.word for w in reader.words]
    assert max(sizes) <= 12
    assert reader.longest <= 12


def test_where_recognitions_never_agree_words_are_settled_within_the_bound():
    words = " ".join(f"word{i}" for i in range(200))
    reader = Reader(words, wrong={f"word{i}" for i in range(200)})

    def recognise(audio, begun, before):  # what was settled, however wrong, is how it begins
        return reader(audio, "", "")[len(begun.split()) :]

    transcriber = LiveTranscriber(recognise, live=LiveOptions(max_buffer=10))
    for at in range(0, len(reader.audio), RATE):
        update = transcriber.push(reader.audio[at : at + RATE])
        for word in update.words:
            assert update.seconds - word.end <= transcriber.max_delay + 0.3
    assert transcriber.max_delay == 10


def test_a_recogniser_that_stops_at_a_full_stop_is_asked_again():
    reader = Reader("this is one. and this is two. and three and four.")

    def recognise(audio, begun, before):
        if begun.endswith("."):
            return []  # the sentence is complete: nothing follows
        words = list(reader(audio, begun, before))
        ends = [i for i, word in enumerate(words) if word.word.endswith(".")]
        return words[: ends[0] + 1] if ends else words

    transcriber = LiveTranscriber(recognise)
    said = transcriber.push(reader.audio).stable + transcriber.flush().stable
    assert said.split() == [w.word.strip() for w in reader.words]


def test_a_word_heard_long_after_all_speech_is_not_believed():
    def recognise(audio, begun, before):
        if begun:
            return []
        return [Word(" Hello.", 0.5, 1.0, 0.9), Word(" Thanks", 3.0, 3.2, 0.9), Word(" bye.", 3.2, 3.5, 0.9)]

    audio = np.zeros(5 * RATE, np.float32)
    audio[RATE // 2 : RATE] = 0.5
    transcriber = LiveTranscriber(recognise)
    assert transcriber.push(audio).stable + transcriber.flush().stable == " Hello."


def test_catching_up_recognises_less_and_says_the_same():
    reader = Reader(sentences(20))
    words, _ = run(reader, sizes=(8 * RATE,))
    calls, reader.calls = reader.calls, 0
    fewer, _ = run(reader, sizes=(8 * RATE,), catch_up=True)
    assert [w.word for w in fewer] == [w.word for w in words]
    assert reader.calls < calls / 2
    assert reader.longest <= LiveOptions().max_buffer


def test_after_a_flush_another_recording_begins():
    reader = Reader("one two three.")
    transcriber = LiveTranscriber(reader)
    for _ in range(2):
        words = [*transcriber.push(reader.audio).words, *transcriber.flush().words]
        assert [w.word for w in words] == [w.word for w in reader.words]
        assert words[0].start == pytest.approx(0.75, abs=0.05)


@pytest.mark.parametrize("n", [0, 1, 600])
def test_hardly_any_audio(n):
    transcriber = LiveTranscriber(Reader("one"))
    assert transcriber.push(np.zeros(n, np.float32)).seconds == n / RATE
    assert transcriber.flush().words == ()


@pytest.mark.parametrize("wrong", [np.zeros((1, 100)), np.full(100, np.nan)])
def test_samples_that_cannot_be_used_are_refused(wrong):
    transcriber = LiveTranscriber(Reader("one two three."))
    with pytest.raises(InputError, match="samples of shape"):
        transcriber.push(wrong)
    said = transcriber.push(transcriber._recognise.audio).stable + transcriber.flush().stable
    assert said == " one two three."  # nothing of it was taken


@pytest.mark.parametrize(
    "wrong", [{"step": 0.0}, {"silence": 9}, {"max_buffer": 30}, {"step": 2, "max_buffer": 5}]
)
def test_impossible_options_are_refused(wrong):
    with pytest.raises(UsageError, match="expected"):
        LiveOptions(**wrong)
