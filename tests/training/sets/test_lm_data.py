"""Sequences for language models: what is a prompt, what is said, and batches that waste little."""

import numpy as np
import pytest
import torch
from myna.errors import UsageError
from myna.training.sets.lm_data import Batches, ExampleOptions, Planner, select
from myna.training.sets.speech_set import SpeechSet

ALL = {"prompt_text": 1.0, "join": 0.0, "drop_text": 0.0, "drop_voice": 0.0}


@pytest.fixture(scope="module")
def speech(speech_file):
    return SpeechSet(speech_file)


@pytest.fixture(scope="module")
def chosen(speech):
    return select(speech, ["train"])


def planner(speech, chosen, **options) -> Planner:
    return Planner(speech, chosen, ExampleOptions(**{"prompt_frames": (20, 40), **ALL, **options}))


def test_prompts_are_other_utterances_of_the_same_voice(speech, chosen):
    plans = planner(speech, chosen)
    rng = np.random.default_rng(0)
    prompted = 0
    for target in chosen * 3:
        plan = plans.plan(target, rng)
        said = speech.items[target]
        for cut in plan.prompt:
            other = speech.items[cut.utterance]
            assert cut.utterance != target
            assert (other.speaker, other.source, other.speed) == (said.speaker, said.source, said.speed)
        length = sum(cut.end - cut.start for cut in plan.prompt)
        prompted += bool(plan.prompt)
        assert plan.drop_voice == (not plan.prompt)
        assert not plan.prompt or 20 <= length <= 40 * 1.15
    assert prompted > 0.9 * 3 * len(chosen)


def test_a_prompt_may_need_several_utterances(speech, chosen):
    plan = planner(speech, chosen, prompt_frames=(150, 150)).plan(chosen[0], np.random.default_rng(0))
    used = [cut.utterance for cut in plan.prompt]
    assert len(used) == len(set(used)) > 1


def test_a_voice_with_one_utterance_speaks_without_a_prompt(speech, chosen):
    plan = planner(speech, chosen[:1]).plan(chosen[0], np.random.default_rng(0))
    assert plan.prompt == ()
    assert plan.drop_voice


@pytest.mark.parametrize("prompt_text", [0.0, 1.0])
def test_pointers_lead_from_the_prompt_into_the_target(speech, chosen, prompt_text):
    plans = planner(speech, chosen, prompt_text=prompt_text)
    for seed, target in enumerate(chosen):
        plan = plans.plan(target, np.random.default_rng(seed))
        e = plans.read(plan)
        one = speech[target]
        n = e.n_prompt
        assert e.codes.shape[1] == len(e.pointer) == n + one.codes.shape[1]
        assert torch.equal(e.codes[:, n:], one.codes)
        before = e.phones.shape[1] - len(one.phones)
        assert torch.equal(e.phones[:, before:], one.phones.tokens)
        assert torch.equal(e.pointer[n:], one.pointer + before)
        if prompt_text:
            moves = e.pointer.diff()
            assert e.pointer[0] == 0
            assert moves.min() >= 0
            assert moves[n - 1 : n].tolist() in ([1], [])  # straight on, whatever was cut off
            said = [
                (speech[c.utterance].phones.tokens[:, speech[c.utterance].pointer[c.start : c.end]])
                for c in plan.prompt
            ]
            assert torch.equal(e.phones[:, e.pointer[:n]], torch.cat(said, dim=1))
        else:
            assert before == 0
            assert (e.pointer[:n] == -1).all()


def test_two_utterances_in_a_row(speech, chosen):
    plans = planner(speech, chosen, join=1.0)
    plan = next(
        p for p in (plans.plan(chosen[0], np.random.default_rng(s)) for s in range(20)) if len(p.target) == 2
    )
    e = plans.read(plan)
    first, second = (speech[cut.utterance] for cut in plan.target)
    assert torch.equal(e.codes[:, e.n_prompt :], torch.cat([first.codes, second.codes], dim=1))
    assert set(e.pointer[e.n_prompt :].diff().tolist()) <= {0, 1, 2, 3}
    assert not {cut.utterance for cut in plan.prompt} & {cut.utterance for cut in plan.target}


def test_a_batch_is_a_function_of_its_number(speech, chosen):
    def batches(seed=0):
        return Batches(speech, chosen, ExampleOptions(prompt_frames=(20, 40)), 400, seed, pool=4)

    one, other = batches(), batches()
    steps = [0, 5, 3, 4, 11]
    for step in steps:  # in any order, from any start
        a, b = one.batch(step), other.batch(step)
        assert torch.equal(a.codes, b.codes)
        assert torch.equal(a.pointer, b.pointer)
    assert one.plans(0) != one.plans(0, rank=1)
    assert one.plans(0) != batches(seed=1).plans(0)


def test_batches_hold_as_many_frames_as_asked_and_little_padding(speech, chosen):
    made = [
        Batches(speech, chosen, ExampleOptions(prompt_frames=(20, 40)), 600, 0).batch(i) for i in range(32)
    ]
    frames = [int(b.n_frames.sum()) for b in made]
    padded = sum(b.codes.shape[0] * b.codes.shape[2] for b in made)
    assert sum(frames) / 32 == pytest.approx(600, rel=0.05)
    assert max(frames) < 2 * 600
    assert sum(frames) > 0.9 * padded
    for b in made:
        for row, (n, p) in enumerate(zip(b.n_frames, b.n_phones, strict=True)):
            assert (b.pointer[row, n:] == -1).all()
            assert not b.codes[row, :, n:].any()
            assert not b.phones[row, :, p:].any()
            assert int(b.pointer[row].max()) == p - 1


def test_shares_of_the_examples(speech, chosen):
    plans = planner(speech, chosen, prompt_text=0.5, drop_text=0.2, drop_voice=0.3)
    rng = np.random.default_rng(0)
    drawn = [plans.plan(chosen[i % len(chosen)], rng) for i in range(2000)]
    for name, share in (("prompt_text", 0.5), ("drop_text", 0.2), ("drop_voice", 0.3)):
        assert np.mean([getattr(plan, name) for plan in drawn]) == pytest.approx(share, abs=0.04), name


def test_sources_give_the_share_of_frames_that_is_asked_for(speech, chosen):
    def share(weights):
        batches = Batches(speech, chosen, ExampleOptions(**ALL), 600, 0, weights)
        frames = {"synth": 0, "joe": 0}
        for step in range(200):
            for plan in batches.plans(step):
                for cut in plan.target:
                    frames[speech.items[cut.utterance].source] += cut.end - cut.start
        return frames["joe"] / sum(frames.values())

    assert share({"synth": 0.75, "joe": 0.25}) == pytest.approx(0.25, abs=0.04)
    assert share({"joe": 1.0}) == 1
    only = Batches(speech, chosen, ExampleOptions(**ALL), 600, 0, {"joe": 1.0}).used
    assert {speech.items[i].source for i in only} == {"joe"}
    with pytest.raises(
        UsageError, match=r"'lj' has a weight but no utterances; the speech set has joe, synth"
    ):
        share({"lj": 1.0})


def test_what_is_selected(speech):
    assert all(speech.items[i].split == "dev" for i in select(speech, ["dev"]))
    assert {speech.items[i].speed for i in select(speech, ["train"], speeds=[1.13])} == {1.13}
    assert max(speech.n_frames[i] for i in select(speech, ["train"], max_frames=100)) <= 100
    everything = select(speech, ["train"])
    kept = select(speech, ["train"], leave_out_worst=0.2)
    assert len(kept) == pytest.approx(0.8 * len(everything), rel=0.05)
    dropped = set(everything) - set(kept)
    worst = max(speech.items[i].score for i in dropped if speech.items[i].source == "joe")
    assert worst < min(speech.items[i].score for i in kept if speech.items[i].source == "joe")
    with pytest.raises(
        UsageError, match=r"nothing for splits \['exam'\], sources all, speeds all; it has joe"
    ):
        select(speech, ["exam"])


def test_options_that_cannot_be():
    with pytest.raises(ValueError, match="prompt_frames must rise"):
        ExampleOptions(prompt_frames=(40, 20))
    with pytest.raises(ValueError, match="join is a share"):
        ExampleOptions(join=1.5)
