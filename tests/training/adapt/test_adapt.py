"""A voice learned from a minute of a real reader, by tiny models: what is used, kept, resumed and refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from myna.errors import InputError, OutputError, UsageError
from myna.training.adapt import adapt, loop, people
from myna.training.adapt.judge import Measured, judged_by
from myna.training.adapt.loop import Learned, Progress, learn
from myna.training.adapt.parts import ARPart, as_adapter
from myna.training.adapt.people import one_person
from myna.training.adapt.strength import as_strong_as_words_bear
from myna.training.engine.interrupt import Interrupt
from myna.tts.lm.batch import Prompt
from myna.tts.lm.sampling import SamplingOptions
from myna.tts.text.phones import Phones
from myna.tts.voices.adapted import adapter_tensors, describe_adapters, read_adapters

from .conftest import tiny_flow_models, tiny_recipe


def prompt_of(adapting) -> Prompt:
    speech = adapting.material.speech
    one = speech[adapting.material.train()[0]]
    return Prompt(one.codes[:, :150])


def test_what_is_used_and_what_is_kept_apart(adapting):
    run = adapting()
    material = run.material
    assert material.speech is not None
    assert len(material.held) == 1
    assert len(material.train()) == 8
    assert len(material.kept_apart()) == 1
    assert 55 < material.seconds < 70
    assert {item.speaker for item in material.speech.items} == {"person"}
    (first, text), *more = material.prompts(4)
    assert len({clip.key for clip, _ in [(first, text), *more]} - material.held) == 4
    assert text
    assert all(3 <= clip.length / material.corpus.sample_rate <= 12 for clip, _ in more)
    assert material.prompts(1) == [(first, text)]
    assert len(material.prompts(100)) <= 9
    kept, vectors = material.person.vectors[next(iter(material.held))], material.person.vectors
    others = [
        float(vectors[item.key] @ kept) for item in material.person.items if item.key not in material.held
    ]
    assert material.likeness() == pytest.approx(np.mean(others), abs=1e-5)


def test_the_clip_that_says_most_like_the_recordings_becomes_the_prompt(adapting, tmp_path, monkeypatch):
    run, stages = adapting(), []
    speech = run.material.speech
    prompts = [
        Prompt(speech[i].codes[:, :150], speaker=torch.ones(256).half()) for i in run.material.train()[:4]
    ]
    scores = {0: (0.7, -1.0), 1: (0.75, -1.2), 2: (0.74, -1.0), 3: (0.75, -4.0)}
    heard = []

    def measure(self, adapters):
        heard.append(next(i for i, p in enumerate(prompts) if p.codes is self.prompt.codes))
        assert torch.allclose(self.prompt.speaker.float(), run.material.speaker(), atol=1e-3)
        return Measured(*scores[heard[-1]])

    monkeypatch.setattr(adapt.Judge, "measure", measure)
    assert (
        run.choose(prompts, 5.0, Interrupt(), stages.append) == 2
    )  # likeness first, words where they matter
    assert (heard, len(stages)) == ([0, 1, 2, 3], 1)
    assert run.choose(prompts, 5.0, Interrupt()) == 2
    assert len(heard) == 4  # it is known from before
    (run.work / "prompt.json").write_text("{")
    assert run.choose(prompts, 5.0, Interrupt()) == 2
    assert run.choose(prompts[:2], 0.0, Interrupt()) == 0  # other clips, and no time for more than one
    assert heard[8:] == [0]


def test_a_voice_is_adapted_and_the_same_again_from_a_run_that_was_stopped(adapting, tmp_path):
    recipe = tiny_recipe(words_slack=100.0, words_meanwhile=100.0, words_kept=100.0)
    seen: list[Progress] = []
    whole = adapting(recipe).run(prompt_of(adapting(recipe)), 5.0, Interrupt(), seen.append)
    assert {one.part for one in seen} == {"ar", "flow"}
    assert not whole.interrupted
    assert whole.before is not None

    class AfterSteps(Interrupt):
        """Asks to stop after so many looks."""

        def __init__(self, n: int):
            self.left = n

        @property
        def requested(self) -> bool:
            self.left -= 1
            return self.left < 0

        @requested.setter
        def requested(self, value: bool) -> None: ...

    work = tmp_path / "stopped"
    first = adapting(recipe, work)
    stopped = first.run(prompt_of(first), 5.0, AfterSteps(3))
    assert stopped.interrupted
    resumed = adapting(recipe, work).run(prompt_of(first), 5.0, Interrupt())
    assert not resumed.interrupted
    assert resumed.now == whole.now
    assert set(resumed.adapters) == set(whole.adapters)
    for part, adapter in whole.adapters.items():
        assert resumed.adapters[part].weights.digest() == adapter.weights.digest()


def test_the_decoder_reads_the_mean_speaker_vector_of_the_clips_that_were_learned_from(adapting):
    """While it learns, when it speaks, and from the voice's file."""
    run = adapting(tiny_recipe(words_slack=100.0, words_meanwhile=100.0, words_kept=100.0))
    material, part = run.material, run._decoder_part()
    clips = [material.person.vectors[i.key] for i in material.person.items if i.key not in material.held]
    mean = torch.nn.functional.normalize(torch.stack(clips).mean(0), dim=0)
    assert part.speaker is not None
    assert torch.allclose(part.speaker.float(), mean, atol=1e-3)
    speech = part._mine_reader.speech
    assert torch.allclose(speech.speakers.float(), mean.expand(len(speech), -1), atol=1e-3)

    decoder, wav = run.models.decoder("flow"), torch.zeros(24_000)
    adapter = as_adapter(part)  # has learned nothing yet: the vector is all that it changes
    plain = replace(prompt_of(run), mel=torch.zeros(80, 100), speaker=clips[0])
    mine, other = replace(plain, adapters={"flow": adapter}), replace(plain, speaker=mean)
    clip, adapted, averaged = (decoder.read_voice(one, wav).flow.condition for one in (plain, mine, other))
    assert torch.allclose(adapted, averaged, atol=1e-3)
    assert (adapted - averaged).abs().max() < 0.1 * (adapted - clip).abs().max()

    back = read_adapters(describe_adapters(mine.adapters), adapter_tensors(mine.adapters))["flow"]
    assert back.digest() == adapter.digest() != replace(adapter, speaker=None).digest()
    damaged = {**adapter_tensors(mine.adapters), "adapter-speaker/flow": torch.full((256,), torch.nan)}
    with pytest.raises(ValueError, match="flow"):
        read_adapters(describe_adapters(mine.adapters), damaged)
    with pytest.raises(InputError, match="3 numbers"):
        decoder.read_voice(replace(mine, adapters={"flow": replace(adapter, speaker=torch.ones(3))}), wav)


def test_what_is_kept_is_not_less_like_the_recordings(adapting):
    run = adapting()
    found = run.run(prompt_of(run), 5.0, Interrupt())
    assert found.now is not None
    assert found.now.likeness >= found.before.likeness  # pyright: ignore


def test_without_texts_only_the_decoder_learns_and_it_says_so(models, minute, tmp_path, adapting):
    from myna.training.adapt.adapt import Adapting

    notes: list[str] = []
    run = Adapting(models, "flow", None, minute, tmp_path, tiny_recipe(), False, notes.append)
    assert any("no texts" in note for note in notes)
    seen: list[Progress] = []
    run.run(prompt_of(adapting()), 5.0, Interrupt(), seen.append)
    assert {one.part for one in seen} == {"flow"}


def test_the_ar_over_tokens_learns_and_speaks_with_what_it_learned(adapting):
    models, seen = tiny_flow_models(), []
    run = adapting(tiny_recipe(words_slack=100.0, words_meanwhile=100.0, words_kept=100.0), models=models)
    prompt = prompt_of(run)
    found = run.run(prompt, 5.0, Interrupt(), seen.append)
    assert {one.part for one in seen} == {"token-ar", "flow"}
    assert found.before is not None
    part = run._ar_part()
    before = part.held_loss()
    optimizer = torch.optim.Adam([p for layer in part.layers.values() for p in (layer.up, layer.down)], 0.02)
    for step in range(8):
        optimizer.zero_grad()
        part.loss(step).backward()
        optimizer.step()
    assert part.held_loss() < before - 0.05
    learned = replace(prompt, adapters={"token-ar": as_adapter(part)})
    phones, sampling = run.material.speech[0].phones, SamplingOptions()
    plain = [frame.hidden for frame in models.first_codes(phones, prompt, sampling)]
    adapted = [frame.hidden for frame in models.first_codes(phones, learned, sampling)]
    assert not torch.equal(plain[0], adapted[0])


class Counted:
    """A part that learns nothing: its judgements are told."""

    name, base, speaker = "ar", "0" * 16, None

    def __init__(self, layers):
        self.layers = layers

    def loss(self, step: int) -> torch.Tensor:
        return sum((layer.up.sum() + layer.down.sum() for layer in self.layers.values()), torch.zeros(()))


def judged(part, path: Path, told: list[Measured], **changes) -> Learned:
    section = tiny_recipe(ar={"measure_every": 1, "max_steps": 20, "lr": 0.1}).ar
    coming = iter(told)
    settings = {"patience": 3, "words_slack": 0.1, "minutes": 5.0, **changes}
    return learn(
        part,
        section,
        lambda: next(coming),
        path,
        "me",
        0,
        settings["minutes"],
        settings["patience"],
        settings["words_slack"],
        settings.get("interrupt") or Interrupt(),
        lambda progress: None,
    )


@pytest.fixture
def part(models, adapting):
    run = adapting()
    return Counted(ARPart(models._original, run.material, None, tiny_recipe()).layers)


def test_the_best_step_is_kept_and_not_the_last_and_it_stops_when_nothing_grows(part, tmp_path):
    told = [Measured(0.5, -1.0), Measured(0.6, -1.0), Measured(0.7, -1.0), *[Measured(0.6, -1.0)] * 9]
    found = judged(part, tmp_path / "s.pt", told)
    assert found.best == Measured(0.7, -1.0)
    assert found.steps == 5  # two gains, three without
    assert found.weights is not None
    last = as_adapter(part).weights
    assert found.weights.half().digest() != last.digest()


def test_a_step_that_costs_words_is_no_gain(part, tmp_path):
    told = [Measured(0.5, -1.0), Measured(0.9, -1.2), Measured(0.6, -1.05), *[Measured(0.5, -1.0)] * 9]
    found = judged(part, tmp_path / "s.pt", told)
    assert found.best == Measured(0.6, -1.05)


def test_a_decoder_is_adapted_as_strongly_as_the_words_bear(part):
    learned = as_adapter(part, {"steps": 3})
    full = next(iter(learned.weights.up))
    tried = []

    def measure(adapter) -> Measured:
        tried.append(adapter.weights.scale / learned.weights.scale)
        return Measured(0.5 + 0.3 * tried[-1], -1.0 - 0.4 * tried[-1] ** 2)

    found, now = as_strong_as_words_bear(learned, -1.2, measure)  # pyright: ignore[reportGeneralTypeIssues]
    assert now == Measured(pytest.approx(0.71), pytest.approx(-1.196))
    assert found.weights.scale == pytest.approx(0.7 * learned.weights.scale)
    assert torch.equal(found.weights.up[full], learned.weights.up[full])
    assert found.facts == {"steps": 3, "strength": 0.7}
    assert found.base == learned.base
    assert len(tried) == len(set(tried)) <= 4  # found by halving
    voice_alone, _ = as_strong_as_words_bear(learned, -1.0, measure)  # pyright: ignore
    assert (voice_alone.weights.scale, voice_alone.facts["strength"]) == (0.0, 0.0)
    assert as_strong_as_words_bear(learned, -0.9, measure) is None
    # As like as the recordings are to each other is enough: the weakest that is, of those that the words bear.
    cases = (
        (-2.0, 9.0, 1.0),
        (-1.2, 0.9, 0.7),
        (-1.2, 0.69, 0.7),
        (-1.2, 0.64, 0.5),
        (-2.0, 0.601, 0.4),
        (-2.0, 0.1, 0.0),
    )
    for least, enough, strength in cases:
        tried.clear()
        found, _ = as_strong_as_words_bear(learned, least, measure, enough)  # pyright: ignore
        assert found.facts["strength"] == strength
        assert len(tried) == len(set(tried)) <= 7


def test_a_decoder_that_costs_words_at_any_strength_stays_as_it_is(adapting, monkeypatch):
    notes: list[str] = []
    run = adapting(tiny_recipe(words_slack=100.0, words_meanwhile=100.0, words_kept=0.0))
    run.note = notes.append
    monkeypatch.setattr(adapt, "as_strong_as_words_bear", lambda *told: None)
    found = run.run(prompt_of(run), 5.0, Interrupt())
    assert "flow" not in found.adapters
    assert any("the decoder stays as it is" in note for note in notes)


@pytest.mark.parametrize(
    ("bears", "note", "scale"), [(0.5, "50 % of what", 0.5), (0.0, "the mean voice alone", 0.0)]
)
def test_how_much_of_a_decoder_is_used_is_judged_by_more_sentences(adapting, monkeypatch, bears, note, scale):
    notes, said = list[str](), list[int]()
    run = adapting(
        tiny_recipe(
            words_slack=100.0, words_meanwhile=100.0, words_kept=0.1, last_sentences=3, ar={"share": 0.0}
        )
    )
    run.note = notes.append

    def measure(judge, adapters) -> Measured:
        said.append(len(judge.sentences))
        if "flow" not in adapters:
            return Measured(0.5, -1.0)
        strength = adapters["flow"].facts.get("strength")
        if strength is None:  # it learns
            return Measured(0.5 + 0.01 * len(said), -2.0)
        return Measured(0.6 + 0.1 * strength, -1.0 if strength <= bears else -2.0)

    monkeypatch.setattr(adapt.Judge, "measure", measure)
    found = run.run(prompt_of(run), 5.0, Interrupt())
    adapter, learned = found.adapters["flow"], run.recipe.flow.lora
    assert adapter.weights.scale == pytest.approx(scale * learned.alpha / learned.rank)
    assert any(note in line for line in notes)
    assert (found.before, found.now) == (
        Measured(0.5, -1.0),
        Measured(pytest.approx(0.6 + 0.1 * bears), -1.0),
    )
    assert adapter.facts["likeness"] == pytest.approx(0.6 + 0.1 * bears)
    assert said[0] == 1  # while it learned
    assert 1 + 3 <= said.count(3) <= 1 + 4  # as it was, and halving eleven strengths
    assert said.index(3) == len(said) - said.count(3)


@pytest.mark.parametrize(
    ("ar", "decoder", "kept"),
    [
        (-0.05, 0.0, {"ar", "flow"}),  # both together lose no more than a tenth
        (+0.3, -0.35, {"ar", "flow"}),  # what the AR has gained is spent
        (-0.12, 0.0, {"flow"}),  # the AR has lost too much by itself
        (-0.05, -0.3, {"ar"}),
        (-0.12, -0.3, set()),
    ],
)
def test_all_adapters_together_may_cost_so_many_words(adapting, monkeypatch, ar, decoder, kept):
    run = adapting(tiny_recipe(words_kept=0.1))

    def measure(judge, adapters) -> Measured:
        words = -1.0 + ar * ("ar" in adapters) + decoder * ("flow" in adapters)
        return Measured(0.5 + 0.1 * len(adapters), words)

    monkeypatch.setattr(adapt.Judge, "measure", measure)
    part = ARPart(run.models._original, run.material, None, tiny_recipe())
    found, before, now = run._strengthened(prompt_of(run), {"ar": as_adapter(part)}, as_adapter(part))
    assert set(found) == kept
    assert before == Measured(0.5, -1.0)
    assert now.words >= -1.1 - 1e-6
    assert now.likeness == pytest.approx(0.5 + 0.1 * len(kept))


def test_what_the_choice_takes_is_kept_free_of_the_time(adapting, monkeypatch):
    run, given = adapting(tiny_recipe(last_sentences=50, ar={"share": 0.0})), []
    learn, clock = adapt.learn, [0.0]

    def measure(judge, adapters) -> Measured:
        clock[0] += 6.0 * len(judge.sentences)  # seconds
        return Measured(0.5, -1.0)

    def noted(part, *told, **more):
        given.append(told[5])
        return learn(part, *told, **more)

    monkeypatch.setattr(adapt.Judge, "measure", measure)
    monkeypatch.setattr(adapt.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(adapt, "learn", noted)
    run.run(prompt_of(run), 30.0, Interrupt())
    assert given == [pytest.approx(30 - 0.1 - 3 * 50 * 0.1)]


def test_words_may_cost_more_while_the_decoder_learns_than_the_ar_may_keep(adapting, monkeypatch):
    """What it learned is used at a share of its strength."""
    slack: dict[str, float] = {}
    learn = adapt.learn

    def noted(part, *told, **more):
        slack[part.name] = told[7]
        return learn(part, *told, **more)

    monkeypatch.setattr(adapt, "learn", noted)
    run = adapting(tiny_recipe(words_slack=0.1, words_meanwhile=0.7))
    run.run(prompt_of(run), 0.0, Interrupt())
    assert slack == {"ar": 0.1, "flow": 0.7}


def test_a_voice_is_judged_by_sentences_and_not_by_words():
    def phones(length: int) -> Phones:
        return Phones(torch.full((3, length), length))

    word, own, given = phones(9), [phones(n) for n in (60, 9, 70, 80, 90)], [phones(n) for n in (30, 31, 32)]
    lengths = [p.tokens.shape[1] for p in judged_by(own, given, 4)]
    assert lengths == [60, 70, 30, 31]
    assert [p.tokens.shape[1] for p in judged_by(own, given, 6)] == [60, 70, 80, 30, 31, 32]
    assert judged_by([word, word], given, 2) == given[:2]
    assert judged_by([], given, 8) == given
    assert len(judged_by(own, given, 20)) == 7
    assert len(judged_by(own, given, 1)) == 1


def test_nothing_gained_is_nothing_kept(part, tmp_path):
    found = judged(part, tmp_path / "s.pt", [Measured(0.5, -1.0), *[Measured(0.4, -1.0)] * 9])
    assert found.weights is None
    assert found.best == found.before


def test_minutes_bound_it(part, tmp_path):
    found = judged(part, tmp_path / "s.pt", [Measured(0.5, -1.0)] * 9, minutes=0.0)
    assert found.steps == 0


def test_how_much_is_used_may_be_chosen_again_without_learning_again(adapting):
    prompt = prompt_of(run := adapting(tiny_recipe(words_kept=0.05)))
    told = run._identity(prompt, None, {})
    run.recipe = tiny_recipe(words_kept=0.2, last_sentences=2)
    assert run._identity(prompt, None, {}) == told
    run.recipe = tiny_recipe(words_kept=0.2, sentences=2)
    assert run._identity(prompt, None, {}) != told


def test_a_state_of_another_run_or_a_damaged_one_is_begun_anew(part, tmp_path):
    path = tmp_path / "s.pt"
    path.write_bytes(b"no state")
    found = judged(part, path, [Measured(0.5, -1.0), *[Measured(0.4, -1.0)] * 9])
    assert found.steps == 3


def test_a_full_disk_is_one_line(part, tmp_path, monkeypatch):
    def full(path, state):
        raise OutputError(f"cannot save the state of the run to {path}: no space left on device")

    monkeypatch.setattr(loop, "save_state", full)
    with pytest.raises(OutputError, match="no space left"):
        judged(part, tmp_path / "s.pt", [Measured(0.5, -1.0)] * 9)


# ---- who speaks


class Voices:
    """A corpus of clips of 10 s whose voice is in the key's first letter."""

    sample_rate = 24_000

    def __init__(self, keys: str):
        from myna.data.corpus import Item

        self.items = [
            Item(f"{key}{i}", "x", "train", key, 12_000.0, 0, 240_000) for i, key in enumerate(keys)
        ]

    def read(self, item, start, n):
        return np.full(n, ord(item.key[0]), np.float32)


@pytest.fixture
def told_apart(monkeypatch):
    """Speaker vectors by the letter."""

    def vector(network, wav, rate):
        one = torch.zeros(256)
        one[int(wav[0])] = 1
        return one

    monkeypatch.setattr(people, "speaker_vector", vector)


def test_a_second_person_is_left_out(told_apart):
    voices = Voices("aaaaaabaa")
    found = one_person(voices, voices.items)  # pyright: ignore
    assert [item.key[0] for item in found.items] == ["a"] * 8
    assert [item.key for item in found.others] == ["b6"]


def test_two_people_in_equal_parts_are_refused(told_apart):
    voices = Voices("ababab")
    with pytest.raises(InputError, match="more than one person") as error:
        one_person(voices, voices.items)  # pyright: ignore
    assert "\n" not in str(error.value)


def test_real_people_are_told_apart(minute):
    from myna.data.audio import read_audio
    from myna.data.corpus import open_corpus
    from myna.pretrained.ge2e import load_ge2e

    corpus = open_corpus(minute, 24_000, minute.parent / "decoded")
    network = load_ge2e()
    vectors = [people.speaker_vector(network, corpus.read(i, 0, i.length), 24_000) for i in corpus.items]
    centre = torch.nn.functional.normalize(torch.stack(vectors).mean(0), dim=0)
    assert min(float(v @ centre) for v in vectors) > people.SAME
    other = Path(__file__).resolve().parents[2] / "assets" / "speechocean.flac"
    wav = read_audio(other, 24_000).samples[0]
    assert float(people.speaker_vector(network, wav, 24_000) @ centre) < people.SAME


# ---- what is refused


def test_texts_of_other_recordings(models, minute, tmp_path):
    """Every text is that of the next clip."""
    import io
    import json
    import tarfile

    from myna.training.adapt.adapt import Adapting

    shard = next(minute.glob("*.tar"))
    with tarfile.open(shard) as tar:
        members = [(m, tar.extractfile(m).read()) for m in tar.getmembers()]  # pyright: ignore
    texts = [json.loads(data)["text"] for m, data in members if m.name.endswith(".json")]
    texts = texts[1:] + texts[:1]
    folder = tmp_path / "mixed"
    folder.mkdir()
    with tarfile.open(folder / shard.name, "w") as tar:
        for member, data in members:
            if member.name.endswith(".json"):
                data = json.dumps({**json.loads(data), "text": texts.pop(0), "phonemes": None}).encode()
                member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    with pytest.raises(InputError, match="texts are not those of the recordings") as error:
        Adapting(models, "flow", models.aligner, folder, tmp_path / "work", tiny_recipe(), True)
    assert "\n" not in str(error.value)


def test_too_little_speech(models, minute, tmp_path, monkeypatch):
    from myna.training.adapt import material
    from myna.training.adapt.adapt import Adapting

    monkeypatch.setattr(material, "SHORTEST", 100.0)
    with pytest.raises(InputError, match="at least 100 s are needed; record more"):
        Adapting(models, "flow", models.aligner, minute, tmp_path, tiny_recipe())


def test_targets_that_no_layer_has(adapting):
    recipe = tiny_recipe(ar={"lora": {"targets": ["nobody.*"]}})
    run = adapting(recipe)
    with pytest.raises(UsageError, match=r"ar\.lora of the recipe: no linear layer"):
        run.run(prompt_of(run), 1.0, Interrupt())


def test_a_decoder_that_cannot_be_adapted(models, minute, tmp_path):
    from myna.training.adapt.adapt import Adapting

    with pytest.raises(UsageError, match="nar cannot be adapted"):
        Adapting(models, "nar", None, minute, tmp_path, tiny_recipe())


def test_an_adapter_of_other_weights_is_refused_where_it_is_used(models, adapting):
    from .conftest import tiny_models

    run = adapting()
    part = ARPart(models._original, run.material, None, tiny_recipe())
    adapter = as_adapter(part)
    prompt = replace(prompt_of(run), adapters={"ar": adapter})
    models.hear(prompt)
    other = tiny_models(1)
    with pytest.raises(InputError, match=r"adapted to other weights .*--reset") as error:
        other.hear(prompt)
    assert "\n" not in str(error.value)


def test_speech_of_other_people_keeps_words(models, minute, tmp_path, adapting):
    """Steps are drawn from both."""
    folder = tmp_path / "others"
    shutil.copytree(minute, folder, ignore=shutil.ignore_patterns("*.json*", "*.md"))
    import io
    import json
    import tarfile

    shard = next(folder.glob("*.tar"))
    with tarfile.open(shard) as tar:
        members = [(m, tar.extractfile(m).read()) for m in tar.getmembers()]  # pyright: ignore
    with tarfile.open(shard, "w") as tar:
        for member, data in members:
            if member.name.endswith(".json"):
                data = json.dumps({**json.loads(data), "speaker": "them"}).encode()
                member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    run = adapting(tiny_recipe(others={"corpus": str(folder), "utterances": 4, "share": 0.5}))
    assert run.others is not None
    part = ARPart(models._original, run.material, run.others, run.recipe)
    drawn = {id(part._mine): 0, id(part._others): 0}
    for batches in (part._mine, part._others):
        real = batches.batch
        batches.batch = lambda step, rank=0, b=batches, real=real: (  # pyright: ignore
            drawn.__setitem__(id(b), drawn[id(b)] + 1),
            real(step, rank),
        )[1]
    for step in range(12):
        part.loss(step)
    assert min(drawn.values()) >= 2
