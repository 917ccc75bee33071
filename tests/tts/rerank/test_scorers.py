"""The scorers on real speech: the right text, the right voice and whole words score higher than others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from myna.asr.decoding.prompts import tokenizer_of
from myna.asr.model.features import log_mel, pad_or_trim
from myna.asr.model.whisper import Whisper, WhisperDims
from myna.asr.vocabularies import vocabulary_for
from myna.data.audio import read_audio
from myna.pretrained.ge2e import load_ge2e
from myna.tts.aligner import load_aligner
from myna.tts.lm.batch import Prompt
from myna.tts.rerank.base import Attempt
from myna.tts.rerank.likeness import Likeness
from myna.tts.rerank.ranking import Ranking, RankingOptions, Verdict
from myna.tts.rerank.recogniser import WhisperScorer
from myna.tts.rerank.words import Words, word_scores, word_spans
from myna.tts.text.phonemes import phonemize
from myna.tts.text.phones import Phones

ASSETS = Path(__file__).parents[2] / "assets"
TEXT = "These subordinate chiefs were also rewarded out of the scanty prison rations."
OTHER = "The best, mostly French or Low-Country, was neat and clear, but without any distinction."


def speech(name: str = "speech.wav") -> np.ndarray:
    return read_audio(ASSETS / name, 24_000, mono=True).samples[0]


def attempt(samples: np.ndarray, text: str = TEXT, speaker: torch.Tensor | None = None) -> Attempt:
    prompt = None if speaker is None else Prompt(torch.zeros(1, 1, dtype=torch.long), speaker=speaker)
    return Attempt(samples, 24_000, phonemize(text, "en-us"), text, prompt)


@pytest.fixture(scope="module")
def words() -> Words:
    return Words(load_aligner(), RankingOptions().missing_below)


def test_the_aligner_finds_the_words_that_are_there(words):
    said = words.read(attempt(speech()))
    assert said[1] == ()
    other = words.read(attempt(speech(), OTHER))
    assert other[0] < said[0] - 1
    assert len(other[1]) >= 3
    assert words.read(attempt(speech("lj.flac"), OTHER))[1] == ()


def test_the_aligner_misses_what_was_cut_out(words):
    """The last word is cut off; and it is the last one that is missing."""
    whole = attempt(speech())
    n = len(word_spans(whole.phones))
    cut = speech()[: round(5.4 * 24_000)]  # after "prison"
    missing = words.read(attempt(np.concatenate([cut, np.zeros(12_000, np.float32)])))[1]
    assert n - 1 in missing
    assert len(missing) <= 2


def test_what_is_too_short_for_its_words_lacks_all(words):
    score, missing = words.read(attempt(speech()[:480]))
    assert score == -10
    assert len(missing) == len(word_spans(phonemize(TEXT, "en-us"))) > 8


def test_another_rate_is_the_same_speech(words):
    at_16k = read_audio(ASSETS / "speech.wav", 16_000, mono=True).samples[0]
    here = words.read(attempt(speech()))[0]
    there = words.read(Attempt(at_16k, 16_000, phonemize(TEXT, "en-us"), TEXT))[0]
    assert there == pytest.approx(here, abs=0.2)


def test_words_are_runs_without_a_pause():
    phones = Phones.from_ipa("hə, loʊ a.")
    symbols = word_spans(phones)
    assert [last - first for first, last in symbols] == [2, 3, 1]
    scores = torch.arange(len(phones), dtype=torch.float32)
    assert word_scores(scores, symbols) == [float(scores[a:b].mean()) for a, b in symbols]


def test_likeness_knows_the_reader():
    reader = load_ge2e().vector(
        torch.from_numpy(read_audio(ASSETS / "lj.flac", 16_000, mono=True).samples[0])
    )
    same = Likeness().score(attempt(speech(), speaker=reader))
    other = Likeness().score(attempt(speech("speechocean.flac"), speaker=reader))
    assert same is not None
    assert other is not None
    assert same > 0.75 > other
    assert Likeness().score(attempt(speech())) is None


@pytest.mark.skipif(not WhisperScorer.is_installed(), reason="Whisper tiny.en is not on this machine")
def test_the_recogniser_finds_the_right_text_likelier():
    recogniser = WhisperScorer()
    said, other = (recogniser.score(attempt(speech(), text)) for text in (TEXT, OTHER))
    assert said is not None
    assert other is not None
    assert 0 > said > -1 > other
    for nothing in (replace(attempt(speech()), text=""), attempt(np.zeros(24_000, np.float32))):
        assert recogniser.score(nothing) is None


def test_the_recogniser_reads_token_by_token_what_it_reads_at_once():
    torch.manual_seed(0)
    dims = WhisperDims(
        n_audio_state=16, n_audio_head=2, n_audio_layer=1, n_text_state=16, n_text_head=2, n_text_layer=1
    )
    model = Whisper(dims, vocabulary=vocabulary_for(dims.n_vocab)).eval()
    score = WhisperScorer(model).score(attempt(speech()))
    samples = read_audio(ASSETS / "speech.wav", 16_000, mono=True).samples[0]
    tokenizer = tokenizer_of(model, "en", "transcribe")
    expected = []
    with torch.inference_mode():
        state = model.init_state(model.encode(log_mel(pad_or_trim(torch.from_numpy(samples), 480_000))[None]))
        for token in tokenizer.sot_sequence_including_notimestamps:
            logits, state = model.step(torch.tensor([[token]]), state)
        for token in tokenizer.encode(" " + TEXT):
            expected.append(float(logits[0].log_softmax(0)[token]))
            logits, state = model.step(torch.tensor([[token]]), state)
    assert score == pytest.approx(float(np.mean(expected)), abs=0.05)
    assert WhisperScorer(model).score(attempt(np.ones(31 * 24_000, np.float32))) is None


class Fixed:
    def __init__(self, name: str, value: float | None):
        self.name, self.value, self.asked = name, value, 0

    def score(self, attempt: Attempt) -> float | None:
        self.asked += 1
        return self.value


def test_scores_are_weighed():
    scorers = [Fixed("likeness", 0.5), Fixed("recogniser", None), Fixed("clvp", 3.0)]
    options = RankingOptions(aligner=1, likeness=4, recogniser=2, clvp=0)
    verdict = Ranking(None, scorers, options).judge(attempt(speech()))
    assert verdict == Verdict({"likeness": 0.5}, 2.0, 0)
    assert [scorer.asked for scorer in scorers] == [1, 1, 0]  # what weighs nothing is not asked
    assert not verdict.failed


def test_a_single_try_is_asked_for_its_words_alone(words):
    other = Fixed("likeness", 1.0)
    verdict = Ranking(words, [other]).judge(attempt(speech(), OTHER), words_alone=True)
    assert other.asked == 0
    assert verdict.failed
    assert verdict.scores == {"aligner": pytest.approx(verdict.total / RankingOptions().aligner)}
