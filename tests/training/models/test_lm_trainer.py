"""The language models' trainer whole: learning, held-out values, resume after SIGKILL bit for bit, two processes,
errors of one line."""

import json
from pathlib import Path

import pytest
import torch
from myna.errors import InputError, MissingModelError, MynaError, UsageError
from myna.training.engine import distributed
from myna.training.engine.checkpoint import load_state, module_state
from myna.training.engine.recipe import load_recipe
from myna.training.models.lm_recipe import ARRecipe, NARRecipe
from myna.training.models.lm_trainer import ARTrainer, NARTrainer
from myna.training.sets.speech_set import SpeechSet
from myna.training.train import train
from myna.tts.registry import load_ar, load_nar

from ..states import CPU, assert_same_state, flat

KINDS = ("ar", "nar")


def trainer(kind, overrides):
    kinds = {"ar": (ARTrainer, ARRecipe), "nar": (NARTrainer, NARRecipe)}
    make, schema = kinds[kind]
    options = load_recipe(f"myna-{kind}-tiny", schema, overrides)
    return make(options, distributed.setup("cpu"), quiet=True)


def load(kind, path, **options):
    return (load_ar if kind == "ar" else load_nar)(path, **options)


def rows(folder: Path, kind: str) -> list[dict]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == kind]


@pytest.mark.parametrize("kind", KINDS)
def test_held_out_loss_falls_and_the_best_is_kept(kind, lm_tiny, tmp_path):
    extra = ["max_steps=60", "data.held_out.every_steps=15", "save_every_steps=null", "optimizer.lr=0.01"]
    summary = train(f"myna-{kind}-tiny", [*lm_tiny, *extra], quiet=True)
    run = tmp_path / "run"
    held_out = rows(run, "held-out")
    losses = [row["loss"] for row in held_out]
    assert [row["step"] for row in held_out] == [15, 30, 45, 60]
    assert losses[-1] < 0.85 * losses[0]
    assert summary.best == min(losses)
    first, last = held_out[0], held_out[-1]
    if kind == "ar":
        assert last["code_accuracy"] > first["code_accuracy"]
        assert {"advance_loss", "joe-dev/top10_accuracy", "synth-dev/code_loss"} <= set(last)
    else:
        assert last["accuracy_2"] > 0.3 > 3 / 16
        assert {"loss_2", "loss_3_4", "accuracy_3", "accuracy_4", "synth-dev/accuracy_2"} <= set(last)
    assert last["loss"] == pytest.approx((last["joe-dev/loss"] + last["synth-dev/loss"]) / 2)
    model = load(kind, run / "best.safetensors")
    assert not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert list((run / "tensorboard").iterdir())


@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_any_step_it_reaches_the_same_weights(kind, lm_tiny, tmp_path, processes):
    # The state is saved every second step only, so that steps are taken again.
    recipe = f"myna-{kind}-tiny"
    same = [o for o in lm_tiny if not o.startswith("output")]
    same += ["schedule.decay=constant", "save_every_steps=2", "data.held_out=null", "data.examples.join=0.3"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    processes.killed(recipe, [*same, f"output={killed}"], killed / "metrics.jsonl", 5)
    reached = load_state(killed / "state.pt", CPU)["step"]
    assert reached >= 4
    end = [*same, f"max_steps={reached + 3}"]
    train(recipe, [*end, f"output={killed}"], quiet=True)
    train(recipe, [*end, f"output={whole}"], quiet=True)
    assert load_state(whole / "state.pt", CPU)["step"] == reached + 3
    assert_same_state(killed / "state.pt", whole / "state.pt")


def test_validating_does_not_change_what_is_learned(lm_tiny, tmp_path):
    for name, every in (("often", 1), ("never", "null")):
        extra = [f"data.held_out.every_steps={every}", f"output={tmp_path / name}"]
        train("myna-nar-tiny", [*lm_tiny, *extra], quiet=True)
    often, never = (load_state(tmp_path / name / "state.pt", CPU)["modules"] for name in ("often", "never"))
    for key, value in flat(often).items():
        assert torch.equal(value, flat(never)[key]), key


@pytest.mark.parametrize("kind", KINDS)
def test_training_goes_on_from_weights(kind, lm_tiny, tmp_path):
    train(f"myna-{kind}-tiny", [*lm_tiny, "half_precision_export=false"], quiet=True)
    weights = tmp_path / "run" / "last.safetensors"
    start = [*lm_tiny, f"init_from={weights}", f"output={tmp_path / 'next'}"]
    started = trainer(kind, [*start, "model.dropout=0.1"])  # dropout may change
    for name, value in load(kind, weights).state_dict().items():
        assert torch.equal(started.model.state_dict()[name], value), name
    started.log.close()
    with pytest.raises(UsageError, match=r"has width 32, the recipe's model 48; make them equal"):
        trainer(kind, [*start, "model.width=48"])


@pytest.mark.parametrize("kind", KINDS)
def test_exports_are_half_the_size_and_say_whose_codes_they_speak(kind, lm_tiny, lm_codec, tmp_path):
    run = trainer(kind, lm_tiny)
    before = {name: value.clone() for name, value in module_state(run.model).items()}
    run.validate()
    for name, value in module_state(run.model).items():
        assert torch.equal(value, before[name]), name
    path = tmp_path / "run" / "last.safetensors"
    half = load(kind, path, codec_hash=run.codec.hash)
    torch.testing.assert_close(half.state_dict(), run.model.state_dict(), rtol=1e-3, atol=1e-4)
    assert path.stat().st_size < 0.7 * sum(4 * t.numel() for t in half.state_dict().values())
    with pytest.raises(MissingModelError, match="use the two that were trained together"):
        load(kind, path, codec_hash="0" * 16)
    with pytest.raises(InputError, match="autoregressive speech model"):
        load("nar" if kind == "ar" else "ar", path)
    run.log.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_whose_gradient_is_not_finite_changes_nothing(kind, lm_tiny):
    run = trainer(kind, lm_tiny)
    run.train_step(run.batch(0))
    with torch.no_grad():
        run.model.age.weight[0, 0] = float("nan")
    before = {name: value.clone() for name, value in run.model.named_parameters()}
    run.train_step(run.batch(1))
    for name, value in run.model.named_parameters():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0, equal_nan=True)
    run.log.close()


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_trains_with_losses_in_float32(kind, lm_tiny):
    run = trainer(kind, [*lm_tiny, "precision=bf16"])
    losses = run.train_step(run.batch(0))
    assert torch.isfinite(losses["loss"])
    assert losses["loss"].dtype == torch.float32
    assert {p.dtype for p in run.model.parameters()} == {torch.float32}
    run.log.close()


@pytest.mark.parametrize(
    ("override", "kind", "message"),
    [
        ("data.speech_set=/nowhere", InputError, "speech set /nowhere is not there; make it with"),
        ("data.speech_set=CODEC", InputError, "is not a"),
        ("data.codec=/nowhere.safetensors", MynaError, "/nowhere.safetensors"),
        ("data.sources={lj: 1}", UsageError, "'lj' has a weight but no utterances"),
        ("data.splits=[exam]", UsageError, r"the speech set has nothing for splits \['exam'\]"),
        ("data.held_out.splits=[exam]", UsageError, r"the speech set has nothing for splits \['exam'\]"),
        ("data.batch_frames=10", UsageError, "data.batch_frames is 10, less than most sequences have"),
        (
            "model.codebook_size=32",
            UsageError,
            r"codebooks of the shape \(4, 16, 8\), the recipe's model \(4, 32, 8\)",
        ),
        ("model.widht=32", UsageError, "unknown key widht"),
        ("model.n_coarse=5", UsageError, r"n_coarse is 1 to 4 \(n_codebooks\), got 5"),
        ("data.examples={join: 2}", UsageError, "join is a share"),
        ("init_from=/nowhere.safetensors", MynaError, "no model file at /nowhere.safetensors"),
    ],
)
def test_what_the_user_can_mend_is_one_line(lm_tiny, lm_codec, override, kind, message):
    with pytest.raises(kind, match=message) as caught:
        train("myna-ar-tiny", [*lm_tiny, override.replace("CODEC", str(lm_codec))], quiet=True)
    assert "\n" not in str(caught.value)


def test_codes_of_another_codec_are_refused(lm_tiny, speech_file, tmp_path):
    foreign = tmp_path / "foreign.safetensors"
    codec_hash = SpeechSet(speech_file).codec_hash
    data = speech_file.read_bytes()
    assert codec_hash.encode() in data
    foreign.write_bytes(data.replace(codec_hash.encode(), b"0123456789abcdef"))
    with pytest.raises(InputError, match=r"has codes of the codec codec 0123456789abcdef, data\.codec is"):
        train("myna-ar-tiny", [*lm_tiny, f"data.speech_set={foreign}"], quiet=True)


def test_several_coarse_codebooks(lm_tiny, tmp_path):
    """The AR's losses are told one by one; the NAR goes on from those codebooks; weights for fewer are refused."""
    coarse = ["model.n_coarse=3"]
    rest = ["model.n_given=3", "model.groups=[[3]]", "group_weights=null"]
    for kind, more in (("ar", coarse), ("nar", rest)):
        output = f"output={tmp_path / kind}"
        train(f"myna-{kind}-tiny", [*lm_tiny, *more, output], quiet=True)
        weights = tmp_path / kind / "best.safetensors"
        config = load(kind, weights).config
        assert (config.n_coarse if kind == "ar" else config.n_given) == 3
        with pytest.raises(UsageError, match=r"has n_(coarse|given) 3, the recipe's model 1"):
            trainer(kind, [*lm_tiny, f"init_from={weights}"])
    for row in (rows(tmp_path / "ar", "held-out")[-1], rows(tmp_path / "ar", "train")[-1]):
        assert row["code_loss"] == pytest.approx(sum(row[f"code_loss_{k}"] for k in (1, 2, 3)) / 3, rel=1e-4)
        assert "code_losses" not in row
    last = rows(tmp_path / "nar", "held-out")[-1]
    assert {"loss_4", "accuracy_4"} <= set(last)
    assert not {"loss_2", "accuracy_2", "accuracy_3"} & set(last)


@pytest.mark.parametrize("groups", ["model.n_given=2", "model.groups=[[2, 3]]"])
def test_groups_begin_after_the_given_codebooks(lm_tiny, groups):
    with pytest.raises(UsageError, match=r"codebooks . \(n_given\) to 3 once, in order"):
        train("myna-nar-tiny", [*lm_tiny, groups, "group_weights=null"], quiet=True)


def test_group_weights_must_fit(lm_tiny):
    with pytest.raises(UsageError, match="group_weights must be 2 numbers above 0"):
        train("myna-nar-tiny", [*lm_tiny, "group_weights=[1]"], quiet=True)


def test_the_recipes_for_real_fit_the_trainer():
    for kind, schema in (("ar", ARRecipe), ("nar", NARRecipe)):
        for name in (f"myna-{kind}", f"myna-{kind}-cpu"):
            recipe = load_recipe(name, schema)
            assert (recipe.kind, recipe.precision, recipe.max_steps) == (kind, "bf16", None)
            assert recipe.model.code_noise > 0


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_learn_the_same_weights_from_different_batches(kind, lm_tiny, two_processes):
    make, schema = {"ar": (ARTrainer, ARRecipe), "nar": (NARTrainer, NARRecipe)}[kind]
    found = two_processes(make, schema, f"myna-{kind}-tiny", lm_tiny)
    assert found == ["batches differ 6", f"myna-{kind} same 6"]
