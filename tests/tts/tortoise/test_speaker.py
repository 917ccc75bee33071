"""From text to marked sound, on small networks with random weights in the published layout."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import published
import pytest
import torch
from myna.errors import UsageError
from myna.marks.watermark import WatermarkStream, detect_watermark
from myna.tts.tortoise.model.hifigan_stream import HiFiGANStream, reach
from myna.tts.tortoise.networks import Networks
from myna.tts.tortoise.precision import PRECISIONS
from myna.tts.tortoise.presets import SAMPLERS, TortoiseOptions
from myna.tts.tortoise.speaker import Kept, TortoiseSpeaker
from myna.tts.tortoise.text.passages import split

FAST = TortoiseOptions("ultra_fast", candidates=3, steps=4, max_codes=40)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return published.write(tmp_path_factory.mktemp("tortoise"))


@pytest.fixture(scope="module")
def speaker(folder):
    return TortoiseSpeaker(folder=folder, precision="float32")


@pytest.fixture(scope="module")
def voice(speaker):
    return speaker.voice("random")


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_text_becomes_sound_with_every_sampler(sampler, speaker, voice):
    options = replace(FAST, sampler=sampler, guidance=2.0)
    samples = speaker.say("Hello there. How are you?", voice, options)
    assert samples.dtype == np.float32
    assert len(samples) > 0.25 * speaker.sample_rate
    assert np.isfinite(samples).all()
    assert np.array_equal(samples, speaker.say("Hello there. How are you?", voice, options))


def test_nothing_leaves_without_the_mark(folder, voice):
    # Random weights make no speech that a mark could be heard in: the mark is told by what goes into it and comes out.
    went_in: list[np.ndarray] = []

    class Recorder(WatermarkStream):
        def push(self, samples):
            went_in.append(samples)
            return super().push(samples)

    speaker = TortoiseSpeaker(folder=folder, precision="float32", watermark=Recorder)
    said = speaker.say("Hello there.", voice, FAST)
    plain = np.concatenate(went_in)
    assert len(said) == len(plain)
    assert np.allclose(said, WatermarkStream(24_000).push(plain), atol=1e-5)
    assert not np.allclose(said, plain, atol=1e-4)


def test_loud_enough_sound_carries_a_mark_that_is_found(speaker, voice):
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.1, 24_000 * 8).astype(np.float32)
    assert detect_watermark(speaker._watermark(0).push(noise), 24_000).found


def test_the_candidates_are_ranked_and_the_best_is_said(speaker, voice):
    heard = []
    samples = speaker.say("Hello there.", voice, FAST, Kept(3, heard.append))
    assert [one.number for one in heard] != [0, 1, 2] or len({one.score for one in heard}) == 3
    assert [one.score for one in heard] == sorted((one.score for one in heard), reverse=True)
    assert [one.chosen for one in heard] == [True, False, False]
    assert np.allclose(heard[0].samples, samples[: len(heard[0].samples)], atol=1e-6)


def test_an_interruption_between_candidates_leaves_those_that_are_there(speaker, voice):
    heard = []

    def keep(one):
        heard.append(one)
        if len(heard) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        speaker.say("Hello there.", voice, FAST, Kept(3, keep))
    assert len(heard) == 2


@pytest.mark.parametrize("options", [replace(FAST, batch=2), TortoiseOptions("streaming", max_codes=40)])
def test_every_step_is_told_and_can_be_the_last(options, speaker, voice):
    told = []
    list(speaker.chunks(split("Hello."), voice, options, report=lambda *told_of: told.append(told_of)))
    codes = [done for _, stage, done, _ in told if stage == "codes"]
    starts = [index for index, done in enumerate(codes) if done == 1]
    assert len(starts) == -(-options.n_candidates // options.batch)
    assert all(b == a + 1 for a, b in pairwise(codes) if b != 1)
    steps = [] if options.streams else [(0, "diffusion", n, 4) for n in (1, 2, 3, 4)]
    assert [one for one in told if one[1] == "diffusion"] == steps

    n_told = 0

    def stop(*_):
        nonlocal n_told
        n_told += 1
        if n_told == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        list(speaker.chunks(split("Hello. Again."), voice, options, report=stop))
    assert n_told == 3


def test_a_seed_says_the_same_in_every_batch(speaker, voice):
    said = [speaker.say("Hello.", voice, replace(FAST, batch=n)) for n in (1, 3)]
    assert np.allclose(said[0], said[1], atol=1e-4)
    assert not np.array_equal(said[0], speaker.say("Hello.", voice, replace(FAST, seed=1)))


def test_a_text_goes_on_after_any_sentence(speaker, voice):
    sentences = split("One. Two. Three.")
    chunks = list(speaker.chunks(sentences, voice, FAST))
    ends = [chunk for chunk in chunks if chunk.ends_sentence]
    assert [chunk.sentence for chunk in ends] == [0, 1, 2]
    assert ends[-1].done == 1
    first = np.concatenate([chunk.samples for chunk in chunks if chunk.sentence == 0])
    rest = np.concatenate([chunk.samples for chunk in chunks if chunk.sentence > 0])
    again = list(speaker.chunks(sentences, voice, FAST, after=ends[0], position=len(first)))
    assert np.allclose(np.concatenate([chunk.samples for chunk in again]), rest, atol=1e-6)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision(precision, folder):
    if precision == "bfloat16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor has no products in bfloat16")
    speaker = TortoiseSpeaker(folder=folder, precision=precision)
    voice = speaker.voice("random")
    for options in (FAST, TortoiseOptions("streaming", max_codes=80)):
        samples = speaker.say("Hello there.", voice, options)
        assert len(samples) > 1000
        assert np.isfinite(samples).all()


# ---- the preset that streams


def test_streamed_latents_give_the_samples_of_all_at_once(folder):
    model = Networks(folder, precision="float32").hifigan
    latents, voice = torch.randn(90, 64), torch.randn(1, 64)
    whole = model.decode(latents[None], voice).numpy()
    for sizes in ([60, 30], [1] * 90, [7, 83], [90]):
        stream = HiFiGANStream(model, voice)
        parts = [stream.push(part) for part in latents.split(sizes)]
        said = np.concatenate([*parts, stream.flush()])
        assert said.shape == whole.shape
        assert np.abs(said - whole).max() < 1e-5
        if sizes[0] == 60:
            assert len(parts[0])  # sound comes before the end


def test_the_declared_reach_is_what_the_samples_depend_on(folder):
    model = Networks(folder, precision="float32").hifigan
    frames = torch.randn(1, 64, 101, requires_grad=True)
    wav = model(frames, torch.randn(1, 64))
    middle = 50 * model.config.hop
    wav[..., middle : middle + model.config.hop].sum().backward()
    depends = frames.grad.abs().amax((0, 1)).nonzero()[:, 0]
    assert 50 - reach(model) <= int(depends.min())
    assert int(depends.max()) <= 50 + reach(model)
    assert reach(model) < 25  # and is not merely large


def test_the_preset_that_streams(speaker, voice):
    options = TortoiseOptions("streaming", max_codes=300)
    chunks = list(speaker.stream("Hello there.", voice, options))
    assert sum(map(len, chunks)) > 1000
    assert np.array_equal(np.concatenate(chunks), speaker.say("Hello there.", voice, options))


# ---- what cannot be


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"preset": "ultrafast"}, "did you mean ultra_fast"),
        ({"preset": "streaming", "candidates": 4}, "leave --candidates out"),
        ({"candidates": 0}, "candidates 0 is out of range"),
        ({"sampler": "ddimm"}, "did you mean ddim"),
        ({"steps": 1}, "steps 1 is out of range"),
        ({"temperature": -1.0}, "temperature -1"),
        ({"top_p": 0.0}, "top_p 0"),
    ],
)
def test_options_that_cannot_be_are_refused_with_the_remedy(settings, says):
    with pytest.raises(UsageError, match=says):
        TortoiseOptions(**settings)


def test_the_presets_are_the_published_ones():
    def numbers(preset):
        options = TortoiseOptions(preset)
        guided = options.diffusion.guidance
        return options.n_candidates, options.diffusion.sampler.n_steps, guided.weight if guided else None

    assert [numbers(name) for name in ("ultra_fast", "fast", "standard", "high_quality")] == [
        (16, 30, None),
        (96, 80, 2.0),
        (256, 200, 2.0),
        (256, 400, 2.0),
    ]
