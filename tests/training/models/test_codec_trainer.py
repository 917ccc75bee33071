"""The trainer whole: every phase, resume after SIGKILL bit for bit, two processes, errors of one line."""

import io
import json
import math
import re
from pathlib import Path

import myna
import pytest
import torch
from myna.codec.checkpoint import codes_hash, load_checkpoint, save_checkpoint, weights_hash
from myna.codec.dac import DAC
from myna.codec.encodec import Encodec, EncodecConfig, build_encodec
from myna.codec.formats import open_compressed
from myna.codec.myna import MynaCodec
from myna.codec.registry import codec_for, load_codec
from myna.codec.seanet import SEANetConfig
from myna.data.audio import Audio
from myna.errors import InputError, MynaError, UsageError
from myna.training.engine import distributed
from myna.training.engine.checkpoint import load_state, module_state, save_state
from myna.training.engine.interrupt import Interrupt
from myna.training.engine.recipe import load_recipe
from myna.training.models.codec_recipe import CodecRecipe
from myna.training.models.codec_trainer import CodecTrainer, train
from myna.training.train import train as train_any

from ..states import CPU, assert_same_state

TINY = "myna-24k-tiny"


def trainer(overrides) -> CodecTrainer:
    return CodecTrainer(load_recipe(TINY, CodecRecipe, overrides), distributed.setup("cpu"), quiet=True)


def rows(folder: Path, kind: str) -> list[dict]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == kind]


def test_tiny_recipe_goes_through_every_phase(tiny, tmp_path):
    summary = train(TINY, [*tiny, "balancer={decay: 0.9}"], quiet=True)
    run = tmp_path / "run"
    assert (summary.steps, summary.interrupted, summary.output) == (8, False, run)
    steps = {row["step"]: row for row in rows(run, "train")}
    assert sorted(steps) == list(range(1, 9))
    # Row n is the step after n - 1 steps: quantised from 2, adversarial from 4.
    assert [step for step, row in steps.items() if "commitment" in row] == [3, 4, 5, 6, 7, 8]
    assert [step for step, row in steps.items() if "generator" in row] == [5, 6, 7, 8]
    assert all({"discriminator", "features"} <= set(steps[step]) for step in (5, 6, 7, 8))
    assert [row["step"] for row in rows(run, "held-out")] == [4, 8]
    assert list((run / "tensorboard").iterdir())
    best = load_checkpoint(run / "best.safetensors")
    assert isinstance(best, MynaCodec)
    codes = best.encode(torch.randn(1, 1, 2400) * 0.1)
    assert best.decode(codes).shape == (1, 1, 2400)


@pytest.mark.parametrize(("name", "kind"), [("encodec-24k-tiny", Encodec), ("dac-24k-tiny", DAC)])
def test_published_shapes_are_trained_too(name, kind, tiny, tmp_path):
    more = [
        "max_steps=16",
        "phases.adversarial_from=12",
        "optimizer.lr=0.003",
        "spectral.windows_per_step=null",
    ]
    train_any(name, [*tiny, *more], quiet=True)
    run = tmp_path / "run"
    steps = rows(run, "train")
    assert ["commitment" in row for row in steps] == [False] * 2 + [True] * 14
    assert ["generator" in row for row in steps] == [False] * 12 + [True] * 4
    assert sum(row["mel"] for row in steps[-4:]) < 0.95 * sum(row["mel"] for row in steps[:4])
    last = load_checkpoint(run / "last.safetensors")
    assert type(last) is kind
    assert all(math.isfinite(row["commitment"]) for row in steps[2:])
    wav = torch.randn(1, 1, 2400) * 0.1
    codes = last.encode(wav)
    torch.testing.assert_close(last(wav).wav, last.decode(codes), atol=1e-4, rtol=1e-3)
    train_any(name, [*tiny, *more, "max_steps=17"], quiet=True)
    start = [*tiny, f"init_from={run / 'last.safetensors'}", f"output={tmp_path / 'next'}", "max_steps=1"]
    assert train_any(name, start, quiet=True).steps == 1
    with pytest.raises(UsageError, match="not a model of this kind"):
        train_any(TINY, start, quiet=True)


def test_a_segmented_codec_learns_from_segments():
    seanet = SEANetConfig(channels=1, dimension=8, n_filters=4, ratios=(4, 2), n_lstm=1, causal=False)
    config = EncodecConfig(
        seanet=seanet, n_codebooks=2, codebook_size=16, segment=800, overlap=0.0125, normalize=True
    )
    codec = build_encodec(config).train()
    wav = torch.randn(2, 1, 790)
    codec.init_from_data(wav)
    quiet, loud = codec.eval()(0.01 * wav).wav, codec(wav).wav
    torch.testing.assert_close(100 * quiet, loud, atol=1e-4, rtol=1e-3)  # each crop is scaled to one loudness
    torch.testing.assert_close(loud, codec.decode(codec.encode(wav)), atol=1e-5, rtol=1e-4)
    with pytest.raises(UsageError, match=r"crops of 0\.0329"):
        codec(torch.randn(1, 1, 900))


BLIND = [
    "phases.adversarial_from=null",
    "data.held_out=null",
    "save_every_steps=null",
    "spectral.windows_per_step=null",
]


def test_training_lowers_the_loss(tiny, tmp_path):
    train(
        TINY,
        [*tiny, *BLIND, "max_steps=40", "phases.unquantized_steps=100", "optimizer.lr=0.003"],
        quiet=True,
    )
    mel = [row["mel"] for row in rows(tmp_path / "run", "train")]
    assert sum(mel[-5:]) < 0.6 * sum(mel[:5])


def test_without_a_warm_up_it_starts_as_a_transform_codec(tiny):
    complex_error = {}
    for steps in (0, 100):
        run = trainer([*tiny, *BLIND, f"phases.unquantized_steps={steps}"])
        complex_error[steps] = float(run.train_step(run.crops.batch(0))["complex"].detach())
        run.log.close()
    assert complex_error[0] < 0.9 < complex_error[100]


def test_killed_at_any_step_it_reaches_the_same_weights(tiny, tmp_path, processes):
    # Killed by SIGKILL; the state is saved every second step only, so that steps are taken again.
    same = [o for o in tiny if not o.startswith("output")]
    same += ["schedule.decay=constant", "save_every_steps=2", "balancer={decay: 0.9}", "data.held_out=null"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    processes.killed(TINY, [*same, f"output={killed}"], killed / "metrics.jsonl", 5)
    reached = load_state(killed / "state.pt", CPU)["step"]
    assert reached > 0
    end = [*same, f"max_steps={reached + 3}"]
    train(TINY, [*end, f"output={killed}"], quiet=True)
    train(TINY, [*end, f"output={whole}"], quiet=True)
    assert load_state(whole / "state.pt", CPU)["step"] == reached + 3
    assert_same_state(killed / "state.pt", whole / "state.pt")
    assert [r["step"] for r in rows(killed, "train")] == [r["step"] for r in rows(whole, "train")]


def test_an_interrupted_run_saves_says_so_and_continues(tiny, tmp_path, capsys):
    interrupt = Interrupt()
    interrupt.requested = True
    run = CodecTrainer(load_recipe(TINY, CodecRecipe, tiny), distributed.setup("cpu"))
    summary = run.run(interrupt)
    assert (summary.steps, summary.interrupted) == (1, True)
    assert "stopped at step 1, saved; the same command continues" in capsys.readouterr().err
    assert train(TINY, tiny, quiet=True).steps == 8
    other = [*tiny, f"output={tmp_path / 'other'}"]
    train(TINY, other, quiet=True)
    assert_same_state(tmp_path / "run" / "state.pt", tmp_path / "other" / "state.pt")


def test_training_goes_on_from_weights(tiny, tmp_path):
    train(TINY, [*tiny, "half_precision_export=false"], quiet=True)
    weights = tmp_path / "run" / "last.safetensors"
    started = trainer([*tiny, f"init_from={weights}", f"output={tmp_path / 'next'}"])
    for name, value in load_checkpoint(weights).state_dict().items():
        torch.testing.assert_close(started.codec.state_dict()[name], value)
    losses = started.train_step(started.crops.batch(0))
    assert "commitment" in losses  # quantised at once: the codebooks are in place
    started.log.close()
    with pytest.raises(UsageError, match=r"has width 24, the recipe's model 32; make them equal"):
        trainer([*tiny, f"init_from={weights}", "model.width=32", f"output={tmp_path / 'wide'}"])


def test_a_decoder_trained_on_reads_the_files_of_before(tiny, tmp_path):
    train(TINY, tiny, quiet=True)
    first = tmp_path / "run" / "last.safetensors"
    on = [*tiny, "trained=decoder", "phases.unquantized_share=0", "optimizer.lr=0.01"]
    # The decoder of a decoder that was trained on: all of them read the codes of the first.
    train(TINY, [*on, f"init_from={first}", f"output={tmp_path / 'on'}"], quiet=True)
    train(
        TINY,
        [*on, f"init_from={tmp_path / 'on' / 'last.safetensors'}", f"output={tmp_path / 'more'}"],
        quiet=True,
    )
    before, after = load_codec(first), load_codec(tmp_path / "more" / "last.safetensors")
    assert weights_hash(after) != codes_hash(after) == codes_hash(before) == weights_hash(before)
    wav = 0.1 * torch.randn(1, 1, 4800)
    codes = before.encode(wav)
    assert torch.equal(codes.codes, after.encode(wav).codes)
    assert not torch.allclose(before.decode(codes), after.decode(codes), atol=1e-3)
    kept, moved = dict(before.named_parameters()), dict(after.named_parameters())
    assert all(torch.equal(kept[n], moved[n]) for n in kept if not n.startswith("decoder."))
    assert all(
        row["codebook"] == 0 or math.isfinite(row["codebook"]) for row in rows(tmp_path / "more", "train")
    )
    data = myna.compress(Audio(wav[0].numpy(), before.sample_rate), before)
    notes: list[str] = []
    assert codec_for(open_compressed(io.BytesIO(data)).info, after, note=notes.append) is after
    assert not notes  # other weights would be told of
    assert myna.decompress(data, after).samples.shape == (1, 4800)
    save_checkpoint(after, tmp_path / "again.safetensors")
    assert codes_hash(load_codec(tmp_path / "again.safetensors")) == weights_hash(before)


def test_what_a_decoder_keeps_must_survive_its_export(tiny, tmp_path):
    train(TINY, [*tiny, "half_precision_export=false"], quiet=True)
    on = [
        *tiny,
        "trained=decoder",
        f"init_from={tmp_path / 'run' / 'last.safetensors'}",
        f"output={tmp_path / 'on'}",
    ]
    with pytest.raises(UsageError, match="half_precision_export=false"):
        trainer(on)
    trainer([*on, "half_precision_export=false"]).log.close()
    with pytest.raises(MynaError, match="init_from must name"):
        trainer([*tiny, "trained=decoder"])


def test_exports_are_half_the_size_and_do_not_touch_the_model(tiny, tmp_path):
    run = trainer(tiny)
    before = {name: value.clone() for name, value in module_state(run.codec).items()}
    run.validate()
    for name, value in module_state(run.codec).items():
        assert torch.equal(value, before[name]), name
    half = load_checkpoint(tmp_path / "run" / "last.safetensors")
    assert {p.dtype for p in half.parameters()} == {torch.float32}
    torch.testing.assert_close(half.state_dict(), run.codec.state_dict(), rtol=1e-3, atol=1e-4)
    run.log.close()


def test_a_step_whose_gradient_is_not_finite_changes_nothing(tiny):
    run = trainer([*tiny, "phases.adversarial_from=null"])
    batch = run.crops.batch(0)
    batch.wav[0, 0, 100] = float("nan")
    before = {name: value.clone() for name, value in run.codec.named_parameters()}
    run.train_step(batch)
    assert all(torch.equal(value, before[name]) for name, value in run.codec.named_parameters())
    run.log.close()


def test_discriminators_survive_a_batch_that_is_not_finite(tiny):
    run = trainer([*tiny, "phases={unquantized_steps: 0, codebook_batches: 1, adversarial_from: 0}"])
    run.train_step(run.crops.batch(0))
    run.step = 1
    batch = run.crops.batch(1)
    batch.wav[0, 0, 100] = float("nan")
    run.train_step(batch)
    for name, value in [item for m in run.modules.values() for item in module_state(m).items()]:
        assert torch.isfinite(value).all(), name
    run.log.close()


def test_bf16_trains_with_losses_in_float32(tiny):
    phases = "phases={unquantized_steps: 0, codebook_batches: 1, adversarial_from: 0}"
    run = trainer([*tiny, "precision=bf16", phases])
    losses = run.train_step(run.crops.batch(0))
    assert all(torch.isfinite(value) for value in losses.values())
    assert {losses[name].dtype for name in ("mel", "complex", "generator", "features")} == {torch.float32}
    run.log.close()


def test_only_its_own_band_is_compared(tiny):
    # A recording of 16 kHz, and a codec that adds noise above 8 kHz: with own_band_only nobody minds.
    values = {}
    for own in ("true", "false"):
        run = trainer([*tiny, f"own_band_only={own}", "data.sources={low: 1}", "data.augment.speed_share=0"])
        batch = run.crops.batch(0)
        assert batch.bandwidth.tolist() == [8000, 8000]
        values[own] = float(run.train_step(batch)["mel"].detach())
        run.log.close()
    assert values["true"] < values["false"]


@pytest.mark.parametrize(
    ("override", "kind", "message"),
    [
        ("data.corpus=/nowhere", InputError, "corpus folder /nowhere is not there; set data.corpus"),
        ("data.sources={lo: 1}", UsageError, "'lo' has a weight but no recordings; the corpus has high, low"),
        ("data.splits=[training]", InputError, r"the corpus has nothing for splits \['training'\]"),
        ("init_from=/nowhere.safetensors", MynaError, "no model file at /nowhere.safetensors"),
        ("device=tpu", UsageError, "device 'tpu' is not one of auto, cpu, cuda"),
    ],
)
def test_what_the_user_can_mend_is_one_line(tiny, override, kind, message):
    with pytest.raises(kind, match=message) as caught:
        train(TINY, [*tiny, override], quiet=True)
    assert "\n" not in str(caught.value)


def test_a_state_of_another_model_is_refused(tiny, tmp_path):
    """Without a recipe beside it, as earlier versions saved it."""
    train(TINY, [*tiny, "max_steps=1", "data.held_out=null"], quiet=True)
    forget_recipe(tmp_path / "run" / "state.pt")
    with pytest.raises(InputError, match="is the state of another model"):
        train(TINY, [*tiny, "model.width=32"], quiet=True)


def forget_recipe(path: Path) -> None:
    state = load_state(path, CPU)
    del state["recipe"]
    save_state(path, state)


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("optimizer.lr=0.5", "optimizer.lr was 0.001, is 0.5"),
        ("model.width=32", "model.width was 24, is 32"),
        ("data.seconds=0.3", "data.seconds was 0.2, is 0.3"),
        ("data.sources={low: 1}", 'data.sources was null, is {"low": 1.0}'),
        ("data.augment.flip_share=0.1", "data.augment.flip_share was 0.5, is 0.1"),
        ("seed=7", "seed was 0, is 7"),
        ("schedule.decay=constant", 'schedule.decay was "cosine", is "constant"'),
    ],
)
def test_another_recipe_does_not_continue_a_run(tiny, tmp_path, override, what):
    train(TINY, [*tiny, "max_steps=1", "data.held_out=null"], quiet=True)
    before = (tmp_path / "run" / "state.pt").read_bytes()
    with pytest.raises(UsageError, match=re.escape(what)) as caught:
        train(TINY, [*tiny, override], quiet=True)
    assert "\n" not in str(caught.value)
    assert f"init_from={tmp_path / 'run'}/last.safetensors" in str(caught.value)
    assert (tmp_path / "run" / "state.pt").read_bytes() == before


def test_what_may_change_is_noted(tiny, tmp_path, capsys):
    train(TINY, [*tiny, "max_steps=1"], quiet=True)
    train(TINY, [*tiny, "max_steps=2", "losses.mel=2.0"])
    err = capsys.readouterr().err
    assert "changed since the run was saved: " in err
    assert "max_steps was 1, is 2" in err
    assert load_state(tmp_path / "run" / "state.pt", CPU)["step"] == 2
    train(TINY, [*tiny, "max_steps=2", "losses.mel=2.0"])
    assert "changed since" not in capsys.readouterr().err


def test_a_state_without_a_recipe_is_continued(tiny, tmp_path):
    train(TINY, [*tiny, "max_steps=1"], quiet=True)
    forget_recipe(tmp_path / "run" / "state.pt")
    train(TINY, [*tiny, "max_steps=2", "optimizer.lr=0.5"], quiet=True)
    assert load_state(tmp_path / "run" / "state.pt", CPU)["step"] == 2


def test_the_best_of_another_measure_is_forgotten(tiny, tmp_path):
    train(TINY, [*tiny, "max_steps=4"], quiet=True)
    best = load_state(tmp_path / "run" / "state.pt", CPU)["best"]
    assert best is not None
    for by, kept in (("mel", best), ("si_sdr", None)):
        run = trainer([*tiny, f"data.held_out.best_by={by}"])
        assert run.best == kept
        run.log.close()


@pytest.mark.parametrize("quantizer", ["ema", "factorized"])
def test_two_processes_learn_the_same_weights_from_different_crops(quantizer, tiny, tmp_path, two_processes):
    extra = [
        "balancer={decay: 0.9}",
        "max_steps=6",
        "data.held_out.every_steps=3",
        f"model.quantizer={quantizer}",
    ]
    found = two_processes(CodecTrainer, CodecRecipe, TINY, [*tiny, *extra])
    assert found == ["batches differ 6", "codec same 6", "discriminators same 6"]
    assert load_state(tmp_path / "run" / "state.pt", CPU)["step"] == 6
