"""Whatever is recorded: three good seconds of one voice, or one line that says why not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from myna.data.audio import Audio, read_audio, write_audio
from myna.data.resample import resample
from myna.errors import InputError, MissingModelError
from myna.pretrained import silero as voice_activity
from myna.tts.finish.level import TARGET, active_level
from myna.tts.voices import two_voices
from myna.tts.voices.recording import CleanPrompt, PromptOptions, clean_prompt

ASSETS = Path(__file__).resolve().parents[2] / "assets"
RATE = 24_000
ALONE = PromptOptions(two_people=False)  # without loading Resemblyzer


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    return read_audio(ASSETS / "speech.wav", RATE).samples[0]


def clean(samples: np.ndarray, rate: int = RATE, options: PromptOptions = ALONE) -> CleanPrompt:
    return clean_prompt(Audio(np.atleast_2d(samples).astype(np.float32), rate), options=options)


def noise(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=n)


def tones(n: int) -> np.ndarray:
    """Chords, one every quarter of a second."""
    t = np.arange(n) / RATE
    pitch = np.array([220.0, 262, 330, 392, 440, 523])[np.random.default_rng(0).integers(6, size=200)]
    steps = np.repeat(pitch, RATE // 4)[:n]
    phase = 2 * np.pi * np.cumsum(steps) / RATE
    return 0.1 * (np.sin(phase) + np.sin(1.25 * phase) + np.sin(1.5 * phase)) * np.exp(-4 * (t % 0.25))


@pytest.mark.parametrize("name", ["speech.wav", "lj.flac", "speechocean.flac"])
def test_real_people_are_taken(name):
    made = clean_prompt(ASSETS / name, options=ALONE)
    assert 2.4 < made.seconds <= 4.3
    assert made.start % 480 == 0
    assert np.abs(made.samples).max() < 1
    level = active_level(made.samples, RATE)
    assert level is not None
    assert level == pytest.approx(TARGET, abs=0.7)
    # It is that stretch of the recording, at another level.
    stretch = made.recording[made.start : made.start + len(made.samples)]
    assert np.corrcoef(stretch, made.samples)[0, 1] > 0.999


def test_what_is_chosen_is_speech(speech):
    made = clean(np.concatenate([np.zeros(3 * RATE), speech[: 3 * RATE], 0.001 * noise(4 * RATE)]))
    assert 2.7 * RATE < made.start < 4 * RATE
    assert made.start + len(made.samples) < 6.3 * RATE


def test_short_speech_is_kept_whole_and_its_silence_cut(speech):
    made = clean(np.concatenate([np.zeros(RATE), speech[RATE : int(2.5 * RATE)], np.zeros(RATE)]))
    assert 1.2 < made.seconds < 1.9


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("short", "0.20 s"),
        ("silent", "silent"),
        ("offset", "silent"),
        ("quiet", "silent"),
        ("white noise", "no speech"),
        ("music", "no speech"),
        ("hardly any speech", "at least 0.6 s"),
        ("clipped", "clipped"),
        ("drowned", "too noisy"),
        ("not finite", "NaN"),
    ],
)
def test_what_is_no_voice_is_refused_in_one_line(speech, case, words):
    n = len(speech)
    samples = {
        "short": speech[RATE : RATE + RATE // 5],
        "silent": np.zeros(n),
        "offset": np.full(n, 0.3),
        "quiet": 1e-4 * speech,
        "white noise": 0.1 * noise(n),
        "music": tones(n),
        "hardly any speech": np.concatenate(
            [np.zeros(2 * RATE), speech[RATE : int(1.3 * RATE)], np.zeros(2 * RATE)]
        ),
        "clipped": np.clip(40 * speech, -0.5, 0.5),
        "drowned": speech + 0.1 * noise(n),
        "not finite": np.where(np.arange(n) == 5, np.nan, speech),
    }[case]
    with pytest.raises(InputError, match=words) as error:
        clean(samples)
    assert "\n" not in str(error.value)


def test_ten_minutes_are_cut_to_the_beginning(speech, tmp_path):
    write_audio(tmp_path / "long.wav", np.tile(speech, 85), RATE)
    made = clean_prompt(tmp_path / "long.wav", options=ALONE)
    assert "first 30 s" in made.notes[0]
    assert len(made.recording) == 30 * RATE
    write_audio(tmp_path / "late.wav", np.concatenate([np.zeros(31 * RATE), speech]), RATE)
    with pytest.raises(InputError, match=r"the first 30 s of .*late\.wav is silent"):
        clean_prompt(tmp_path / "late.wav", options=ALONE)


def test_speech_is_measured(speech):
    alone = clean(speech).spoken
    assert 5 < alone < len(speech) / RATE
    assert clean(np.concatenate([np.zeros(5 * RATE), speech])).spoken == pytest.approx(alone, abs=0.2)


@pytest.mark.parametrize("channels", ["two alike", "opposed", "one silent"])
def test_stereo(speech, channels):
    other = {"two alike": speech, "opposed": -speech, "one silent": 0 * speech}[channels]
    made, mono = clean(np.stack([speech, other])), clean(speech)
    assert made.start == mono.start
    np.testing.assert_allclose(made.samples, mono.samples, atol=1e-3)


def test_of_two_people_at_two_microphones_the_louder_is_taken(speech):
    other = read_audio(ASSETS / "lj.flac", RATE).samples[0]
    n = min(len(speech), len(other))
    pair = np.stack([0.5 * other[:n], speech[:n]])
    np.testing.assert_array_equal(clean(pair).samples, clean(speech[:n]).samples)


def test_a_telephone_is_taken_with_a_note(speech):
    made = clean(resample(speech[None], RATE, 8_000), 8_000)
    assert any("telephone" in note for note in made.notes)
    assert not any("telephone" in note for note in clean(speech).notes)


def test_a_little_clipping_is_noted(speech):
    limit = np.quantile(np.abs(speech), 0.995)
    made = clean(np.clip(speech, -limit, limit))
    assert any("clipped" in note for note in made.notes)


def test_steady_noise_is_reduced(speech):
    added = 0.01 * noise(len(speech))
    made = clean(speech + added)
    assert any("noise was reduced" in note for note in made.notes)
    pause = slice(int(0.05 * RATE), int(0.3 * RATE))  # before the first word
    assert np.std(made.recording[pause]) < 0.4 * np.std((speech + added)[pause])
    # The speech is still there, closer to the clean one than what was recorded.
    reference = clean(speech).recording
    error = np.mean((made.recording - reference) ** 2)
    assert error < 0.7 * np.mean(added**2)


def test_hum_and_offset_are_filtered_out(speech):
    t = np.arange(len(speech)) / RATE
    made = clean(speech + 0.2 + 0.05 * np.sin(2 * np.pi * 20 * t))
    plain = clean(speech)
    assert np.corrcoef(made.recording[RATE:], plain.recording[RATE:])[0, 1] > 0.99


def test_the_detector_finds_the_words_not_the_pauses(speech):
    samples = resample(
        np.concatenate([np.zeros(RATE), speech[RATE : 3 * RATE]])[None], RATE, voice_activity.RATE
    )[0]
    speaks = voice_activity.speech_probability(samples)
    assert len(speaks) == -(-len(samples) // voice_activity.FRAME)
    assert speaks[:28].max() < 0.5
    assert speaks[35:].mean() > 0.6
    assert len(voice_activity.speech_probability(samples[:0])) == 0


def test_threads_stay_as_they_were(speech):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        clean(speech)
        assert torch.get_num_threads() == 2  # `import silero_vad` would make it one
    finally:
        torch.set_num_threads(before)


def test_without_the_detector_it_says_so(monkeypatch, speech):
    voice_activity._model.cache_clear()
    monkeypatch.setattr(voice_activity, "find_spec", lambda name: None)
    try:
        with pytest.raises(MissingModelError, match="pip install silero-vad"):
            clean(speech)
    finally:
        voice_activity._model.cache_clear()


def test_two_people_are_refused(monkeypatch, speech):
    assert two_voices.likeness(torch.tensor([[1.0, 0.0]])) == 1
    one, other = [[1.0, 0.1], [1.0, 0.0], [1.0, -0.1]], [[0.1, 1.0], [0.0, 1.0]]
    assert two_voices.likeness(torch.tensor(one)) > 0.98
    assert two_voices.likeness(torch.tensor(one + other)) < 0.1
    assert two_voices.likeness(torch.tensor(one + other + one)) < 0.1
    assert two_voices.likeness(torch.tensor(other + one + other + one)) < 0.9
    assert clean(speech, options=PromptOptions()).seconds > 2
    monkeypatch.setattr(two_voices, "holds_two_voices", lambda samples: True)
    with pytest.raises(InputError, match="two people"):
        clean(speech, options=PromptOptions())


def test_real_people_are_told_apart():
    one = read_audio(ASSETS / "speech.wav", 16_000).samples[0]
    same = read_audio(ASSETS / "lj.flac", 16_000).samples[0]
    other = read_audio(ASSETS / "speechocean.flac", 16_000).samples[0]
    other = other * np.std(one) / np.std(other)
    assert not two_voices.holds_two_voices(np.concatenate([one, same]))
    assert two_voices.holds_two_voices(np.concatenate([one, other]))
    assert not two_voices.holds_two_voices(np.concatenate([one, other])[:16_000])  # too short to tell
