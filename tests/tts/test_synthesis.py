"""The stream from sentences to samples, with a tiny codec and stand-ins for the models."""

from __future__ import annotations

import dataclasses
import gc
import threading
import time
import weakref
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from myna.codec.base import DecoderStream
from myna.codec.myna import MynaCodec, MynaConfig
from myna.errors import InputError, UsageError
from myna.tts.decoders.base import Latents
from myna.tts.finish.level import active_level, start_state
from myna.tts.lm.batch import Prompt
from myna.tts.lm.sampling import SamplingOptions
from myna.tts.lm.several import side_by_side
from myna.tts.lm.step import Frame
from myna.tts.presets import PRESETS, SpeechOptions
from myna.tts.rerank.base import Attempt
from myna.tts.rerank.ranking import Verdict
from myna.tts.synthesis import PARAGRAPH_PAUSE, PAUSE, SpokenChunk, Synthesizer, sentence_seed
from myna.tts.text.long_text import Sentence
from myna.tts.text.phones import Phones
from torch import Tensor

K, V = 4, 1024


class Filler:
    """All codes of a frame from its first codes and pointer, given out chunk by chunk."""

    def __init__(self, chunks: tuple[int, ...], n_given: int):
        self.sizes, self.held, self.n_given = list(chunks), torch.zeros(K, 0, dtype=torch.long), n_given

    def push(self, codes: Tensor, pointer: Tensor) -> Tensor:
        assert codes.shape == (self.n_given, *pointer.shape)
        rows = [(codes[k % self.n_given] * (k + 1) + 37 * pointer * k) % V for k in range(K)]
        self.held = torch.cat([self.held, torch.stack(rows)], dim=1)
        ready = 0
        while self.held.shape[1] - ready >= self.sizes[0]:
            ready += self.sizes[0]
            self.sizes = self.sizes[1:] or self.sizes
        out, self.held = self.held[:, :ready], self.held[:, ready:]
        return out

    def flush(self) -> Tensor:
        out, self.held = self.held, self.held[:, :0]
        return out


class Sound:
    """All codes through the codec's decoder."""

    def __init__(self, filler: Filler, decoder: DecoderStream):
        self.filler, self.decoder = filler, decoder

    def push(self, latents: Latents) -> np.ndarray:
        return self.decoded(self.filler.push(latents.codes, latents.pointer))

    def flush(self) -> np.ndarray:
        return np.concatenate([self.decoded(self.filler.flush()), self.decoder.flush()[0, 0].numpy()])

    def decoded(self, codes: Tensor) -> np.ndarray:
        return self.decoder.push(codes[None])[0, 0].numpy() if codes.shape[1] else np.zeros(0, np.float32)


class Models:
    """The AR draws three frames a phone; a candidate scores by its seed. `log` keeps what happened when."""

    sizes, chunks_ahead = (4, 8, 16), 12

    def __init__(self, pace: float = 0.0, n_coarse: int = 1):
        torch.manual_seed(0)
        self.n_coarse = n_coarse
        self.codec = MynaCodec(
            MynaConfig(
                width=32,
                latent_width=32,
                encoder_depth=(1, 1),
                decoder_depth=(1, 1),
                latent_dim=16,
                n_codebooks=K,
            )
        ).eval()
        with torch.no_grad():
            self.codec.decoder.layers[-2].scale.fill_(0.5)  # pyright: ignore (loud enough to be speech)
        self.pace, self.log, self.scores, self.alone, self.failing = pace, [], [], [], 0

    def first_codes(
        self, phones: Phones, prompt: Prompt | None, sampling: SamplingOptions
    ) -> Iterator[Frame]:
        generator = torch.Generator().manual_seed(sampling.seed)
        self.log.append(("ar", time.monotonic()))
        for i in range(3 * len(phones)):
            if self.pace:
                time.sleep(self.pace)
            codes = torch.randint(V, (self.n_coarse,), generator=generator)
            yield Frame(codes, torch.tensor(i // 3), torch.zeros(0))
        self.log.append(("ar done", time.monotonic()))

    def chunks(self, decoder: str | None) -> tuple[int, ...]:
        return self.sizes

    def sound(self, phones: Phones, prompt: Prompt | None, decoder: str | None, seed: int) -> Sound:
        return Sound(Filler(self.sizes, self.n_coarse), self.codec.decoder_stream())

    def several(self, phones, prompt, sampling, seeds) -> Iterator[list[Frame | None]]:
        tries = [self.first_codes(phones, prompt, dataclasses.replace(sampling, seed=seed)) for seed in seeds]
        return side_by_side(tries)

    def judge(self, attempt: Attempt, words_alone: bool) -> Verdict:
        """Loud is good; the first `failing` tries lack a word."""
        assert attempt.codes is not None
        assert attempt.codes.shape[1] == 3 * len(attempt.phones)
        self.alone.append(words_alone)
        self.scores.append(float(np.abs(attempt.samples).sum()))
        return Verdict({"loudness": self.scores[-1]}, self.scores[-1], int(len(self.scores) <= self.failing))


class Mark:
    """A watermark that is late: it holds back 100 samples, and adds what can be found again."""

    def __init__(self, position: int = 0):
        self.position, self.held = position, np.zeros(0, np.float32)

    def push(self, samples: np.ndarray) -> np.ndarray:
        x = np.concatenate([self.held, samples])
        n = max(0, len(x) - 100)
        self.held = x[n:]
        return x[:n]

    def flush(self) -> np.ndarray:
        return self.held


class Counting(Mark):
    """A watermark that depends on where it is."""

    def push(self, samples: np.ndarray) -> np.ndarray:
        at = self.position + np.arange(len(samples))
        self.position += len(samples)
        return super().push(samples + 0.003 * np.sin(at).astype(np.float32))


def phonemize(text: str, language: str) -> Phones:
    if language != "en-us":
        raise UsageError(f"unknown language {language!r}")
    phones = Phones.from_ipa(text)
    if not phones.n_sounds:
        raise InputError("nothing to say")
    return phones


def sentences(*texts: str, paragraphs: tuple[int, ...] = ()) -> list[Sentence]:
    ends = np.cumsum([len(text) for text in texts])
    return [Sentence(text, i in paragraphs, int(ends[i])) for i, text in enumerate(texts)]


def speak(
    texts: list[Sentence], models: Models | None = None, start: int = 0, level=None, position=0, **options
) -> list[SpokenChunk]:
    synthesizer = Synthesizer(models or Models(), phonemize, Counting)
    settings = SpeechOptions(**options)
    return list(synthesizer.stream(texts, None, level or start_state(None), settings, start, position))


def samples(chunks: list[SpokenChunk]) -> np.ndarray:
    return np.concatenate([chunk.samples for chunk in chunks])


TEXT = sentences("hɛloʊ wɜld.", "wʌt ə fain dei!", "jɛs?")


every_n = pytest.mark.parametrize("n", [1, 3], ids=["one coarse", "three coarse"])


@every_n
def test_every_sentence_is_said_and_ended(n):
    chunks = speak(TEXT, Models(n_coarse=n))
    assert [chunk.sentence for chunk in chunks if chunk.ends_sentence] == [0, 1, 2]
    done = [chunk.done for chunk in chunks]
    assert done == sorted(done)
    assert done[-1] == 1.0
    assert all(chunk.level is not None for chunk in chunks if chunk.ends_sentence)
    frames = sum(3 * len(phonemize(sentence.text, "en-us")) for sentence in TEXT)
    spoken = len(samples(chunks)) / 24_000 - 2 * PAUSE
    assert spoken == pytest.approx(frames / 50, abs=0.35)  # their silent ends are cut


@pytest.mark.parametrize("candidates", [1, 3])
def test_what_a_sentence_remembers_goes_with_it(candidates, monkeypatch):
    """Not at the next collection: a decoder may remember megabytes, and a text may have thousands of sentences."""
    alive: weakref.WeakSet[Sound] = weakref.WeakSet()
    begin = Models.sound

    def watched(self, *given) -> Sound:
        sound = begin(self, *given)
        alive.add(sound)
        return sound

    monkeypatch.setattr(Models, "sound", watched)
    gc.disable()
    try:
        assert speak(TEXT, candidates=candidates)
        assert not alive
    finally:
        gc.enable()


@every_n
def test_the_seed_reproduces_the_same_samples(n):
    first, again, other = (samples(speak(TEXT, Models(n_coarse=n), seed=seed)) for seed in (7, 7, 8))
    np.testing.assert_array_equal(first, again)
    assert first.shape != other.shape or not np.array_equal(first, other)


def test_a_slow_ar_changes_nothing():
    np.testing.assert_array_equal(samples(speak(TEXT, Models(pace=0.001))), samples(speak(TEXT)))


@every_n
def test_whole_sentence_at_once_is_the_same(n):
    """Chunked equals whole: the NAR of these stand-ins looks at one frame, so its chunks may have any length."""
    models, chunked = Models(n_coarse=n), Models(n_coarse=n)
    models.sizes = (10_000,)
    np.testing.assert_allclose(samples(speak(TEXT, models)), samples(speak(TEXT, chunked)), atol=1e-5)


def test_a_text_goes_on_after_any_sentence():
    whole = speak(TEXT, seed=3)
    for stop in (1, 2):
        head = [chunk for chunk in whole if chunk.sentence < stop]
        tail = speak(TEXT, start=stop, level=head[-1].level, position=len(samples(head)), seed=3)
        np.testing.assert_array_equal(samples([*head, *tail]), samples(whole))
        assert [chunk.done for chunk in tail] == [chunk.done for chunk in whole[len(head) :]]


def test_sound_leaves_while_the_ar_still_runs():
    models = Models(pace=0.004)
    stream = Synthesizer(models, phonemize, Mark).stream(TEXT[1:2], None, start_state(None))
    next(stream)
    assert [what for what, _ in models.log] == ["ar"]
    assert not next(stream).ends_sentence
    stream.close()


def test_closing_stops_the_work():
    models = Models(pace=0.002)
    for options in (SpeechOptions(), SpeechOptions("best")):
        stream = Synthesizer(models, phonemize, Mark).stream(TEXT * 50, None, start_state(None), options)
        next(stream)
        began = time.monotonic()
        stream.close()
        assert time.monotonic() - began < 1
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("myna-")]


def test_pauses_between_sentences_and_paragraphs():
    plain = speak(sentences("hɛloʊ.", "hɛloʊ."))
    longer = speak(sentences("hɛloʊ.", "hɛloʊ.", paragraphs=(0,)))
    assert len(samples(longer)) - len(samples(plain)) == round(24_000 * (PARAGRAPH_PAUSE - PAUSE))
    first = samples([chunk for chunk in longer if chunk.sentence == 0])
    assert np.abs(first[-round(24_000 * PARAGRAPH_PAUSE) :]).max() < 0.01


def test_no_clicks_where_sentences_meet():
    out = samples(speak(sentences(*["hɛloʊ wɜld."] * 4)))
    chunks = speak(sentences(*["hɛloʊ wɜld."] * 4))
    inside = np.quantile(np.abs(np.diff(out)), 0.999)
    at = np.cumsum([len(chunk.samples) for chunk in chunks if chunk.ends_sentence or len(chunk.samples)])[:-1]
    assert max(abs(out[i] - out[i - 1]) for i in at) <= inside


def test_level_is_steady():
    chunks = speak(sentences(*["hɛloʊ wɜld hɛloʊ wɜld."] * 6))
    levels = [active_level(samples([c for c in chunks if c.sentence == i]), 24_000) for i in range(1, 6)]
    assert max(levels) - min(levels) < 3  # pyright: ignore


def test_the_best_of_the_candidates_is_kept():
    models = Models()
    best = speak(TEXT[:1], models, preset="best")
    assert len(models.scores) == PRESETS["best"].n_candidates
    assert sum(what == "ar" for what, _ in models.log) == len(models.scores)
    winner = int(np.argmax(models.scores))

    np.testing.assert_allclose(samples(best), samples(speak(TEXT[:1], only(winner)())), atol=1e-6)


def only(number: int) -> type[Models]:
    """Models whose one try is that with the number."""

    class Only(Models):
        def first_codes(self, phones, prompt, sampling):
            seed = sentence_seed(0, 0, number)
            return super().first_codes(phones, prompt, dataclasses.replace(sampling, seed=seed))

    return Only


@pytest.mark.parametrize("failing", [0, 1, 2, 9])
def test_a_sentence_without_all_words_is_said_again(failing):
    models = Models()
    models.failing = failing
    out = speak(TEXT[:1], models, redraws=2)
    n = min(failing, 2) + 1
    assert len(models.scores) == n
    assert models.alone == [True] * n
    tried = out[-1].tried
    assert [bool(one.missing) for one in tried] == [i < failing for i in range(n)]
    chosen = n - 1 if failing < 9 else int(np.argmax(models.scores))  # the first that has them, or the best
    assert [one.chosen for one in tried] == [i == chosen for i in range(n)]
    np.testing.assert_allclose(samples(out), samples(speak(TEXT[:1], only(chosen)())), atol=1e-6)
    assert [chunk.ends_sentence for chunk in out] == [True]  # nothing is heard before it is judged


def test_what_is_heard_while_it_is_made_is_not_judged():
    models = Models()
    models.failing = 9
    speak(TEXT, models)
    assert models.scores == []
    assert SpeechOptions().held().resolved().redraws == PRESETS["standard"].redraws > 0
    assert SpeechOptions(redraws=0).held().resolved().redraws == 0


def test_tries_end_when_time_is_up():
    models = Models()
    models.failing = 99
    out = speak(TEXT[:1], models, preset="best", patience=0)
    assert len(models.scores) == 1
    np.testing.assert_allclose(samples(out), samples(speak(TEXT[:1])), atol=1e-6)


def test_the_best_preset_says_again_what_no_try_has():
    models = Models()
    n = PRESETS["best"].n_candidates
    models.failing = n
    out = speak(TEXT[:1], models, preset="best")
    assert len(models.scores) == n + 1
    assert models.alone == [False] * (n + 1)
    assert [one.chosen for one in out[-1].tried] == [False] * n + [True]


@every_n
def test_sentences_without_a_sound_are_passed_over(n):
    chunks = speak(sentences("hɛloʊ.", "***", ". . .", "jɛs."), Models(n_coarse=n))
    assert [chunk.sentence for chunk in chunks if chunk.ends_sentence] == [0, 1, 2, 3]
    assert not any(len(chunk.samples) for chunk in chunks if chunk.sentence in (1, 2))


@pytest.mark.parametrize("texts", [(), ("...",), ("—", "!?")])
def test_nothing_to_say_is_one_line(texts):
    with pytest.raises(UsageError, match="nothing to say"):
        speak(sentences(*texts))


def test_errors_of_the_parts_reach_the_caller():
    with pytest.raises(UsageError, match="unknown language"):
        speak(TEXT, language="xx")


@pytest.mark.parametrize("speed", [0.7, 1.5])
def test_speed_changes_the_length(speed):
    plain, changed = samples(speak(TEXT)), samples(speak(TEXT, speed=speed))
    assert len(changed) == pytest.approx(len(plain) / speed, rel=0.02)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"preset": "better"}, "choose one of standard, fast, best"),
        ({"seed": -1}, "seed -1"),
        ({"temperature": 3.0}, "0 to 2"),
        ({"temperature": float("nan")}, "temperature nan"),
        ({"top_p": 0.0}, "top-p 0"),
        ({"top_k": -5}, "top-k -5"),
        ({"cfg_text": 100.0}, "cfg-text 100"),
        ({"speed": 9.0}, "0.25 to 4"),
    ],
)
def test_options_that_cannot_be_are_refused(options, words):
    with pytest.raises(UsageError, match=words):
        SpeechOptions(**options)


def test_own_settings_win_over_the_preset():
    resolved = SpeechOptions("best", temperature=0.0, top_k=5, cfg_text=1.5).resolved()
    sampling = resolved.sampling
    assert (sampling.temperature, sampling.top_k, sampling.text_guidance) == (0.0, 5, 1.5)
    assert resolved.n_candidates == PRESETS["best"].n_candidates
    assert sampling.top_p == PRESETS["best"].sampling.top_p
