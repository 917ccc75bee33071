import math

import numpy as np
import pytest
import torch
from myna.errors import UsageError
from myna.evaluation.clips import Clip
from myna.evaluation.measures.codebooks import CodebookCounter
from myna.evaluation.measures.distances import mel_distance, si_sdr, stft_distance
from myna.evaluation.measures.intelligibility import word_errors, words
from myna.evaluation.measures.metrics import DEFAULT, METRICS, Metric, choose_metrics, mean_score

RATE = 24000


def noisy(speech: np.ndarray, level: float) -> np.ndarray:
    return speech + level * np.random.default_rng(0).standard_normal(len(speech)).astype(np.float32)


def clip_of(wav: np.ndarray, text: str | None = None) -> Clip:
    return Clip("clip", wav, RATE, text=text)


@pytest.mark.parametrize("name", DEFAULT)
def test_more_noise_is_worse_and_none_is_best(name, speech):
    metric = METRICS[name]
    scores = [metric.score(clip_of(speech), noisy(speech, level)) for level in (0.0, 0.003, 0.03)]
    assert scores == sorted(scores, reverse=metric.higher_is_better)
    assert len(set(scores)) == 3


@pytest.mark.parametrize("name", DEFAULT)
@pytest.mark.parametrize(
    "wav", [np.zeros(RATE), np.full(1, 0.5), np.zeros(0)], ids=["silence", "sample", "empty"]
)
def test_what_cannot_be_judged_is_nan_or_a_number_never_an_exception(name, wav):
    score = METRICS[name].score(clip_of(wav.astype(np.float32)), wav.astype(np.float32))
    assert isinstance(score, float)


def test_si_sdr_against_its_definition(speech):
    y = noisy(speech, 0.01)
    x, z = speech - speech.mean(), y - y.mean()
    target = (x @ z) / (x @ x) * x
    wanted = 10 * math.log10(float(target @ target) / float((z - target) @ (z - target)))
    assert si_sdr(speech, y) == pytest.approx(wanted, abs=1e-3)
    assert si_sdr(speech, 0.3 * y) == pytest.approx(wanted, abs=1e-2)  # the scale does not count
    assert si_sdr(speech, speech) == pytest.approx(80, abs=25)  # no noise at all, down to rounding


def test_mel_distance_against_librosa(speech):
    """DAC's definition, computed again by the library that DAC takes its filters from."""
    librosa = pytest.importorskip("librosa")
    y, wanted = noisy(speech, 0.005), 0.0
    for window, n_mels in zip(
        (32, 64, 128, 256, 512, 1024, 2048), (5, 10, 20, 40, 80, 160, 320), strict=True
    ):
        mels = [
            librosa.feature.melspectrogram(
                y=wav,
                sr=RATE,
                n_fft=window,
                hop_length=window // 4,
                n_mels=n_mels,
                power=1.0,
                pad_mode="reflect",
            )
            for wav in (speech, y)
        ]
        wanted += np.abs(np.log10(np.maximum(mels[0], 1e-5)) - np.log10(np.maximum(mels[1], 1e-5))).mean()
    assert mel_distance(speech, y, RATE) == pytest.approx(wanted, rel=2e-3)


def test_stft_distance_of_a_gain_is_known(speech):
    """Halving a loud signal moves log10 power by 2 log10 2 in each of two windows, and magnitudes by half."""
    loud = noisy(speech, 0.2)
    log_part = 2 * 2 * math.log10(2)
    magnitudes = 0.0
    for window in (512, 2048):
        s = torch.stft(
            torch.from_numpy(loud), window, window // 4, window=torch.hann_window(window), return_complex=True
        )
        magnitudes += float(s.abs().mean() / 2)
    assert stft_distance(loud, loud / 2, RATE) == pytest.approx(log_part + magnitudes, rel=1e-3)


def test_word_errors_are_the_edit_distance():
    assert words("Don't STOP, 3 Birds!") == ["don't", "stop", "3", "birds"]
    assert word_errors("the cat sat", "The cat sat.") == 0
    assert word_errors("the cat sat", "a cat sat down") == 2  # one substituted, one inserted
    assert word_errors("the cat sat", "") == 3


def test_codebook_use_and_perplexity():
    counter = CodebookCounter(n_codebooks=3, codebook_size=8)
    even = torch.arange(8).repeat(1, 10)
    constant = torch.full_like(even, 5)
    counter.add(torch.stack([even, constant], dim=1))
    counter.add(torch.stack([even, constant], dim=1))
    use = counter.result()
    assert use.used == pytest.approx((1.0, 1 / 8, 0.0))
    assert use.perplexity == pytest.approx((8.0, 1.0, 1.0))
    assert use.n_frames == 160


def test_a_measure_whose_package_is_missing_is_left_out_with_a_line(monkeypatch):
    absent = Metric(
        "absent", "ABSENT", True, 2, lambda clip, wav: 0.0, ("no_such_package_at_all",), "pip install it"
    )
    monkeypatch.setitem(METRICS, "absent", absent)
    usable, notes = choose_metrics(["si_sdr", "absent"])
    assert [m.name for m in usable] == ["si_sdr"]
    assert notes == ["ABSENT is left out: it needs no_such_package_at_all (pip install it)"]
    with pytest.raises(UsageError, match="unknown metric 'loudness'"):
        choose_metrics(["loudness"])


def test_means_skip_what_could_not_be_judged_and_weigh_words(speech):
    clips = [clip_of(speech, "one two three"), clip_of(speech, "one"), clip_of(speech, None)]
    assert mean_score(METRICS["pesq"], clips, [1.0, 3.0, math.nan]) == 2.0
    assert mean_score(METRICS["wer"], clips, [0.0, 1.0, math.nan]) == 0.25
    assert math.isnan(mean_score(METRICS["pesq"], clips, [math.nan] * 3))
